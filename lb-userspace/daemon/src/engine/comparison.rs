//! Whether the nodes of a fleet send flows to the same backends, and what this node tells the others of its
//! traffic for it.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use lb_fleet::differences::{Difference, Differences};
use tokio::sync::watch;

use super::{actor::Actor, shares::VipTraffic, votes::SharedMember};
use crate::{
    alerts::{Condition, Severity},
    node::{Announcement, Announcing},
    reconciler::ServiceId,
};
use lb_model::config::{self, Config};

/// What this node tells the others every second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OwnTraffic {
    /// Some flows with packets in the last second.
    pub(crate) flows: Vec<(String, SharedMember)>,
    pub(crate) vips: Vec<VipTraffic>,
}

pub(super) struct Comparison {
    began: Instant,
    told: watch::Sender<Arc<OwnTraffic>>,
    differences: Differences<SharedMember>,
    found: Vec<Difference<SharedMember>>,
}

impl Comparison {
    /// The channel is for the other nodes.
    pub(super) fn new() -> (Self, watch::Receiver<Arc<OwnTraffic>>) {
        let (told, receiver) = watch::channel(Arc::default());
        let comparison = Self {
            began: Instant::now(),
            told,
            differences: Differences::default(),
            found: Vec::new(),
        };
        (comparison, receiver)
    }
}

/// How routers rank this node for a VIP, as far as it knows: by MED. None if they are to send it nothing, or
/// something that only they know.
fn rank(
    config: &Config,
    vip: &config::Vip,
    announcing: Option<&Announcing>,
    has_flows: bool,
) -> Option<u32> {
    let Some(announce) = config.announce.as_ref().filter(|_| vip.announce.enabled) else {
        // Static routes, for example: a standby gets nothing.
        return has_flows.then_some(0);
    };
    let status = announcing?.answer.as_ref().ok()?;
    let mut addresses = status.addresses.iter();
    let is_announced =
        addresses.any(|it| it.address == vip.address && it.state == Announcement::Announced);
    let med = vip.announce.med.unwrap_or(announce.med);
    (is_announced && vip.announce.home.is_none()).then_some(med)
}

impl Actor {
    /// Runs every second, after the share monitor.
    pub(super) fn tick_comparison(&mut self) {
        let Some(node) = self.votes.node().map(str::to_owned) else {
            return;
        };
        let report = self.data_path.reconciler.report();
        let config = &self.changes.running.config;
        let announcing = self.announce_watch.state(config);
        let vips = self
            .shares
            .fleet_traffic(config, &report, |vip, has_flows| {
                rank(config, vip, announcing.as_ref(), has_flows)
            });
        let reconciler = &self.data_path.reconciler;
        let flows = self.shares.sampled_flows().iter();
        let flows = flows
            .filter_map(|(flow, member)| Some((flow.clone(), reconciler.shared_member(*member)?)));
        let own = OwnTraffic {
            flows: flows.collect(),
            vips,
        };
        self.comparison.told.send_replace(Arc::new(own));
        self.shares.judge_fleet(&node, config, &report);
        let mut differences = std::mem::take(&mut self.comparison.differences);
        let now = self.comparison.began.elapsed();
        self.comparison.found = differences.judge(now, |node, flow| self.choice(node, flow));
        // While a rollout runs, rings differ on purpose.
        if !self.is_rolling_out() {
            self.comparison.differences = differences;
        }
    }

    fn is_rolling_out(&self) -> bool {
        let agent = self.changes.agent();
        let rollout = agent.and_then(|agent| agent.state().borrow().rollout.clone());
        rollout.is_some_and(|rollout| !rollout.state.is_over())
    }

    /// The member that this node would choose for an established flow. None if another node can't be expected
    /// to choose the same.
    fn choice(&self, node: &str, flow: &str) -> Option<SharedMember> {
        let explained = self.explain(flow, false).ok()?;
        explained.walk.sent.as_ref()?;
        let reconciler = &self.data_path.reconciler;
        let member = reconciler.shared_member(explained.walk.member?)?;
        // What nodes say of the health of backends differently is the cause, and has an alert of its own.
        let is_comparable =
            self.shares.is_settled(node, &member.0) && !self.votes.is_disputed(&member.0);
        is_comparable.then_some(member)
    }

    /// Compares the flows of another node with what this one would do, and counts its traffic.
    pub(super) fn hear_traffic(&mut self, node: &str, traffic: &OwnTraffic) {
        self.shares.hear_traffic(node, &traffic.vips);
        let now = self.comparison.began.elapsed();
        for (flow, there) in &traffic.flows {
            let here = self.choice(node, flow);
            let here = here.filter(|here| here.0 == there.0);
            self.comparison
                .differences
                .note(node, flow, *there, here, now);
        }
    }

    /// Nodes that send the same flows to different backends.
    pub(super) fn compared(&self) -> Vec<Condition> {
        let mut by_vip: BTreeMap<ServiceId, Vec<&Difference<SharedMember>>> = BTreeMap::new();
        for found in &self.comparison.found {
            by_vip.entry(found.here.0).or_default().push(found);
        }
        let conditions = by_vip.into_iter().filter_map(|(service, found)| {
            let first = found.first()?;
            let here = self.votes.name_of(&first.here)?;
            let there = self.votes.name_of(&first.there);
            let there = there.map_or_else(
                || first.there.1.address.to_string(),
                |name| name.backend.clone(),
            );
            let (vip, node) = (&here.vip, self.votes.node()?);
            let why = match self.shares.has_equal_ring(&first.node, &service) {
                Some(true) => "their rings are alike, so it is what they know of connections",
                Some(false) => "their rings have different shares",
                None => "it is not known whether their rings are alike",
            };
            let summary = format!(
                "VIP {vip}: {} and {node} send the same flows to different backends",
                first.node
            );
            let cause = format!(
                "{}: to {there} by {}, to {} by {node}; {} flows in 10 s; {why}; see `evenkeel fleet status` and \
                 `evenkeel fleet explain '{}'`",
                first.flow,
                first.node,
                here.backend,
                found.len(),
                first.flow
            );
            let key = format!("nodes_disagree:{vip}");
            let condition = Condition::new(key, "nodes_disagree", Severity::Critical, summary);
            Some(condition.vip(vip).cause(cause))
        });
        conditions.collect()
    }
}

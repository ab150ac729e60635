//! Counts the new flows that the ring assigned to each backend in steps of ten seconds, for plans of bounds.
//!
//! Memory: a step of a VIP with new flows takes 8 bytes, and 4 for each of its backends. With room to
//! grow, an hour takes at most 8 MB for 4,096 busy backends of one VIP, and 13 MB for 1,024 busy VIPs with
//! four backends each; idle VIPs take none.

use std::{collections::BTreeMap, sync::Arc};

use super::histories::Histories;
use crate::{
    reconciler::{ServiceId, VipReport, reported},
    traffic::Traffic,
};
use lb_model::{
    config,
    flows::{STEP_S, StepMember},
};

/// Ticks come a little early or late.
const TOLERANCE_S: f64 = 0.5;

#[derive(Debug, Default)]
pub(super) struct FlowMonitor {
    histories: Histories,
    /// When the step began that has not ended.
    began_s: Option<f64>,
    vips: BTreeMap<ServiceId, OpenStep>,
}

/// The step of a VIP that has not ended.
#[derive(Debug)]
struct OpenStep {
    /// Accounts go by name.
    name: String,
    members: Arc<[StepMember]>,
    /// Their totals at the beginning.
    totals: Vec<u64>,
}

impl FlowMonitor {
    pub(super) fn new(histories: Histories) -> Self {
        Self {
            histories,
            ..Self::default()
        }
    }

    /// Takes the counters of the last second.
    pub(super) fn take(
        &mut self,
        at_s: f64,
        vips: &[config::Vip],
        report: &[VipReport],
        traffic: &Traffic,
    ) {
        let seconds = self.began_s.map(|began_s| at_s - began_s);
        if seconds.is_some_and(|seconds| seconds <= STEP_S - TOLERANCE_S) {
            return;
        }
        self.began_s = Some(at_s);
        let mut histories = self.histories.lock_flows();
        let mut before = std::mem::take(&mut self.vips);
        for (vip, report) in reported(vips, report) {
            let service = ServiceId::of(vip);
            let mut open = OpenStep::begin(report, traffic);
            if let (Some(before), Some(seconds)) = (before.remove(&service), seconds) {
                let history = histories.entry(service).or_default();
                match before.new_flows(&open) {
                    Some(new_flows) => {
                        open.members = before.members;
                        history.push(seconds, &open.members, &new_flows);
                    }
                    None => history.pass(),
                }
            }
            self.vips.insert(service, open);
        }
        histories.retain(|service, _| self.vips.contains_key(service));
    }
}

impl OpenStep {
    fn begin(report: &VipReport, traffic: &Traffic) -> Self {
        // Leaving members get no new flows, and may share the account of another one.
        let members = || report.members.iter().filter(|member| !member.leaving);
        // Flows that a bound spilled count for the backend that spilled them.
        let total = |backend: &str| traffic.ring_flows(&report.name, backend);
        Self {
            name: report.name.clone(),
            members: members()
                .map(|member| StepMember {
                    identity: member.identity,
                    share: member.intended_share,
                })
                .collect(),
            totals: members().map(|member| total(&member.name)).collect(),
        }
    }

    /// New flows until `next` began; none without new flows, and if shares or names changed.
    fn new_flows(&self, next: &Self) -> Option<Vec<u32>> {
        if self.name != next.name || self.members != next.members || self.totals == next.totals {
            return None;
        }
        let pairs = self.totals.iter().zip(&next.totals);
        let difference = |(before, now): (&u64, &u64)| {
            u32::try_from(now.saturating_sub(*before)).unwrap_or(u32::MAX)
        };
        Some(pairs.map(difference).collect())
    }
}

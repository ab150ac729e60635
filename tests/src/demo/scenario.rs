//! One forwarding mode and family: traffic, two changes, and the result.

use std::time::Duration;

use anyhow::{Result, bail};

use super::report::{BackendReport, ModeReport};
use super::{Size, progress};
use crate::configuration::{Forward, State};
use crate::deadline;
use crate::host::Host;
use crate::node::{Node, Share};
use crate::service::{Kind, address, backend, vip_name};
use crate::topology::{Family, Lab};
use crate::traffic::flows::{FlowLoad, FlowPlan, Transport};
use crate::traffic::http::{HttpLoad, HttpPlan, HttpReport};

/// Long enough for a few thousand requests on a loaded machine.
const LIMIT: Duration = Duration::from_secs(60);

/// The backend that is drained.
const DRAINED: &str = "backend-1";

/// Pause between two messages of a connection, so that they leave enough CPU to the requests.
const PAUSE: Duration = Duration::from_millis(50);

/// Replies that each connection must receive after the last change.
const REPLIES_AFTER: u64 = 5;

pub(super) fn run(
    lab: &Lab,
    node: &mut Node<'_>,
    forward: Forward,
    family: Family,
    size: Size,
) -> Result<ModeReport> {
    let name = format!("{} over {}", forward.name(), family_name(family));
    progress(&format!(
        "{name}: opening {} connections that carry data until the end",
        size.connections
    ));
    let connections = FlowLoad::start(
        &lab.clients[0],
        &FlowPlan {
            pause: PAUSE,
            ..FlowPlan::new(
                Transport::Tcp,
                address(lab, Kind::Echo, family),
                size.connections,
            )
        },
    )?;
    connections.wait_answers(1, LIMIT)?;
    let faults = connections.snapshot().faults();
    if !faults.is_empty() {
        // If nothing works yet, thousands of requests that time out would show no more.
        bail!("{name}: connections failed to open: {faults:?}");
    }

    let mut traffic = Traffic::new(lab, node, family);
    let added = &lab.backends[super::WEIGHTS.len()];
    progress(&format!(
        "{name}: {} requests, during which {} is added",
        size.during_change, added.name
    ));
    traffic.request(&lab.clients[0], size.during_change, |node| {
        add(node, added, forward, family)
    })?;
    progress(&format!(
        "{name}: {} requests, during which {DRAINED} is drained",
        size.during_change
    ));
    traffic.request(&lab.clients[0], size.during_change, |node| {
        drain(node, family)
    })?;
    progress(&format!(
        "{name}: {} requests from a new client for the shares",
        size.after
    ));
    let before = traffic.shares()?;
    let last = traffic.request(&lab.clients[1], size.after, |_| Ok(()))?;
    let after = traffic.shares()?;
    connections.wait_answers(REPLIES_AFTER, LIMIT)?;
    let total = traffic.total;
    Ok(ModeReport {
        forward: forward.name(),
        family: family_name(family),
        requests: total.requests,
        failed: total.failed,
        errors: total.errors,
        connections: connections.stop(),
        backends: compare(&before, &after, &last),
    })
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

fn add(node: &mut Node<'_>, host: &Host, forward: Forward, family: Family) -> Result<()> {
    node.reload(|configuration| {
        for kind in [Kind::Web, Kind::Echo] {
            let new = backend(host, forward, kind, family, super::WEIGHTS[0]);
            let vip = configuration.vip(&vip_name(kind, family));
            vip.backends.push(new);
        }
    })
}

fn drain(node: &mut Node<'_>, family: Family) -> Result<()> {
    node.reload(|configuration| {
        for kind in [Kind::Web, Kind::Echo] {
            let vip = configuration.vip(&vip_name(kind, family));
            vip.backend(DRAINED).state = State::Drain;
        }
    })
}

/// Requests of one mode and family.
struct Traffic<'a, 'lab> {
    lab: &'a Lab,
    node: &'a mut Node<'lab>,
    family: Family,
    total: HttpReport,
}

impl<'a, 'lab> Traffic<'a, 'lab> {
    fn new(lab: &'a Lab, node: &'a mut Node<'lab>, family: Family) -> Self {
        Self {
            lab,
            node,
            family,
            total: HttpReport::default(),
        }
    }

    fn shares(&self) -> Result<Vec<Share>> {
        self.node.shares(&vip_name(Kind::Web, self.family))
    }

    fn new_flows(&self) -> Result<u64> {
        Ok(self.shares()?.iter().map(|share| share.new_flows).sum())
    }

    /// Makes requests, and calls `midway` when a third of them are made.
    fn request(
        &mut self,
        client: &Host,
        requests: u32,
        midway: impl FnOnce(&mut Node<'_>) -> Result<()>,
    ) -> Result<HttpReport> {
        let vip = address(self.lab, Kind::Web, self.family);
        let begun = self.new_flows()?;
        let plan = HttpPlan::new(format!("http://{vip}/1k"), requests);
        let load = HttpLoad::start(
            client,
            &HttpPlan {
                body_bytes: Some(1024),
                ..plan
            },
        )?;
        deadline::until("a third of the requests are made", LIMIT, || {
            Ok(self.new_flows()? - begun >= u64::from(requests / 3))
        })?;
        midway(self.node)?;
        let report = load.finish()?;
        self.total.add(&report);
        Ok(report)
    }
}

fn compare(before: &[Share], after: &[Share], last: &HttpReport) -> Vec<BackendReport> {
    let counted = |(before, after): (&Share, &Share)| after.new_flows - before.new_flows;
    let pairs = || before.iter().zip(after);
    let total: u64 = pairs().map(counted).sum();
    pairs()
        .map(|(before, after)| BackendReport {
            name: after.name.clone(),
            intended_share: after.intended,
            table_share: after.table,
            observed_share: counted((before, after)) as f64 / total.max(1) as f64,
            new_flows: counted((before, after)),
            replies: last.per_backend.get(&after.name).copied().unwrap_or(0),
        })
        .collect()
}

//! What the planner is told about the VIPs that a change touches.

use super::shares::histories::Histories;
use crate::{
    reconciler::{PlannedChange, ServiceId},
    traffic::Traffic,
};
use lb_model::{
    flows::FlowHistory,
    planner::{Load, Pair, VipFacts, judges_bound, tightens_limits},
    sources::SourceHistory,
};

/// What the controller knows about a VIP.
pub(super) fn facts(
    pair: &Pair<'_>,
    planned: &PlannedChange,
    traffic: &Traffic,
    histories: &Histories,
) -> VipFacts {
    let (before, after) = (
        pair.before.map(ServiceId::of),
        pair.after.map(ServiceId::of),
    );
    let old = before.and_then(|service| planned.preview(&service));
    let new = if after == before {
        old.clone()
    } else {
        after.and_then(|service| planned.preview(&service))
    };
    let name = old.as_ref().and_then(|vip| vip.name.as_deref());
    let counted = name.and_then(|name| traffic.vip(name));
    let load = counted.map_or_else(Load::default, |counted| Load {
        new_flows_per_s: counted.rates.new_flows_per_s,
        peak_new_flows_per_s: counted.peak_new_flows_per_s,
        packets_per_s: counted.rates.packets_per_s,
    });
    VipFacts {
        slots_moved: old.as_ref().map_or(0, |vip| vip.slots_moved),
        before: old.and_then(|vip| vip.before),
        after: new.and_then(|vip| vip.after),
        load,
        seen: match pair.before {
            Some(before) if tightens_limits(pair) => histories.sources(before),
            _ => SourceHistory::default(),
        },
        flows: match pair.before {
            Some(before) if judges_bound(pair) => histories.flows(before),
            _ => FlowHistory::default(),
        },
    }
}

//! Conditions about bounds: backends that are full.

use super::{Condition, Severity};
use crate::node::{BoundUse, SpillingBackend, VipState};

/// Part of a VIP's new flows that must spill, or find no room, to raise an alert.
const LEAST: f64 = 0.01;
/// The same in new flows per second: five flows in the window.
const FEW_PER_S: f64 = 0.5;
/// Backends that are named.
const NAMED: usize = 3;

/// New flows that spill, or stay with full backends.
pub(super) fn spilling(vip: &VipState) -> Option<Condition> {
    let used = vip.bound.as_ref()?;
    let is_significant = |per_s: f64| per_s >= FEW_PER_S && per_s > LEAST * used.new_flows_per_s;
    let (all_full, no_room) = (
        is_significant(used.all_full_per_s),
        is_significant(used.no_room_per_s),
    );
    if !is_significant(used.spilled_per_s) && !all_full && !no_room {
        return None;
    }
    let severity = match all_full {
        true => Severity::Critical,
        false => Severity::Warning,
    };
    let mut parts = Vec::new();
    if let Some(worst) = used.spilling.first() {
        parts.push(spilled(used, worst));
    }
    let per_s = |rate: f64| format!("{rate:.0} new flows/s stay with full backends");
    if all_full {
        parts.push(format!(
            "{}: no other backend has room",
            per_s(used.all_full_per_s)
        ));
    }
    if no_room {
        parts.push(format!(
            "{}: no room in the tracking table",
            per_s(used.no_room_per_s)
        ));
    }
    let summary = format!("{}: {}", vip.name, parts.join("; "));
    let condition = Condition::new(format!("bound:{}", vip.name), "bound", severity, summary);
    let backends = used.spilling.iter().take(NAMED).map(|full| &full.backend);
    Some(
        condition
            .vip(&vip.name)
            .backends(backends)
            .cause(cause(used, all_full, no_room)),
    )
}

/// How much spills, from where and to where.
fn spilled(used: &BoundUse, worst: &SpillingBackend) -> String {
    let named = |names: &mut dyn Iterator<Item = (&str, f64)>, count: usize| {
        let names = names.take(NAMED);
        let mut names: Vec<String> = names
            .map(|(name, part)| format!("{name} ({:.0} %)", part * 100.0))
            .collect();
        if count > NAMED {
            names.push(format!("{} more", count - NAMED));
        }
        names.join(", ")
    };
    let demand = match worst.capacity {
        Some(capacity) => format!(
            "{:.0} new flows/s for {}, capacity {capacity}/s",
            worst.assigned_per_s, worst.backend
        ),
        None => format!(
            "{} would get {:.1} × its share",
            worst.backend, worst.times_share
        ),
    };
    let mut spilling = used
        .spilling
        .iter()
        .map(|full| (&*full.backend, full.share_of_spilled));
    let from = match &used.spilling[..] {
        [only] => only.backend.clone(),
        several => named(&mut spilling, several.len()),
    };
    let mut receiving = used
        .receiving
        .iter()
        .map(|other| (&*other.backend, other.share_of_spilled));
    let to = named(&mut receiving, used.receiving.len());
    format!(
        "{:.1} % of new flows spill from {from} ({demand}) to {to}",
        used.spilled() * 100.0
    )
}

/// The likeliest cause, and what to do if flows find no room.
fn cause(used: &BoundUse, all_full: bool, no_room: bool) -> String {
    let mut parts = Vec::new();
    if all_full {
        parts.push(match (used.bound.capacity, used.bound.factor) {
            (true, _) => "the backends together are too small: add backends, raise their capacity, or limit new \
                          flows (vip.limit)"
                .to_owned(),
            (false, _) => "too many backends are full at once: add backends, or raise vip.bound.factor".to_owned(),
        });
    }
    if no_room {
        parts.push("raise node.track_flows".to_owned());
    }
    parts.extend(used.spilling.iter().take(NAMED).map(origin));
    parts.join("; ")
}

/// Why a backend is full.
fn origin(full: &SpillingBackend) -> String {
    let name = &full.backend;
    match &full.source {
        Some(source) => format!(
            "{} sends {:.0} % of the new flows for {name}",
            source.source,
            source.share * 100.0
        ),
        None if full.capacity.is_some() => format!(
            "no source stands out: its weight gives {name} more new flows than its capacity"
        ),
        None => format!("no source stands out: the ring assigns {name} the flows of many clients"),
    }
}

#[cfg(test)]
mod tests {
    use lb_model::config::{Bound, BoundFactor};

    use super::*;
    use crate::{
        metrics::example::example,
        node::{ExcessSource, ReceivingBackend},
    };

    fn vip(new_flows_per_s: f64, spilled_per_s: f64) -> VipState {
        let mut vip = example(1, 4).state.vips.remove(0);
        let full =
            |backend: &str, share_of_spilled, times_share, source: Option<&str>| SpillingBackend {
                backend: backend.to_owned(),
                share_of_spilled,
                assigned_per_s: 420.0,
                times_share,
                capacity: None,
                source: source.map(|source| ExcessSource {
                    source: source.to_owned(),
                    share: 0.83,
                }),
            };
        let other = |number: usize| ReceivingBackend {
            backend: format!("web-{number}"),
            share_of_spilled: 0.25,
        };
        vip.bound = Some(BoundUse {
            new_flows_per_s,
            spilled_per_s,
            spilling: vec![full("web-3", 1.0, 3.12, Some("198.51.100.7"))],
            receiving: vec![other(1), other(2), other(4), other(5)],
            ..vip.bound.unwrap()
        });
        vip
    }

    fn found(vip: &VipState) -> (Severity, String, String) {
        let found = spilling(vip).unwrap();
        assert_eq!((&*found.key, &*found.kind), ("bound:vip-0", "bound"));
        (found.severity, found.summary, found.cause.unwrap())
    }

    #[test]
    fn few_spilled_flows_are_no_condition() {
        assert_eq!(spilling(&vip(0.0, 0.0)), None);
        assert_eq!(spilling(&vip(1000.0, 10.0)), None, "1 %");
        assert!(spilling(&vip(1000.0, 10.1)).is_some());
        assert_eq!(spilling(&vip(2.0, 0.4)), None, "4 flows");
        assert!(spilling(&vip(2.0, 0.5)).is_some());
        let mut unbounded = vip(1000.0, 500.0);
        unbounded.bound = None;
        assert_eq!(spilling(&unbounded), None);
    }

    #[test]
    fn a_full_backend_is_named_with_its_source() {
        let vip = vip(1000.0, 124.0);
        let (severity, summary, cause) = found(&vip);
        assert_eq!(severity, Severity::Warning);
        assert_eq!(
            summary,
            "vip-0: 12.4 % of new flows spill from web-3 (web-3 would get 3.1 × its share) to web-1 (25 %), \
             web-2 (25 %), web-4 (25 %), 1 more"
        );
        assert_eq!(cause, "198.51.100.7 sends 83 % of the new flows for web-3");
        assert_eq!(spilling(&vip).unwrap().backends, ["web-3"]);
    }

    #[test]
    fn a_backend_over_its_capacity_is_named_with_its_weight() {
        let mut vip = vip(1000.0, 120.0);
        let used = vip.bound.as_mut().unwrap();
        used.receiving.truncate(1);
        let full = &mut used.spilling[0];
        (full.capacity, full.source) = (Some(300), None);
        let (_, summary, cause) = found(&vip);
        assert_eq!(
            summary,
            "vip-0: 12.0 % of new flows spill from web-3 (420 new flows/s for web-3, capacity 300/s) to web-1 (25 %)"
        );
        assert_eq!(
            cause,
            "no source stands out: its weight gives web-3 more new flows than its capacity"
        );
        let used = vip.bound.as_mut().unwrap();
        used.spilling[0].capacity = None;
        let (_, _, cause) = found(&vip);
        assert!(
            cause.starts_with("no source stands out: the ring"),
            "{cause}"
        );
    }

    #[test]
    fn backends_that_are_too_small_together_are_critical() {
        let mut vip = vip(1000.0, 0.0);
        let used = vip.bound.as_mut().unwrap();
        used.spilling.clear();
        used.all_full_per_s = 30.0;
        used.bound = Bound {
            factor: None,
            capacity: true,
        };
        let (severity, summary, cause) = found(&vip);
        assert_eq!(severity, Severity::Critical);
        assert_eq!(
            summary,
            "vip-0: 30 new flows/s stay with full backends: no other backend has room"
        );
        assert!(
            cause.starts_with("the backends together are too small: add backends"),
            "{cause}"
        );
        let used = vip.bound.as_mut().unwrap();
        used.bound = Bound {
            factor: BoundFactor::new(1.05),
            capacity: false,
        };
        assert!(found(&vip).2.contains("raise vip.bound.factor"));
        // Now and then all candidates of a flow are full by chance.
        vip.bound.as_mut().unwrap().all_full_per_s = 9.0;
        assert_eq!(spilling(&vip), None);
    }

    #[test]
    fn a_full_tracking_table_is_a_warning() {
        let mut vip = vip(1000.0, 200.0);
        vip.bound.as_mut().unwrap().no_room_per_s = 20.0;
        let (severity, summary, cause) = found(&vip);
        assert_eq!(severity, Severity::Warning);
        assert!(
            summary.ends_with(
                "; 20 new flows/s stay with full backends: no room in the tracking table"
            ),
            "{summary}"
        );
        assert!(
            cause.starts_with("raise node.track_flows; 198.51.100.7"),
            "{cause}"
        );
    }
}

//! Conditions derived from a state.

use super::*;
use crate::{
    health::HealthStatus,
    metrics::example::{Example, example},
    node::{Interface, InterfaceMode, MemberPhase, MemberState, NodeState},
};

fn limits(min_backends: u32) -> Limits {
    let vip = VipLimits {
        min_backends,
        alert_utilisation: 0.9,
    };
    Limits {
        wants_generic: false,
        vips: (0..9).map(|i| (format!("vip-{i}"), vip)).collect(),
    }
}

fn status(vips: usize, members: usize) -> NodeState {
    let Example { state, .. } = example(vips, members);
    state
}

fn conditions(status: &NodeState, min_backends: u32) -> Vec<Condition> {
    Observer::default().conditions(status, &limits(min_backends))
}

fn take_down(member: &mut MemberState, why: &str) {
    member.phase = MemberPhase::Down;
    member.health = Some(HealthStatus {
        healthy: false,
        since: std::time::Instant::now(),
        last_ok: Some(false),
        last_error: Some(why.to_owned()),
        last_cause: Some(why.to_owned()),
        inconclusive: None,
        latency: None,
        damped: false,
    });
}

#[test]
fn a_healthy_node_has_no_conditions() {
    assert_eq!(conditions(&status(2, 4), 1), []);
}

#[test]
fn all_backends_of_a_vip_are_one_condition() {
    let mut status = status(1, 4);
    take_down(&mut status.vips[0].members[0], "connection refused");
    let one = conditions(&status, 2);
    assert_eq!((one.len(), &*one[0].kind), (1, "backend_down"));
    assert_eq!(one[0].backends, ["backend-0"]);
    assert_eq!(
        one[0].cause.as_deref(),
        Some("health checks: connection refused")
    );
    for member in &mut status.vips[0].members {
        take_down(member, "connection refused");
    }
    let all = conditions(&status, 2);
    assert_eq!(
        (all.len(), &*all[0].kind, &*all[0].key),
        (1, "few_backends", &*one[0].key)
    );
    assert_eq!(all[0].backends.len(), 4);
}

#[test]
fn backends_not_checked_yet_or_not_wanted_are_not_down() {
    let mut status = status(1, 4);
    let members = &mut status.vips[0].members;
    take_down(&mut members[0], "x");
    members[0].health.as_mut().unwrap().last_ok = None;
    members[1].phase = MemberPhase::Disabled;
    members[2].phase = MemberPhase::Draining;
    assert_eq!(conditions(&status, 1), []);
}

#[test]
fn a_host_that_serves_several_vips_is_one_alert() {
    let mut status = status(3, 4);
    for vip in &mut status.vips {
        let first = &mut vip.members[0];
        first.address = "10.9.9.9".parse().unwrap();
        take_down(first, "timeout");
    }
    let found = conditions(&status, 1);
    let part_of: Vec<_> = found.iter().map(|c| c.part_of.as_deref()).collect();
    assert_eq!(
        part_of,
        [None, Some("backends:vip-0"), Some("backends:vip-0")]
    );
}

#[test]
fn a_detached_or_generic_interface_is_a_condition() {
    let mut status = status(1, 4);
    status.node.interfaces.push(Interface {
        name: "eth1".to_owned(),
        mode: InterfaceMode::Detached,
        program_id: None,
    });
    status.node.interfaces[0].mode = InterfaceMode::Generic;
    let kinds: Vec<_> = conditions(&status, 1).into_iter().map(|c| c.kind).collect();
    assert_eq!(kinds, ["data_path", "generic_xdp"]);
}

#[test]
fn missing_routes_and_high_utilisation_are_conditions() {
    let mut status = status(1, 4);
    let vip = &mut status.vips[0];
    vip.members[3].route_problem = Some("no route".to_owned());
    for member in &mut vip.members {
        member.capacity = Some(100);
    }
    vip.rates.new_flows_per_s = 370.0;
    let found = conditions(&status, 1);
    let kinds: Vec<_> = found.iter().map(|c| (&*c.kind, c.severity)).collect();
    let expected = [
        ("no_next_hop", Severity::Critical),
        ("capacity", Severity::Warning),
    ];
    assert_eq!(kinds, expected);
    assert!(found[1].summary.contains("92 %") || found[1].summary.contains("93 %"));
    assert_eq!(
        found[1].cause.as_deref(),
        Some("6 backends of this size are needed for a utilisation of 70 %")
    );
}

#[test]
fn backends_that_cannot_be_checked_are_a_condition() {
    let mut status = status(1, 3);
    let members = &mut status.vips[0].members;
    for (member, why) in members
        .iter_mut()
        .zip(["no descriptors", crate::health::SILENT])
    {
        member.health.as_mut().unwrap().inconclusive = Some(why.to_owned());
    }
    let found = conditions(&status, 1);
    assert_eq!((found.len(), &*found[0].kind), (1, "checks"));
    assert_eq!(found[0].backends, ["backend-0"]);
    assert_eq!(found[0].cause.as_deref(), Some("no descriptors"));
}

#[test]
fn a_reason_that_names_each_backend_is_one_reason() {
    let mut status = status(1, 4);
    for member in &mut status.vips[0].members {
        let problem = format!("{} does not answer", member.address);
        take_down(member, &problem);
        member.route_problem = Some(problem);
    }
    let found = conditions(&status, 1);
    let cause = found[0].cause.as_deref();
    assert_eq!(cause, Some("health checks: the backend does not answer"));
}

#[test]
fn only_current_drops_count() {
    let mut status = status(1, 4);
    let mut observer = Observer::default();
    status.reasons.insert("NO_NEXT_HOP", 1_000_000);
    let mut found = Vec::new();
    for second in 0..60 {
        status.at = at(second);
        if second >= 30 {
            *status.reasons.get_mut("NO_NEXT_HOP").unwrap() += 50;
        }
        found = observer.conditions(&status, &limits(1));
        assert_eq!(found.is_empty(), second < 30, "{second}");
    }
    assert_eq!(found[0].key, "drops:NO_NEXT_HOP");
    assert!(
        found[0]
            .summary
            .starts_with("dropping 50 packets/s (NO_NEXT_HOP)"),
        "{}",
        found[0].summary
    );
}

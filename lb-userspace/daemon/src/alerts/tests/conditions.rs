//! Conditions derived from a state.

use lb_model::config::OnExcess;

use super::*;
use crate::{
    health::HealthStatus,
    metrics::example::{Example, example},
    node::{ExcessSource, Interface, InterfaceMode, MemberPhase, MemberState, NodeState, PortUse},
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
        uncertain: false,
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

/// A host that is down in VIPs with these numbers.
fn take_down_host(status: &mut NodeState, host: &str, vips: &[usize]) {
    for &vip in vips {
        let members = &mut status.vips[vip].members;
        let member = members.iter_mut().find(|m| m.address.to_string() == host);
        take_down(member.unwrap(), "timeout");
    }
}

/// VIPs with the same four hosts.
fn shared(vips: usize) -> NodeState {
    let mut status = status(vips, 4);
    for vip in &mut status.vips {
        for (number, member) in vip.members.iter_mut().enumerate() {
            member.address = format!("10.9.9.{number}").parse().unwrap();
        }
    }
    status
}

fn brief(found: &[Condition]) -> Vec<(&str, &str, Severity, usize)> {
    let each = found.iter();
    each.map(|c| (&*c.key, &*c.kind, c.severity, c.vips.len()))
        .collect()
}

#[test]
fn a_dead_host_is_one_alert_with_the_list_of_its_vips() {
    let mut status = shared(9);
    let mut observer = Observer::default();
    let mut observe = |status: &NodeState, min| observer.conditions(status, &limits(min));
    // Checks find it at different times; the alert keeps its id.
    take_down_host(&mut status, "10.9.9.0", &[3]);
    let one = ("backends:vip-3", "backend_down", Severity::Warning, 0);
    assert_eq!(brief(&observe(&status, 1)), [one]);
    take_down_host(&mut status, "10.9.9.0", &[0, 1, 2, 4, 5, 6, 7, 8]);
    let found = observe(&status, 1);
    let all = ("backends:vip-3", "backend_down", Severity::Warning, 9);
    assert_eq!(brief(&found), [all]);
    assert_eq!(
        found[0].summary,
        "backend backend-0 (10.9.9.0) is down in 9 VIPs (vip-0, vip-1, vip-2, vip-3, vip-4 and 4 more)"
    );
    // Too few backends everywhere: still one.
    let found = observe(&status, 4);
    let few = ("backends:vip-3", "few_backends", Severity::Critical, 9);
    assert_eq!(brief(&found), [few]);
    assert!(
        found[0]
            .summary
            .ends_with("; too few eligible backends in 9 of them"),
        "{found:?}"
    );
    // Another host of the same VIPs: the list grows.
    take_down_host(&mut status, "10.9.9.1", &[0, 1, 2, 3, 4]);
    let found = observe(&status, 1);
    assert_eq!(brief(&found), [all]);
    assert_eq!(found[0].backends, ["backend-0", "backend-1"]);
    // The VIP that was first recovers first.
    status.vips[3] = shared(9).vips[3].clone();
    let left = ("backends:vip-3", "backend_down", Severity::Warning, 8);
    assert_eq!(brief(&observe(&status, 1)), [left]);
    let mut last = shared(9);
    take_down_host(&mut last, "10.9.9.0", &[8]);
    let found = observe(&last, 1);
    assert_eq!(brief(&found), [one]);
    assert_eq!(
        (&*found[0].summary, found[0].vip.as_deref()),
        ("backend backend-0 of vip-8 is down", Some("vip-8"))
    );
    assert_eq!(observe(&shared(9), 1), []);
}

#[test]
fn hosts_of_different_vips_are_different_alerts() {
    let mut status = status(3, 4);
    for vip in &mut status.vips {
        take_down(&mut vip.members[0], "timeout");
    }
    let keys: Vec<String> = conditions(&status, 1).into_iter().map(|c| c.key).collect();
    assert_eq!(keys, ["backends:vip-0", "backends:vip-1", "backends:vip-2"]);
    let mut status = shared(3);
    for vip in &mut status.vips {
        vip.members[1].route_problem = Some("no route".to_owned());
    }
    let found = conditions(&status, 1);
    let one = ("no_next_hop:vip-0", "no_next_hop", Severity::Critical, 3);
    assert_eq!(brief(&found), [one]);
    assert_eq!(
        found[0].summary,
        "no route to backend backend-1 (10.9.9.1) of 3 VIPs (vip-0, vip-1, vip-2)"
    );
}

#[test]
fn a_group_keeps_its_id_across_a_restart() {
    let mut status = shared(3);
    take_down_host(&mut status, "10.9.9.0", &[0, 1, 2]);
    let mut before = Observer::default();
    take_down_host(&mut status, "10.9.9.0", &[0, 1, 2]);
    let alerts = seasoned();
    let mut first = shared(3);
    take_down_host(&mut first, "10.9.9.0", &[2]);
    before.conditions(&first, &limits(1));
    during(&alerts, 0..9, &before.conditions(&status, &limits(1)));
    status.alerts = alerts.list();
    assert_eq!(
        (&*status.alerts[0].id, status.alerts[0].vips.len()),
        ("backends:vip-2", 3)
    );
    let found = Observer::default().conditions(&status, &limits(1));
    assert_eq!(found[0].key, "backends:vip-2");
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
fn flows_without_room_in_the_tracking_table_are_a_condition() {
    let mut status = status(2, 4);
    status.vips[1].tracked_flows = 8000;
    status.vips[0].untracked_packets = 1_000_000;
    let mut observer = Observer::default();
    let mut found = Vec::new();
    for second in 0..60 {
        status.at = at(second);
        if second >= 30 {
            status.vips[0].untracked_packets += 50;
        }
        found = observer.conditions(&status, &limits(1));
        assert_eq!(found.is_empty(), second < 30, "{second}");
    }
    assert_eq!(found[0].key, "track_full:vip-0");
    assert_eq!(
        found[0].summary,
        "no room in the tracking table for flows of vip-0 (50 packets/s)"
    );
    let cause = found[0].cause.as_deref().unwrap();
    assert!(cause.contains("flows of vip-1 (8000)"), "{cause}");
}

#[test]
fn packets_over_a_limit_are_a_condition() {
    let mut status = status(2, 4);
    let limit = status.vips[0].limit.as_mut().unwrap();
    limit.source_on_excess = OnExcess::Drop;
    limit.on_excess = OnExcess::SecondSyn;
    // Denied sources are what the operator asked for.
    limit.denied_per_s = 1000.0;
    assert_eq!(conditions(&status, 2), []);
    let limit = status.vips[0].limit.as_mut().unwrap();
    (limit.source_new_flows_per_s, limit.new_flows_per_s) = (480.0, 12.0);
    let source = |source: &str, share| ExcessSource {
        source: source.to_owned(),
        share,
    };
    limit.sources = vec![source("198.51.100.7", 0.62), source("192.0.2.9", 0.001)];
    let found = conditions(&status, 2);
    assert_eq!(
        (&*found[0].key, found[0].severity),
        ("limit:vip-0", Severity::Warning)
    );
    assert_eq!(
        found[0].summary,
        "vip-0: 480 new flows/s over the limit of its sources are dropped; 12 new flows/s over the limit \
         of the VIP only pass if they are repeated"
    );
    assert_eq!(
        found[0].cause.as_deref(),
        Some("most of them from 198.51.100.7 (62 %)")
    );
    let limit = status.vips[0].limit.as_mut().unwrap();
    (limit.source_on_excess, limit.on_excess) = (OnExcess::Count, OnExcess::Count);
    limit.sources.remove(0);
    let found = conditions(&status, 2);
    assert_eq!(found[0].severity, Severity::Info);
    assert!(
        found[0]
            .summary
            .ends_with("over the limit of the VIP only counted"),
        "{found:?}"
    );
    assert!(
        found[0]
            .cause
            .as_deref()
            .unwrap()
            .starts_with("no source has as much as 1 %")
    );
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

#[test]
fn ports_that_are_nearly_all_in_use_are_a_condition() {
    let mut status = status(1, 4);
    let use_ports = |member: &mut MemberState, in_use, over| {
        member.nat_ports = Some(PortUse {
            in_use,
            over,
            total: 16_384,
        });
    };
    let members = &mut status.vips[0].members;
    use_ports(&mut members[0], 14_745, 1_639);
    assert_eq!(
        conditions(&status, 1),
        [],
        "90 %; the others can be used again"
    );
    let members = &mut status.vips[0].members;
    use_ports(&mut members[0], 14_746, 0);
    use_ports(&mut members[1], 15_073, 0);
    use_ports(&mut members[2], 16_384, 0);
    members[2].phase = MemberPhase::Draining;
    let found = conditions(&status, 1);
    let [one] = &found[..] else {
        panic!("{found:?}")
    };
    assert_eq!(
        (&*one.key, one.severity),
        ("nat_ports:vip-0", Severity::Warning)
    );
    assert_eq!(one.backends, ["backend-1", "backend-0"]);
    assert_eq!(
        one.summary,
        "15073 of the 16384 nat ports for sessions with backend-1 of vip-0 are in use (92 %), \
         as are those of 1 other backend"
    );
    assert!(one.cause.as_ref().unwrap().contains("node.nat_ports"));
}

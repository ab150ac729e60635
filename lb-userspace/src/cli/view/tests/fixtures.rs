//! Values as a controller returns them.

use std::collections::BTreeMap;

use jiff::Timestamp;

use lb_api::{
    Alert, Event, ExplainStep, Explanation, FileState, FileStatus, Guard, GuardResult,
    GuardVerdict, HealthStatus, InterfaceStatus, MemberPlan, MemberSide, MemberState, MemberStatus,
    NodeStatus, Plan, PlanVerdict, Progress, Rates, RevisionInfo, RevisionState, RingStatus,
    Severity, Status, Totals, VipAction, VipPlan, VipStatus, WantedState,
};

pub(in crate::cli) fn now() -> Timestamp {
    "2026-11-22T19:30:00Z".parse().unwrap()
}

fn ago(seconds: i64) -> Timestamp {
    now() - jiff::SignedDuration::from_secs(seconds)
}

fn healthy() -> HealthStatus {
    HealthStatus {
        healthy: true,
        since: ago(86_400),
        last_ok: Some(true),
        last_error: None,
        inconclusive: None,
        latency_ms: Some(1.24),
        damped: false,
    }
}

fn member(number: u8, table_share: f64) -> MemberStatus {
    let flows = 1234.0 * table_share;
    MemberStatus {
        backend: format!("api-{number}"),
        address: [10, 0, 1, number].into(),
        port: 0,
        state: MemberState::Up,
        weight: 100,
        effective_weight: 100,
        capacity: None,
        health: Some(healthy()),
        next_hop: None,
        totals: Totals {
            packets: 1_000_000,
            bytes: 800_000_000,
            new_flows: 20_000,
        },
        rates: Rates {
            packets_per_s: 56_000.0 * table_share,
            bytes_per_s: 70e6 * table_share,
            new_flows_per_s: flows,
        },
        tracked_flows: 0,
        nat_ports: None,
        intended_share: table_share,
        table_share,
        observed_share: Some(table_share + 0.002),
    }
}

fn vip() -> VipStatus {
    VipStatus {
        name: "api".into(),
        address: [203, 0, 113, 10].into(),
        port: 443,
        protocol: "tcp".into(),
        forward: "ipip".into(),
        panic: false,
        ring: RingStatus {
            slots: 65537,
            in_transition: 0,
            settling: 0,
        },
        rates: Rates {
            packets_per_s: 56_000.0,
            bytes_per_s: 70e6,
            new_flows_per_s: 1234.0,
        },
        peak_new_flows_per_s: 0.0,
        capacity: None,
        tracked_flows: 0,
        limit: None,
        bound: None,
        members: vec![member(1, 0.4), member(2, 0.4), member(3, 0.2)],
    }
}

/// A node without problems.
pub(in crate::cli) fn status() -> Status {
    Status {
        at: now(),
        node: NodeStatus {
            host: "lb-1".into(),
            version: "0.1.0".into(),
            pid: 4711,
            started_at: ago(187_200),
            adopted: true,
            program_id: 42,
            interfaces: ["eth0", "eth1"]
                .map(|name| interface(name, "native", Some(42)))
                .into(),
        },
        revision: Some(revisions().remove(0)),
        file: Some(FileStatus {
            path: "/etc/evenkeel/evenkeel.toml".into(),
            state: FileState::Active,
            problem: None,
        }),
        sources: Vec::new(),
        vips: vec![vip()],
        announce: None,
        alerts: Vec::new(),
        reasons: BTreeMap::from([("FORWARDED".into(), 1_000_000)]),
        fleet: None,
    }
}

fn interface(name: &str, mode: &str, program_id: Option<u32>) -> InterfaceStatus {
    InterfaceStatus {
        name: name.into(),
        mode: mode.into(),
        program_id,
    }
}

/// A node with problems of all kinds.
pub(in crate::cli) fn with_problems() -> Status {
    let mut status = status();
    status.node.interfaces = vec![
        interface("eth0", "generic", Some(42)),
        interface("eth1", "native", Some(7)),
        interface("eth2", "none", None),
    ];
    status.revision = revisions().pop();
    status.file = status.file.map(|file| FileStatus {
        state: FileState::Edited,
        ..file
    });
    status.alerts = alerts();
    let vip = &mut status.vips[0];
    vip.panic = true;
    vip.ring.in_transition = 12_345;
    vip.ring.settling = 42;
    vip.tracked_flows = 1_234;
    let members = &mut vip.members;
    members[0].state = MemberState::Down;
    members[0].health = Some(HealthStatus {
        healthy: false,
        since: ago(192),
        last_ok: Some(false),
        last_error: Some("GET /healthz: 503 Service Unavailable; 200 is expected".into()),
        ..healthy()
    });
    members[1].effective_weight = 40;
    members[1].observed_share = Some(0.9);
    members[1].next_hop = Some("neighbour 10.0.1.2 on eth1 does not answer".into());
    members[2].state = MemberState::Draining;
    members[2].observed_share = None;
    members[2].health = None;
    members[2].tracked_flows = 17;
    let mut leaving = member(4, 0.0);
    leaving.state = MemberState::Leaving;
    leaving.health = Some(HealthStatus {
        last_ok: None,
        healthy: false,
        damped: true,
        ..healthy()
    });
    members.push(leaving);
    status
}

/// Alerts of two severities, with all fields.
pub(in crate::cli) fn alerts() -> Vec<Alert> {
    vec![
        Alert {
            id: "backend_down:api:api-1".into(),
            kind: "backend_down".into(),
            severity: Severity::Warning,
            vip: Some("api".into()),
            vips: Vec::new(),
            backends: vec!["api-1".into()],
            summary: "api-1 is down: GET /healthz: 503 Service Unavailable; 200 is expected".into(),
            cause: None,
            revision: None,
            since: ago(192),
            acknowledged_by: Some("alice".into()),
            silenced_until: Some(ago(-3600)),
            resolves_at: None,
        },
        Alert {
            id: "concentration:api".into(),
            kind: "concentration".into(),
            severity: Severity::Critical,
            vip: Some("api".into()),
            vips: Vec::new(),
            backends: vec!["api-2".into()],
            summary: "api-2 gets 90.0% of the new flows of api, 3.6 times what an even spread \
                      over capacity would give it"
                .into(),
            cause: Some("revision 9 set the weight of api-2 from 100 to 1000".into()),
            revision: Some(9),
            since: ago(45),
            acknowledged_by: None,
            silenced_until: None,
            resolves_at: None,
        },
    ]
}

fn side(weight: u32, share: f64) -> Option<MemberSide> {
    Some(MemberSide {
        weight,
        state: WantedState::Up,
        eligible: true,
        intended_share: share,
        table_share: share,
    })
}

fn change(
    backend: &str,
    before: Option<MemberSide>,
    after: Option<MemberSide>,
    capacity: Option<u32>,
) -> MemberPlan {
    let share = after.as_ref().map_or(0.0, |side| side.table_share);
    MemberPlan {
        backend: backend.into(),
        address: [10, 0, 1, 11].into(),
        before,
        after,
        predicted_new_flows_per_s: 2400.0 * share,
        capacity,
    }
}

fn guard(guard: Guard, verdict: GuardVerdict, detail: &str) -> GuardResult {
    GuardResult {
        guard,
        verdict,
        detail: detail.into(),
    }
}

/// A backend is added, another changes its weight.
pub(in crate::cli) fn plan() -> Plan {
    let passed = |name, detail| guard(name, GuardVerdict::Passed, detail);
    Plan {
        base: 7,
        verdict: PlanVerdict::Allowed,
        vips: vec![VipPlan {
            vip: "api".into(),
            action: VipAction::Changed,
            members: vec![
                change("api-1", side(100, 0.5), side(100, 0.4), None),
                change("api-2", side(100, 0.5), side(50, 0.2), None),
                change("api-3", None, side(100, 0.4), Some(5000)),
            ],
            ring_size: 65537,
            slots_moved: 26215,
            new_flows_per_s: 1234.0,
            peak_new_flows_per_s: 2400.0,
            settings: vec!["health.interval: 1s → 2s".into()],
            limits: None,
            bound: None,
            guards: vec![
                passed(
                    Guard::ShareError,
                    "every share is within 0.1 % of the intended one",
                ),
                passed(
                    Guard::MaxMoved,
                    "40 % of the ring would move; maximum is 50 %",
                ),
                guard(
                    Guard::MaxShare,
                    GuardVerdict::Forced,
                    "backend api-1 would have 40 % of the ring; maximum is 35 %",
                ),
            ],
        }],
        other: vec!["node.interfaces: [\"eth0\"] → [\"eth0\", \"eth1\"]".into()],
        warnings: Vec::new(),
    }
}

/// One backend is left to serve: the others are removed, drained or down.
pub(in crate::cli) fn refused() -> Plan {
    let mut plan = plan();
    plan.verdict = PlanVerdict::Refused;
    plan.other.clear();
    let vip = &mut plan.vips[0];
    vip.settings.clear();
    let drained = side(100, 0.0).map(|side| MemberSide {
        state: WantedState::Drain,
        eligible: false,
        ..side
    });
    let down = |share| {
        side(100, share).map(|side| MemberSide {
            eligible: false,
            ..side
        })
    };
    vip.members = vec![
        change("api-1", side(100, 0.333), side(100, 1.0), Some(2000)),
        change("api-2", side(100, 0.333), drained, Some(2000)),
        change("api-3", side(100, 0.333), None, None),
        change("api-4", down(0.0), down(0.0), None),
    ];
    let no = |name, detail| guard(name, GuardVerdict::Refused, detail);
    vip.guards = vec![
        no(
            Guard::MaxShare,
            "backend api-1 would have 100 % of the ring; maximum is 60 %",
        ),
        no(
            Guard::Capacity,
            "backend api-1 would get 2400 new flows/s at peak; its capacity is 2000",
        ),
        guard(
            Guard::NothingLeft,
            GuardVerdict::Passed,
            "1 backend would serve",
        ),
    ];
    plan
}

pub(in crate::cli) fn vips_added_and_removed() -> Plan {
    let mut plan = plan();
    let added = plan.vips.remove(0);
    let gone = VipPlan {
        vip: "old".into(),
        action: VipAction::Removed,
        members: vec![change("old-1", side(100, 1.0), None, None)],
        slots_moved: 0,
        settings: Vec::new(),
        guards: vec![guard(
            Guard::VipRemoved,
            GuardVerdict::Forced,
            "old has 3 new flows a second, and its connections break",
        )],
        ..added.clone()
    };
    let new = VipPlan {
        vip: "new".into(),
        action: VipAction::Added,
        members: vec![change("new-1", None, side(100, 1.0), None)],
        slots_moved: 65537,
        new_flows_per_s: 0.0,
        peak_new_flows_per_s: 0.0,
        settings: Vec::new(),
        guards: Vec::new(),
        ..added
    };
    Plan {
        vips: vec![gone, new],
        other: Vec::new(),
        ..plan
    }
}

/// Revisions of every state.
pub(in crate::cli) fn revisions() -> Vec<RevisionInfo> {
    let states = [
        RevisionState::Applied,
        RevisionState::Failed {
            why: "writing map members: no space left on device".into(),
        },
        RevisionState::RolledBack {
            why: "health got worse: 2 of 3 backends of api are down".into(),
            at: ago(60),
        },
        RevisionState::Applying,
        RevisionState::Baking { until: ago(-25) },
        RevisionState::AwaitingConfirm { until: ago(-290) },
    ];
    let how = [
        "start",
        "reload",
        "apply FILE",
        "backend drain api-1",
        "vip add web",
        "rollback to 3",
    ];
    (1..)
        .zip(states)
        .zip(how)
        .map(|((number, state), how)| RevisionInfo {
            number,
            parent: number.checked_sub(1).filter(|parent| *parent > 0),
            at: ago(7200 - 600 * i64::try_from(number).unwrap()),
            who: "root (4242)".into(),
            how: how.into(),
            why: (number == 3)
                .then(|| "ticket 4711: two more in zone b, as long as the migration lasts".into()),
            forced: if number == 3 {
                vec![Guard::MaxMoved, Guard::Capacity]
            } else {
                Vec::new()
            },
            state,
            digest: "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9".into(),
        })
        .collect()
}

pub(in crate::cli) fn progress() -> [Progress; 3] {
    let revisions = revisions();
    let progress = |index: usize, notes: &[&str]| Progress {
        revision: revisions[index].clone(),
        remaining_s: 24.2,
        notes: notes.iter().map(|&note| note.to_owned()).collect(),
    };
    [
        progress(3, &[]),
        progress(
            4,
            &[
                "3 of 3 backends are healthy",
                "shares: 412 new flows so far",
            ],
        ),
        progress(5, &[]),
    ]
}

pub(in crate::cli) fn events() -> [Event; 3] {
    let event = |id, kind: &str, vip: Option<&str>, backend: Option<&str>, message: &str| Event {
        id,
        at: ago(100),
        kind: kind.into(),
        vip: vip.map(str::to_owned),
        backend: backend.map(str::to_owned),
        message: message.into(),
    };
    [
        event(9, "start", None, None, "adopted program 42"),
        event(10, "revision", Some("api"), None, "revision 7 applied"),
        event(
            1011,
            "health",
            Some("api"),
            Some("api-1"),
            "down: connection refused",
        ),
    ]
}

pub(in crate::cli) fn explanation() -> Explanation {
    let step = |step: &str, finding: &str| ExplainStep {
        step: step.into(),
        finding: finding.into(),
    };
    Explanation {
        flow: "tcp 198.51.100.7:40000 > 203.0.113.10:443".into(),
        steps: vec![
            step("vip", "api (203.0.113.10:443/tcp, ipip)"),
            step("hash", "0x1f2e3d4c, of the 5-tuple"),
            step("slot", "12345 of 65537, in transition from api-1 to api-2"),
            step(
                "tracking",
                "no entry; the packet does not open the connection, so the previous member has it as \
                 long as it can serve",
            ),
            step("next hop", "02:00:00:00:00:02 on eth0"),
        ],
        verdict: "tx".into(),
        reason: "FORWARDED".into(),
        vip: Some("api".into()),
        backend: Some("api-1".into()),
    }
}

//! The fleet: what an operator sees of a rollout, of nodes with problems, and without etcd.

use jiff::Timestamp;
use lb_api::{
    Explanation, FleetDisagreement, FleetDown, FleetExchange, FleetExplanation, FleetHead,
    FleetHealth, FleetNode, FleetNodeExplanation, FleetNodeState, FleetOpinion, FleetPeer,
    FleetPhase, FleetResult, FleetRevision, FleetRevisionInfo, FleetRollout, FleetRolloutState,
    FleetState, FleetSuspect, FleetVerdict, FleetVerdictKind, FleetWave, Status,
};

use super::{fixtures, plain, widest};
use crate::cli::view::{fleet, status};

fn node(name: &str, state: FleetNodeState, reason: &str) -> FleetNode {
    let is_away = state == FleetNodeState::Away;
    FleetNode {
        node: name.to_owned(),
        rack: Some("a".to_owned()),
        state,
        reason: reason.to_owned(),
        revision: (!is_away).then_some(6),
        version: (!is_away).then(|| "0.1.0".to_owned()),
        joined: Timestamp::UNIX_EPOCH,
    }
}

fn wave(nodes: &[&str], verdict: Option<(FleetVerdictKind, &str)>) -> FleetWave {
    FleetWave {
        nodes: nodes.iter().map(|&node| node.to_owned()).collect(),
        verdict: verdict.map(|(kind, detail)| FleetVerdict {
            kind,
            detail: detail.to_owned(),
        }),
    }
}

fn health() -> FleetHealth {
    let opinion = |node: &str, why: &str| FleetOpinion {
        node: node.to_owned(),
        why: why.to_owned(),
    };
    FleetHealth {
        nodes: 3,
        down: vec![FleetDown {
            vip: "web".to_owned(),
            backend: "web-2".to_owned(),
            nodes: 2,
            of: 3,
            since: Timestamp::UNIX_EPOCH,
        }],
        disagreements: vec![FleetDisagreement {
            vip: "web".to_owned(),
            backend: "web-1".to_owned(),
            down: vec![opinion("lb-3", "no reply within 500 ms")],
            up: vec![opinion("lb-1", "answered in 0.4 ms"), opinion("lb-2", "")],
            since: Timestamp::UNIX_EPOCH,
        }],
        suspect: Some(FleetSuspect {
            node: "lb-3".to_owned(),
            backends: 7,
            of: 12,
        }),
    }
}

pub(in crate::cli) fn known() -> FleetState {
    let head = Some(FleetHead {
        revision: 6,
        digest: "0".repeat(64),
    });
    let passed = "412 new flows, rest 805; resets 1 and 3, dropped packets 0 and 0";
    FleetState {
        fleet: "edge".to_owned(),
        id: Some("c0ffee".to_owned()),
        node: "lb-1".to_owned(),
        connected: true,
        contact_age_s: Some(0.0),
        last_error: None,
        exchange: Some(FleetExchange {
            error: None,
            peers: vec![
                FleetPeer {
                    node: "lb-2".to_owned(),
                    address: "10.0.0.2:7946".to_owned(),
                    connected: true,
                    error: None,
                },
                FleetPeer {
                    node: "lb-3".to_owned(),
                    address: "10.0.0.3:7946".to_owned(),
                    connected: false,
                    error: Some("no connection within 2 s".to_owned()),
                },
            ],
            flows_told: 1204,
            flows_taken: 987,
            flows_without_room: 3,
        }),
        health: Some(health()),
        leader: Some("lb-2".to_owned()),
        state: FleetNodeState::OnTrial,
        reason: String::new(),
        head: head.clone(),
        confirmed: head,
        rollout: Some(FleetRollout {
            revision: 7,
            parent: 6,
            state: FleetRolloutState::Wave,
            reason: String::new(),
            started: Timestamp::UNIX_EPOCH,
            ended: None,
            aborted: None,
            waves: vec![
                wave(&["lb-1"], Some((FleetVerdictKind::Passed, passed))),
                wave(&["lb-2"], None),
                wave(&["lb-3"], None),
            ],
            position: 1,
            absent: vec!["lb-4".to_owned()],
            paused: None,
            manual: false,
            bake_s: 30,
            results: Vec::new(),
        }),
        nodes: vec![
            node("lb-1", FleetNodeState::OnTrial, ""),
            node("lb-2", FleetNodeState::InSync, ""),
            node(
                "lb-3",
                FleetNodeState::Differs,
                "local revision 9 changed the VIPs: `evenkeel fleet join` restores them",
            ),
            node("lb-4", FleetNodeState::Away, ""),
        ],
    }
}

#[test]
fn a_rollout_and_its_nodes() {
    let text = fleet::status(plain(80), &known());
    insta::assert_snapshot!(text);
    assert!(widest(&text) <= 80, "{text}");
}

#[test]
fn a_node_without_etcd() {
    let away = FleetState {
        connected: false,
        contact_age_s: Some(95.0),
        last_error: Some("https://10.0.0.1:2379: connection refused".to_owned()),
        leader: None,
        state: FleetNodeState::InSync,
        rollout: None,
        nodes: Vec::new(),
        ..known()
    };
    insta::assert_snapshot!(fleet::status(plain(80), &away));
    let of_node = Status {
        fleet: Some(away),
        ..fixtures::status()
    };
    let text = status::status(plain(80), &of_node, false);
    let line = "fleet edge: lb-1 is in sync, revision 6; etcd does not answer for 1m35s\n";
    assert!(text.contains(line), "{text}");
}

#[test]
fn the_end_of_a_rollout_that_failed() {
    let mut rollout = known().rollout.unwrap();
    rollout.state = FleetRolloutState::Undone;
    rollout.reason = "node lb-2: backend api-1 of VIP api went down".to_owned();
    rollout.results = vec![FleetResult {
        node: "lb-2".to_owned(),
        phase: FleetPhase::Failed,
        reason: "backend api-1 of VIP api went down".to_owned(),
    }];
    insta::assert_snapshot!(fleet::outcome(plain(80), &rollout));
}

#[test]
fn nodes_that_disagree_about_a_packet() {
    let answer = |node: &str, backend: Option<&str>, error: Option<&str>| FleetNodeExplanation {
        node: node.to_owned(),
        explanation: error.is_none().then(|| Explanation {
            backend: backend.map(str::to_owned),
            ..fixtures::explanation()
        }),
        error: error.map(str::to_owned),
    };
    let explained = FleetExplanation {
        agree: false,
        nodes: vec![
            answer("lb-1", Some("api-1"), None),
            answer("lb-2", Some("api-2"), None),
            answer("lb-3", None, Some("no answer within 5 s")),
        ],
        absent: vec!["lb-4".to_owned()],
    };
    insta::assert_snapshot!(fleet::explanation(plain(80), &explained));
}

#[test]
fn a_shown_revision_is_a_file_with_the_same_text() {
    let texts = ["[[vip]]\nname = \"a\"\n", "# above\n\n[[vip]] # x"];
    for text in texts {
        let shown = fleet::revision(&FleetRevision {
            info: FleetRevisionInfo {
                number: 7,
                parent: Some(6),
                digest: "0".repeat(64),
                author: "admin".to_owned(),
                node: "lb-1".to_owned(),
                why: Some("two\nlines\r\u{1b}[31m".to_owned()),
                at: Timestamp::UNIX_EPOCH,
                outcome: None,
            },
            text: text.to_owned(),
        });
        assert!(shown.starts_with("# revision  7\n"), "{shown}");
        let vips = lb_model::fleet::shared_part(&shown);
        assert_eq!(vips.as_deref(), Ok(text), "{shown}");
    }
}

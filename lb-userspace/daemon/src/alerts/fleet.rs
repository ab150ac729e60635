//! Conditions of a node of a fleet.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use lb_fleet::{
    FleetDisagreement, FleetHealth, FleetNodeState, FleetOpinion, FleetRolloutState, FleetState,
    FleetSuspect,
};

use super::{Condition, Severity};

/// How long a failed rollout is reported, unless another one follows.
const REPORTED: SignedDuration = SignedDuration::from_hours(1);

/// What is wrong with the node in its fleet, and with the fleet.
pub(super) fn conditions(fleet: &FleetState, now: Timestamp) -> Vec<Condition> {
    let mut found: Vec<Condition> = node(fleet).into_iter().collect();
    let error = fleet.last_error.as_deref();
    let is_away = !fleet.connected || error.is_some();
    if is_away && fleet.state != FleetNodeState::NotJoined {
        let problem = match fleet.connected {
            true => "answers, and requests fail",
            false => "does not answer",
        };
        let error = error.unwrap_or("no answer");
        let summary = format!("etcd of the fleet {} {problem}: {error}", fleet.fleet);
        let condition = Condition::new("fleet_etcd", "fleet_etcd", Severity::Warning, summary);
        found.push(condition.cause(
            "this node keeps its VIPs and forwards; it takes no change of the fleet until etcd answers: see \
             `evenkeel fleet doctor`",
        ));
    }
    found.extend(exchange(fleet));
    found.extend(fleet.health.iter().flat_map(health));
    found.extend(failed_rollout(fleet, now));
    found
}

/// Nodes that live and do not tell the past of connections, or that can't ask this one.
fn exchange(fleet: &FleetState) -> Option<Condition> {
    let exchange = fleet.exchange.as_ref()?;
    let lives = |node: &str| {
        let mut nodes = fleet.nodes.iter();
        nodes.any(|it| it.node == node && it.state != FleetNodeState::Away)
    };
    let silent = exchange.peers.iter();
    let silent = silent.filter(|peer| !peer.connected && lives(&peer.node));
    let silent = silent.map(|peer| {
        let why = peer.error.as_deref().unwrap_or("no answer yet");
        format!("{}: {why}", peer.node)
    });
    let wrong: Vec<String> = exchange.error.clone().into_iter().chain(silent).collect();
    if wrong.is_empty() {
        return None;
    }
    let summary = format!(
        "nodes of the fleet {} do not know the past of each other's connections: {}",
        fleet.fleet,
        wrong.join("; ")
    );
    let condition = Condition::new(
        "fleet_exchange",
        "fleet_exchange",
        Severity::Warning,
        summary,
    );
    Some(condition.cause(
        "connections that the router moves to another node during a transition may break: see `evenkeel fleet \
         doctor`",
    ))
}

/// Backends that are named in a summary, and reasons in a cause.
const MOST_NAMED: usize = 3;

/// Backends that nodes see differently: one condition for each node that is alone, or among the fewer.
fn health(health: &FleetHealth) -> Vec<Condition> {
    let mut by_node: BTreeMap<(&str, bool), Vec<&FleetDisagreement>> = BTreeMap::new();
    for found in &health.disagreements {
        // Of two nodes, the one that sees it down: its path may be broken.
        let sees_down = found.down.len() <= found.up.len();
        let odd = if sees_down { &found.down } else { &found.up };
        for node in odd {
            let group = by_node.entry((node.node.as_str(), sees_down)).or_default();
            group.push(found);
        }
    }
    let conditions = by_node.into_iter().map(|((node, sees_down), group)| {
        let suspect = health.suspect.as_ref();
        let suspect = suspect.filter(|it| it.node == node && sees_down);
        disagreement(node, sees_down, &group, suspect)
    });
    conditions.collect()
}

fn disagreement(
    node: &str,
    sees_down: bool,
    group: &[&FleetDisagreement],
    suspect: Option<&FleetSuspect>,
) -> Condition {
    let (seen, otherwise) = if sees_down {
        ("down", "up")
    } else {
        ("up", "down")
    };
    let of = |found: &&FleetDisagreement| format!("{} of VIP {}", found.backend, found.vip);
    let named: Vec<String> = group.iter().take(MOST_NAMED).map(of).collect();
    let mut names = named.join(", ");
    if group.len() > MOST_NAMED {
        names += &format!(" and {} more", group.len() - MOST_NAMED);
    }
    let first = group[0];
    let (own, others) = if sees_down {
        (&first.down, &first.up)
    } else {
        (&first.up, &first.down)
    };
    let reason = |it: &FleetOpinion| format!("{}: {seen}, {}", it.node, it.why);
    let against = |it: &FleetOpinion| format!("{}: {otherwise}, {}", it.node, it.why);
    let own = own.iter().filter(|it| it.node == node).map(reason);
    let reasons: Vec<String> = own
        .chain(others.iter().take(MOST_NAMED).map(against))
        .collect();
    let count = others.len();
    let nodes = if count == 1 { "node sees" } else { "nodes see" };
    let mut summary =
        format!("{node} sees {names} {seen}, which {count} other {nodes} {otherwise}");
    let mut cause = format!("{}: {}", first.backend, reasons.join("; "));
    if let Some(FleetSuspect { backends, of, .. }) = suspect {
        summary += &format!(": {node} itself is suspect");
        cause += &format!(
            "; it alone sees {backends} of {of} backends down: look at its links and routes to them; while it is \
             suspect, it announces its VIPs as worse than other nodes"
        );
    }
    let severity = match suspect {
        Some(_) => Severity::Critical,
        None => Severity::Warning,
    };
    let key = format!("fleet_health:{node}:{seen}");
    let condition = Condition::new(key, "fleet_health", severity, summary).cause(cause);
    let mut vips = group.iter().map(|found| &found.vip);
    let vip = &first.vip;
    let backends: Vec<String> = group.iter().map(|found| found.backend.clone()).collect();
    match vips.all(|it| it == vip) {
        true => condition.vip(vip).backends(backends),
        false => condition,
    }
}

fn node(fleet: &FleetState) -> Option<Condition> {
    let (kind, what, cause) = match fleet.state {
        FleetNodeState::Refused => (
            "fleet_refused",
            "takes nothing from the etcd of",
            "etcd was wiped or restored, or this node differs from the fleet: see `evenkeel fleet status`",
        ),
        FleetNodeState::Behind => (
            "fleet_behind",
            "does not run the head of",
            "the node could not apply it and tries again: see `evenkeel fleet status` and `evenkeel history`",
        ),
        FleetNodeState::Differs => (
            "fleet_differs",
            "has VIPs that were changed on the node itself, in",
            "`evenkeel fleet join` restores those of the fleet; until then rollouts need --override-local",
        ),
        _ => return None,
    };
    let mut summary = format!("{} {what} the fleet {}", fleet.node, fleet.fleet);
    if !fleet.reason.is_empty() {
        summary += &format!(": {}", fleet.reason);
    }
    Some(Condition::new(kind, kind, Severity::Warning, summary).cause(cause))
}

/// A rollout that failed, and that no operator undid; raised by the leader only, so that it is one alert.
fn failed_rollout(fleet: &FleetState, now: Timestamp) -> Option<Condition> {
    let rollout = fleet.rollout.as_ref()?;
    let has_failed = matches!(
        rollout.state,
        FleetRolloutState::Failed | FleetRolloutState::Undone
    );
    let ended = rollout.ended.unwrap_or(rollout.started);
    let is_reported = rollout.aborted.is_none() && now.duration_since(ended) < REPORTED;
    if !has_failed || !is_reported || fleet.leader.as_ref() != Some(&fleet.node) {
        return None;
    }
    let kind = "fleet_rollout_failed";
    let summary = format!(
        "rollout of revision {} of the fleet {} failed: {}",
        rollout.revision, fleet.fleet, rollout.reason
    );
    let condition = Condition::new(kind, kind, Severity::Warning, summary);
    let effect = match rollout.waves.is_empty() {
        true => "no node was changed",
        false => "all nodes undo it",
    };
    Some(condition.cause(format!(
        "{effect}; `evenkeel fleet history` has the reasons"
    )))
}

#[cfg(test)]
mod tests {
    use lb_fleet::{FleetExchange, FleetNode, FleetPeer, FleetRollout};

    use super::*;

    fn fleet() -> FleetState {
        FleetState {
            fleet: "edge".to_owned(),
            node: "lb-1".to_owned(),
            connected: true,
            leader: Some("lb-1".to_owned()),
            state: FleetNodeState::InSync,
            ..FleetState::default()
        }
    }

    fn kinds(fleet: &FleetState, now_s: i64) -> Vec<String> {
        let now = Timestamp::from_second(now_s).unwrap();
        let found = conditions(fleet, now).into_iter();
        found.map(|condition| condition.kind).collect()
    }

    #[test]
    fn each_state_raises_its_condition() {
        assert!(kinds(&fleet(), 0).is_empty());
        for (state, kind) in [
            (FleetNodeState::Refused, "fleet_refused"),
            (FleetNodeState::Behind, "fleet_behind"),
            (FleetNodeState::Differs, "fleet_differs"),
        ] {
            let odd = FleetState {
                state,
                reason: "because".to_owned(),
                ..fleet()
            };
            assert_eq!(kinds(&odd, 0), [kind]);
            let found = conditions(&odd, Timestamp::UNIX_EPOCH);
            assert!(found[0].summary.ends_with(": because"), "{found:?}");
        }
        let away = FleetState {
            connected: false,
            ..fleet()
        };
        assert_eq!(kinds(&away, 0), ["fleet_etcd"]);
        let full = FleetState {
            last_error: Some("etcdserver: mvcc: database space exceeded".to_owned()),
            ..fleet()
        };
        assert_eq!(kinds(&full, 0), ["fleet_etcd"]);
        let peer = |node: &str, error: Option<&str>| FleetPeer {
            node: node.to_owned(),
            address: "10.0.0.1:7946".to_owned(),
            connected: error.is_none(),
            error: error.map(str::to_owned),
        };
        let node = |name: &str, state| FleetNode {
            node: name.to_owned(),
            rack: None,
            state,
            reason: String::new(),
            revision: None,
            version: None,
            joined: Timestamp::UNIX_EPOCH,
        };
        // A node that is away tells nothing, which is no news.
        let exchange = FleetExchange {
            peers: vec![peer("a", None), peer("b", Some("refused"))],
            ..FleetExchange::default()
        };
        let mut silent = FleetState {
            exchange: Some(exchange.clone()),
            nodes: vec![node("b", FleetNodeState::Away)],
            ..fleet()
        };
        assert!(kinds(&silent, 0).is_empty());
        silent.nodes = vec![node("b", FleetNodeState::Behind)];
        let found = conditions(&silent, Timestamp::UNIX_EPOCH);
        assert!(found[0].summary.ends_with(": b: refused"), "{found:?}");
        silent.nodes.clear();
        silent.exchange = Some(FleetExchange {
            error: Some("can't listen".to_owned()),
            ..exchange
        });
        assert_eq!(kinds(&silent, 0), ["fleet_exchange"]);
        let not_joined = FleetState {
            state: FleetNodeState::NotJoined,
            ..away
        };
        assert!(kinds(&not_joined, 0).is_empty());
    }

    fn opinions(nodes: &[&str]) -> Vec<FleetOpinion> {
        let nodes = nodes.iter();
        nodes
            .map(|node| FleetOpinion {
                node: (*node).to_owned(),
                why: format!("as {node} says"),
            })
            .collect()
    }

    fn differs(backend: &str, down: &[&str], up: &[&str]) -> FleetDisagreement {
        FleetDisagreement {
            vip: "web".to_owned(),
            backend: backend.to_owned(),
            down: opinions(down),
            up: opinions(up),
            since: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_disagreement_names_the_odd_node_and_both_reasons() {
        let found = |disagreements: Vec<FleetDisagreement>, suspect: Option<&str>| {
            let suspect = suspect.map(|node| FleetSuspect {
                node: node.to_owned(),
                backends: 2,
                of: 4,
            });
            let health = FleetHealth {
                disagreements,
                suspect,
                ..FleetHealth::default()
            };
            super::health(&health)
        };
        let one = found(vec![differs("b", &["lb-2"], &["lb-1", "lb-3"])], None);
        assert_eq!(one.len(), 1);
        assert_eq!(
            one[0].summary,
            "lb-2 sees b of VIP web down, which 2 other nodes see up"
        );
        let cause = one[0].cause.as_deref().unwrap();
        let wanted = "b: lb-2: down, as lb-2 says; lb-1: up, as lb-1 says; lb-3: up, as lb-3 says";
        assert_eq!(cause, wanted);
        assert_eq!(one[0].backends, ["b"]);
        // One condition for all that a node sees otherwise, and one for each such node.
        let all = |node| differs("c", &[node], &["lb-1", "lb-3"]);
        let both = found(
            vec![differs("b", &["lb-2"], &["lb-1"]), all("lb-2")],
            Some("lb-2"),
        );
        assert_eq!(both.len(), 1);
        assert_eq!(both[0].severity, Severity::Critical);
        let summary = &both[0].summary;
        assert!(
            summary.ends_with("other node see up: lb-2 itself is suspect")
                || summary.ends_with("1 other node sees up: lb-2 itself is suspect"),
            "{summary}"
        );
        assert_eq!(
            found(vec![differs("b", &["lb-2"], &["lb-1"]), all("lb-4")], None).len(),
            2
        );
        // It does not see what all others see.
        let up = found(vec![differs("b", &["lb-1", "lb-3"], &["lb-2"])], None);
        assert_eq!(
            up[0].summary,
            "lb-2 sees b of VIP web up, which 2 other nodes see down"
        );
    }

    #[test]
    fn the_leader_reports_a_failed_rollout_for_an_hour() {
        let rollout = FleetRollout {
            revision: 7,
            parent: 6,
            state: FleetRolloutState::Undone,
            reason: "lb-2: backend api-1 went down".to_owned(),
            started: Timestamp::UNIX_EPOCH,
            ended: Timestamp::from_second(7200).ok(),
            aborted: None,
            waves: Vec::new(),
            position: 0,
            absent: Vec::new(),
            paused: None,
            manual: false,
            bake_s: 30,
            results: Vec::new(),
        };
        let failed = FleetState {
            rollout: Some(rollout),
            ..fleet()
        };
        // It failed two hours after it began.
        assert_eq!(kinds(&failed, 7260), ["fleet_rollout_failed"]);
        assert!(kinds(&failed, 7200 + 3600).is_empty());
        let follower = FleetState {
            leader: Some("lb-2".to_owned()),
            ..failed.clone()
        };
        assert!(kinds(&follower, 7260).is_empty());
        let with = |change: fn(&mut FleetRollout)| {
            let mut state = failed.clone();
            state.rollout.as_mut().map(change);
            state
        };
        let cause = |state: &FleetState| {
            let mut found = conditions(state, Timestamp::UNIX_EPOCH);
            found.remove(0).cause.unwrap()
        };
        assert!(cause(&failed).contains("no node was changed"));
        let wave = |rollout: &mut FleetRollout| {
            rollout.waves = vec![lb_fleet::FleetWave {
                nodes: vec!["lb-2".to_owned()],
                verdict: None,
            }];
        };
        assert!(cause(&with(wave)).contains("all nodes undo it"));
        let aborted = with(|rollout| rollout.aborted = Some("admin".to_owned()));
        assert!(kinds(&aborted, 7260).is_empty());
    }
}

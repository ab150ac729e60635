//! Conditions of a node of a fleet.

use jiff::{SignedDuration, Timestamp};
use lb_api::{FleetNodeState, FleetRolloutState, FleetState};

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
    use lb_api::{FleetExchange, FleetNode, FleetPeer, FleetRollout};

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
            rollout.waves = vec![lb_api::FleetWave {
                nodes: vec!["lb-2".to_owned()],
                verdict: None,
            }];
        };
        assert!(cause(&with(wave)).contains("all nodes undo it"));
        let aborted = with(|rollout| rollout.aborted = Some("admin".to_owned()));
        assert!(kinds(&aborted, 7260).is_empty());
    }
}

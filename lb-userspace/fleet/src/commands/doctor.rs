//! `fleet doctor`.

use lb_api::{FleetCheck, FleetDoctor, FleetEndpoint, FleetNodeState};

use crate::{agent::Running, records::Meta, snapshot::Snapshot};

impl Running {
    pub(crate) async fn doctor(&self) -> FleetDoctor {
        let client = &self.shared.client;
        let mut endpoints = Vec::new();
        for (index, endpoint) in client.endpoints().iter().enumerate() {
            let (status, error) = match client.status(index).await {
                Ok(status) => (Some(status), None),
                Err(error) => (None, Some(error)),
            };
            let alarms = status.as_ref().map(|status| alarms(&status.errors));
            endpoints.push(FleetEndpoint {
                endpoint: endpoint.clone(),
                error: error.or(alarms.filter(|alarms| !alarms.is_empty())),
                has_quorum: status.as_ref().is_some_and(|status| status.has_leader),
                db_bytes: status.as_ref().map(|status| status.db_bytes),
                latency_ms: status.as_ref().map(|s| s.took.as_secs_f64() * 1e3),
                version: status.map(|status| status.version),
            });
        }
        let answering = endpoints
            .iter()
            .filter(|endpoint| endpoint.has_quorum)
            .count();
        let total = endpoints.len();
        let mut checks = vec![check(
            "endpoints",
            answering == total,
            format!("{answering} of {total} endpoints answer and have a quorum"),
        )];
        match self.snapshot().await {
            Ok(snapshot) => checks.extend(self.check_fleet(&snapshot)),
            Err(error) => checks.push(check("etcd", false, error.message)),
        }
        FleetDoctor { endpoints, checks }
    }

    fn check_fleet(&self, snapshot: &Snapshot) -> Vec<FleetCheck> {
        let settings = &self.shared.settings;
        let Some(meta) = &snapshot.meta else {
            let text = format!(
                "etcd has no fleet {}: `evenkeel fleet init` creates it",
                settings.fleet
            );
            return vec![check("fleet", false, text)];
        };
        let mut checks = vec![check(
            "fleet",
            true,
            format!("fleet {}, created {}", settings.fleet, meta.value.created),
        )];
        let node = snapshot.node(&settings.node);
        let is_joined = node.is_some_and(|node| node.spec.is_some());
        let text = match is_joined {
            true => format!("node {} has joined", settings.node),
            false => format!(
                "node {} has not joined: run `evenkeel fleet join`",
                settings.node
            ),
        };
        checks.push(check("joined", is_joined, text));
        let difference = meta.difference(&self.shared.facts);
        let text = difference.as_ref().map_or_else(
            || "layout of maps, ring size and hash seed are those of the fleet".to_owned(),
            |difference| format!("this node's {difference}"),
        );
        checks.push(check("facts", difference.is_none(), text));
        let (state, reason) = {
            let state = self.state.borrow();
            (state.state, state.reason.clone())
        };
        let ok = matches!(state, FleetNodeState::InSync | FleetNodeState::OnTrial);
        let text = match reason.as_str() {
            "" => words(state),
            reason => format!("{}: {reason}", words(state)),
        };
        checks.push(check("state", ok, text));
        let leader = snapshot.leader.as_ref();
        let text = leader.map_or_else(
            || "no leader: a node that reaches etcd takes the lead within 12 s".to_owned(),
            |leader| format!("node {} leads", leader.node),
        );
        checks.push(check("leader", leader.is_some(), text));
        checks.push(check_nodes(snapshot, meta));
        checks.push(self.check_exchange());
        checks
    }
}

fn check_nodes(snapshot: &Snapshot, meta: &Meta) -> FleetCheck {
    let joined = snapshot
        .nodes
        .iter()
        .filter(|(_, node)| node.spec.is_some());
    let bad = joined.clone().filter_map(|(id, node)| {
        let facts = &node.spec.as_ref()?.facts;
        if let Some(difference) = meta.difference(facts) {
            return Some(format!("{id}: {difference}"));
        }
        match &node.live {
            None => Some(format!("{id} is away")),
            Some(live) => match live.state {
                FleetNodeState::InSync | FleetNodeState::OnTrial => None,
                state => Some(format!("{id} is {}: {}", words(state), live.reason)),
            },
        }
    });
    let bad: Vec<String> = bad.collect();
    let text = match bad.is_empty() {
        true => format!("{} nodes, all live and in sync", joined.count()),
        false => bad.join("; "),
    };
    check("nodes", bad.is_empty(), text)
}

impl Running {
    /// Whether the nodes know the past of each other's connections.
    fn check_exchange(&self) -> FleetCheck {
        let state = self.state.borrow();
        let Some(exchange) = &state.exchange else {
            let text = "fleet.exchange is not set: connections that a router moves to another node during a \
                        transition may break";
            // Nodes of a small fleet may do without.
            return check("exchange", true, text.to_owned());
        };
        let silent = exchange.peers.iter().filter(|peer| !peer.connected);
        let silent = silent.map(|peer| {
            let why = peer.error.as_deref().unwrap_or("not yet");
            format!("{} at {}: {why}", peer.node, peer.address)
        });
        let wrong: Vec<String> = exchange.error.clone().into_iter().chain(silent).collect();
        let text = match wrong.is_empty() {
            true => format!(
                "told the past of connections by {} other nodes",
                exchange.peers.len()
            ),
            false => wrong.join("; "),
        };
        check("exchange", wrong.is_empty(), text)
    }
}

/// The alarms of a member, with what to do.
fn alarms(errors: &[String]) -> String {
    let mut text = errors.join("; ");
    if text.contains("NOSPACE") {
        text += ": etcd takes no writes until it is compacted and defragmented, and `etcdctl alarm disarm` was run";
    }
    text
}

fn words(state: FleetNodeState) -> String {
    state.as_str().replace('_', " ")
}

fn check(name: &str, ok: bool, text: String) -> FleetCheck {
    FleetCheck {
        name: name.to_owned(),
        ok,
        text,
    }
}

//! Whether a node may follow what is in etcd.

use lb_api::FleetNodeState;

use super::{Input, Member, RIVAL_MS};
use crate::{
    memory::{Known, Memory},
    node::Facts,
    records::Meta,
    snapshot::Snapshot,
};

/// What a node may do with what is in etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// etcd was not read yet.
    Unread,
    /// The node has not joined.
    NotJoined,
    /// It follows etcd.
    Follows,
    /// It follows etcd once it has taken the identity of an imported fleet.
    Adopts { id: String, head: Known },
    /// It takes nothing. With the reason, and what to do.
    Refuses(String),
}

impl Standing {
    pub(crate) fn follows(&self) -> bool {
        *self == Self::Follows
    }

    /// The state of a node that does not follow.
    pub(crate) fn state(&self) -> Option<(FleetNodeState, String)> {
        match self {
            Self::Follows | Self::Adopts { .. } => None,
            Self::Unread | Self::NotJoined => Some((FleetNodeState::NotJoined, String::new())),
            Self::Refuses(reason) => Some((FleetNodeState::Refused, reason.clone())),
        }
    }
}

/// Compares what is in etcd with what the node remembers.
pub(crate) fn standing(
    memory: &Memory,
    facts: &Facts,
    node: &str,
    snapshot: &Snapshot,
) -> Standing {
    let Some(fleet) = &memory.fleet else {
        return Standing::NotJoined;
    };
    let Some(meta) = &snapshot.meta else {
        let reason = "etcd has no fleet any more: was it wiped? This node keeps what it runs; `evenkeel fleet \
                      import` on a node in sync writes the fleet anew";
        return Standing::Refuses(reason.to_owned());
    };
    if meta.id != *fleet {
        return adopts(memory, meta, fleet).unwrap_or_else(|| {
            Standing::Refuses(format!(
                "etcd has another fleet of this name ({}; this node joined {fleet}): `evenkeel fleet join` \
                 accepts it and takes its head",
                meta.id
            ))
        });
    }
    if let Some(reason) = is_older(memory, snapshot) {
        return Standing::Refuses(format!(
            "{reason}: was etcd restored from an old snapshot? This node keeps what it runs; `evenkeel fleet \
             import` on the node with the newest revision writes it to etcd"
        ));
    }
    if snapshot.node(node).is_none_or(|node| node.spec.is_none()) {
        return Standing::NotJoined;
    }
    match meta.difference(facts) {
        Some(difference) => Standing::Refuses(format!(
            "this node's {difference}; once it is so on all nodes, `evenkeel fleet import` on one of them makes \
             it the fleet's"
        )),
        None => Standing::Follows,
    }
}

impl Member {
    /// The state, as published, and its reason.
    pub(super) fn current_state(
        &self,
        input: &Input<'_>,
        snapshot: Option<&Snapshot>,
    ) -> (FleetNodeState, String) {
        if let Some(error) = &self.disk_error {
            return (FleetNodeState::Refused, error.clone());
        }
        let rival_ms = self.rival_ms.map(|at| input.now_ms.saturating_sub(at));
        if rival_ms.is_some_and(|age_ms| age_ms < RIVAL_MS) {
            let reason = format!(
                "another machine is node {} too: give each its own `fleet.node`",
                self.settings.node
            );
            return (FleetNodeState::Refused, reason);
        }
        if let Some(state) = self.standing.state()
            && self.standing != Standing::Unread
        {
            return state;
        }
        if self.memory.fleet.is_none() {
            return (FleetNodeState::NotJoined, String::new());
        }
        if let Some(pending) = &self.memory.pending {
            let reason = format!("revision {} is on trial", pending.revision);
            return (FleetNodeState::OnTrial, reason);
        }
        let head = snapshot.and_then(|snapshot| snapshot.head.as_ref());
        let known = self.memory.head.as_ref();
        if known.is_some() && !self.memory.take && !self.is_unchanged(input.running) {
            let reason = format!(
                "VIPs were changed on this node (local revision {}): `evenkeel fleet join` returns to the head",
                input.running.local
            );
            return (FleetNodeState::Differs, reason);
        }
        let is_head = |known: &Known| head.is_none_or(|head| head.revision == known.revision);
        if self.memory.take || !known.is_some_and(is_head) {
            return (FleetNodeState::Behind, self.retry.reason().to_owned());
        }
        (FleetNodeState::InSync, String::new())
    }
}

fn adopts(memory: &Memory, meta: &Meta, fleet: &str) -> Option<Standing> {
    let imported = meta.imported.as_ref()?;
    let known = memory.head.as_ref()?;
    let is_ours = imported.previous == fleet && imported.digest == known.digest;
    is_ours.then(|| Standing::Adopts {
        id: meta.id.clone(),
        head: Known {
            revision: imported.revision,
            ..known.clone()
        },
    })
}

/// How etcd contradicts what this node has confirmed.
fn is_older(memory: &Memory, snapshot: &Snapshot) -> Option<String> {
    let known = memory.head.as_ref()?;
    let Some(head) = &snapshot.head else {
        return Some("etcd has no head".to_owned());
    };
    if head.revision < known.revision {
        return Some(format!(
            "etcd has head {}, and this node has confirmed {}",
            head.revision, known.revision
        ));
    }
    let of_same = snapshot.revisions.get(&known.revision);
    let of_same = of_same.and_then(|revision| Some(&revision.head.as_ref()?.digest));
    let of_head = (head.revision == known.revision).then_some(&head.digest);
    let differs = |digest: &&String| **digest != known.digest;
    let is_other = of_same
        .filter(differs)
        .or(of_head.filter(differs))
        .is_some();
    is_other.then(|| {
        format!(
            "etcd has another revision {} than the one this node has confirmed",
            known.revision
        )
    })
}

//! Whether a node may follow what is in etcd.

use lb_api::FleetNodeState;

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

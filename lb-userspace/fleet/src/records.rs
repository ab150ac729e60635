//! What is in etcd: keys, and their values as JSON.
//!
//! | key below `/evenkeel/FLEET/` | value | written by |
//! | --- | --- | --- |
//! | `meta` | [`Meta`]: identity and facts of the fleet | `fleet init`, `fleet import` |
//! | `head` | [`Head`]: the confirmed revision | the leader |
//! | `revisions/N/head` | [`Revision`] | `fleet apply` |
//! | `revisions/N/outcome` | [`Outcome`] | the leader |
//! | `rollout` | [`Rollout`]: the newest one, running or ended | the leader; commands set their marks |
//! | `leader` | [`Leader`], with a lease | the leader |
//! | `nodes/ID/spec` | [`Spec`] | the node, when it joins |
//! | `nodes/ID/live` | [`Live`], with a lease | the node |
//! | `nodes/ID/result` | [`NodeResult`]: of the newest rollout | the node |
//! | `preflights/ID`, `preflights/ID/NODE` | [`Question`], [`Answer`], with leases | `fleet plan`, `fleet explain`, and the nodes it asks |
//! | `texts/DIGEST/I` | part I of a text | `fleet apply` |
//!
//! Every value has a `format`. A newer one is refused with a message: it was written by a newer version.

use std::collections::BTreeMap;

use jiff::Timestamp;
use lb_api::{
    Explanation, FleetHead, FleetNodeState, FleetPhase, FleetRolloutState, FleetVerdict, Guard,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::node::{Facts, Observed};

/// The format that is written, and the newest that is understood.
const FORMAT: u32 = 1;

/// Largest part of a text in bytes. etcd takes requests of up to 1.5 MB.
pub(crate) const PART_BYTES: usize = 512 << 10;

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

/// Returns a value as it is written.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut json = serde_json::to_value(value).expect("records have no keys that JSON lacks");
    json["format"] = FORMAT.into();
    json.to_string().into_bytes()
}

/// Reads a value.
pub(crate) fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, String> {
    let damaged = |error| format!("etcd key {key} can't be read: {error}");
    let FormatOnly { format } = serde_json::from_slice(bytes).map_err(damaged)?;
    if format > FORMAT {
        return Err(format!(
            "etcd key {key} has format {format}, and this version knows formats up to {FORMAT}: update \
             Evenkeel on this node"
        ));
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

/// Identity of the fleet, and what its nodes have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// Random.
    pub(crate) id: String,
    pub(crate) created: Timestamp,
    pub(crate) seed_fingerprint: String,
    pub(crate) table_size: u32,
    pub(crate) abi: u32,
    /// Set by `fleet import`.
    pub(crate) imported: Option<Imported>,
}

/// From what a fleet was imported: nodes that confirmed the same accept its new identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Imported {
    pub(crate) previous: String,
    pub(crate) revision: u64,
    pub(crate) digest: String,
}

impl Meta {
    /// How the facts of a node differ from the fleet's, and what to do.
    pub(crate) fn difference(&self, facts: &Facts) -> Option<String> {
        if self.abi != facts.abi {
            return Some(format!(
                "version {} has maps of layout {}, the fleet's is {}: install the version of the other nodes",
                facts.version, facts.abi, self.abi
            ));
        }
        if self.table_size != facts.table_size {
            return Some(format!(
                "largest ring has {} slots, the fleet's is {}: set the same ring size as on the other nodes",
                facts.table_size, self.table_size
            ));
        }
        (self.seed_fingerprint != facts.seed_fingerprint).then(|| {
            format!(
                "hash seed has fingerprint {}, the fleet's is {}: copy the hash seed of another node",
                facts.seed_fingerprint, self.seed_fingerprint
            )
        })
    }
}

/// The confirmed revision.
pub(crate) type Head = FleetHead;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Revision {
    pub(crate) number: u64,
    pub(crate) parent: Option<u64>,
    pub(crate) digest: String,
    pub(crate) parts: usize,
    pub(crate) author: String,
    pub(crate) node: String,
    pub(crate) why: Option<String>,
    /// The head that it rolls back, if it is a rollback.
    #[serde(default)]
    pub(crate) undoes: Option<u64>,
    pub(crate) at: Timestamp,
}

pub(crate) use lb_api::FleetOutcome as Outcome;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rollout {
    pub(crate) revision: u64,
    pub(crate) digest: String,
    pub(crate) parent: Head,
    pub(crate) state: FleetRolloutState,
    /// Why it failed.
    pub(crate) reason: String,
    pub(crate) started: Timestamp,
    /// Nodes that plan the candidate, and then are changed by it.
    pub(crate) nodes: Vec<String>,
    pub(crate) absent: Vec<String>,
    pub(crate) waves: Vec<Vec<String>>,
    pub(crate) verdicts: Vec<FleetVerdict>,
    pub(crate) position: usize,
    pub(crate) bake_s: u32,
    pub(crate) confirm_s: u32,
    pub(crate) manual: bool,
    pub(crate) now: bool,
    pub(crate) canary: Option<String>,
    pub(crate) force: Vec<Guard>,
    pub(crate) override_local: bool,
    pub(crate) why: Option<String>,
    /// Marks of commands: who paused it, who confirmed it, and why it was aborted.
    pub(crate) paused: Option<String>,
    pub(crate) confirmed: Option<String>,
    pub(crate) aborted: Option<String>,
    /// Random: tells a repeated write from another one.
    pub(crate) token: String,
}

impl Rollout {
    /// Why nodes must not run the candidate.
    pub(crate) fn dead(&self) -> Option<&str> {
        let has_failed = matches!(
            self.state,
            FleetRolloutState::Failed | FleetRolloutState::Undone
        );
        self.aborted
            .as_deref()
            .or(has_failed.then_some(&self.reason))
    }

    /// The nodes whose waves have begun.
    pub(crate) fn begun(&self) -> impl Iterator<Item = &String> {
        let has_waves = matches!(
            self.state,
            FleetRolloutState::Wave
                | FleetRolloutState::AwaitingConfirm
                | FleetRolloutState::Failed
                | FleetRolloutState::Undone
                | FleetRolloutState::Confirmed
        );
        let count = if has_waves { self.position + 1 } else { 0 };
        self.waves.iter().take(count).flatten()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Leader {
    pub(crate) node: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) rack: Option<String>,
    pub(crate) joined: Timestamp,
    pub(crate) facts: Facts,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Live {
    pub(crate) version: String,
    pub(crate) state: FleetNodeState,
    pub(crate) reason: String,
    /// The fleet revision that the node confirmed last.
    pub(crate) revision: Option<u64>,
    /// Digest of what it runs.
    pub(crate) digest: String,
    /// Where other nodes can ask it for the past of connections.
    #[serde(default)]
    pub(crate) exchange: Option<String>,
}

/// Result of a node for the newest rollout. Only the node writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeResult {
    pub(crate) revision: u64,
    pub(crate) phase: FleetPhase,
    pub(crate) reason: String,
    /// What was observed while a wave baked, by the wave's index.
    pub(crate) seen: BTreeMap<usize, Seen>,
}

/// What a node counted during the bake of a wave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) new_flows: u64,
    pub(crate) resets: u64,
    pub(crate) drops: u64,
    /// Backends that are down more (or fewer) than at the start.
    pub(crate) more_down: i64,
}

impl Seen {
    /// None if the counters began anew in between.
    pub(crate) fn between(before: &Observed, after: &Observed) -> Option<Self> {
        let down = |observed: &Observed| i64::try_from(observed.members_down).unwrap_or(i64::MAX);
        Some(Self {
            new_flows: after.new_flows.checked_sub(before.new_flows)?,
            resets: after.resets.checked_sub(before.resets)?,
            drops: after.drops.checked_sub(before.drops)?,
            more_down: down(after) - down(before),
        })
    }
}

/// What all nodes are asked. A node does not answer what it does not understand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub(crate) enum Question {
    /// Whether the node would take a text.
    Plan {
        digest: String,
        force: Vec<Guard>,
        override_local: bool,
    },
    /// What the node would do with a packet.
    Explain { flow: String, syn: bool },
}

impl Question {
    /// The text that it needs.
    pub(crate) fn digest(&self) -> Option<&str> {
        match self {
            Self::Plan { digest, .. } => Some(digest),
            Self::Explain { .. } => None,
        }
    }
}

/// What a node says to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Why it would not take the text, or can't explain the packet.
    pub(crate) refusal: Option<String>,
    #[serde(default)]
    pub(crate) explanation: Option<Explanation>,
}

/// Keys of a node.
pub(crate) fn node_key(node: &str, part: &str) -> String {
    format!("nodes/{node}/{part}")
}

/// Keys of a revision.
pub(crate) fn revision_key(number: u64, part: &str) -> String {
    format!("revisions/{number}/{part}")
}

/// Key of a part of a text.
pub(crate) fn text_key(digest: &str, part: usize) -> String {
    format!("texts/{digest}/{part:06}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_format_is_refused_with_a_message() {
        let head = Head {
            revision: 7,
            digest: "d".to_owned(),
        };
        let bytes = encode(&head);
        assert_eq!(decode::<Head>("head", &bytes).unwrap(), head);
        let newer = String::from_utf8(bytes)
            .unwrap()
            .replace("\"format\":1", "\"format\":2");
        let error = decode::<Head>("head", newer.as_bytes()).unwrap_err();
        assert!(
            error.contains("etcd key head has format 2") && error.contains("update Evenkeel"),
            "{error}"
        );
        assert!(decode::<Head>("head", b"{").is_err());
    }

    #[test]
    fn a_result_is_read_as_it_was_written() {
        let result = NodeResult {
            revision: 3,
            phase: FleetPhase::Baked,
            reason: String::new(),
            seen: BTreeMap::from([(1, Seen::default())]),
        };
        let bytes = encode(&result);
        assert_eq!(
            decode::<NodeResult>("nodes/a/result", &bytes).unwrap(),
            result
        );
    }

    #[test]
    fn counters_that_began_anew_are_not_compared() {
        let observed = |new_flows| Observed {
            new_flows,
            ..Observed::default()
        };
        let seen = Seen::between(&observed(10), &observed(15)).unwrap();
        assert_eq!(seen.new_flows, 5);
        assert_eq!(Seen::between(&observed(10), &observed(3)), None);
    }
}

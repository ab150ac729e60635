//! The keys of etcd as a node knows them, and their decoded values.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    records::{
        Answer, Head, Leader, Live, Meta, NodeResult, Outcome, Question, Revision, Rollout, Spec,
        decode,
    },
    store::{Change, Kv, Listing, Txn, Write},
};

/// The keys of the fleet, kept up to date by listings, a watch and our own writes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keys {
    /// Revision of etcd up to which all changes are known.
    revision: i64,
    /// Highest revision of etcd that was seen, also in answers to our own writes.
    newest: i64,
    kvs: BTreeMap<String, Kv>,
    /// Deleted keys with their revisions: an older change must not bring them back.
    deleted: BTreeMap<String, i64>,
    /// The decoded values, until a key changes.
    decoded: Option<Arc<Decoded>>,
}

/// The decoded values; or why a key can't be read.
pub(crate) type Decoded = Result<Snapshot, String>;

impl Keys {
    pub(crate) fn get(&self, key: &str) -> Option<&Kv> {
        self.kvs.get(key)
    }

    /// Highest revision of etcd that was seen. To be asked before a list is requested.
    pub(crate) fn newest(&self) -> i64 {
        self.newest
    }

    /// Replaces all keys by a list that was requested when `newest` was the newest revision. Returns
    /// whether the list was taken: one that was overtaken by our own writes is not.
    ///
    /// Lists are read from a quorum. One that is older than what was seen when it was requested comes from
    /// an etcd that was wiped or restored, and is taken.
    pub(crate) fn list(&mut self, listing: Listing, newest: i64) -> bool {
        if (newest..self.newest).contains(&listing.revision) {
            return false;
        }
        self.decoded = None;
        self.revision = listing.revision;
        self.newest = listing.revision;
        self.deleted.clear();
        let kvs = listing.kvs.into_iter();
        self.kvs = kvs.map(|kv| (kv.key.clone(), kv)).collect();
        true
    }

    /// Takes changes of a watch, in any order, also twice.
    pub(crate) fn change(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Put(kv) => self.put(kv),
                Change::Deleted(key, at) => self.delete(&key, at),
            }
        }
    }

    /// All changes up to this revision are known.
    pub(crate) fn known_to(&mut self, revision: i64) {
        self.revision = self.revision.max(revision);
        self.newest = self.newest.max(revision);
    }

    /// Takes our own transaction, which was made at a revision of etcd.
    pub(crate) fn wrote(&mut self, txn: &Txn, at: i64, lease: i64) {
        self.newest = self.newest.max(at);
        for write in &txn.writes {
            match write {
                Write::Put { key, value, leased } => {
                    let created = self.kvs.get(key).map_or(at, |kv| kv.created);
                    self.put(Kv {
                        key: key.clone(),
                        value: value.clone(),
                        created,
                        modified: at,
                        lease: if *leased { lease } else { 0 },
                    });
                }
                Write::Delete(key) => self.delete(key, at),
            }
        }
    }

    fn put(&mut self, kv: Kv) {
        let known = self.kvs.get(&kv.key).map(|kv| kv.modified);
        let known = known.max(self.deleted.get(&kv.key).copied());
        if known.is_none_or(|known| known < kv.modified) {
            self.decoded = None;
            self.deleted.remove(&kv.key);
            self.kvs.insert(kv.key.clone(), kv);
        }
    }

    fn delete(&mut self, key: &str, at: i64) {
        if self.kvs.get(key).is_none_or(|kv| kv.modified < at) {
            self.decoded = None;
            self.kvs.remove(key);
            let deleted = self.deleted.entry(key.to_owned()).or_default();
            *deleted = at.max(*deleted);
        }
    }

    /// The decoded values; none before the first list.
    pub(crate) fn decode(&mut self) -> Option<Arc<Decoded>> {
        if self.revision == 0 {
            return None;
        }
        if self.decoded.is_none() {
            self.decoded = Some(Arc::new(Snapshot::of(self.kvs.values())));
        }
        self.decoded.clone()
    }
}

/// A decoded value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry<T> {
    pub(crate) value: T,
    pub(crate) created: i64,
    pub(crate) modified: i64,
    pub(crate) lease: i64,
}

impl<T> std::ops::Deref for Entry<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// What is in etcd about a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeEntry {
    pub(crate) spec: Option<Entry<Spec>>,
    pub(crate) live: Option<Entry<Live>>,
    pub(crate) result: Option<Entry<NodeResult>>,
}

impl NodeEntry {
    /// The result, if it is about this revision.
    pub(crate) fn result_of(&self, revision: u64) -> Option<&NodeResult> {
        let result = self.result.as_ref().map(|entry| &entry.value);
        result.filter(|result| result.revision == revision)
    }
}

/// A revision and its outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RevisionEntry {
    pub(crate) head: Option<Entry<Revision>>,
    pub(crate) outcome: Option<Entry<Outcome>>,
}

/// A question of `fleet plan`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct QuestionEntry {
    pub(crate) question: Option<Entry<Question>>,
    /// By node.
    pub(crate) answers: BTreeMap<String, Answer>,
}

/// All decoded values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) meta: Option<Entry<Meta>>,
    pub(crate) head: Option<Entry<Head>>,
    pub(crate) rollout: Option<Entry<Rollout>>,
    pub(crate) leader: Option<Entry<Leader>>,
    pub(crate) nodes: BTreeMap<String, NodeEntry>,
    pub(crate) revisions: BTreeMap<u64, RevisionEntry>,
    pub(crate) questions: BTreeMap<String, QuestionEntry>,
}

impl Snapshot {
    pub(crate) fn node(&self, node: &str) -> Option<&NodeEntry> {
        self.nodes.get(node)
    }

    /// The joined nodes that are live, sorted by name.
    pub(crate) fn live(&self) -> impl Iterator<Item = (&String, &NodeEntry, &Live)> {
        let joined = self.nodes.iter().filter(|(_, node)| node.spec.is_some());
        joined.filter_map(|(id, node)| Some((id, node, &node.live.as_ref()?.value)))
    }

    /// The highest number of a revision that is in etcd; 0: none.
    pub(crate) fn newest(&self) -> u64 {
        let newest = self.revisions.keys().next_back().copied().unwrap_or(0);
        let head = self.head.as_ref().map_or(0, |head| head.revision);
        let rollout = self.rollout.as_ref().map_or(0, |rollout| rollout.revision);
        newest.max(head).max(rollout)
    }

    fn of<'k>(kvs: impl Iterator<Item = &'k Kv>) -> Decoded {
        let mut snapshot = Self::default();
        for kv in kvs {
            snapshot.add(kv)?;
        }
        Ok(snapshot)
    }

    fn add(&mut self, kv: &Kv) -> Result<(), String> {
        let parts: Vec<&str> = kv.key.split('/').collect();
        match parts[..] {
            ["meta"] => self.meta = Some(entry(kv)?),
            ["head"] => self.head = Some(entry(kv)?),
            ["rollout"] => self.rollout = Some(entry(kv)?),
            ["leader"] => self.leader = Some(entry(kv)?),
            ["nodes", id, part] => {
                let node = self.nodes.entry(id.to_owned()).or_default();
                match part {
                    "spec" => node.spec = Some(entry(kv)?),
                    "live" => node.live = Some(entry(kv)?),
                    "result" => node.result = Some(entry(kv)?),
                    _ => {}
                }
            }
            ["revisions", number, part] => {
                let Ok(number) = number.parse() else {
                    return Ok(());
                };
                let revision: &mut RevisionEntry = self.revisions.entry(number).or_default();
                match part {
                    "head" => revision.head = Some(entry(kv)?),
                    "outcome" => revision.outcome = Some(entry(kv)?),
                    _ => {}
                }
            }
            ["preflights", id] => {
                // One of a newer version is not answered, and does no harm.
                self.questions.entry(id.to_owned()).or_default().question = entry(kv).ok();
            }
            ["preflights", id, node] => {
                let question = self.questions.entry(id.to_owned()).or_default();
                if let Ok(answer) = decode(&kv.key, &kv.value) {
                    question.answers.insert(node.to_owned(), answer);
                }
            }
            // A key of a newer version.
            _ => {}
        }
        Ok(())
    }
}

fn entry<T: serde::de::DeserializeOwned>(kv: &Kv) -> Result<Entry<T>, String> {
    Ok(Entry {
        value: decode(&kv.key, &kv.value)?,
        created: kv.created,
        modified: kv.modified,
        lease: kv.lease,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &str, modified: i64) -> Kv {
        Kv {
            key: key.to_owned(),
            value: Vec::new(),
            created: 1,
            modified,
            lease: 0,
        }
    }

    /// A watch and our own writes overtake each other.
    #[test]
    fn an_older_change_does_not_replace_a_newer_one() {
        let mut keys = Keys::default();
        keys.change(vec![Change::Put(kv("a", 5)), Change::Put(kv("a", 4))]);
        assert_eq!(keys.get("a").unwrap().modified, 5);
        keys.change(vec![Change::Deleted("a".to_owned(), 7)]);
        keys.change(vec![Change::Put(kv("a", 6))]);
        assert_eq!(keys.get("a"), None);
        keys.change(vec![Change::Put(kv("a", 8))]);
        keys.change(vec![Change::Deleted("a".to_owned(), 7)]);
        assert_eq!(keys.get("a").unwrap().modified, 8);
    }

    #[test]
    fn a_list_that_our_write_overtook_is_not_taken() {
        let listing = |revision| Listing {
            revision,
            kvs: Vec::new(),
        };
        let mut keys = Keys::default();
        assert!(keys.list(listing(4), 0));
        let requested = keys.newest();
        let put = Write::Put {
            key: "head".to_owned(),
            value: Vec::new(),
            leased: false,
        };
        let txn = Txn {
            conditions: Vec::new(),
            writes: vec![put],
        };
        keys.wrote(&txn, 6, 0);
        assert!(!keys.list(listing(5), requested));
        assert!(keys.get("head").is_some());
        // An old snapshot was restored.
        let requested = keys.newest();
        assert!(keys.list(listing(3), requested));
        assert!(keys.get("head").is_none());
    }
}

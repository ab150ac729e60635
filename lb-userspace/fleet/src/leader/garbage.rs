//! What the leader deletes: old revisions, and texts that none of the kept ones has.

use std::collections::BTreeSet;

use crate::{
    records::revision_key,
    snapshot::Snapshot,
    store::{Condition, Txn, Write},
};

/// Revisions that are kept, besides the head and its parent.
const KEPT: usize = 50;

/// Writes of one transaction. etcd allows 128.
const WRITES: usize = 100;

/// The digests of texts that are in use.
fn texts_in_use(snapshot: &Snapshot) -> BTreeSet<&str> {
    let heads = snapshot.revisions.values();
    let heads = heads.filter_map(|entry| Some(&*entry.head.as_ref()?.digest));
    let questions = snapshot.questions.values();
    let questions = questions.filter_map(|entry| entry.question.as_ref()?.digest());
    let head = snapshot.head.as_ref().map(|head| &*head.digest);
    let rollout = snapshot.rollout.as_ref().map(|rollout| &*rollout.digest);
    heads.chain(questions).chain(head).chain(rollout).collect()
}

/// The next deletions, given the keys of all texts; none if there are none, or a rollout runs.
///
/// The rollout must be as it was read: each revision is written together with one, so no text of a new
/// revision is deleted.
pub(crate) fn garbage(snapshot: &Snapshot, texts: &[String], fence: i64) -> Option<Txn> {
    let rollout = snapshot.rollout.as_ref();
    if rollout.is_some_and(|rollout| !rollout.state.is_over()) {
        return None;
    }
    let head = snapshot.head.as_ref()?.revision;
    let parent = snapshot.revisions.get(&head);
    let parent = parent.and_then(|entry| entry.head.as_ref()?.parent);
    let excess = snapshot.revisions.len().saturating_sub(KEPT);
    let numbers = snapshot.revisions.keys().take(excess);
    let numbers = numbers.filter(|number| **number != head && Some(**number) != parent);
    let mut writes: Vec<Write> = numbers
        .flat_map(|number| ["head", "outcome"].map(|part| revision_key(*number, part)))
        .map(Write::Delete)
        .collect();
    // Texts of deleted revisions go in the next round.
    let used = texts_in_use(snapshot);
    let unused = texts.iter().filter(|key| {
        let digest = key.split('/').nth(1);
        digest.is_none_or(|digest| !used.contains(digest))
    });
    writes.extend(unused.cloned().map(Write::Delete));
    // Answers to questions whose askers are gone.
    let answers = snapshot.questions.iter();
    let answers = answers.filter(|(_, entry)| entry.question.is_none());
    let keys = answers.flat_map(|(id, entry)| {
        let nodes = entry.answers.keys();
        nodes.map(move |node| format!("preflights/{id}/{node}"))
    });
    writes.extend(keys.map(Write::Delete));
    writes.truncate(WRITES);
    if writes.is_empty() {
        return None;
    }
    Some(Txn {
        conditions: vec![
            Condition::Created("leader".to_owned(), fence),
            Condition::Modified("rollout".to_owned(), rollout.map_or(0, |r| r.modified)),
        ],
        writes,
    })
}

//! What other nodes say, until the engine takes it. The engine may be busy for seconds: then the newest votes of
//! each node count, and nobody waits.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use lb_fleet::votes::Votes;
use tokio::sync::Notify;

use super::{comparison::OwnTraffic, votes::SharedMember};

/// Reports of a node whose traffic is kept; those before are lost.
const MOST: usize = 16;

/// What a node has said since it was last listened to.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// The newest votes; none if it said nothing new.
    pub(super) votes: Option<Votes<SharedMember>>,
    pub(super) traffic: Vec<OwnTraffic>,
}

/// The reports of all nodes.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    nodes: Mutex<BTreeMap<String, Heard>>,
    news: Notify,
}

impl Reports {
    /// Adds a report. `votes`: none if they are as before.
    pub(crate) fn add(
        &self,
        node: &str,
        votes: Option<Votes<SharedMember>>,
        traffic: Option<OwnTraffic>,
    ) {
        let mut nodes = self.nodes();
        let heard = nodes.entry(node.to_owned()).or_default();
        heard.votes = votes.or(heard.votes.take());
        if heard.traffic.len() < MOST {
            heard.traffic.extend(traffic);
        }
        drop(nodes);
        self.news.notify_one();
    }

    pub(super) fn take(&self) -> BTreeMap<String, Heard> {
        mem::take(&mut *self.nodes())
    }

    /// Waits for a report.
    pub(super) async fn changed(&self) {
        self.news.notified().await;
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<String, Heard>> {
        // A panic while the lock was held left valid values.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_votes_of_a_node_count() {
        let reports = Reports::default();
        reports.add("a", Some(Votes::new()), None);
        for _ in 0..100 {
            reports.add("a", None, Some(OwnTraffic::default()));
        }
        reports.add("b", None, None);
        let heard = reports.take();
        assert_eq!(
            (heard["a"].votes.is_some(), heard["a"].traffic.len()),
            (true, MOST)
        );
        assert!(heard["b"].votes.is_none());
        assert!(reports.take().is_empty());
    }
}

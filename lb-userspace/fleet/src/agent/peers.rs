//! Where the other nodes can be asked for the past of connections: as etcd says, and without it as it said
//! last. A node that boots must not need etcd.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tokio::sync::watch;
use tracing::warn;

use crate::{exchange::Peers, snapshot::Snapshot};

/// The known nodes, and the file that keeps them.
#[derive(Debug)]
pub(super) struct KnownPeers {
    file: PathBuf,
    peers: watch::Sender<Option<Peers>>,
}

/// The file beside the memory of the agent.
fn file_of(memory: &Path) -> PathBuf {
    memory.with_file_name("fleet-peers.json")
}

impl KnownPeers {
    /// Reads the file. Without one, nothing is known until etcd says so.
    pub(super) fn read(memory: &Path) -> Self {
        let file = file_of(memory);
        let known = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .inspect_err(|error| warn!(%error, "can't read {}", file.display()))
                .ok(),
            Err(_) => None,
        };
        Self {
            file,
            peers: watch::Sender::new(known),
        }
    }

    pub(super) fn watch(&self) -> watch::Receiver<Option<Peers>> {
        self.peers.subscribe()
    }

    /// Follows what etcd says. A node that does not live keeps its address until it leaves the fleet: it may
    /// be etcd that it misses, and not the other nodes. Returns what is to be written to which file, if that
    /// has changed.
    pub(super) fn follow(&self, snapshot: &Snapshot, own: &str) -> Option<(PathBuf, Peers)> {
        // An etcd that was wiped says nothing.
        let is_joined = |node: &str| snapshot.node(node).is_some_and(|node| node.spec.is_some());
        if !is_joined(own) {
            return None;
        }
        let mut next = self.peers.borrow().clone().unwrap_or_default();
        next.retain(|node, _| is_joined(node));
        for (node, _, live) in snapshot.live() {
            match &live.exchange {
                Some(address) => next.insert(node.clone(), address.clone()),
                None => next.remove(node),
            };
        }
        let is_new = self.peers.send_if_modified(|peers| {
            let is_new = peers.as_ref() != Some(&next);
            *peers = Some(next.clone());
            is_new
        });
        is_new.then(|| (self.file.clone(), next))
    }
}

/// Replaces the file.
pub(super) fn write(file: &Path, peers: &Peers) -> io::Result<()> {
    let temporary = file.with_extension("json.new");
    fs::write(&temporary, serde_json::to_vec_pretty(peers)?)?;
    fs::rename(temporary, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        records::{Live, Spec},
        snapshot::{Entry, NodeEntry},
    };

    fn entry<T>(value: T) -> Entry<T> {
        Entry {
            value,
            created: 1,
            modified: 1,
            lease: 0,
        }
    }

    fn node(exchange: Option<&str>) -> NodeEntry {
        let facts = crate::node::Facts {
            abi: 1,
            table_size: 1,
            seed_fingerprint: String::new(),
            version: String::new(),
        };
        NodeEntry {
            spec: Some(entry(Spec {
                rack: None,
                joined: jiff::Timestamp::UNIX_EPOCH,
                facts,
            })),
            live: Some(entry(Live {
                version: String::new(),
                state: lb_api::FleetNodeState::InSync,
                reason: String::new(),
                revision: None,
                digest: String::new(),
                exchange: exchange.map(str::to_owned),
            })),
            result: None,
        }
    }

    #[test]
    fn a_node_that_is_away_keeps_its_address_until_it_leaves() {
        let folder = tempfile::tempdir().unwrap();
        let memory = folder.path().join("fleet.json");
        let known = KnownPeers::read(&memory);
        assert_eq!(*known.watch().borrow(), None);
        let mut snapshot = Snapshot::default();
        let addresses = [
            ("a", Some("10.0.0.1:7")),
            ("b", Some("10.0.0.2:7")),
            ("c", None),
        ];
        for (name, exchange) in addresses {
            snapshot.nodes.insert(name.to_owned(), node(exchange));
        }
        let names = |peers: &Peers| peers.keys().cloned().collect::<String>();
        let (file, peers) = known.follow(&snapshot, "a").unwrap();
        assert_eq!(names(&peers), "ab");
        write(&file, &peers).unwrap();
        assert_eq!(known.follow(&snapshot, "a"), None, "nothing new");
        // Another process, without etcd.
        let known = KnownPeers::read(&memory);
        assert_eq!(*known.watch().borrow(), Some(peers.clone()));
        snapshot.nodes.get_mut("b").unwrap().live = None;
        assert_eq!(known.follow(&snapshot, "a"), None);
        assert_eq!(known.follow(&Snapshot::default(), "a"), None, "wiped");
        snapshot.nodes.remove("b");
        assert_eq!(names(&known.follow(&snapshot, "a").unwrap().1), "a");
    }
}

//! Access to etcd: types of keys and transactions, and the client.

mod client;
mod connection;
mod proto;
mod watch;

pub(crate) use client::Client;
pub(crate) use watch::Watch;

/// A key with its value. Keys are relative to the fleet's prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kv {
    pub(crate) key: String,
    pub(crate) value: Vec<u8>,
    /// Revision of etcd at which the key was created.
    pub(crate) created: i64,
    /// Revision of etcd at which it was written last.
    pub(crate) modified: i64,
    /// Its lease; 0: none.
    pub(crate) lease: i64,
}

/// A range of keys, and the revision of etcd at which it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    pub(crate) revision: i64,
    pub(crate) kvs: Vec<Kv>,
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// The key was written last at this revision of etcd; 0: it does not exist.
    Modified(String, i64),
    /// The key was created at this revision of etcd.
    Created(String, i64),
    /// The key exists.
    Exists(String),
}

/// A write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    Put {
        key: String,
        value: Vec<u8>,
        /// Whether the key ends with the lease of the node.
        leased: bool,
    },
    Delete(String),
}

impl Write {
    pub(crate) fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete(key) => key,
        }
    }
}

/// Writes that are made at once, if all conditions hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Txn {
    pub(crate) conditions: Vec<Condition>,
    pub(crate) writes: Vec<Write>,
}

/// The result of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Committed {
    /// Written at this revision of etcd.
    At(i64),
    /// A condition did not hold. After a retry, it may be our own first try that made it false.
    Conflict,
}

/// A change of a watched key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Put(Kv),
    /// Key, and the revision of etcd at which it was deleted.
    Deleted(String, i64),
}

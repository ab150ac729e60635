//! The watch of a range of keys.

use tonic::{Status, Streaming};

use super::{Change, Kv, connection::explain, proto};

/// Changes of the fleet's keys, from a revision of etcd on.
pub(crate) struct Watch {
    pub(super) stream: Streaming<proto::WatchResponse>,
    pub(super) prefix: String,
}

impl Watch {
    /// The next changes, and the revision of etcd up to which all are known. An error ends the watch: the
    /// keys are to be listed again.
    pub(crate) async fn next(&mut self) -> Result<(i64, Vec<Change>), String> {
        let message = self.stream.message().await;
        let message = message.map_err(|status: Status| explain(&status))?;
        let Some(response) = message else {
            return Err("etcd ended the watch".to_owned());
        };
        if response.compact_revision > 0 {
            return Err("etcd has compacted the revision that the watch needs".to_owned());
        }
        if response.canceled {
            return Err(format!(
                "etcd cancelled the watch: {}",
                response.cancel_reason
            ));
        }
        let revision = response.header.map_or(0, |header| header.revision);
        let mut changes = Vec::with_capacity(response.events.len());
        for event in response.events {
            let Some(kv) = event.kv else { continue };
            let Some(kv) = relative(kv, &self.prefix) else {
                continue;
            };
            changes.push(match event.kind {
                0 => Change::Put(kv),
                _ => Change::Deleted(kv.key, kv.modified),
            });
        }
        Ok((revision, changes))
    }
}

/// None for a key that is no text, or not below the prefix.
pub(super) fn relative(kv: proto::KeyValue, prefix: &str) -> Option<Kv> {
    let key = String::from_utf8(kv.key).ok()?;
    Some(Kv {
        key: key.strip_prefix(prefix)?.to_owned(),
        value: kv.value,
        created: kv.create_revision,
        modified: kv.mod_revision,
        lease: kv.lease,
    })
}

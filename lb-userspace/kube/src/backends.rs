//! Sets the backends of this node's VIPs.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use lb_api::{MemberIntent, NewMember, SetSourceRequest, client::Client};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::{cluster::Cluster, plan::Settings};

/// After this time a source that could not be set is set again.
const RETRY: Duration = Duration::from_secs(1);
/// After this time the node is asked whether it still has what was set.
const COMPARE: Duration = Duration::from_secs(10);
/// Sources that are set at the same time.
const AT_ONCE: usize = 8;

/// Sets the backends of all our Services, again whenever they change, and when the node has lost them.
/// `served` gets the names of the VIPs for which the node has a backend that is up.
pub async fn run(
    cluster: &Cluster,
    settings: &Settings,
    node: Client,
    served: watch::Sender<BTreeSet<String>>,
) {
    let mut changes = cluster.changes();
    let mut set = Set::default();
    let mut compared = Instant::now();
    loop {
        changes.borrow_and_update();
        let wanted = cluster.members(settings);
        let failed = set.all(&node, &wanted).await;
        served.send_if_modified(|known| {
            let now = set.served();
            let has_changed = *known != now;
            *known = now;
            has_changed
        });
        let next = if failed {
            Instant::now() + RETRY
        } else {
            compared + COMPARE
        };
        // The watches end with the process.
        if timeout_at(next, changes.changed()).await.is_err() && !failed {
            compared = Instant::now();
            set.compare(&node, &wanted, &format!("{}.", settings.cluster))
                .await;
        }
    }
}

/// What the node was told.
#[derive(Default)]
struct Set {
    accepted: HashMap<String, Vec<NewMember>>,
    /// Why sources could not be set, to say it once.
    errors: HashMap<String, String>,
}

impl Set {
    /// VIPs with a backend that is up.
    fn served(&self) -> BTreeSet<String> {
        let is_up = |member: &NewMember| member.state == MemberIntent::Up;
        let served = (self.accepted.iter()).filter(|(_, members)| members.iter().any(is_up));
        served.map(|(name, _)| name.clone()).collect()
    }

    /// Sets what differs. Returns whether some could not be set.
    async fn all(&mut self, node: &Client, wanted: &HashMap<String, Vec<NewMember>>) -> bool {
        self.accepted.retain(|name, _| wanted.contains_key(name));
        self.errors.retain(|name, _| wanted.contains_key(name));
        let differ: Vec<(String, Vec<NewMember>)> = (wanted.iter())
            .filter(|(name, members)| self.accepted.get(*name) != Some(*members))
            .map(|(name, members)| (name.clone(), members.clone()))
            .collect();
        let requests = differ.into_iter().map(|(name, members)| async move {
            let request = SetSourceRequest {
                members,
                // The API server knows that there are none.
                allow_empty: true,
            };
            let result = node.set_source(&name, &request).await;
            (name, request.members, result)
        });
        let mut results = stream::iter(requests).buffer_unordered(AT_ONCE);
        let mut failed = false;
        while let Some((name, members, result)) = results.next().await {
            let Err(error) = result else {
                tracing::info!(source = name, members = members.len(), "backends set");
                self.errors.remove(&name);
                self.accepted.insert(name, members);
                continue;
            };
            failed = true;
            let error = error.to_string();
            if self.errors.get(&name) != Some(&error) {
                tracing::warn!(source = name, "cannot set the backends: {error}");
                self.errors.insert(name, error);
            }
        }
        failed
    }

    /// Forgets what the node does not have: it lost its state, or somebody else has set the source. Has the node
    /// forget sources of Services that are gone, once no VIP uses them.
    async fn compare(
        &mut self,
        node: &Client,
        wanted: &HashMap<String, Vec<NewMember>>,
        ours: &str,
    ) {
        // If it can't be asked, it is asked again later.
        let Ok(sources) = node.sources().await else {
            return;
        };
        for source in (sources.iter()).filter(|it| it.vips.is_empty() && !it.members.is_empty()) {
            let name = source.source.strip_prefix("api:").unwrap_or_default();
            if name.starts_with(ours) && !wanted.contains_key(name) {
                let nothing = SetSourceRequest {
                    members: Vec::new(),
                    allow_empty: true,
                };
                if let Err(error) = node.set_source(name, &nothing).await {
                    tracing::warn!(source = name, "cannot be removed: {error}");
                }
            }
        }
        let mut has: HashMap<&str, Vec<_>> = HashMap::new();
        for source in &sources {
            let Some(name) = source.source.strip_prefix("api:") else {
                continue;
            };
            let members = source.members.iter().filter(|member| !member.leaving);
            has.entry(name).or_default().extend(members);
        }
        self.accepted.retain(|name, members| {
            let Some(has) = has.get(name.as_str()) else {
                // One without members is not listed unless a VIP uses it.
                return members.is_empty();
            };
            let is_there = |member: &NewMember| {
                has.iter().any(|it| {
                    it.address == member.address
                        && (it.port == member.port || member.port.is_none())
                        && it.weight == member.weight.unwrap_or(100)
                        && it.state == member.state
                })
            };
            has.len() == members.len() && members.iter().all(is_there)
        });
    }
}

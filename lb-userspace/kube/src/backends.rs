//! Sets the backends of this node's VIPs.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use lb_api::{MemberIntent, NewMember, SetSourceRequest, client::Client};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

use crate::{cluster::Cluster, plan::Settings};

/// A source that could not be set is set again after this time, doubled each time up to the longest.
const RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// After this time the node is asked whether it still has what was set.
const COMPARE: Duration = Duration::from_secs(10);
/// Changes within this time are set together: a rollout of a Deployment makes many.
const COLLECT: Duration = Duration::from_millis(20);
/// Sources that are set at the same time.
const AT_ONCE: usize = 8;

/// Sets the backends of all our Services, again whenever they change, and when the node has lost them.
/// `served` gets the names of the sources for which the node has a backend that is up.
pub async fn run(
    cluster: &Cluster,
    settings: &Settings,
    node: Client,
    served: watch::Sender<BTreeSet<String>>,
) {
    let mut changes = cluster.changes();
    let mut set = Set::default();
    let mut compare_at = Instant::now() + COMPARE;
    loop {
        changes.borrow_and_update();
        let wanted = cluster.members(settings);
        set.all(&node, &wanted).await;
        served.send_if_modified(|known| {
            let now = set.served();
            let has_changed = *known != now;
            *known = now;
            has_changed
        });
        if compare_at <= Instant::now() {
            set.compare(&node, &wanted, &format!("{}.", settings.cluster))
                .await;
            compare_at = Instant::now() + COMPARE;
        }
        let next = set.retry_at().map_or(compare_at, |at| at.min(compare_at));
        // The watches end with the process.
        if timeout_at(next, changes.changed()).await.is_ok() {
            sleep(COLLECT).await;
        }
    }
}

/// What the node was told.
#[derive(Default)]
struct Set {
    accepted: HashMap<String, Vec<NewMember>>,
    failures: HashMap<String, Failure>,
}

/// A source that could not be set.
struct Failure {
    error: String,
    members: Vec<NewMember>,
    attempts: u32,
    retry_at: Instant,
}

impl Set {
    /// Sources with a backend that is up.
    fn served(&self) -> BTreeSet<String> {
        let is_up = |member: &NewMember| member.state == MemberIntent::Up;
        let served = (self.accepted.iter()).filter(|(_, members)| members.iter().any(is_up));
        served.map(|(name, _)| name.clone()).collect()
    }

    /// When the next source is to be set again that could not be.
    fn retry_at(&self) -> Option<Instant> {
        self.failures.values().map(|failure| failure.retry_at).min()
    }

    /// Sets what differs, except what has failed lately.
    async fn all(&mut self, node: &Client, wanted: &HashMap<String, Vec<NewMember>>) {
        self.accepted.retain(|name, _| wanted.contains_key(name));
        self.failures.retain(|name, _| wanted.contains_key(name));
        let now = Instant::now();
        let waits = |name: &String, members: &Vec<NewMember>| {
            let failure = self.failures.get(name);
            failure.is_some_and(|it| it.members == *members && it.retry_at > now)
        };
        let differ: Vec<(String, Vec<NewMember>)> = (wanted.iter())
            .filter(|(name, members)| self.accepted.get(*name) != Some(*members))
            .filter(|(name, members)| !waits(name, members))
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
        while let Some((name, members, result)) = results.next().await {
            match result {
                Ok(_) => {
                    tracing::info!(source = name, members = members.len(), "backends set");
                    self.failures.remove(&name);
                    self.accepted.insert(name, members);
                }
                Err(error) => self.failed(name, members, error.to_string()),
            }
        }
    }

    fn failed(&mut self, name: String, members: Vec<NewMember>, error: String) {
        let known = self.failures.get(&name);
        if known.is_none_or(|known| known.error != error) {
            tracing::warn!(source = name, "cannot set the backends: {error}");
        }
        let attempts = known.map_or(0, |known| known.attempts) + 1;
        let wait = RETRY.saturating_mul(1 << (attempts - 1).min(6));
        let failure = Failure {
            error,
            members,
            attempts,
            retry_at: Instant::now() + wait.min(LONGEST_RETRY),
        };
        self.failures.insert(name, failure);
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
        // What is held back comes by itself.
        for source in sources.iter().filter(|source| source.held.is_none()) {
            let Some(name) = source.source.strip_prefix("api:") else {
                continue;
            };
            let members = source.members.iter().filter(|member| !member.leaving);
            has.entry(name).or_default().extend(members);
        }
        let held = sources.iter().filter(|source| source.held.is_some());
        let held: BTreeSet<&str> = held
            .filter_map(|it| it.source.strip_prefix("api:"))
            .collect();
        self.accepted.retain(|name, members| {
            if held.contains(name.as_str()) {
                return true;
            }
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

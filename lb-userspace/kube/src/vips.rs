//! The leader's part: the VIPs in the configuration of the fleet.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Service;
use lb_api::{
    ErrorCode, FleetApplyRequest, FleetRevisionNumber, FleetRolloutState, GuardVerdict,
    client::{Client, ClientError},
};
use tokio::sync::watch;

use crate::{
    cluster::Cluster,
    plan::{Decision, Outcome, Settings, decide, is_of},
    publish::Publisher,
    service::{ServiceKey, has_finalizer, is_deleted, is_ours, published},
    text::Tables,
};

/// A deleted Service is not held longer than this, even if its VIPs can't be removed now.
const LONGEST_HOLD: Duration = Duration::from_secs(120);
/// VIPs stay this long after their Service has gone without us: the API server may have lost it.
const ORPHANS_STAY: Duration = Duration::from_secs(120);
/// A rollout that was begun is seen within this time.
const UNSEEN: Duration = Duration::from_secs(10);
/// A change that failed is tried again after this time, doubled each time up to the longest.
const RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(3600);

/// A rollout that was begun here.
struct Rollout {
    revision: FleetRevisionNumber,
    services: Vec<(ServiceKey, Outcome)>,
    begun: Instant,
}

/// A change of a Service's VIPs that failed.
struct Failure {
    reason: String,
    attempts: u32,
    retry_at: Instant,
    /// What failed; something else is tried at once.
    vips: Outcome,
}

/// Writes the VIPs of our Services.
pub struct Vips {
    settings: Settings,
    node: Client,
    served: watch::Receiver<BTreeSet<String>>,
    bake_s: Option<u32>,
    rollout: Option<Rollout>,
    failures: BTreeMap<ServiceKey, Failure>,
    orphans: HashMap<String, Instant>,
    said: Option<String>,
}

impl Vips {
    /// Writes to the fleet of this node, which has backends for the VIPs `served`; `bake_s` is the bake time of
    /// rollouts.
    #[must_use]
    pub fn new(
        settings: Settings,
        node: Client,
        served: watch::Receiver<BTreeSet<String>>,
        bake_s: Option<u32>,
    ) -> Self {
        Self {
            settings,
            node,
            served,
            bake_s,
            rollout: None,
            failures: BTreeMap::new(),
            orphans: HashMap::new(),
            said: None,
        }
    }

    /// Makes a step: to be called when something has changed, and every second or so.
    pub async fn step(&mut self, cluster: &Cluster, publisher: &mut Publisher) {
        if let Err(error) = self.try_step(cluster, publisher).await {
            // Each problem is said once.
            if self.said.as_ref() != Some(&error) {
                tracing::warn!("cannot change the fleet: {error}");
                self.said = Some(error);
            }
        } else if self.said.take().is_some() {
            tracing::info!("the fleet can be changed again");
        }
    }

    async fn try_step(
        &mut self,
        cluster: &Cluster,
        publisher: &mut Publisher,
    ) -> Result<(), String> {
        let fleet = (self.node.fleet().await).map_err(|error| error.to_string())?;
        if let Some(rollout) = &fleet.rollout {
            if !rollout.state.is_over() {
                return Ok(());
            }
            self.judge(rollout.revision, rollout.state, &rollout.reason);
        }
        if (self.rollout.as_ref()).is_some_and(|rollout| rollout.begun.elapsed() < UNSEEN) {
            return Ok(());
        }
        let head = self.node.fleet_revision(None).await;
        let head = head.map_err(|error| error.to_string())?;
        let tables = Tables::read(&head.text)?;
        let services = cluster.services();
        let mut decision = decide(&self.settings, &services, &tables);
        self.hold_back(&mut decision, &tables);
        self.clean(&services, &tables, publisher).await;
        self.say(&services, &decision, &tables, publisher).await;
        let chosen = self.choose(&decision, &tables);
        let chosen = self.hold(cluster, chosen, &decision, publisher).await;
        let mut new = tables.clone();
        for key in &chosen {
            decision.apply(&mut new, &self.settings.cluster, key);
        }
        // What is wrong with these is no reason not to change others.
        let (orphans, problem) = match self.lost(&decision, &tables) {
            Ok(orphans) => (orphans, Ok(())),
            Err(problem) => (Vec::new(), Err(problem)),
        };
        for orphan in &orphans {
            new.remove(orphan);
        }
        if chosen.is_empty() && orphans.is_empty() {
            return problem;
        }
        let request = FleetApplyRequest {
            text: new.text(),
            base: Some(head.info.number),
            canary: None,
            bake_s: self.bake_s,
            manual: false,
            now: false,
            force: Vec::new(),
            override_local: false,
            why: Some(why(&chosen, &orphans)),
        };
        let outcome = |key: ServiceKey| {
            let outcome = decision.services.get(&key).cloned();
            outcome.map(|outcome| (key, outcome))
        };
        let text = why(&chosen, &orphans);
        let services: Vec<_> = chosen.into_iter().filter_map(outcome).collect();
        match self.node.fleet_apply(&request).await {
            Ok(started) => {
                tracing::info!(revision = started.revision, "{text}");
                self.rollout = Some(Rollout {
                    revision: started.revision,
                    services,
                    begun: Instant::now(),
                });
            }
            Err(error) => {
                let reason = words(&error);
                let code = error.api().map(|error| error.code);
                if !matches!(code, Some(ErrorCode::InvalidConfig | ErrorCode::Refused)) {
                    // Not the fault of a Service: another change, or etcd.
                    return Err(reason);
                }
                for (key, vips) in services {
                    self.note_failure(key, &reason, vips);
                }
            }
        }
        problem
    }

    /// Takes note of how a rollout has ended.
    fn judge(&mut self, revision: FleetRevisionNumber, state: FleetRolloutState, reason: &str) {
        let Some(rollout) = self.rollout.take_if(|rollout| rollout.revision <= revision) else {
            return;
        };
        let confirmed = state == FleetRolloutState::Confirmed || rollout.revision != revision;
        for (key, vips) in rollout.services {
            if confirmed {
                self.failures.remove(&key);
            } else {
                self.note_failure(key, reason, vips);
            }
        }
    }

    fn note_failure(&mut self, key: ServiceKey, reason: &str, vips: Outcome) {
        let attempts = self.failures.get(&key).map_or(0, |it| it.attempts) + 1;
        let wait = RETRY.saturating_mul(1 << (attempts - 1).min(12));
        self.failures.insert(
            key,
            Failure {
                reason: reason.to_owned(),
                attempts,
                retry_at: Instant::now() + wait.min(LONGEST_RETRY),
                vips,
            },
        );
    }

    /// A new VIP waits until this node has a backend for it: a guard would refuse it.
    fn hold_back(&self, decision: &mut Decision, tables: &Tables) {
        let known: BTreeSet<&str> = tables.addresses().map(|(name, _)| name).collect();
        let served = self.served.borrow();
        for outcome in decision.services.values_mut() {
            let Outcome::Vips(vips) = outcome else {
                continue;
            };
            vips.retain(|vip| known.contains(vip.name.as_str()) || served.contains(&vip.name));
            if vips.is_empty() {
                *outcome = Outcome::Unchanged("no endpoint is ready yet".to_owned());
            }
        }
    }

    /// The Services whose VIPs change now. Those that failed are tried alone.
    fn choose(&self, decision: &Decision, tables: &Tables) -> Vec<ServiceKey> {
        let changed: Vec<ServiceKey> = (decision.services.keys())
            .filter(|key| decision.apply(&mut tables.clone(), &self.settings.cluster, key))
            .cloned()
            .collect();
        let (failed, clean): (Vec<_>, Vec<_>) =
            (changed.into_iter()).partition(|key| self.failures.contains_key(key));
        if !clean.is_empty() {
            return clean;
        }
        let is_due = |key: &ServiceKey| {
            self.failures.get(key).is_some_and(|failure| {
                let is_other = decision.services.get(key) != Some(&failure.vips);
                is_other || failure.retry_at <= Instant::now()
            })
        };
        let due = failed.into_iter().filter(is_due);
        let first = due.min_by_key(|key| self.failures.get(key).map(|it| it.retry_at));
        first.into_iter().collect()
    }

    /// Adds finalizers to the chosen Services that are to have VIPs. Those that can't be held are left out.
    async fn hold(
        &self,
        cluster: &Cluster,
        chosen: Vec<ServiceKey>,
        decision: &Decision,
        publisher: &Publisher,
    ) -> Vec<ServiceKey> {
        let mut held = Vec::new();
        for key in chosen {
            let has_vips = matches!(decision.services.get(&key), Some(Outcome::Vips(_)));
            let service = cluster.service(&key);
            let is_held = !has_vips
                || match &service {
                    Some(service) if has_finalizer(service) => true,
                    Some(service) => publisher.finalizer(service, true).await,
                    None => false,
                };
            if is_held {
                held.push(key);
            }
        }
        held
    }

    /// Lets Services go that have no VIPs any more, and those that were held for too long.
    async fn clean(&self, services: &[Arc<Service>], tables: &Tables, publisher: &Publisher) {
        for service in services.iter().filter(|service| has_finalizer(service)) {
            let is_deleted = is_deleted(service);
            if !is_deleted && is_ours(service, &self.settings.class) {
                continue;
            }
            let prefix = ServiceKey::of(service).prefix(&self.settings.cluster);
            let has_vips = tables.addresses().any(|(name, _)| is_of(name, &prefix));
            if has_vips && !is_held_too_long(service) {
                continue;
            }
            if has_vips {
                let note = "the VIPs of this Service could not be removed in two minutes; they are removed later";
                publisher.event(service, true, "Orphaned", note).await;
            }
            if !is_deleted && !published(service).is_empty() {
                publisher.addresses(service, &[]).await;
            } else {
                publisher.finalizer(service, false).await;
            }
        }
    }

    /// Says of each of our Services what is wrong with it, and removes addresses that it no longer has.
    async fn say(
        &self,
        services: &[Arc<Service>],
        decision: &Decision,
        tables: &Tables,
        publisher: &mut Publisher,
    ) {
        for service in services {
            let key = ServiceKey::of(service);
            if !is_ours(service, &self.settings.class) || is_deleted(service) {
                continue;
            }
            let prefix = key.prefix(&self.settings.cluster);
            let has: BTreeSet<IpAddr> = (tables.addresses())
                .filter(|(name, _)| is_of(name, &prefix))
                .map(|(_, address)| address)
                .collect();
            let shown = published(service);
            let kept: Vec<IpAddr> = (shown.iter().copied())
                .filter(|address| has.contains(address))
                .collect();
            if kept.len() != shown.len() {
                publisher.addresses(service, &kept).await;
                continue;
            }
            let failure = self
                .failures
                .get(&key)
                .map(|failure| failure.reason.as_str());
            match decision.services.get(&key) {
                Some(Outcome::Unchanged(problem)) => {
                    publisher.condition(service, Some(problem)).await;
                }
                Some(Outcome::Vips(_)) if failure.is_some() => {
                    publisher.condition(service, failure).await;
                }
                Some(Outcome::Vips(_)) if !has.is_empty() => {
                    publisher.condition(service, None).await;
                }
                _ => {}
            }
        }
    }

    /// VIPs whose Services have been gone for a while.
    ///
    /// # Errors
    ///
    /// If these are more than half of ours, the API server has probably lost its state, or is another one.
    fn lost(&mut self, decision: &Decision, tables: &Tables) -> Result<Vec<String>, String> {
        let now = Instant::now();
        self.orphans
            .retain(|name, _| decision.orphans.contains(name));
        for orphan in &decision.orphans {
            self.orphans.entry(orphan.clone()).or_insert(now);
        }
        let lost: Vec<String> = (self.orphans.iter())
            .filter(|(_, since)| now - **since >= ORPHANS_STAY)
            .map(|(name, _)| name.clone())
            .collect();
        let ours = format!("{}.", self.settings.cluster);
        let all = (tables.addresses()).filter(|(name, _)| name.starts_with(&ours));
        if lost.len() > 1 && lost.len() * 2 > all.count() {
            return Err(format!(
                "{} VIPs, more than half of all, have no Service any more, and none was deleted as Services are; remove \
                 them with `evenkeel fleet apply` if that is right: {}",
                lost.len(),
                lost.join(", ")
            ));
        }
        Ok(lost)
    }
}

/// The error, with what guards say.
fn words(error: &ClientError) -> String {
    let plan = error.api().and_then(|error| error.plan.as_ref());
    let guards = plan.iter().flat_map(|plan| &plan.vips).flat_map(|vip| {
        let refused = vip.guards.iter();
        let refused = refused.filter(|guard| guard.verdict == GuardVerdict::Refused);
        refused.map(|guard| format!("VIP {}: {}", vip.vip, guard.detail))
    });
    let guards: Vec<String> = guards.take(5).collect();
    if guards.is_empty() {
        error.to_string()
    } else {
        guards.join("; ")
    }
}

fn is_held_too_long(service: &Service) -> bool {
    let Some(deleted) = &service.metadata.deletion_timestamp else {
        return false;
    };
    let held = jiff::Timestamp::now().duration_since(deleted.0);
    Duration::try_from(held).is_ok_and(|held| held > LONGEST_HOLD)
}

fn why(services: &[ServiceKey], orphans: &[String]) -> String {
    let mut names: Vec<String> = services.iter().take(5).map(ToString::to_string).collect();
    if services.len() > 5 {
        names.push(format!("{} more", services.len() - 5));
    }
    if !orphans.is_empty() {
        names.push(format!("{} VIPs of Services that are gone", orphans.len()));
    }
    format!("Kubernetes: {}", names.join(", "))
}

//! The leader's part: the VIPs in the configuration of the fleet.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Service;
use lb_api::{
    ErrorCode, FleetApplyRequest, FleetRevisionNumber, FleetRolloutState, Guard, GuardVerdict,
    client::{Client, ClientError},
};
use tokio::sync::watch;

use crate::{
    cluster::Cluster,
    failures::Failures,
    plan::{Decision, Outcome, Settings, decide},
    publish::Publisher,
    service::{ServiceKey, has_finalizer, is_deleted, is_ours, published},
    text::{Index, Tables},
};

/// A deleted Service is not held longer than this, even if its VIPs can't be removed now.
const LONGEST_HOLD: Duration = Duration::from_secs(120);
/// VIPs stay this long after their Service has gone without us: the API server may have lost it.
const ORPHANS_STAY: Duration = Duration::from_secs(120);
/// Orphans that could not be removed are tried again after this time.
const ORPHANS_RETRY: Duration = Duration::from_secs(600);
/// A rollout that was begun is seen within this time.
const UNSEEN: Duration = Duration::from_secs(10);
/// Services that are written to in a step: each may take seconds.
const WRITES: usize = 20;

/// A rollout that was begun here.
struct Rollout {
    revision: FleetRevisionNumber,
    services: Vec<(ServiceKey, Outcome)>,
    begun: Instant,
}

/// What is changed together.
#[derive(Default)]
struct Batch {
    services: Vec<ServiceKey>,
    orphans: Vec<String>,
    force: Vec<Guard>,
}

/// Writes the VIPs of our Services.
pub struct Vips {
    settings: Settings,
    node: Client,
    served: watch::Receiver<BTreeSet<String>>,
    bake_s: Option<u32>,
    head: Option<(FleetRevisionNumber, Tables)>,
    rollout: Option<Rollout>,
    failures: Failures,
    orphans: HashMap<String, Instant>,
    /// When orphans that could not be removed are tried again.
    orphans_retry_at: Option<Instant>,
    said: Option<String>,
}

impl Vips {
    /// Writes to the fleet of this node, which has backends for the sources `served`; `bake_s` is the bake time of
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
            head: None,
            rollout: None,
            failures: Failures::default(),
            orphans: HashMap::new(),
            orphans_retry_at: None,
            said: None,
        }
    }

    /// Makes a step: to be called when something has changed, and every second or so. Returns whether the fleet
    /// could be asked.
    pub async fn step(&mut self, cluster: &Cluster, publisher: &mut Publisher) -> bool {
        let services = cluster.services();
        // Whatever else does not work.
        self.let_go(&services, publisher).await;
        let done = self.try_step(&services, publisher).await;
        if let Err(error) = &done {
            // Each problem is said once.
            if self.said.as_ref() != Some(error) {
                tracing::warn!("cannot change the fleet: {error}");
                self.said = Some(error.clone());
            }
        } else if self.said.take().is_some() {
            tracing::info!("the fleet can be changed again");
        }
        done.is_ok()
    }

    async fn try_step(
        &mut self,
        services: &[Arc<Service>],
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
        let head = fleet.head.map(|head| head.revision);
        let (head, tables) = self.read(head).await?;
        let decision = {
            let served = self.served.borrow();
            decide(&self.settings, services, &tables, &|name| {
                served.contains(name)
            })
        };
        let index = tables.index();
        self.clean(services, &index, publisher).await;
        let cluster = &self.settings.cluster;
        (self.failures).keep(|key| decision.differs(&index, cluster, key));
        self.say(services, &decision, &index, publisher).await;
        let batch = self.choose(&decision, &tables, &index);
        let batch = self.hold(services, batch, &decision, publisher).await;
        if batch.services.is_empty() && batch.orphans.is_empty() {
            return Ok(());
        }
        self.change(head, &tables, &decision, batch).await
    }

    /// The VIPs of the fleet, as they are in its head, and the head's number.
    async fn read(
        &mut self,
        head: Option<FleetRevisionNumber>,
    ) -> Result<(FleetRevisionNumber, Tables), String> {
        match &self.head {
            Some((known, tables)) if Some(*known) == head => Ok((*known, tables.clone())),
            _ => {
                let head = self.node.fleet_revision(None).await;
                let head = head.map_err(|error| error.to_string())?;
                let tables = Tables::read(&head.text)?;
                self.head = Some((head.info.number, tables.clone()));
                Ok((head.info.number, tables))
            }
        }
    }

    /// Takes note of how a rollout has ended.
    fn judge(&mut self, revision: FleetRevisionNumber, state: FleetRolloutState, reason: &str) {
        let Some(rollout) = self.rollout.take_if(|rollout| rollout.revision <= revision) else {
            return;
        };
        let is_confirmed = state == FleetRolloutState::Confirmed || rollout.revision != revision;
        if is_confirmed {
            self.failures.succeeded(&rollout.services);
        } else {
            self.failed(&rollout.services, reason);
        }
    }

    fn failed(&mut self, services: &[(ServiceKey, Outcome)], reason: &str) {
        if services.is_empty() {
            tracing::warn!("VIPs of Services that are gone can't be removed: {reason}");
            self.orphans_retry_at = Some(Instant::now() + ORPHANS_RETRY);
        } else {
            self.failures.add(services, &self.settings.cluster, reason);
        }
    }

    /// What is changed now: VIPs of Services, or else of those that are gone. Removals are apart: they break
    /// connections, which a guard would refuse and which the deletion of a Service means.
    fn choose(&mut self, decision: &Decision, tables: &Tables, index: &Index<'_>) -> Batch {
        let cluster = &self.settings.cluster;
        let changed =
            (decision.services.iter()).filter(|(key, _)| decision.differs(index, cluster, key));
        let (gone, changed): (Vec<_>, Vec<_>) =
            changed.partition(|(_, outcome)| **outcome == Outcome::Nothing);
        let wanted = |key: &ServiceKey| decision.services.get(key).cloned();
        for (services, force) in [(changed, Vec::new()), (gone, vec![Guard::VipRemoved])] {
            let keys: Vec<ServiceKey> = services.into_iter().map(|(key, _)| key.clone()).collect();
            let chosen = self.failures.choose(&keys, wanted);
            if !chosen.is_empty() {
                return Batch {
                    services: chosen,
                    orphans: Vec::new(),
                    force,
                };
            }
        }
        Batch {
            orphans: self.lost(decision, tables),
            ..Batch::default()
        }
    }

    /// Begins a rollout.
    async fn change(
        &mut self,
        head: FleetRevisionNumber,
        tables: &Tables,
        decision: &Decision,
        batch: Batch,
    ) -> Result<(), String> {
        let mut new = tables.clone();
        for key in &batch.services {
            decision.apply(&mut new, &self.settings.cluster, key);
        }
        for orphan in &batch.orphans {
            new.remove(orphan);
        }
        let why = why(&batch);
        let outcome = |key: ServiceKey| {
            let outcome = decision.services.get(&key).cloned();
            outcome.map(|outcome| (key, outcome))
        };
        let services: Vec<_> = batch.services.into_iter().filter_map(outcome).collect();
        if new.addresses().next().is_none() {
            let reason = "a fleet needs a VIP, and this would be its last one";
            self.failed(&services, reason);
            return Ok(());
        }
        let request = FleetApplyRequest {
            text: new.text(),
            base: Some(head),
            canary: None,
            bake_s: self.bake_s,
            manual: false,
            now: false,
            force: batch.force,
            override_local: false,
            why: Some(why.clone()),
        };
        match self.node.fleet_apply(&request).await {
            Ok(started) => {
                tracing::info!(revision = started.revision, "{why}");
                self.rollout = Some(Rollout {
                    revision: started.revision,
                    services,
                    begun: Instant::now(),
                });
            }
            Err(error) => {
                let reason = words(&error);
                let code = error.api().map(|error| error.code);
                if matches!(code, None | Some(ErrorCode::Conflict | ErrorCode::Failed)) {
                    // Not the fault of a Service: another change, or etcd.
                    return Err(reason);
                }
                self.failed(&services, &reason);
            }
        }
        Ok(())
    }

    /// Adds finalizers to the chosen Services that are to have VIPs. Those that can't be held are left out.
    async fn hold(
        &self,
        services: &[Arc<Service>],
        mut batch: Batch,
        decision: &Decision,
        publisher: &Publisher,
    ) -> Batch {
        let by_key: HashMap<ServiceKey, &Arc<Service>> = (services.iter())
            .map(|service| (ServiceKey::of(service), service))
            .collect();
        let (mut held, mut writes) = (Vec::new(), 0);
        for key in batch.services {
            let has_vips = matches!(decision.services.get(&key), Some(Outcome::Vips(_)));
            let is_held = !has_vips
                || match by_key.get(&key) {
                    Some(service) if has_finalizer(service) => true,
                    Some(service) if writes < WRITES => {
                        writes += 1;
                        publisher.finalizer(service, true).await
                    }
                    _ => false,
                };
            if is_held {
                held.push(key);
            }
        }
        batch.services = held;
        batch
    }

    /// Lets Services go that were held for too long.
    async fn let_go(&self, services: &[Arc<Service>], publisher: &Publisher) {
        let held = services
            .iter()
            .filter(|it| has_finalizer(it) && is_held_too_long(it));
        for service in held.take(WRITES) {
            if publisher.finalizer(service, false).await {
                let note = "the VIPs of this Service could not be removed in two minutes; they are removed later";
                publisher.event(service, true, "Orphaned", note).await;
            }
        }
    }

    /// Lets Services go that have no VIPs any more.
    async fn clean(&self, services: &[Arc<Service>], index: &Index<'_>, publisher: &Publisher) {
        let class = &self.settings.class;
        let ended = (services.iter())
            .filter(|it| has_finalizer(it) && (is_deleted(it) || !is_ours(it, class)));
        let without_vips = ended.filter(|service| {
            let prefix = ServiceKey::of(service).prefix(&self.settings.cluster);
            index.of(&prefix).is_empty()
        });
        for service in without_vips.take(WRITES) {
            if !is_deleted(service) && !published(service).is_empty() {
                publisher.addresses(service, &[]).await;
            } else {
                publisher.finalizer(service, false).await;
            }
        }
    }

    /// Says of our Services what is wrong with them, and removes addresses that they no longer have.
    async fn say(
        &self,
        services: &[Arc<Service>],
        decision: &Decision,
        index: &Index<'_>,
        publisher: &mut Publisher,
    ) {
        let mut writes = 0;
        for service in services {
            let key = ServiceKey::of(service);
            if !is_ours(service, &self.settings.class) || is_deleted(service) {
                continue;
            }
            if writes == WRITES {
                return;
            }
            let known = index.of(&key.prefix(&self.settings.cluster));
            let outcome = decision.services.get(&key);
            if let Some(Outcome::Vips(vips)) = outcome {
                // The status is the record of an address that is not in the configuration yet.
                let has = |address: &IpAddr| {
                    let mut known = known.iter().map(|(_, address)| address);
                    known.any(|it| it == address) || vips.iter().any(|vip| vip.address == *address)
                };
                let shown = published(service);
                let kept: Vec<IpAddr> = shown.iter().copied().filter(has).collect();
                if kept.len() != shown.len() {
                    publisher.addresses(service, &kept).await;
                    writes += 1;
                    continue;
                }
            }
            let problem = match outcome {
                Some(Outcome::Unchanged(problem)) => Some(problem.as_str()),
                Some(Outcome::Vips(_)) => self.failures.reason(&key),
                Some(Outcome::Nothing) | None => continue,
            };
            if problem.is_some() || !known.is_empty() {
                writes += usize::from(publisher.condition(service, problem).await);
            }
        }
    }

    /// VIPs whose Services have been gone for a while. If these are half of ours or more, the API server has
    /// probably lost its state, or is another one: none.
    fn lost(&mut self, decision: &Decision, tables: &Tables) -> Vec<String> {
        let now = Instant::now();
        (self.orphans).retain(|name, _| decision.orphans.contains(name));
        for orphan in &decision.orphans {
            self.orphans.entry(orphan.clone()).or_insert(now);
        }
        let lost: Vec<String> = (self.orphans.iter())
            .filter(|(_, since)| now - **since >= ORPHANS_STAY)
            .map(|(name, _)| name.clone())
            .collect();
        if lost.is_empty() || self.orphans_retry_at.is_some_and(|at| at > now) {
            return Vec::new();
        }
        let ours = format!("{}.", self.settings.cluster);
        let all = (tables.addresses()).filter(|(name, _)| name.starts_with(&ours));
        if lost.len() * 2 < all.count() {
            return lost;
        }
        let reason = format!(
            "they are half of all or more, and none was deleted as Services are; remove them with `evenkeel fleet apply` if \
             that is right: {}",
            lost.join(", ")
        );
        self.failed(&[], &reason);
        Vec::new()
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

fn why(batch: &Batch) -> String {
    let Batch {
        services, orphans, ..
    } = batch;
    let mut names: Vec<String> = services.iter().take(5).map(ToString::to_string).collect();
    if services.len() > 5 {
        names.push(format!("{} more", services.len() - 5));
    }
    if !orphans.is_empty() {
        names.push(format!("{} VIPs of Services that are gone", orphans.len()));
    }
    format!("Kubernetes: {}", names.join(", "))
}

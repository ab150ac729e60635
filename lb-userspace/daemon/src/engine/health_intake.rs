//! Health intake: turns results of health checks into updates of the rings.
//!
//! [`HealthIntake`] owns the checks, slow starts and the program that sends checks through the VIP.
//! The actor applies the updates it returns.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tracing::{error, info, warn};

use super::{actor::Actor, data_path::exists};
use crate::{
    events::Entry,
    health::{Health, HealthChange, HealthStatus, Target, effective_weight, takes_vip_path},
    nexthop,
    reconciler::{Experience, HealthUpdate, MemberReport, RingPast, ServiceId, Summary, VipReport},
};
use lb_dataplane::{Pins, ProbePath, ProbePaths};
use lb_model::{
    MemberRef,
    config::{self, BackendState, Config, Fraction},
    ring::Identity,
};

/// How long the announcement of VIPs waits for the first verdicts on backends, at most: checks may be hours
/// apart.
pub(super) const WARMING_LIMIT: Duration = Duration::from_secs(30);

pub(super) struct HealthIntake {
    health: Health,
    /// Members in slow start, and when they came up.
    starting: BTreeMap<MemberRef, Instant>,
    pins: Pins,
    /// Sends checks through the VIP; loaded when first needed.
    paths: Option<ProbePaths>,
    /// Member indexes whose checks go through the VIP.
    through_vip: BTreeSet<u32>,
    /// Whether loading failed: repeated failures are logged once.
    is_failing: bool,
    /// Since when the tables say that backends may lack their first verdict; none if they don't.
    warming: Option<Instant>,
    /// Whether other nodes may still tell the past, until the tables are warm.
    waits_for_past: bool,
    /// What they have told so far, by node.
    pasts: BTreeMap<(String, ServiceId), RingPast>,
}

impl HealthIntake {
    /// `is_fresh`: whether nothing was known of the backends before.
    /// `tells_past`: whether other nodes will tell the past of connections.
    pub(super) fn new(health: Health, pins: Pins, is_fresh: bool, tells_past: bool) -> Self {
        Self {
            health,
            starting: BTreeMap::new(),
            pins,
            paths: None,
            through_vip: BTreeSet::new(),
            is_failing: false,
            warming: is_fresh.then(Instant::now),
            waits_for_past: is_fresh && tells_past,
            pasts: BTreeMap::new(),
        }
    }

    pub(super) const fn is_warming(&self) -> bool {
        self.warming.is_some()
    }

    /// Remembers what another node tells; what it tells later replaces it.
    pub(super) fn remember(&mut self, from: &str, pasts: Vec<RingPast>) {
        for past in pasts {
            self.pasts.insert((from.to_owned(), past.service), past);
        }
    }

    pub(super) const fn past_is_known(&mut self) {
        self.waits_for_past = false;
    }

    /// Changes when any check says something new.
    pub(super) fn news(&self) -> watch::Receiver<()> {
        self.health.news()
    }

    /// Checks a member soon: another node says something else of it.
    pub(super) fn hurry(&self, member: &MemberRef) {
        self.health.hurry(member);
    }

    pub(super) fn statuses(&self) -> BTreeMap<MemberRef, HealthStatus> {
        self.health.statuses()
    }

    /// Checks the members of a configuration. `interfaces`: those that checks through the VIP use.
    fn follow(&mut self, config: &Config, report: &[VipReport], interfaces: &[String]) {
        let mut targets = Vec::new();
        let mut paths = BTreeMap::new();
        for vip in &config.vips {
            let Some(health) = &vip.health else { continue };
            let health = Arc::new(health.clone());
            let reported = report.iter().find(|r| r.name == vip.name);
            for checked in checked(vip, reported) {
                let through_vip = checked
                    .member
                    .filter(|_| takes_vip_path(vip, checked.identity.address))
                    .map(|member| u32::from(member.index));
                if let Some(member) = through_vip {
                    let encapsulated = vip.forward == config::Forward::Ipip;
                    let path = ProbePath {
                        vip: vip.address,
                        encapsulated,
                    };
                    paths.insert(member, path);
                }
                targets.push(Target {
                    vip: vip.name.clone(),
                    backend: checked.name.to_owned(),
                    address: checked.identity.address,
                    port: checked.identity.port,
                    vip_address: vip.address,
                    vip_port: vip.port,
                    health: Arc::clone(&health),
                    initial: checked.member.is_some_and(|member| member.healthy),
                    source: None,
                    member: through_vip,
                });
            }
        }
        if !self.set_paths(&paths, interfaces) {
            for target in &mut targets {
                target.member = None;
            }
        }
        self.health.set_targets(targets);
    }

    /// Sets which checks go through the VIP. Returns whether that worked.
    fn set_paths(&mut self, wanted: &BTreeMap<u32, ProbePath>, interfaces: &[String]) -> bool {
        if wanted.is_empty() && self.paths.is_none() {
            return true;
        }
        let set = self.try_set_paths(wanted, interfaces);
        if let Err(error) = &set {
            if !self.is_failing {
                warn!(%error, "can't send health checks through the VIP: they go directly to the backends");
            }
            self.paths = None;
            self.through_vip.clear();
        }
        self.is_failing = set.is_err();
        set.is_ok()
    }

    fn try_set_paths(
        &mut self,
        wanted: &BTreeMap<u32, ProbePath>,
        interfaces: &[String],
    ) -> lb_dataplane::Result<()> {
        let paths = match &mut self.paths {
            Some(paths) => paths,
            none => none.insert(ProbePaths::load(&self.pins)?),
        };
        for interface in interfaces {
            paths.attach(interface)?;
        }
        let gone = self.through_vip.iter();
        for gone in gone.filter(|member| !wanted.contains_key(member)) {
            paths.set(*gone, None)?;
        }
        for (member, path) in wanted {
            paths.set(*member, Some(*path))?;
        }
        self.through_vip = wanted.keys().copied().collect();
        Ok(())
    }

    /// Attaches the program for checks to interfaces that are new or back.
    fn attach_to(&mut self, interfaces: &[String]) {
        let Some(paths) = &mut self.paths else { return };
        for interface in interfaces {
            if let Err(error) = paths.attach(interface) {
                warn!(%error, interface, "can't send health checks through the VIP on this interface");
            }
        }
    }

    /// The updates for changes of health. Of several changes of a member, the newest counts.
    fn updates_for(&mut self, changes: &[HealthChange], config: &Config) -> Vec<HealthUpdate> {
        let mut newest: BTreeMap<MemberRef, bool> = BTreeMap::new();
        for change in changes {
            let member = MemberRef::new(&change.vip, &change.backend);
            newest.insert(member, change.healthy);
        }
        let mut updates = Vec::new();
        for (member, healthy) in newest {
            let Some(health) = health_of(config, &member.vip) else {
                continue;
            };
            self.starting.remove(&member);
            if healthy && !health.slow_start.is_zero() {
                self.starting.insert(member.clone(), Instant::now());
            }
            updates.push(HealthUpdate {
                healthy,
                ramp: self.ramp(&member, health),
                member,
            });
        }
        updates
    }

    /// The updates for slow starts, and for members whose health the rings do not reflect yet.
    fn updates_due(&mut self, config: &Config, report: &[VipReport]) -> Vec<HealthUpdate> {
        let statuses = self.statuses();
        let mut updates = Vec::new();
        for vip in report {
            let Some(health) = health_of(config, &vip.name) else {
                continue;
            };
            // After this time the checks have had their verdict.
            let verdict = health.interval * health.fall + health.timeout;
            for reported in &vip.members {
                let member = MemberRef::new(&vip.name, &reported.check_name);
                let Some(status) = statuses.get(&member) else {
                    continue;
                };
                let known_for = self.health.known_for(&member);
                let is_long = known_for.is_some_and(|time| time > verdict);
                let proven = status.healthy || status.last_ok.is_some() && is_long;
                let starts = self.starting.contains_key(&member);
                if status.healthy != reported.healthy || proven && !reported.proven || starts {
                    updates.push(HealthUpdate {
                        healthy: status.healthy,
                        ramp: self.ramp(&member, health),
                        member,
                    });
                }
            }
        }
        updates
    }

    /// Whether the tables are to say now that all backends have had their first verdict: once after a start
    /// with new tables.
    fn ends_warming(&mut self, config: &Config, report: &[VipReport]) -> bool {
        let Some(since) = self.warming else {
            return false;
        };
        let is_ready = are_judged(config, report) && !self.waits_for_past;
        let is_over = since.elapsed() >= WARMING_LIMIT || is_ready;
        if is_over {
            self.warming = None;
        }
        is_over
    }

    /// The fraction of its weight that a member has, given how long it has been up.
    fn ramp(&mut self, member: &MemberRef, health: &config::Health) -> Fraction {
        let Some(since) = self.starting.get(member) else {
            return Fraction::ALL;
        };
        let all = Fraction::ALL.millionths();
        let part = effective_weight(all, since.elapsed(), health.slow_start);
        if part == all {
            self.starting.remove(member);
        }
        Fraction::new(f64::from(part) / f64::from(all)).unwrap_or(Fraction::ALL)
    }
}

/// A backend to check.
struct Checked<'a> {
    name: &'a str,
    identity: Identity,
    /// None if it is not in the tables.
    member: Option<&'a MemberReport>,
}

/// The backends of a VIP, and those that were removed and still have flows.
fn checked<'a>(
    vip: &'a config::Vip,
    reported: Option<&'a VipReport>,
) -> impl Iterator<Item = Checked<'a>> {
    let configured = vip.backends.iter().map(move |backend| Checked {
        name: &backend.name,
        identity: backend.identity(),
        member: reported.and_then(|vip| member_of(vip, backend)),
    });
    let members = reported.map_or(&[][..], |vip| &vip.members);
    let leaving = members.iter().filter(|member| member.leaving);
    configured.chain(leaving.map(|member| Checked {
        name: &member.check_name,
        identity: member.identity,
        member: Some(member),
    }))
}

fn member_of<'r>(vip: &'r VipReport, backend: &config::Backend) -> Option<&'r MemberReport> {
    let mut members = vip.members.iter().filter(|member| !member.leaving);
    members.find(|member| member.identity == backend.identity())
}

fn health_of<'c>(config: &'c Config, vip: &str) -> Option<&'c config::Health> {
    let mut vips = config.vips.iter();
    vips.find(|v| v.name == vip)?.health.as_ref()
}

/// Whether the checks have had a verdict on each backend that is to serve.
fn are_judged(config: &Config, report: &[VipReport]) -> bool {
    let checked = report
        .iter()
        .filter(|vip| health_of(config, &vip.name).is_some());
    let mut members = checked.flat_map(|vip| &vip.members);
    members.all(|member| {
        let is_wanted = !member.leaving && member.wanted == BackendState::Up && member.weight > 0;
        member.proven || !is_wanted
    })
}

impl Actor {
    /// Checks the members of the running configuration.
    pub(super) fn follow_targets(&mut self) {
        let report = self.data_path.reconciler.report();
        let interfaces = self.probe_interfaces();
        self.health
            .follow(&self.changes.running.config, &report, &interfaces);
    }

    /// Next hops or interfaces have changed.
    pub(super) fn follow_probe_interfaces(&mut self) {
        let interfaces = self.probe_interfaces();
        self.health.attach_to(&interfaces);
    }

    /// Interfaces on which checks are sent and answered.
    fn probe_interfaces(&self) -> Vec<String> {
        let configured = self.changes.running.config.node.interfaces.iter().cloned();
        let mut interfaces: BTreeSet<String> = configured.collect();
        for state in self.data_path.routes.table().values() {
            if let nexthop::NextHopState::Resolved(route) = state {
                interfaces.insert(route.ifname.clone());
            }
        }
        // A missing one is added when it is back.
        interfaces.into_iter().filter(|i| exists(i)).collect()
    }

    /// Applies changes of health in one update of the rings.
    pub(super) fn health_changed(&mut self, changes: &[HealthChange]) {
        let updates = self
            .health
            .updates_for(changes, &self.changes.running.config);
        self.update_health(&updates);
        let swapped = Instant::now();
        for change in changes {
            let took = swapped.duration_since(change.at).as_secs_f64();
            self.publisher
                .update_facts(|facts| facts.reactions.add(took));
            self.log_health(change, took * 1e3);
        }
        self.end_warming();
        self.judge_members();
        self.publish();
    }

    /// Continues slow starts, and retries updates that failed.
    pub(super) fn tick_health(&mut self) {
        let report = self.data_path.reconciler.report();
        let updates = self
            .health
            .updates_due(&self.changes.running.config, &report);
        self.update_health(&updates);
        self.end_warming();
    }

    pub(super) fn end_warming(&mut self) {
        let report = self.data_path.reconciler.report();
        let config = &self.changes.running.config;
        if !self.health.ends_warming(config, &report) {
            return;
        }
        let pasts = std::mem::take(&mut self.health.pasts);
        let pasts: Vec<RingPast> = pasts.into_values().collect();
        if !pasts.is_empty() {
            self.learn_now(&pasts, Experience::Fresh);
        }
        if let Err(error) = self.data_path.dataplane.set_warming(0) {
            // The time in the tables ends it.
            warn!(%error, "can't tell that all backends were judged");
        }
    }

    fn update_health(&mut self, updates: &[HealthUpdate]) {
        if updates.is_empty() {
            return;
        }
        let data_path = &mut self.data_path;
        match data_path
            .reconciler
            .set_healths(&mut data_path.dataplane, updates)
        {
            Ok(summary) => self.log_panic(&summary),
            // The next tick tries again.
            Err(error) => error!(%error, "can't update the rings with the health of backends"),
        }
    }

    fn log_health(&self, change: &HealthChange, took_ms: f64) {
        let HealthChange {
            vip,
            backend,
            healthy,
            damped,
            why,
            at: _,
        } = change;
        let word = if *healthy { "up" } else { "down" };
        let took_ms = (took_ms * 1e3).round() / 1e3;
        if *healthy {
            info!(vip, backend, why, took_ms, "backend is up");
        } else {
            warn!(vip, backend, why, damped, took_ms, "backend is down");
        }
        let message = format!("{backend} is {word}: {why} (in the ring after {took_ms:.1} ms)");
        let entry = Entry::new("health", message);
        self.note(entry.vip(vip.clone()).backend(backend.clone()));
    }

    fn log_panic(&self, summary: &Summary) {
        for vip in &summary.panics_begun {
            error!(
                vip,
                "panic mode: too few healthy backends; traffic is spread over all of them"
            );
            let message = "panic mode: traffic is spread over all backends, healthy or not";
            self.note(Entry::new("health", message).vip(vip.clone()));
        }
        for vip in &summary.panics_ended {
            info!(vip, "panic mode ended");
            self.note(Entry::new("health", "panic mode ended").vip(vip.clone()));
        }
    }
}

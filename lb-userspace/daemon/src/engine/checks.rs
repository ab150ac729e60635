//! Health: what the checks say, made into rings.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use tracing::{error, info, warn};

use super::{actor::Actor, data_path::exists};
use crate::{
    events::Entry,
    health::{Health, HealthChange, Target, effective_weight, takes_vip_path},
    nexthop,
    reconciler::{HealthUpdate, Summary},
};
use lb_dataplane::{Pins, ProbePath, ProbePaths};
use lb_model::{
    MemberRef,
    config::{self, Fraction},
};

/// The checks, and what the engine remembers about them.
pub(super) struct Checks {
    pub(super) health: Health,
    /// Members that start slowly, and since when they are up.
    starting: BTreeMap<MemberRef, Instant>,
    pins: Pins,
    /// The program that takes probes the way of a VIP's traffic, once it is needed.
    paths: Option<ProbePaths>,
    /// Members whose probes go that way.
    set: BTreeSet<u32>,
    /// Whether it was said that the program can't be had.
    is_failing: bool,
}

impl Checks {
    pub(super) const fn new(health: Health, pins: Pins) -> Self {
        Self {
            health,
            starting: BTreeMap::new(),
            pins,
            paths: None,
            set: BTreeSet::new(),
            is_failing: false,
        }
    }

    /// Makes the ways of probes as wanted. Says whether that was possible.
    fn set_paths(&mut self, wanted: &BTreeMap<u32, ProbePath>, interfaces: &[String]) -> bool {
        if wanted.is_empty() && self.paths.is_none() {
            return true;
        }
        match self.try_set_paths(wanted, interfaces) {
            Ok(()) => {
                self.is_failing = false;
                true
            }
            Err(error) => {
                if !self.is_failing {
                    warn!(
                        %error,
                        "checks can't go the way of the traffic: they go straight to the backends"
                    );
                }
                self.is_failing = true;
                self.paths = None;
                self.set.clear();
                false
            }
        }
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
        for gone in self.set.iter().filter(|m| !wanted.contains_key(m)) {
            paths.set(*gone, None)?;
        }
        for (member, path) in wanted {
            paths.set(*member, Some(*path))?;
        }
        self.set = wanted.keys().copied().collect();
        Ok(())
    }

    /// The part of its weight that a member has, as long as it has been up.
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

impl Actor {
    fn health_of(&self, vip: &str) -> Option<&config::Health> {
        let mut vips = self.running.config.vips.iter();
        vips.find(|v| v.name == vip)?.health.as_ref()
    }

    /// Has the members of the running configuration checked.
    pub(super) fn follow_targets(&mut self) {
        let report = self.reconciler.report();
        let mut targets = Vec::new();
        let mut paths = BTreeMap::new();
        for vip in &self.running.config.vips {
            let Some(health) = &vip.health else { continue };
            let health = Arc::new(health.clone());
            let reported = report.iter().find(|r| r.name == vip.name);
            for backend in &vip.backends {
                let member = reported.and_then(|r| {
                    let mut members = r.members.iter().filter(|m| !m.leaving);
                    members.find(|m| m.identity == backend.identity())
                });
                let member_of_way = member
                    .filter(|_| takes_vip_path(vip, backend.address))
                    .map(|member| u32::from(member.index));
                if let Some(member) = member_of_way {
                    let path = ProbePath {
                        vip: vip.address,
                        encapsulated: vip.forward == config::Forward::Ipip,
                    };
                    paths.insert(member, path);
                }
                targets.push(Target {
                    vip: vip.name.clone(),
                    backend: backend.name.clone(),
                    address: backend.address,
                    port: backend.port,
                    vip_address: vip.address,
                    vip_port: vip.port,
                    health: Arc::clone(&health),
                    initial: member.is_some_and(|member| member.healthy),
                    source: None,
                    member: member_of_way,
                });
            }
        }
        let interfaces = self.probe_interfaces();
        if !self.checks.set_paths(&paths, &interfaces) {
            for target in &mut targets {
                target.member = None;
            }
        }
        self.checks.health.set_targets(targets);
    }

    /// An interface may have come that probes leave by.
    pub(super) fn follow_probe_interfaces(&mut self) {
        let interfaces = self.probe_interfaces();
        let Some(paths) = &mut self.checks.paths else {
            return;
        };
        for interface in interfaces {
            if let Err(error) = paths.attach(&interface) {
                warn!(%error, interface, "checks that leave there can't go the way of the traffic");
            }
        }
    }

    /// Interfaces that probes leave by and answers come in by.
    fn probe_interfaces(&self) -> Vec<String> {
        let mut interfaces: BTreeSet<String> = self
            .running
            .config
            .node
            .interfaces
            .iter()
            .cloned()
            .collect();
        for state in self.routes.borrow().values() {
            if let nexthop::NextHopState::Resolved(route) = state {
                interfaces.insert(route.ifname.clone());
            }
        }
        // One that is missing is looked for again when it is back.
        interfaces.into_iter().filter(|i| exists(i)).collect()
    }

    /// Makes one change of the rings of what the checks told.
    pub(super) fn health_changed(&mut self, changes: &[HealthChange]) {
        let mut newest: BTreeMap<MemberRef, &HealthChange> = BTreeMap::new();
        for change in changes {
            newest.insert(MemberRef::new(&change.vip, &change.backend), change);
        }
        let mut updates = Vec::new();
        for (member, change) in newest {
            let Some(health) = self.health_of(&member.vip).cloned() else {
                continue;
            };
            self.checks.starting.remove(&member);
            if change.healthy && !health.slow_start.is_zero() {
                self.checks.starting.insert(member.clone(), Instant::now());
            }
            updates.push(HealthUpdate {
                healthy: change.healthy,
                ramp: self.checks.ramp(&member, &health),
                member,
            });
        }
        self.update_health(&updates);
        let swapped = Instant::now();
        for change in changes {
            let took = swapped.duration_since(change.at).as_secs_f64();
            self.facts
                .send_modify(|facts| Arc::make_mut(facts).reactions.add(took));
            self.tell_health(change, took * 1e3);
        }
        self.look_at_trial();
        self.publish();
    }

    fn update_health(&mut self, updates: &[HealthUpdate]) {
        if updates.is_empty() {
            return;
        }
        match self.reconciler.set_healths(&mut self.dataplane, updates) {
            Ok(summary) => self.tell_panic(&summary),
            // The next tick tries again.
            Err(error) => error!(%error, "what the checks say can't be put into the tables"),
        }
    }

    fn tell_health(&self, change: &HealthChange, took_ms: f64) {
        let HealthChange {
            vip,
            backend,
            healthy,
            damped,
            why,
            at: _,
        } = change;
        let word = if *healthy { "up" } else { "down" };
        // Microseconds are as fine as anybody needs it.
        let took_ms = (took_ms * 1e3).round() / 1e3;
        if *healthy {
            info!(vip, backend, why, took_ms, "backend is up");
        } else {
            warn!(vip, backend, why, damped, took_ms, "backend is down");
        }
        let message = format!("{backend} is {word}: {why} (in the ring {took_ms:.1} ms later)");
        let entry = Entry::new("health", message);
        self.note(entry.vip(vip.clone()).backend(backend.clone()));
    }

    fn tell_panic(&self, summary: &Summary) {
        for vip in &summary.panics_begun {
            error!(
                vip,
                "panic: so few backends are healthy that traffic is spread over all"
            );
            let message = "panic: traffic is spread over all backends, healthy or not";
            self.note(Entry::new("health", message).vip(vip.clone()));
        }
        for vip in &summary.panics_ended {
            info!(vip, "the panic is over");
            self.note(Entry::new("health", "the panic is over").vip(vip.clone()));
        }
    }

    /// Slow starts go on; what the tables do not have yet as the checks say is put there.
    pub(super) fn tick_checks(&mut self) {
        let statuses = self.checks.health.statuses();
        if statuses.is_empty() {
            return;
        }
        let mut updates = Vec::new();
        for vip in self.reconciler.report().iter() {
            let Some(health) = self.health_of(&vip.name).cloned() else {
                continue;
            };
            // Long enough for a verdict.
            let verdict = health.interval * health.fall + health.timeout;
            for reported in vip.members.iter().filter(|member| !member.leaving) {
                let member = MemberRef::new(&vip.name, &reported.name);
                let Some(status) = statuses.get(&member) else {
                    continue;
                };
                let known_for = self.checks.health.known_for(&member);
                let is_long = known_for.is_some_and(|time| time > verdict);
                let proven = status.healthy || status.last_ok.is_some() && is_long;
                let starts = self.checks.starting.contains_key(&member);
                if status.healthy != reported.healthy || proven && !reported.proven || starts {
                    updates.push(HealthUpdate {
                        healthy: status.healthy,
                        ramp: self.checks.ramp(&member, &health),
                        member,
                    });
                }
            }
        }
        self.update_health(&updates);
    }
}

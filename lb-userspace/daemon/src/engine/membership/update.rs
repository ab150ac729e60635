//! Applies what sources answer, in the actor: one answer after the other, like every change.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use lb_model::{
    MemberRef,
    config::BackendState,
    membership::{
        self, Changes, Families, Known, Member, MemberSet, MemberSource, Pace, SourceKey,
    },
};
use tracing::{info, warn};

use super::{MAX_SET, MembershipCommand, Source};
use crate::{
    caller::Caller,
    engine::{EngineError, EngineResult, actor::Actor, command::send},
    events::Entry,
    membership::dns::{AskError, Found},
    node::SourceState,
};

/// How long a leaving member must be without traffic, at least, before it is removed.
const IDLE: Duration = Duration::from_secs(30);

/// Members that an event names.
const MOST_NAMED: usize = 8;

impl Actor {
    pub(in crate::engine) fn handle_membership(&mut self, command: MembershipCommand) {
        match command {
            MembershipCommand::Unknown(change, reply) => {
                let candidate = self.changes.candidate(&self.data_path, &change);
                let unknown = candidate.map_or_else(
                    |_| (Vec::new(), Default::default()),
                    |it| {
                        let keys = self.changes.unknown_sources(&it.config);
                        (keys, it.config.sources)
                    },
                );
                send(reply, Ok(unknown));
            }
            MembershipCommand::Follow(addresses, reply) => {
                let known = self.data_path.reconciler.backends();
                let new: BTreeSet<IpAddr> = addresses.difference(&known).copied().collect();
                if !new.is_empty() {
                    self.follow_backends(new.iter().copied());
                }
                send(reply, Ok(new));
            }
            MembershipCommand::Answered(key, answer, reply) => {
                let pause = self.source_answered(&key, answer);
                send(reply, Ok(pause));
            }
            MembershipCommand::Set(name, members, allow_empty, caller, reply) => {
                let set = self.set_source(&name, &members, allow_empty, &caller);
                send(reply, set);
            }
        }
    }

    /// Adopts the answer of a source. Returns when to ask again.
    fn source_answered(&mut self, key: &SourceKey, answer: Result<Found, AskError>) -> Duration {
        let settings = &self.changes.running.config.sources;
        let (min, max) = (settings.interval_min, settings.interval_max);
        // Up to eight times the shortest interval: a server that is down is not flooded.
        let retry = |failures: u32| (min * (1 << failures.saturating_sub(1).min(3))).min(max);
        let source = self.source_mut(key);
        let found = match answer {
            Ok(found) => found,
            Err(error) => {
                source.failed += 1;
                let why = error.to_string();
                if source.error.as_ref() != Some(&why) {
                    warn!(source = %key, why, "a source has no answer; its last members stay");
                }
                source.has_failed(why);
                let pause = retry(source.failures);
                self.follow_sources();
                return pause;
            }
        };
        let pace = Pace {
            interval: min,
            explicit: false,
            allow_empty: false,
        };
        match self.step(key, &found.members, pace) {
            Ok(()) => {
                let source = self.source_mut(key);
                source.interval = found.ttl.clamp(min, max);
                // What is missing is asked for again soon.
                match source.held.any() {
                    true => min,
                    false => source.interval,
                }
            }
            Err(_) => retry(self.source_mut(key).failures),
        }
    }

    /// Sets the members of `api:NAME`.
    fn set_source(
        &mut self,
        name: &str,
        members: &[Member],
        allow_empty: bool,
        caller: &Caller,
    ) -> EngineResult<SourceState> {
        let source = format!("api:{name}").parse().map_err(|error| {
            let membership::InvalidSource { label, help } = error;
            EngineError::BadRequest(format!("{label}: {help}"))
        })?;
        let key = SourceKey {
            source,
            families: Families::Both,
        };
        if members.is_empty() && !allow_empty {
            let message = "no members: a set without members needs `allow_empty`, and then takes the VIPs that use it \
                           out of service";
            return Err(EngineError::BadRequest(message.into()));
        }
        let sources = &mut self.changes.membership.sources;
        let is_set = |key: &&SourceKey| matches!(key.source, MemberSource::Api { .. });
        if !sources.contains_key(&key) && sources.keys().filter(is_set).count() >= MAX_SET {
            let message =
                format!("at most {MAX_SET} sources can be set; set one of them to no members");
            return Err(EngineError::BadRequest(message));
        }
        let source = sources.entry(key.clone()).or_default();
        let before = source.wanted.replace((members.to_vec(), allow_empty));
        let pace = self.pace_of_set(allow_empty);
        if let Err(why) = self.step(&key, members, pace) {
            // Whoever set them is told; the source itself works.
            let source = self.source_mut(&key);
            source.wanted = before;
            (source.error, source.failures) = (None, 0);
            self.follow_sources();
            return Err(EngineError::InvalidConfig(why));
        }
        let count = members.len();
        info!(source = %key, members = count, who = %caller, "members of a source set");
        self.note(Entry::new(
            "source",
            format!("{key}: {count} members set by {caller}"),
        ));
        self.source_mut(&key).is_set = !members.is_empty();
        // A client that reads next finds what it has set.
        self.publish();
        let config = &self.changes.running.config;
        let source = self.changes.membership.sources.get(&key);
        let state = source.map(|source| source.state(&key, config));
        state.ok_or_else(|| EngineError::Failed("the source is gone".into()))
    }

    fn pace_of_set(&self, allow_empty: bool) -> Pace {
        Pace {
            interval: self.changes.running.config.sources.interval_min,
            explicit: true,
            allow_empty,
        }
    }

    /// Goes one step towards what a source names. On an error, the members are as before.
    fn step(&mut self, key: &SourceKey, members: &[Member], pace: Pace) -> Result<(), String> {
        let done = self.try_step(key, members, pace);
        let source = self.source_mut(key);
        match &done {
            Ok(()) => {
                if source.error.take().is_some() {
                    info!(source = %key, "a source has an answer again");
                }
                source.failures = 0;
                source.answered_at = Some(crate::engine::now());
            }
            Err(why) => {
                source.refused += 1;
                if source.error.as_ref() != Some(why) {
                    warn!(source = %key, why, "the answer of a source is refused; its last members stay");
                    let words = format!("{key}: answer refused, the last members stay: {why}");
                    source.has_failed(why.clone());
                    self.note(Entry::new("source", words));
                } else {
                    source.has_failed(why.clone());
                }
            }
        }
        self.follow_sources();
        done
    }

    /// Saves the sources. The next tick publishes what has not changed the configuration.
    fn follow_sources(&mut self) {
        let changes = &mut self.changes;
        changes.membership.follow(&changes.running.config);
        changes.membership.save();
    }

    fn try_step(&mut self, key: &SourceKey, members: &[Member], pace: Pace) -> Result<(), String> {
        membership::check_members(members).map_err(|why| why.to_string())?;
        let eligible = self.eligible(key);
        let membership = &mut self.changes.membership;
        let (at, source) = (
            membership.at(),
            &*membership.sources.entry(key.clone()).or_default(),
        );
        let is_eligible = |member: &Member| eligible.get(&member.name).copied().unwrap_or(false);
        let answer = source.set.answered(members, at, pace, is_eligible);
        let answer = answer.ok_or("the answer has no members")?;
        self.install_members(key, &answer.set)?;
        let source = self.source_mut(key);
        let is_changed = source.set != answer.set || source.held != answer.held;
        (source.set, source.held, source.stepped_at) = (answer.set, answer.held, at);
        self.changes.membership.is_changed |= is_changed;
        self.note_members(key, &answer.changes);
        Ok(())
    }

    fn source_mut(&mut self, key: &SourceKey) -> &mut Source {
        self.changes
            .membership
            .sources
            .entry(key.clone())
            .or_default()
    }

    /// Whether each member of a source gets new flows in one of its VIPs. Without a VIP, all count.
    fn eligible(&mut self, key: &SourceKey) -> BTreeMap<String, bool> {
        let config = &self.changes.running.config;
        let report = self.data_path.reconciler.report();
        let mut eligible = BTreeMap::new();
        let mut is_used = false;
        for vip in config.vips.iter() {
            if SourceKey::of(vip).as_ref() != Some(key) {
                continue;
            }
            is_used = true;
            let reported = report.iter().find(|reported| reported.name == vip.name);
            for member in reported.into_iter().flat_map(|reported| &reported.members) {
                let is_eligible = !member.leaving
                    && member.wanted == BackendState::Up
                    && member.healthy
                    && member.effective_weight > 0;
                *eligible.entry(member.name.clone()).or_default() |= is_eligible;
            }
        }
        if !is_used {
            let members = self.changes.membership.members(key);
            eligible.extend(members.iter().map(|it| (it.member.name.clone(), true)));
        }
        eligible
    }

    /// Puts a set into the active configuration and the tables, or leaves both as they are.
    fn install_members(&mut self, key: &SourceKey, set: &MemberSet) -> Result<(), String> {
        let (changes, data_path) = (&mut self.changes, &mut self.data_path);
        let running = &changes.running.config;
        let mut users = running.vips.iter();
        let is_used = users.any(|vip| SourceKey::of(vip).as_ref() == Some(key));
        if changes.running.number.is_none() || !is_used {
            return Ok(());
        }
        let mut config = running.clone();
        let filled = membership::admit(&mut config, |other| match other == key {
            true => set.members(),
            false => changes.membership.members(other),
        });
        filled.map_err(|why| why.to_string())?;
        if config == *running {
            return Ok(());
        }
        let installed = data_path.install(&config, None);
        installed.map_err(|error| format!("{error:#}"))?;
        changes.running.config = config;
        self.follow_members();
        self.drift_check.installed();
        self.publish();
        Ok(())
    }

    /// Passes the members to the parts that depend on them.
    fn follow_members(&mut self) {
        self.follow_config();
        let members = self.changes.running.config.vips.iter().flat_map(|vip| {
            let sourced = vip.backends.iter().filter(|_| vip.backends_from.is_some());
            sourced.map(|backend| MemberRef::new(&vip.name, &backend.name))
        });
        if let Some(trial) = &mut self.changes.trial {
            trial.know(members);
        }
    }

    /// Writes an event for each VIP whose members have changed.
    fn note_members(&self, key: &SourceKey, changes: &Changes) {
        let parts = [
            ("added", &changes.added),
            ("brought back", &changes.returned),
            ("no longer names, draining", &changes.leaving),
        ];
        for (verb, members) in parts {
            self.note_source(key, verb, members);
        }
    }

    fn note_source(&self, key: &SourceKey, verb: &str, members: &[Member]) {
        if members.is_empty() {
            return;
        }
        let words = format!("source {key} {verb} {}", named(members));
        info!("{words}");
        let vips = self.changes.running.config.vips.iter();
        for vip in vips.filter(|vip| SourceKey::of(vip).as_ref() == Some(key)) {
            let words = format!("{}: {words}", vip.name);
            self.note(Entry::new("source", words).vip(&vip.name));
        }
    }

    /// Runs every second: goes on with what was set, and removes members that have left.
    pub(in crate::engine) fn tick_membership(&mut self) {
        self.changes.membership.prune();
        let keys: Vec<SourceKey> = self.changes.membership.sources.keys().cloned().collect();
        for key in keys {
            self.step_towards_set(&key);
            self.retire_members(&key);
        }
        self.changes.membership.save();
    }

    fn step_towards_set(&mut self, key: &SourceKey) {
        let at = self.changes.membership.at();
        let min = self.changes.running.config.sources.interval_min;
        let source = self.source_mut(key);
        let Some((members, allow_empty)) = source.wanted.clone() else {
            return;
        };
        if at < source.stepped_at + min {
            return;
        }
        // After a start it is not known whether something is held back.
        let is_reached = !source.held.any()
            && source.answered_at.is_some()
            && source.stepped_at > Duration::ZERO;
        if is_reached {
            source.wanted = None;
            return;
        }
        source.stepped_at = at;
        let pace = self.pace_of_set(allow_empty);
        // The error is logged and published.
        let _ = self.step(key, &members, pace);
    }

    /// Removes members that were drained: without traffic, or after the time of a transition.
    fn retire_members(&mut self, key: &SourceKey) {
        if !self
            .changes
            .membership
            .members(key)
            .iter()
            .any(Known::is_leaving)
        {
            return;
        }
        let at = self.changes.membership.at();
        let ttl = self.changes.running.config.node.transition_ttl;
        let (set, gone) = {
            let source = &self.changes.membership.sources[key];
            let is_done = |member: &Member, leaving: Duration| {
                leaving >= ttl || leaving >= IDLE && self.is_idle(key, member)
            };
            source.set.retired(at, is_done)
        };
        if gone.is_empty() {
            return;
        }
        if let Err(why) = self.install_members(key, &set) {
            return warn!(source = %key, why, "can't remove drained members; trying again");
        }
        self.source_mut(key).set = set;
        self.note_source(key, "is rid of the drained", &gone);
        self.changes.membership.is_changed = true;
    }

    fn is_idle(&self, key: &SourceKey, member: &Member) -> bool {
        let traffic = self.recorder.traffic();
        let traffic = traffic.lock();
        let vips = self.changes.running.config.vips.iter();
        let mut vips = vips.filter(|vip| SourceKey::of(vip).as_ref() == Some(key));
        vips.all(|vip| {
            let sent = traffic.member(&vip.name, &member.name);
            sent.is_none_or(|sent| sent.rates.packets_per_s == 0.0)
        })
    }
}

/// The places of members, for an event.
fn named(members: &[Member]) -> String {
    let shown: Vec<String> = members.iter().take(MOST_NAMED).map(Member::place).collect();
    let shown = shown.join(", ");
    match members.len() {
        ..=MOST_NAMED => shown,
        count => format!("{shown} and {} more", count - MOST_NAMED),
    }
}

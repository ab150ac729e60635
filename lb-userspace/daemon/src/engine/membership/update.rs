//! Applies what sources answer, in the actor: one answer after the other, like every change.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    time::Duration,
};

use lb_model::{
    config::{BackendState, Config, Sources, Vip},
    membership::{self, Changes, Families, Known, Member, MemberKey, MemberSet, Pace, SourceKey},
    ring::Identity,
};
use tracing::{info, warn};

use super::{MAX_SET, MembershipCommand, Source, filled::NOBODY_SERVES};
use crate::{
    caller::Caller,
    engine::{
        EngineError, EngineResult,
        actor::Actor,
        command::{Change, send},
    },
    events::Entry,
    membership::dns::{AskError, Found},
    node::SourceState,
    reconciler::{MemberReport, VipReport},
};

/// How long a leaving member must be without traffic, at least, before it is removed.
const IDLE: Duration = Duration::from_secs(30);

/// Members that an event names.
const MOST_NAMED: usize = 8;

impl Actor {
    pub(in crate::engine) fn handle_membership(&mut self, command: MembershipCommand) {
        match command {
            MembershipCommand::ToAsk(change, reply) => {
                send(reply, Ok(self.to_ask(change.as_deref())));
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

    /// The sources to ask before a change or a reload. A change that is not valid has none: it is refused
    /// later, with the reason.
    fn to_ask(&self, change: Option<&Change>) -> (Vec<SourceKey>, Sources) {
        let candidate = match change {
            Some(change) => self.changes.candidate(&self.data_path, change),
            None => self.changes.reloaded(),
        };
        let is_rollback = matches!(change, Some(Change::Revision(_)));
        candidate.map_or_else(
            |_| (Vec::new(), Sources::default()),
            |it| {
                let keys = self.changes.sources_to_ask(&it.config, is_rollback);
                (keys, it.config.sources)
            },
        )
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
                self.changes.follow_sources();
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
                source.answered_at = Some(crate::engine::now());
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
            return Err(EngineError::BadRequest(NOBODY_SERVES.into()));
        }
        let sources = &mut self.changes.membership.sources;
        let is_new = !sources.contains_key(&key);
        if is_new && sources.values().filter(|source| source.is_set).count() >= MAX_SET {
            let message =
                format!("at most {MAX_SET} sources can be set; set one of them to no members");
            return Err(EngineError::BadRequest(message));
        }
        let source = sources.entry(key.clone()).or_default();
        let before = source.wanted.replace((members.to_vec(), allow_empty));
        let was_reached = std::mem::take(&mut source.is_reached);
        let pace = self.pace_of_set(allow_empty);
        if let Err(why) = self.step(&key, members, pace) {
            // Whoever set them is told; the source itself works.
            let source = self.source_mut(&key);
            (source.wanted, source.is_reached) = (before, was_reached);
            (source.error, source.failures) = (None, 0);
            if is_new {
                self.changes.membership.sources.remove(&key);
            }
            return Err(EngineError::InvalidConfig(why));
        }
        let count = members.len();
        info!(source = %key, members = count, who = %caller, "members of a source set");
        self.note(Entry::new(
            "source",
            format!("{key}: {count} members set by {caller}"),
        ));
        let source = self.source_mut(&key);
        source.is_set = !members.is_empty();
        source.answered_at = Some(crate::engine::now());
        // What was set is not asked for again.
        self.changes.membership.write();
        // A client that reads next finds what it has set.
        self.publish();
        let (config, membership) = (&self.changes.running.config, &self.changes.membership);
        let source = membership.sources.get(&key);
        let state = source.map(|source| source.state(&key, config, membership.at()));
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
            }
            Err(why) => {
                source.refused += 1;
                let is_new = source.error.as_ref() != Some(why);
                source.has_failed(why.clone());
                if is_new {
                    warn!(source = %key, why, "the answer of a source is refused; its last members stay");
                    let words = format!("{key}: answer refused, the last members stay: {why}");
                    self.note(Entry::new("source", words));
                }
            }
        }
        self.changes.follow_sources();
        done
    }

    fn try_step(&mut self, key: &SourceKey, members: &[Member], pace: Pace) -> Result<(), String> {
        membership::check_members(members).map_err(|why| why.to_string())?;
        if self.changes.users(key).next().is_none() {
            let fresh = MemberSet::replaced(members, pace.allow_empty).ok_or(NOBODY_SERVES)?;
            let source = self.source_mut(key);
            (source.fresh, source.held) = (Some(fresh.set), fresh.held);
            return Ok(());
        }
        let eligible = self.eligible(key);
        let membership = &mut self.changes.membership;
        let (at, source) = (
            membership.at(),
            &*membership.sources.entry(key.clone()).or_default(),
        );
        let answer = source.set.answered(members, at, pace, &eligible);
        let answer = answer.ok_or(NOBODY_SERVES)?;
        let is_changed = source.set != answer.set;
        if is_changed || !self.changes.has_all(key, &answer.set) {
            let config = self
                .changes
                .with_answer(key, &answer.set, &eligible, pace.allow_empty)?;
            self.install_members(config)?;
        }
        let source = self.source_mut(key);
        (source.set, source.held, source.stepped_at) = (answer.set, answer.held, at);
        source.is_reached = !answer.held.any();
        self.changes.membership.is_changed |= is_changed;
        self.tell_trial(key, &answer.changes);
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

    /// For each VIP that uses a source, the members that get new flows in it.
    fn eligible(&mut self, key: &SourceKey) -> Vec<HashSet<MemberKey>> {
        let report = self.data_path.reconciler.report();
        let reported: HashMap<&str, &VipReport> =
            report.iter().map(|it| (it.name.as_str(), it)).collect();
        let vips = self.changes.users(key);
        let of_vip = |vip: &Vip| {
            let members = reported.get(vip.name.as_str());
            let members = members.into_iter().flat_map(|vip| &vip.members);
            let eligible: HashSet<Identity> = members
                .filter(|member| is_eligible(vip, member))
                .map(|member| member.identity)
                .collect();
            let known = self.changes.membership.members(key).iter();
            let known = known.map(|known| &known.member);
            known
                .filter(|member| eligible.contains(&member.identity_in(vip)))
                .map(Member::key)
                .collect()
        };
        vips.map(of_vip).collect()
    }

    /// Makes this the active configuration and puts it into the tables, or leaves both as they are.
    fn install_members(&mut self, config: Config) -> Result<(), String> {
        let (changes, data_path) = (&mut self.changes, &mut self.data_path);
        if changes.running.number.is_none() || config == changes.running.config {
            return Ok(());
        }
        let installed = data_path.install(&config, None);
        installed.map_err(|error| format!("{error:#}"))?;
        changes.running.config = config;
        self.follow_config();
        self.drift_check.installed();
        self.publish();
        Ok(())
    }

    /// The trial of a change is not judged by what a source does.
    fn tell_trial(&mut self, key: &SourceKey, changes: &Changes) {
        let vips = self.changes.users(key).map(|vip| vip.name.clone());
        let vips: Vec<String> = vips.collect();
        if let Some(trial) = &mut self.changes.trial
            && !changes.is_empty()
        {
            let added: Vec<&str> = changes.added.iter().map(|it| it.name.as_str()).collect();
            vips.iter()
                .for_each(|vip| trial.source_changed(vip, &added));
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
        for vip in self.changes.users(key) {
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
        if source.is_reached {
            source.wanted = None;
            self.changes.membership.is_changed = true;
            return;
        }
        if !source.is_used() {
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
        let config = self.changes.with_retired(key, &set);
        if let Err(why) = self.install_members(config) {
            return warn!(source = %key, why, "can't remove drained members; trying again");
        }
        self.source_mut(key).set = set;
        self.note_source(key, "is rid of the drained", &gone);
        self.changes.membership.is_changed = true;
    }

    fn is_idle(&self, key: &SourceKey, member: &Member) -> bool {
        let traffic = self.recorder.traffic();
        let traffic = traffic.lock();
        self.changes.users(key).all(|vip| {
            let sent = traffic.member(&vip.name, &member.name);
            sent.is_none_or(|sent| sent.rates.packets_per_s == 0.0)
        })
    }
}

/// Whether a member gets new flows, and will get them after a check.
pub(super) fn is_eligible(vip: &Vip, member: &MemberReport) -> bool {
    // In panic mode also if it is down.
    !member.leaving
        && member.wanted == BackendState::Up
        && (member.proven || vip.health.is_none())
        && member.next_hop.is_some()
        && member.effective_weight > 0
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

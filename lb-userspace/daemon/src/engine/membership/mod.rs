//! Members that come from sources (`backends_from`): keeps the set of each source, and fills them into
//! configurations.
//!
//! The members are no part of a revision's text, but of its `Config` as soon as that is planned or
//! installed. So plans, guards, health checks and the drift check see them like any other backend. A source
//! that changes its members changes the active configuration without a new revision (`update`): it has its
//! own guards, and nobody to confirm it.

mod edits;
mod filled;
#[cfg(test)]
mod tests;
mod update;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use lb_common::ring::MAX_MEMBERS;
use lb_model::{
    config::{Config, Sources, Vip},
    membership::{
        self, Held, Inadmissible, Known, Member, MemberSet, MemberSource, SourceKey, Stage,
    },
};
use tokio::sync::watch;
use tracing::{error, warn};

use super::{
    EngineError, EngineResult,
    change::ChangeControl,
    command::{Change, Reply},
    request::Candidate,
};
use crate::{
    caller::Caller,
    membership::{
        Followed,
        dns::{AskError, Found},
        file::{self, Saved},
    },
    node::SourceState,
};

/// Failures in a row from which on a source counts as failing.
const FAILURES: u32 = 3;

/// A source counts as failing if its last answer is older than this many intervals.
const INTERVALS: u32 = 10;

/// Sources that no VIP uses, and their members, that are kept: for a change that was planned, and for a
/// rollback to a revision that used them. A node has at most 4,096 backends.
const MAX_UNUSED: usize = 4096;
const MAX_UNUSED_MEMBERS: usize = 4 * MAX_MEMBERS as usize;

/// How often the times of answers are written when nothing else is.
const WRITE_TIMES: Duration = Duration::from_secs(60);

/// Sources that can be set. A client that invents names must not fill the memory.
const MAX_SET: usize = 1024;

/// What concerns sources.
pub(in crate::engine) enum MembershipCommand {
    /// The sources to ask before a change, or before a reload if there is none, and how they are asked.
    ToAsk(Option<Box<Change>>, Reply<(Vec<SourceKey>, Sources)>),
    /// Resolves the next hops of new members. Returns their addresses.
    Follow(BTreeSet<IpAddr>, Reply<BTreeSet<IpAddr>>),
    /// A source was asked. Returns when to ask again.
    Answered(SourceKey, Result<Found, AskError>, Reply<Duration>),
    /// Sets the members of `api:NAME`; whether none at all is meant.
    Set(String, Vec<Member>, bool, Caller, Reply<SourceState>),
}

/// A source and its members.
#[derive(Default)]
struct Source {
    /// What the VIPs have; what they had last if none uses it now: a rollback needs it.
    set: MemberSet,
    /// What it has answered since no VIP uses it: for a change that is planned.
    fresh: Option<MemberSet>,
    held: Held,
    /// Whether somebody has set members that it has.
    is_set: bool,
    /// Whether a VIP has used it.
    was_used: bool,
    /// What was set, until the set has reached it; whether an empty set is meant.
    wanted: Option<(Vec<Member>, bool)>,
    /// Whether it has reached that.
    is_reached: bool,
    /// When the last step towards it was made.
    stepped_at: Duration,
    answered_at: Option<Timestamp>,
    /// The pause after the last answer.
    interval: Duration,
    /// In a row.
    failures: u32,
    /// Why there is no newer answer.
    error: Option<String>,
    failed: u64,
    refused: u64,
    /// Since when no VIP uses it.
    unused_since: Option<Duration>,
}

impl Source {
    /// Forgets what an answer has begun: the next one is the first.
    fn has_failed(&mut self, why: String) {
        self.set = self.set.failed();
        self.held = Held {
            unconfirmed: 0,
            ..self.held
        };
        self.error = Some(why);
        // A plan may ask for what no VIP uses.
        self.failures += u32::from(self.is_used());
    }

    /// The members of a VIP that begins to use it, by a rollback or by another change.
    fn members_for(&self, is_rollback: bool) -> &MemberSet {
        let fresh = self.fresh.as_ref();
        fresh
            .filter(|_| !is_rollback || self.set.members().is_empty())
            .unwrap_or(&self.set)
    }

    fn size(&self) -> usize {
        let sets = std::iter::once(&self.set).chain(&self.fresh);
        sets.map(|set| set.members().len()).sum()
    }

    const fn is_used(&self) -> bool {
        self.unused_since.is_none()
    }

    /// Whether nobody has set it yet.
    const fn is_unset(&self, key: &SourceKey) -> bool {
        matches!(key.source, MemberSource::Api { .. }) && self.answered_at.is_none()
    }

    fn error(&self, key: &SourceKey) -> Option<String> {
        match &key.source {
            MemberSource::Api { name } if self.is_unset(key) => Some(format!(
                "it was never set: `evenkeel source set {name} FILE`"
            )),
            _ => self.error.clone(),
        }
    }

    fn state(&self, key: &SourceKey, config: &Config, up: Duration) -> SourceState {
        let vips = config.vips.iter();
        let vips = vips.filter(|vip| SourceKey::of(vip).as_ref() == Some(key));
        SourceState {
            source: key.source.clone(),
            families: key.families,
            vips: vips.map(|vip| vip.name.clone()).collect(),
            members: self.members_for(false).members().to_vec(),
            answered_at: self.answered_at,
            failures: self.failures,
            error: self.error(key),
            is_failing: self.is_failing(key, up, config.sources.interval_max),
            held: self.held.words(),
            failed: self.failed,
            refused: self.refused,
        }
    }

    /// `up`: how long the controller has been there to ask.
    fn is_failing(&self, key: &SourceKey, up: Duration, interval_max: Duration) -> bool {
        if matches!(key.source, MemberSource::Api { .. }) {
            return self.is_unset(key) || self.failures >= FAILURES;
        }
        let limit = self.interval.max(interval_max) * INTERVALS;
        let age = self.answered_at.map(|at| super::now().duration_since(at));
        let is_old = age.is_none_or(|age| Duration::try_from(age).is_ok_and(|age| age > limit));
        self.failures >= FAILURES || is_old && up > limit
    }
}

/// The sources that VIPs use, and those that were set.
pub(in crate::engine) struct Membership {
    sources: BTreeMap<SourceKey, Source>,
    path: PathBuf,
    /// Whether members differ from what is on disk.
    is_changed: bool,
    /// Why the last write failed.
    problem: Option<String>,
    /// When the file was last written.
    written_at: Duration,
    started: Instant,
    followed: watch::Sender<Followed>,
}

impl Membership {
    /// The sources as they were when the last controller ended.
    pub(in crate::engine) fn open(state_dir: &Path) -> Self {
        let path = state_dir.join("sources.json");
        let saved = file::read(&path);
        let restore = |saved: &Saved| {
            let wanted = saved.wanted.as_ref();
            let fresh = wanted.and_then(|(all, is_empty)| MemberSet::replaced(all, *is_empty));
            let count = wanted.map_or(saved.members.len(), |(all, _)| all.len());
            let source = Source {
                set: MemberSet::kept(saved.members.clone(), Duration::ZERO),
                fresh: fresh.map(|answer| answer.set),
                is_set: matches!(saved.key.source, MemberSource::Api { .. }) && count > 0,
                was_used: !saved.members.is_empty(),
                unused_since: Some(Duration::ZERO),
                answered_at: saved.answered_at,
                wanted: saved.wanted.clone(),
                ..Source::default()
            };
            (saved.key.clone(), source)
        };
        Self {
            sources: saved.iter().map(restore).collect(),
            path,
            is_changed: false,
            problem: None,
            written_at: Duration::ZERO,
            started: Instant::now(),
            followed: watch::Sender::default(),
        }
    }

    pub(in crate::engine) fn watch(&self) -> watch::Receiver<Followed> {
        self.followed.subscribe()
    }

    /// The time of the rules.
    fn at(&self) -> Duration {
        self.started.elapsed()
    }

    /// What the VIPs that use a source have, or had.
    fn members(&self, key: &SourceKey) -> &[Known] {
        let source = self.sources.get(key);
        source.map_or(&[], |source| source.set.members())
    }

    fn members_for(&self, key: &SourceKey, is_rollback: bool) -> &[Known] {
        let source = self.sources.get(key);
        source.map_or(&[], |source| source.members_for(is_rollback).members())
    }

    /// Keeps what a configuration that was filled, and is installed now, has of sources that no VIP used.
    pub(in crate::engine) fn adopt(&mut self, config: &Config, is_rollback: bool) {
        for key in config.vips.iter().filter_map(SourceKey::of) {
            if let Some(source) = self.sources.get_mut(&key)
                && !source.is_used()
            {
                source.set = source.members_for(is_rollback).clone();
                source.fresh = None;
                source.is_reached = false;
                self.is_changed = true;
            }
        }
        self.follow(config);
    }

    /// Gives the VIPs of a configuration the members of their sources, and returns why some are left out:
    /// those that were left out before may stay so.
    ///
    /// # Errors
    ///
    /// A member of a new VIP or of a new source, or one that is a backend now, can't be one.
    fn fill(
        &self,
        config: &mut Config,
        running: &Config,
    ) -> Result<Vec<Inadmissible>, Inadmissible> {
        let members_of = |key: &SourceKey| self.members_for(key, false);
        let vips = running.vips.iter();
        let vips: HashMap<&str, &Vip> = vips.map(|vip| (vip.name.as_str(), vip)).collect();
        membership::admit_required(config, members_of, |vip, known, why| {
            let before = vips.get(vip.name.as_str());
            let before = before.filter(|it| it.backends_from == vip.backends_from);
            let is_backend = before.is_none_or(|before| has(before, known));
            // The next answer decides between two for one place.
            let is_twin = before.is_some() && matches!(why, Inadmissible::Twin { .. });
            !known.is_leaving() && is_backend && !is_twin
        })
    }

    /// As [`Self::fill`], for a configuration that must be installed whatever its sources name.
    pub(in crate::engine) fn fill_with_what_fits(&self, config: &mut Config) -> Vec<Inadmissible> {
        membership::admit_what_fits(config, |key| self.members_for(key, true))
    }

    /// Has the sources of the active configuration asked.
    pub(in crate::engine) fn follow(&mut self, config: &Config) {
        let sources: BTreeSet<SourceKey> = config.vips.iter().filter_map(SourceKey::of).collect();
        let at = self.at();
        for key in &sources {
            self.sources.entry(key.clone()).or_default();
        }
        for (key, source) in &mut self.sources {
            let is_used = sources.contains(key);
            source.was_used |= is_used;
            source.unused_since = match is_used {
                true => None,
                false => Some(source.unused_since.unwrap_or(at)),
            };
        }
        let followed = Followed {
            sources,
            settings: config.sources.clone(),
        };
        self.followed.send_if_modified(|now| {
            let has_changed = *now != followed;
            *now = followed;
            has_changed
        });
    }

    /// Forgets sources that no VIP uses, if there are too many: first those that were only planned, then
    /// those that were used least recently. What was set stays: it is not asked for again.
    fn prune(&mut self) {
        let unused = self.sources.iter().filter_map(|(key, source)| {
            let since = source.unused_since.filter(|_| !source.is_set)?;
            Some((source.was_used, since, key))
        });
        let mut unused: Vec<_> = unused.collect();
        unused.sort_unstable();
        let (mut kept, mut members) = (0, 0);
        // From the one that was used last.
        let is_too_much = |(_, _, key): &(bool, Duration, &SourceKey)| {
            kept += 1;
            members += self.sources.get(*key).map_or(0, Source::size);
            kept > MAX_UNUSED || members > MAX_UNUSED_MEMBERS
        };
        let last = unused.iter().rev().position(is_too_much);
        let Some(last) = last else { return };
        let forgotten = &unused[..unused.len() - last];
        let forgotten: Vec<SourceKey> = forgotten.iter().map(|(_, _, it)| (*it).clone()).collect();
        for key in &forgotten {
            self.sources.remove(key);
        }
        self.is_changed = true;
    }

    /// Writes the members to disk if they have changed. Times alone are written now and then.
    fn save(&mut self) {
        let is_due = self.at().saturating_sub(self.written_at) >= WRITE_TIMES;
        if self.is_changed || is_due && !self.sources.is_empty() {
            self.write();
        }
    }

    /// Writes the members for the last time.
    pub(in crate::engine) fn finish(&mut self) {
        if self.is_changed || !self.sources.is_empty() {
            self.write();
        }
    }

    fn write(&mut self) {
        let save = |(key, source): (&SourceKey, &Source)| {
            let saved = Saved {
                key: key.clone(),
                answered_at: source.answered_at,
                members: source.set.members().to_vec(),
                wanted: source.wanted.clone(),
            };
            // A set without members that somebody wanted is not one that was never set.
            let is_emptied = source.is_used() && source.answered_at.is_some();
            let is_kept = !saved.members.is_empty() || saved.wanted.is_some();
            (is_kept || is_emptied).then_some(saved)
        };
        let now: Vec<Saved> = self.sources.iter().filter_map(save).collect();
        self.written_at = self.at();
        let written = file::write(&self.path, &now);
        self.is_changed = written.is_err();
        self.problem = written.err().map(|error| {
            error!(%error, "can't save the backends of sources; trying again");
            error.to_string()
        });
    }

    /// Why the members are not on disk.
    pub(in crate::engine) fn problem(&self) -> Option<String> {
        self.problem.clone()
    }

    /// The sources for the published state: those that VIPs use, and those that were set.
    pub(in crate::engine) fn states(&self, config: &Config) -> Vec<SourceState> {
        let is_shown = |(_, source): &(&SourceKey, &Source)| source.is_used() || source.is_set;
        let shown = self.sources.iter().filter(is_shown);
        let up = self.at();
        shown
            .map(|(key, source)| source.state(key, config, up))
            .collect()
    }
}

/// Whether a member takes part in what its source named last.
fn is_present(known: &Known) -> bool {
    !matches!(known.stage, Stage::Leaving { .. })
}

/// Whether a VIP has a backend of this address and port.
fn has(vip: &Vip, known: &Known) -> bool {
    let identity = known.member.identity_in(vip);
    let mut backends = vip.backends.iter();
    backends.any(|backend| backend.identity() == identity)
}

impl ChangeControl {
    /// A candidate with the members that its sources have now. What must be installed `in_any_case` gets
    /// those that fit.
    pub(in crate::engine) fn with_members(
        &self,
        mut candidate: Candidate,
        in_any_case: bool,
    ) -> EngineResult<Candidate> {
        let config = &mut candidate.config;
        if in_any_case {
            for why in self.membership.fill_with_what_fits(config) {
                warn!(%why, "left out a backend of a source");
            }
        } else if let Err(why) = self.membership.fill(config, &self.running.config) {
            let message = format!("can't use the backends of a source: {why}");
            return Err(EngineError::InvalidConfig(message));
        }
        Ok(candidate)
    }

    /// The sources to ask before a change to `config`: those that no VIP uses, because what is known of
    /// them may be old. A rollback waits only for those of which nothing is known.
    pub(in crate::engine) fn sources_to_ask(
        &self,
        config: &Config,
        is_rollback: bool,
    ) -> Vec<SourceKey> {
        let keys: BTreeSet<SourceKey> = config.vips.iter().filter_map(SourceKey::of).collect();
        let is_asked = |key: &SourceKey| {
            let source = self.membership.sources.get(key);
            let is_known = self.membership.members(key).iter().any(is_present);
            !matches!(key.source, MemberSource::Api { .. })
                && source.is_none_or(|source| !source.is_used())
                && !(is_rollback && is_known)
        };
        keys.into_iter().filter(is_asked).collect()
    }
}

//! The book: state of all alerts, changed only by conditions and time.
//!
//! ```text
//! condition ──lasts──► firing ──gone for a while──► resolved ──sent, or old──► forgotten
//!     │                   └──lasts──► escalated
//!     └─goes─► nothing
//! ```
//!
//! Each change that must be sent increments the alert's *version*. For each receiver, the alert has the
//! version that was confirmed. So nothing is lost or sent twice when a receiver or the controller is
//! down for a while, and a slow receiver gets the newest state only.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    alert::{Alert, Severity},
    condition::{Condition, Patience},
};
use crate::clock::later;

/// Alerts that can fire at once. More of them would help nobody.
pub(super) const MOST: usize = 1000;

/// Time after a start in which no alert is resolved: the first conditions take a while.
const GRACE: SignedDuration = SignedDuration::from_secs(30);

/// How long a resolved alert is repeated to receivers that keep no state (as Prometheus does).
pub(super) const REPEAT_RESOLVED: SignedDuration = SignedDuration::from_mins(15);

/// How long a resolved alert waits for a receiver that is down.
const WAIT_FOR_RECEIVERS: SignedDuration = SignedDuration::from_hours(24);

/// Debounce window for changes of details, such as the list of backends.
const DETAILS_DEBOUNCE: SignedDuration = SignedDuration::from_secs(30);

/// An alert, firing or resolved.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The condition as reported.
    pub(super) told: Condition,
    /// Includes escalation.
    pub(super) severity: Severity,
    pub(super) since: Timestamp,
    /// When it was resolved.
    pub(super) over: Option<Timestamp>,
    pub(super) acknowledged_by: Option<String>,
    /// Incremented by each change that must be sent.
    pub(super) version: u64,
    /// The version before the first.
    #[serde(default)]
    pub(super) base: u64,
    changed: Timestamp,
    /// The backends at that time.
    announced: Vec<String>,
    #[serde(default)]
    announced_vips: Vec<String>,
    /// Whether it was raised during a silence that has not ended, so that nothing was sent.
    pub(super) muted: bool,
    /// Version confirmed by each receiver.
    confirmed: BTreeMap<String, u64>,
    /// Earlier kinds and severities, and until when.
    pub(super) former: Vec<(String, Severity, Timestamp)>,
    /// How many times it was raised again soon after it was resolved.
    flaps: u32,
    /// When a silence ended that held back its newest version.
    #[serde(default)]
    unsilenced: Option<Timestamp>,
    /// When its condition was last present; none since the start.
    #[serde(skip)]
    seen: Option<Timestamp>,
    /// Since when the condition is less severe than the one reported.
    #[serde(skip)]
    milder_since: Option<Timestamp>,
}

/// A change that is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Raised(String),
    Escalated(String),
    Changed(String),
    Resolved(String),
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Book {
    pub(super) entries: BTreeMap<String, Entry>,
    /// End of each silence, by key.
    silences: BTreeMap<String, Timestamp>,
    /// The highest version of an alert so far: an alert that is raised again, long after it was
    /// forgotten, goes on from there.
    #[serde(default)]
    highest: u64,
    /// Conditions that have not lasted long enough, and when they began.
    #[serde(skip)]
    pending: BTreeMap<String, Timestamp>,
    /// Time of the first update after the start.
    #[serde(skip)]
    started: Option<Timestamp>,
    /// Time of the last update.
    #[serde(skip)]
    updated: Option<Timestamp>,
    /// Number of alerts that were not raised because too many are firing.
    #[serde(skip)]
    pub(super) refused: u64,
}

fn is_past(since: Timestamp, now: Timestamp, patience: std::time::Duration) -> bool {
    let patience = SignedDuration::try_from(patience).unwrap_or(SignedDuration::MAX);
    now.duration_since(since) >= patience
}

impl Entry {
    fn new(condition: Condition, since: Timestamp, now: Timestamp, base: u64) -> Self {
        Self {
            severity: condition.severity,
            announced: condition.backends.clone(),
            announced_vips: condition.vips.clone(),
            told: condition,
            since,
            over: None,
            acknowledged_by: None,
            version: base + 1,
            base,
            changed: now,
            muted: false,
            confirmed: BTreeMap::new(),
            former: Vec::new(),
            flaps: 0,
            unsilenced: None,
            seen: Some(now),
            milder_since: None,
        }
    }

    /// The severity at a time, with escalation.
    fn escalated(&self, now: Timestamp, after: Option<std::time::Duration>) -> Severity {
        let patience = Patience::with(&self.told.kind);
        let stays = |times| after.is_some_and(|after| is_past(self.since, now, after * times));
        match self.told.severity {
            severity if !patience.escalates || self.acknowledged_by.is_some() => {
                severity.max(self.severity)
            }
            Severity::Info if stays(2) => Severity::Critical,
            Severity::Info if stays(1) => Severity::Warning,
            Severity::Warning if stays(1) => Severity::Critical,
            severity => severity,
        }
    }

    /// Takes the current condition. Returns what must be logged and sent.
    fn follow(
        &mut self,
        condition: Condition,
        now: Timestamp,
        after: Option<std::time::Duration>,
    ) -> Option<fn(String) -> Change> {
        self.seen = Some(now);
        let before = (self.told.kind.clone(), self.severity);
        let explanation = |c: &Condition| (c.revision, c.cause.is_some());
        let old = explanation(&self.told);
        if condition.severity < self.told.severity {
            // It must stay less severe for a while, or it would flap.
            let since = *self.milder_since.get_or_insert(now);
            if is_past(since, now, Patience::with(&self.told.kind).clear_after) {
                self.milder_since = None;
                self.severity = condition.severity;
                self.told = condition;
            }
        } else {
            self.milder_since = None;
            self.told = condition;
        }
        self.severity = self.escalated(now, after);
        let is_escalated = self.severity > before.1;
        if (&self.told.kind, self.severity) != (&before.0, before.1) {
            let is_recent = |until: Timestamp| now.duration_since(until) < REPEAT_RESOLVED;
            self.former.retain(|(_, _, until)| is_recent(*until));
            self.former.push((before.0, before.1, now));
            self.touch(now);
            return Some(if is_escalated {
                Change::Escalated
            } else {
                Change::Changed
            });
        }
        let is_explained = explanation(&self.told) != old;
        let is_gathered = now.duration_since(self.changed) >= DETAILS_DEBOUNCE;
        let is_announced =
            self.told.backends == self.announced && self.told.vips == self.announced_vips;
        if is_explained || (is_gathered && !is_announced) {
            self.touch(now);
            return Some(Change::Changed);
        }
        None
    }

    fn times(&mut self) -> impl Iterator<Item = &mut Timestamp> {
        let former = self.former.iter_mut().map(|(_, _, until)| until);
        let known = [&mut self.since, &mut self.changed].into_iter();
        let perhaps = [
            &mut self.over,
            &mut self.unsilenced,
            &mut self.seen,
            &mut self.milder_since,
        ];
        known.chain(perhaps.into_iter().flatten()).chain(former)
    }

    fn touch(&mut self, now: Timestamp) {
        self.version += 1;
        self.changed = now;
        self.announced.clone_from(&self.told.backends);
        self.announced_vips.clone_from(&self.told.vips);
    }

    /// How long its condition must be absent. An alert that keeps coming back is resolved later each
    /// time.
    fn clear_after(&self) -> SignedDuration {
        let patience = Patience::with(&self.told.kind).clear_after * (1 << self.flaps.min(5));
        SignedDuration::try_from(patience).unwrap_or(SignedDuration::MAX)
    }

    /// When it is resolved unless its condition returns; none while the condition is present.
    fn resolves_at(&self, updated: Option<Timestamp>) -> Option<Timestamp> {
        let seen = self.seen.filter(|seen| Some(*seen) < updated)?;
        Some(later(seen, self.clear_after()))
    }

    pub(super) fn as_alert(
        &self,
        silenced_until: Option<Timestamp>,
        updated: Option<Timestamp>,
    ) -> Alert {
        Alert {
            id: self.told.key.clone(),
            kind: self.told.kind.clone(),
            severity: self.severity,
            vip: self.told.vip.clone(),
            vips: self.told.vips.clone(),
            backends: self.told.backends.clone(),
            summary: self.told.summary.clone(),
            cause: self.told.cause.clone(),
            revision: self.told.revision,
            since: self.since,
            acknowledged_by: self.acknowledged_by.clone(),
            silenced_until,
            resolves_at: self.resolves_at(updated).filter(|_| self.over.is_none()),
        }
    }
}

impl Book {
    /// Takes all current conditions. Returns the changes.
    pub(super) fn update(
        &mut self,
        now: Timestamp,
        conditions: &[Condition],
        escalate_after: Option<std::time::Duration>,
    ) -> Vec<Change> {
        let started = *self.started.get_or_insert(now);
        self.updated = Some(now);
        let versions = self.entries.values().map(|entry| entry.version);
        self.highest = versions.fold(self.highest, u64::max);
        self.end_silences(now);
        let mut current: BTreeMap<&str, Condition> = BTreeMap::new();
        for condition in conditions {
            current
                .entry(&condition.key)
                .and_modify(|known| known.merge(condition))
                .or_insert_with(|| condition.clone());
        }
        self.pending
            .retain(|key, _| current.contains_key(key.as_str()));
        let mut changes = Vec::new();
        for condition in current.values() {
            let explained = condition.part_of.as_deref();
            let is_explained =
                explained.is_some_and(|key| key != condition.key && current.contains_key(key));
            changes.extend(self.take_in(now, condition, is_explained, escalate_after));
        }
        // Alerts of the last process whose conditions did not come back count as present until then.
        if now.duration_since(started) >= GRACE {
            for entry in self.entries.values_mut() {
                entry.seen.get_or_insert(now);
            }
        }
        changes.extend(self.resolve_absent(now, &current));
        changes
    }

    fn take_in(
        &mut self,
        now: Timestamp,
        condition: &Condition,
        is_explained: bool,
        escalate_after: Option<std::time::Duration>,
    ) -> Option<Change> {
        let key = &condition.key;
        let is_silenced = self.silences.contains_key(key);
        if let Some(entry) = self
            .entries
            .get_mut(key)
            .filter(|entry| entry.over.is_none())
        {
            // A silenced alert does not escalate.
            let after = escalate_after.filter(|_| !is_silenced);
            let change = entry.follow(condition.clone(), now, after);
            return change.map(|change| change(key.clone()));
        }
        let since = *self.pending.entry(key.clone()).or_insert(now);
        if is_explained || !is_past(since, now, Patience::with(&condition.kind).raise_after) {
            return None;
        }
        self.pending.remove(key);
        let old = self.entries.remove(key);
        if self.entries.len() >= MOST && !self.drop_oldest_resolved() {
            self.refused += 1;
            return None;
        }
        let entry = Entry {
            muted: is_silenced,
            flaps: old.map_or(0, |old| old.flaps + 1),
            ..Entry::new(condition.clone(), since, now, self.highest)
        };
        self.entries.insert(key.clone(), entry);
        Some(Change::Raised(key.clone()))
    }

    /// Drops the oldest resolved alert. Returns false if all are firing.
    fn drop_oldest_resolved(&mut self) -> bool {
        let over = |(key, entry): (&String, &Entry)| Some((entry.over?, key.clone()));
        let oldest = self.entries.iter().filter_map(over).min();
        oldest.is_some_and(|(_, key)| self.entries.remove(&key).is_some())
    }

    /// Removes silences that are over.
    fn end_silences(&mut self, now: Timestamp) {
        let ended = self.silences.extract_if(.., |_, until| *until <= now);
        let ended: Vec<String> = ended.map(|(key, _)| key).collect();
        for key in ended {
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            entry.unsilenced = Some(now);
            if std::mem::take(&mut entry.muted) && entry.over.is_some() {
                // Nobody was told that it was raised.
                self.entries.remove(&key);
            }
        }
    }

    fn resolve_absent(
        &mut self,
        now: Timestamp,
        current: &BTreeMap<&str, Condition>,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        for (key, entry) in &mut self.entries {
            let is_on = entry.over.is_none() && !current.contains_key(key.as_str());
            let seen = entry.seen.filter(|_| is_on);
            if seen.is_some_and(|seen| now.duration_since(seen) >= entry.clear_after()) {
                entry.over = Some(now);
                entry.touch(now);
                changes.push(Change::Resolved(key.clone()));
            }
        }
        changes
    }

    /// Moves all times after the system clock was set.
    pub(super) fn move_by(&mut self, by: SignedDuration) {
        let pending = self.pending.values_mut();
        let mut times: Vec<&mut Timestamp> = pending.chain(self.silences.values_mut()).collect();
        times.extend(&mut self.started);
        times.extend(&mut self.updated);
        times.extend(self.entries.values_mut().flat_map(Entry::times));
        for time in times {
            *time = later(*time, by);
        }
    }

    /// Forgets resolved alerts that all receivers confirmed, or that are too old.
    pub(super) fn forget(&mut self, now: Timestamp, receivers: &[String]) {
        let (silences, started) = (&self.silences, self.started);
        self.entries.retain(|key, entry| {
            let Some(over) = entry.over else { return true };
            let age = now.duration_since(over);
            let version = entry.version;
            let confirmed = |receiver| entry.confirmed.get(receiver) == Some(&version);
            let is_done = entry.muted || receivers.iter().all(confirmed);
            // Since when it could be sent.
            let due = [entry.unsilenced, started].into_iter().flatten();
            let due = due.fold(over, Timestamp::max);
            let is_awaited =
                silences.contains_key(key) || now.duration_since(due) < WAIT_FOR_RECEIVERS;
            age < REPEAT_RESOLVED || (!is_done && is_awaited)
        });
    }

    /// Firing alerts, the most severe first, then the oldest.
    pub(super) fn list(&self) -> Vec<Alert> {
        let on = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.over.is_none());
        let mut alerts: Vec<Alert> = on.map(|(key, entry)| self.shown(key, entry)).collect();
        alerts.sort_by_key(|alert| (std::cmp::Reverse(alert.severity), alert.since));
        alerts
    }

    pub(super) fn firing(&mut self, key: &str) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(key);
        entry.filter(|entry| entry.over.is_none())
    }

    pub(super) fn alert(&self, key: &str) -> Option<Alert> {
        let entry = self.entries.get(key)?;
        Some(self.shown(key, entry))
    }

    fn shown(&self, key: &str, entry: &Entry) -> Alert {
        entry.as_alert(self.silences.get(key).copied(), self.updated)
    }

    /// The number of silences.
    pub(super) fn silences(&self) -> usize {
        self.silences.len()
    }

    /// Silences an alert; a time in the past ends the silence.
    pub(super) fn silence(&mut self, now: Timestamp, key: &str, until: Timestamp) {
        if until > now || self.silences.contains_key(key) {
            self.silences.insert(key.to_owned(), until);
        }
        self.end_silences(now);
    }

    /// Alerts that a receiver has not confirmed, as (key, version).
    pub(super) fn due(&self, receiver: &str) -> Vec<(String, u64)> {
        let due = self.entries.iter().filter(|(key, entry)| {
            let confirmed = entry.confirmed.get(receiver).copied().unwrap_or(0);
            confirmed < entry.version && !entry.muted && !self.silences.contains_key(*key)
        });
        due.map(|(key, entry)| (key.clone(), entry.version))
            .collect()
    }

    pub(super) fn confirm(&mut self, receiver: &str, key: &str, version: u64) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.confirmed.insert(receiver.to_owned(), version);
        }
    }

    /// Renames receivers, where `renamed` returns another name.
    pub(super) fn rename_receivers(&mut self, renamed: impl Fn(&str) -> Option<String>) {
        for entry in self.entries.values_mut() {
            let old = std::mem::take(&mut entry.confirmed).into_iter();
            let new = old.map(|(name, version)| (renamed(&name).unwrap_or(name), version));
            entry.confirmed = new.collect();
        }
    }

    /// The version that a receiver confirmed last; 0 if none.
    pub(super) fn confirmed(&self, receiver: &str, key: &str) -> u64 {
        let entry = self.entries.get(key);
        entry
            .and_then(|entry| entry.confirmed.get(receiver).copied())
            .unwrap_or(0)
    }
}

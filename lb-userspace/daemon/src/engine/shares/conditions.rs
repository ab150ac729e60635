//! Findings as conditions for alerts: one condition per cause.

use std::collections::BTreeMap;

use crate::revision::Store;
use crate::{
    alerts::{Condition, Severity},
    revision::{RevisionInfo, RevisionNumber},
};
use lb_model::planner::Guard;
use lb_skew::{Affected, Cause, Finding, Kind};

/// Seconds that a finding waits for an explanation: sampled flows and rings are read less often than
/// counters.
const UNEXPLAINED_S: f64 = 3.0;
/// The same for bytes and packets: more flows are sampled until the large one is found.
const SEARCHING_S: f64 = 6.0;
/// Lines of a diff and sentences of evidence in a cause.
const MOST_LINES: usize = 6;
const MOST_SENTENCES: usize = 3;
const MOST_NAMED: usize = 3;

/// A revision that is a cause.
#[derive(Clone, Debug)]
pub(super) struct RevisionFacts {
    pub(super) info: RevisionInfo,
    /// Its changed lines.
    pub(super) diff: Option<String>,
}

impl RevisionFacts {
    pub(super) fn read(store: &Store, number: RevisionNumber) -> Option<Self> {
        let info = store.record(number).ok()?.info.clone();
        let diff = info
            .parent
            .and_then(|parent| store.diff(parent, number).ok());
        Some(Self {
            diff: diff.map(|diff| changed_lines(&diff)),
            info,
        })
    }
}

/// The current conditions, as first reported: numbers that change every second do not change them.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    /// Keys of the findings whose cause is known.
    explained: BTreeMap<Name, String>,
    reported: BTreeMap<String, Condition>,
}

/// Identifies a finding while its cause may change: VIP, kind, and when it began.
type Name = (String, &'static str, u64);

fn name(vip: &str, finding: &Finding) -> Name {
    (
        vip.to_owned(),
        finding.kind.name(),
        finding.since_s.to_bits(),
    )
}

/// Key of a finding's alert: the same for the same cause.
pub(super) fn key(vip: &str, finding: &Finding) -> String {
    format!("skew:{vip}:{}", finding.cause_key())
}

impl Conditions {
    /// One condition for each cause that is worth an alert.
    pub(super) fn update(
        &mut self,
        now_s: f64,
        findings: &[(&str, &Finding)],
        explain: impl Fn(RevisionNumber) -> Option<RevisionFacts>,
    ) -> Vec<Condition> {
        let worth = findings
            .iter()
            .filter(|(_, finding)| finding.severity > lb_skew::Severity::Note);
        let mut by_cause: BTreeMap<String, Vec<(&str, &Finding)>> = BTreeMap::new();
        let mut explained_before = BTreeMap::new();
        for (vip, finding) in worth {
            let name = name(vip, finding);
            if finding.cause.is_a_guess() {
                // It stays explained: a change that was rolled back is still the cause.
                if let Some(key) = self.explained.get(&name) {
                    explained_before.insert(name, key.clone());
                    continue;
                }
                let patience = match finding.kind {
                    Kind::ByteSkew | Kind::PacketSkew => SEARCHING_S,
                    _ => UNEXPLAINED_S,
                };
                if now_s - finding.raised_s < patience {
                    continue;
                }
            } else {
                explained_before.insert(name, key(vip, finding));
            }
            let group = by_cause.entry(key(vip, finding)).or_default();
            group.push((vip, finding));
        }
        let explained: Vec<(String, &str)> = by_cause
            .iter()
            .filter(|(_, group)| !group[0].1.cause.is_a_guess())
            .map(|(key, group)| (key.clone(), group[0].0))
            .collect();
        let mut reported = BTreeMap::new();
        for (key, mut group) in by_cause {
            group.sort_by_key(|(_, finding)| std::cmp::Reverse(finding.severity));
            let mut condition = condition(&key, &group, &explain);
            if group[0].1.cause.is_a_guess() {
                let mut known = explained.iter().filter(|(_, vip)| *vip == group[0].0);
                condition.part_of = known.next().map(|(key, _)| key.clone());
            }
            let before = self.reported.remove(&key).filter(|before| {
                before.severity == condition.severity
                    && before.kind == condition.kind
                    && before.backends == condition.backends
            });
            let part_of = condition.part_of.clone();
            let mut condition = before.unwrap_or(condition);
            condition.part_of = part_of;
            reported.insert(key, condition);
        }
        for key in explained_before.values() {
            if let Some(before) = self.reported.remove(key) {
                reported.entry(key.clone()).or_insert(before);
            }
        }
        self.explained = explained_before;
        self.reported = reported;
        self.reported.values().cloned().collect()
    }
}

fn condition(
    key: &str,
    group: &[(&str, &Finding)],
    explain: impl Fn(RevisionNumber) -> Option<RevisionFacts>,
) -> Condition {
    let (vip, worst) = group[0];
    let severity = match worst.severity {
        lb_skew::Severity::Note => Severity::Info,
        lb_skew::Severity::Warning => Severity::Warning,
        lb_skew::Severity::Critical => Severity::Critical,
    };
    let mut backends: Vec<String> = Vec::new();
    for member in group.iter().flat_map(|(_, finding)| &finding.members) {
        let name = member.name.to_string();
        if !backends.contains(&name) {
            backends.push(name);
        }
    }
    let mut condition = Condition::new(key, kind(worst.kind), severity, summary(vip, worst))
        .vip(vip)
        .backends(backends)
        .cause(cause(worst, &explain));
    if let Cause::Revision { number } = worst.cause {
        condition.revision = Some(number);
    }
    condition
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Overload | Kind::Starvation => "share_skew",
        Kind::Concentration => "concentration",
        Kind::TableSkew => "table_skew",
        Kind::ByteSkew | Kind::PacketSkew => "volume_skew",
        Kind::BlackHole => "black_hole",
        Kind::Spike => "spike",
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

fn summary(vip: &str, finding: &Finding) -> String {
    let of = |member: &Affected| match finding.kind {
        Kind::TableSkew => format!(
            "{} has {} of the table (expected {})",
            member.name,
            percent(member.observed_share),
            percent(member.expected_share)
        ),
        Kind::BlackHole => format!(
            "{} accepts connections but never replies (black hole)",
            member.name
        ),
        _ => format!(
            "{} gets {} of {} (expected {})",
            member.name,
            percent(member.observed_share),
            what(finding.kind),
            percent(member.expected_share)
        ),
    };
    let mut parts: Vec<String> = finding.members.iter().take(MOST_NAMED).map(of).collect();
    if finding.members.len() > MOST_NAMED {
        parts.push(format!("{} more", finding.members.len() - MOST_NAMED));
    }
    format!("VIP {vip}: {}", parts.join("; "))
}

const fn what(kind: Kind) -> &'static str {
    match kind {
        Kind::ByteSkew => "bytes",
        Kind::PacketSkew => "packets",
        _ => "new flows",
    }
}

fn cause(finding: &Finding, explain: impl Fn(RevisionNumber) -> Option<RevisionFacts>) -> String {
    let mut parts = vec![match finding.cause {
        Cause::Revision { number } => match explain(number) {
            Some(revision) => revision.to_string(),
            None => finding.cause.to_string(),
        },
        _ => finding.cause.to_string(),
    }];
    parts.extend(finding.evidence.iter().take(MOST_SENTENCES).cloned());
    parts.join("; ")
}

impl std::fmt::Display for RevisionFacts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { info, diff } = self;
        let (number, who, how) = (info.number, &info.who, &info.how);
        let at = info.at.strftime("%F %T UTC");
        write!(f, "revision {number} ({how}, by {who}, {at}")?;
        if let Some(why) = &info.why {
            write!(f, ", \"{why}\"")?;
        }
        if !info.forced.is_empty() {
            let guards: Vec<&str> = info.forced.iter().map(Guard::as_str).collect();
            write!(f, ", forced past {}", guards.join(", "))?;
        }
        f.write_str(")")?;
        match diff.as_deref() {
            Some("") | None => Ok(()),
            Some(diff) => write!(f, " changed: {diff}"),
        }
    }
}

/// The lines of a unified diff that changed, on one line.
pub(super) fn changed_lines(unified: &str) -> String {
    let is_change = |line: &&str| {
        let header = line.starts_with("+++") || line.starts_with("---");
        !header && (line.starts_with('+') || line.starts_with('-'))
    };
    let changed: Vec<&str> = unified.lines().filter(is_change).collect();
    let shown = changed
        .iter()
        .take(MOST_LINES)
        .map(|line| format!("`{}`", line.trim_end()));
    let mut text = shown.collect::<Vec<_>>().join(" ");
    if changed.len() > MOST_LINES {
        text += &format!(" and {} more lines", changed.len() - MOST_LINES);
    }
    text
}

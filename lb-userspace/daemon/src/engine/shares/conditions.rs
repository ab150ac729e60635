//! Findings as conditions for alerts: one condition per cause.

use std::collections::BTreeMap;

use crate::revision::Store;
use crate::{
    alerts::{Condition, Severity},
    revision::{RevisionInfo, RevisionNumber},
};
use lb_model::{planner::Guard, secrets};
use lb_skew::{Affected, Cause, Finding, Kind};
use similar::ChangeTag;

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
    /// `vip`: the VIP whose changed lines, beside those of no VIP, may be the cause.
    pub(super) fn read(store: &Store, number: RevisionNumber, vip: &str) -> Option<Self> {
        let info = store.record(number).ok()?.info.clone();
        let text = |number| Some(store.get(number).ok()?.text);
        let texts = info.parent.and_then(text).zip(text(number));
        Some(Self {
            diff: texts.map(|(old, new)| changed_lines(&old, &new, vip)),
            info,
        })
    }
}

/// The current conditions, as first reported: numbers that change every second do not change them.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    /// The findings whose cause is known.
    explained: BTreeMap<Name, Explained>,
    reported: BTreeMap<String, Condition>,
}

#[derive(Clone, Debug)]
struct Explained {
    key: String,
    revision: Option<RevisionNumber>,
}

const fn revision(finding: &Finding) -> Option<RevisionNumber> {
    match finding.cause {
        Cause::Revision { number } => Some(number),
        _ => None,
    }
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
        explain: impl Fn(RevisionNumber, &str) -> Option<RevisionFacts>,
    ) -> Vec<Condition> {
        let worth = findings
            .iter()
            .filter(|(_, finding)| finding.severity > lb_skew::Severity::Note);
        let mut by_cause: BTreeMap<String, Vec<(&str, &Finding)>> = BTreeMap::new();
        let mut explained_before = BTreeMap::new();
        for (vip, finding) in worth {
            let name = name(vip, finding);
            // It stays explained: a change that was rolled back is still the cause, and not the change
            // before it, which is now the newest.
            let known = self.explained.get(&name);
            let is_older = |known: &Explained| known.revision > revision(finding);
            if let Some(known) = known.filter(|known| finding.cause.is_a_guess() || is_older(known))
            {
                explained_before.insert(name, known.clone());
                continue;
            }
            if finding.cause.is_a_guess() {
                let patience = match finding.kind {
                    Kind::ByteSkew | Kind::PacketSkew => SEARCHING_S,
                    _ => UNEXPLAINED_S,
                };
                if now_s - finding.raised_s < patience {
                    continue;
                }
            } else {
                let explained = Explained {
                    key: key(vip, finding),
                    revision: revision(finding),
                };
                explained_before.insert(name, explained);
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
            let before = self.reported.remove(&key);
            reported.insert(key, as_before(before, condition));
        }
        for Explained { key, .. } in explained_before.values() {
            if let Some(before) = self.reported.remove(key) {
                reported.entry(key.clone()).or_insert(before);
            }
        }
        self.explained = explained_before;
        self.reported = reported;
        self.reported.values().cloned().collect()
    }
}

/// Keeps the text of the condition reported before, while severity, kind and backends are the same.
fn as_before(before: Option<Condition>, now: Condition) -> Condition {
    let before = before.filter(|before| {
        before.severity == now.severity
            && before.kind == now.kind
            && before.backends == now.backends
    });
    match before {
        Some(before) => Condition {
            part_of: now.part_of,
            ..before
        },
        None => now,
    }
}

fn condition(
    key: &str,
    group: &[(&str, &Finding)],
    explain: impl Fn(RevisionNumber, &str) -> Option<RevisionFacts>,
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
        .cause(cause(worst, |number| explain(number, vip)));
    condition.revision = revision(worst);
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
            "{} {} {} of {} (expected {})",
            member.name,
            gets(finding),
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

/// The share monitor evaluates new flows as the ring assigned them.
const fn gets(finding: &Finding) -> &'static str {
    match finding.kind {
        Kind::Overload | Kind::Starvation | Kind::Concentration if finding.bounded => {
            "would get, without its bound,"
        }
        _ => "gets",
    }
}

const fn what(kind: Kind) -> &'static str {
    match kind {
        Kind::ByteSkew => "bytes",
        Kind::PacketSkew => "packets",
        _ => "new flows",
    }
}

fn cause(finding: &Finding, explain: impl Fn(RevisionNumber) -> Option<RevisionFacts>) -> String {
    let named = match finding.cause {
        Cause::Revision { number } => match explain(number) {
            Some(revision) => Some(revision.to_string()),
            None => Some(finding.cause.to_string()),
        },
        // The summary says it.
        Cause::BlackHole { .. }
            if finding.kind == Kind::BlackHole && !finding.evidence.is_empty() =>
        {
            None
        }
        _ => Some(finding.cause.to_string()),
    };
    let evidence = finding.evidence.iter().take(MOST_SENTENCES).cloned();
    named
        .into_iter()
        .chain(evidence)
        .collect::<Vec<_>>()
        .join("; ")
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

/// The lines that changed between two texts and are not of another VIP, on one line; secrets are
/// masked.
pub(super) fn changed_lines(old: &str, new: &str, vip: &str) -> String {
    let (old, new) = secrets::mask_pair(old, new);
    let owners = [owners(&old), owners(&new)];
    let diff = similar::TextDiff::from_lines(&old, &new);
    let changes = diff.iter_all_changes().filter_map(|change| {
        let (sign, line, owners) = match change.tag() {
            ChangeTag::Equal => return None,
            ChangeTag::Delete => ('-', change.old_index()?, &owners[0]),
            ChangeTag::Insert => ('+', change.new_index()?, &owners[1]),
        };
        let owner = owners.get(line)?.as_deref();
        let text = change.value().trim_end();
        let is_relevant = owner.is_none_or(|owner| owner == vip) && !text.is_empty();
        is_relevant.then(|| format!("`{sign}{text}`"))
    });
    let changed: Vec<String> = changes.collect();
    let mut text = changed[..changed.len().min(MOST_LINES)].join(" ");
    if changed.len() > MOST_LINES {
        text += &format!(" and {} more lines", changed.len() - MOST_LINES);
    }
    text
}

/// The name of the VIP that each line belongs to; none for lines outside of `[[vip]]` blocks.
fn owners(text: &str) -> Vec<Option<String>> {
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    let mut owners: Vec<Option<String>> = Vec::with_capacity(lines.len());
    let mut owner = None;
    for (number, line) in lines.iter().enumerate() {
        if line.starts_with("[[vip]]") {
            let own = lines[number + 1..]
                .iter()
                .take_while(|line| !line.starts_with('['));
            let mut names =
                own.filter_map(|line| line.strip_prefix("name")?.trim_start().strip_prefix('='));
            let name = names.next().map(str::trim_start);
            owner = name.and_then(|name| Some(name.split(['"', '\'']).nth(1)?.to_owned()));
        } else if line.starts_with('[') && !line.starts_with("[vip.") && !line.starts_with("[[vip.")
        {
            owner = None;
        }
        owners.push(owner.clone());
    }
    owners
}

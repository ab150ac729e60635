//! Conditions of backends: down, or without a next hop.
//!
//! A host that is dead is missing in each VIP that it serves. That is one condition with a list, and not
//! one per VIP: VIPs that miss the same host form a [group](Groups).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Alert, Condition, Severity, VipLimits};
use crate::{
    health::{self, HealthStatus},
    node::{MemberPhase, MemberState, VipState},
};

/// The condition of one VIP, and the addresses that it is about.
#[derive(Debug)]
pub(super) struct Part {
    condition: Condition,
    addresses: BTreeSet<IpAddr>,
}

/// Which VIPs share a condition.
///
/// The key of a group is that of the VIP which missed a host first. It stays until the group is gone,
/// even if that VIP recovers before the others: it is the id of the alert.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// Key of the group, by the key of a VIP's own condition; with a number that grows.
    keys: BTreeMap<String, (u64, String)>,
    next: u64,
    /// Whether alerts of the last process were adopted.
    is_adopted: bool,
}

impl Groups {
    /// Continues the groups that the last process had alerts about.
    pub(super) fn adopt(&mut self, alerts: &[Alert]) {
        if std::mem::replace(&mut self.is_adopted, true) {
            return;
        }
        for alert in alerts {
            let Some((kind, _)) = alert.id.split_once(':') else {
                continue;
            };
            for vip in &alert.vips {
                self.assign(format!("{kind}:{vip}"), alert.id.clone());
            }
        }
    }

    fn assign(&mut self, own: String, key: String) {
        self.next += 1;
        self.keys.insert(own, (self.next, key));
    }

    /// Returns one condition for each group of VIPs that miss the same hosts.
    /// `prefix` is that of their keys.
    pub(super) fn combine(&mut self, prefix: &str, parts: Vec<Part>) -> Vec<Condition> {
        let present: BTreeSet<String> = parts.iter().map(|p| p.condition.key.clone()).collect();
        self.keys
            .retain(|own, _| present.contains(own) || !own.starts_with(prefix));
        let mut taken = BTreeSet::new();
        let mut conditions = Vec::new();
        for group in connected(parts) {
            let key = self.key_of(&group, &taken);
            for part in &group {
                let own = &part.condition.key;
                if self.keys.get(own).is_none_or(|(_, known)| *known != key) {
                    self.assign(own.clone(), key.clone());
                }
            }
            taken.insert(key.clone());
            conditions.push(merged(key, group));
        }
        conditions
    }

    /// The oldest key of a member that no other group has taken, or else the first member's own.
    fn key_of(&self, group: &[Part], taken: &BTreeSet<String>) -> String {
        let own = || group.iter().map(|part| &part.condition.key);
        let mut known: Vec<&(u64, String)> = own().filter_map(|own| self.keys.get(own)).collect();
        known.sort();
        let known = known.into_iter().map(|(_, key)| key);
        let mut keys = known.chain(own()).filter(|key| !taken.contains(*key));
        keys.next().unwrap_or(&group[0].condition.key).clone()
    }
}

/// Groups parts that have an address in common, directly or by way of others.
fn connected(parts: Vec<Part>) -> Vec<Vec<Part>> {
    let mut groups: Vec<Vec<Part>> = Vec::new();
    for part in parts {
        let shares = |other: &Part| !other.addresses.is_disjoint(&part.addresses);
        let joined = groups.extract_if(.., |group| group.iter().any(shares));
        let mut group: Vec<Part> = joined.flatten().collect();
        group.push(part);
        groups.push(group);
    }
    groups
}

/// One condition for a group, as severe as the worst of its parts.
fn merged(key: String, mut group: Vec<Part>) -> Condition {
    if group.len() == 1 {
        let condition = group.remove(0).condition;
        return Condition { key, ..condition };
    }
    let conditions = || group.iter().map(|part| &part.condition);
    let number_of = |kind| conditions().filter(|c| c.kind == kind).count();
    let severity = |c: &&Condition| (c.severity, c.kind == "few_backends");
    let worst = conditions().max_by_key(severity);
    let worst = worst.unwrap_or(&group[0].condition).clone();
    let vips: Vec<String> = conditions().filter_map(|c| c.vip.clone()).collect();
    let backends: BTreeSet<&String> = conditions().flat_map(|c| &c.backends).collect();
    let addresses: BTreeSet<IpAddr> = group.iter().flat_map(|p| p.addresses.clone()).collect();
    let hosts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let hosts = match (hosts.len(), backends.len()) {
        (1, 1) => format!(
            "backend {} ({})",
            listed(backends.iter().copied()),
            hosts[0]
        ),
        (1, _) => format!("host {}", hosts[0]),
        (number, _) => format!("{number} hosts ({})", listed(&hosts)),
    };
    let place = format!("{} VIPs ({})", vips.len(), listed(&vips));
    let mut summary = match (&*worst.kind, addresses.len()) {
        ("no_next_hop", _) => format!("no route to {hosts} of {place}"),
        (_, 1) => format!("{hosts} is down in {place}"),
        _ => format!("{hosts} are down in {place}"),
    };
    let few = number_of("few_backends");
    if few > 0 {
        summary += &format!("; too few eligible backends in {few} of them");
    }
    let panicking = number_of("panic");
    if panicking > 0 {
        summary += &format!("; panic mode in {panicking} of them");
    }
    Condition {
        vip: key.split_once(':').map(|(_, vip)| vip.to_owned()),
        key,
        vips,
        backends: backends.into_iter().cloned().collect(),
        summary,
        ..worst
    }
}

/// Members that are configured to serve.
fn wanted(vip: &VipState) -> impl Iterator<Item = &MemberState> {
    let serve = |member: &&MemberState| {
        member.weight > 0 && matches!(member.phase, MemberPhase::Up | MemberPhase::Down)
    };
    vip.members.iter().filter(serve)
}

/// Whether a check has found it down: after a start, the first result is pending.
fn is_found_down(member: &MemberState) -> bool {
    let is_known = |health: &HealthStatus| health.last_ok.is_some();
    member.phase == MemberPhase::Down && member.health.as_ref().is_none_or(is_known)
}

fn addresses_of(members: &[&MemberState]) -> BTreeSet<IpAddr> {
    members.iter().map(|member| member.address).collect()
}

fn names_of<'a>(members: &[&'a MemberState]) -> Vec<&'a str> {
    members
        .iter()
        .map(|member| member.backend.as_str())
        .collect()
}

/// The condition of a VIP's backends together.
pub(super) fn down(vip: &VipState, limits: &VipLimits) -> Option<Part> {
    let down: Vec<&MemberState> = wanted(vip).filter(|member| is_found_down(member)).collect();
    let all = wanted(vip).count();
    let eligible = vip.members.iter().filter(|m| m.is_eligible()).count();
    let names = names_of(&down);
    let is_few = eligible < limits.min_backends as usize && (!down.is_empty() || all == 0);
    let of = format!("{} of {all} backends of {}", down.len(), vip.name);
    let (kind, severity, summary) = if is_few {
        let least = limits.min_backends;
        let summary = format!("{of} are down; {eligible} eligible, minimum is {least}");
        ("few_backends", Severity::Critical, summary)
    } else if vip.panic {
        let summary = format!("{of} are down: panic mode, traffic is spread over all of them");
        ("panic", Severity::Critical, summary)
    } else if down.is_empty() {
        return None;
    } else {
        let summary = match &names[..] {
            [one] => format!("backend {one} of {} is down", vip.name),
            _ => format!("{of} are down: {}", listed(&names)),
        };
        ("backend_down", Severity::Warning, summary)
    };
    let key = format!("backends:{}", vip.name);
    let mut condition = Condition::new(key, kind, severity, summary)
        .vip(&vip.name)
        .backends(names);
    condition.cause = common_cause(&down);
    Some(Part {
        condition,
        addresses: addresses_of(&down),
    })
}

/// Members that this node cannot check.
pub(super) fn checks(vip: &VipState) -> Option<Condition> {
    let why = |member: &&MemberState| {
        let health = member.health.as_ref()?;
        let why = health.inconclusive.clone()?;
        (why != health::SILENT).then_some(why)
    };
    let unchecked: Vec<&MemberState> = wanted(vip).filter(|m| why(m).is_some()).collect();
    let cause = why(unchecked.first()?)?;
    let names = names_of(&unchecked);
    let summary = format!(
        "cannot check {} of {}: their state stays as it is",
        listed(&names),
        vip.name
    );
    let key = format!("checks:{}", vip.name);
    let condition = Condition::new(key, "checks", Severity::Warning, summary);
    Some(condition.vip(&vip.name).backends(names).cause(cause))
}

/// Members that are up but have no next hop.
pub(super) fn without_route(vip: &VipState) -> Option<Part> {
    let is_lost = |m: &&MemberState| m.is_eligible() && m.route_problem.is_some();
    let lost: Vec<&MemberState> = vip.members.iter().filter(is_lost).collect();
    let first = lost.first()?;
    let names = names_of(&lost);
    let summary = format!("no route to {} of {}", listed(&names), vip.name);
    let key = format!("no_next_hop:{}", vip.name);
    let mut condition = Condition::new(key, "no_next_hop", Severity::Critical, summary)
        .vip(&vip.name)
        .backends(names);
    condition.cause.clone_from(&first.route_problem);
    Some(Part {
        condition,
        addresses: addresses_of(&lost),
    })
}

/// The first few names, and the number of the others.
pub(super) fn listed(names: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    const SHOWN: usize = 5;
    let mut names = names.into_iter();
    let shown: Vec<String> = names
        .by_ref()
        .take(SHOWN)
        .map(|n| n.as_ref().to_owned())
        .collect();
    match names.count() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// The most frequent error of the failed checks.
fn common_cause(down: &[&MemberState]) -> Option<String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for member in down {
        let health = member.health.as_ref();
        let error = health.and_then(|health| health.last_cause.as_deref());
        if let Some(error) = member.route_problem.as_deref().or(error) {
            // Without its address, the reason is the same for all.
            let error = error.replace(&member.address.to_string(), "the backend");
            *counts.entry(error).or_default() += 1;
        }
    }
    let (error, count) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    Some(if count == down.len() {
        format!("health checks: {error}")
    } else {
        format!("{count} of {} health checks: {error}", down.len())
    })
}

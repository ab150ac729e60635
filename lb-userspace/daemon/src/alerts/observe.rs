//! Derives conditions from the state of the node.

use std::collections::{BTreeMap, VecDeque};

use jiff::{SignedDuration, Timestamp};

use super::{Condition, Severity};
use crate::{
    health::{self, HealthStatus},
    node::{InterfaceMode, MemberPhase, MemberState, NodeState, VipState},
};
use lb_model::config;

/// Limits set by the configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Whether the configuration asks for generic XDP, which then raises no alert.
    pub wants_generic: bool,
    pub vips: BTreeMap<String, VipLimits>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VipLimits {
    /// Minimum of eligible backends.
    pub min_backends: u32,
    /// Utilisation that raises an alert.
    pub alert_utilisation: f64,
}

impl Limits {
    #[must_use]
    pub fn of(config: &config::Config) -> Self {
        let limits = |vip: &config::Vip| VipLimits {
            min_backends: vip.guard.min_backends,
            alert_utilisation: vip.scaling.alert_utilisation.as_f64(),
        };
        Self {
            wants_generic: config.node.xdp_mode == config::XdpMode::Generic,
            vips: config
                .vips
                .iter()
                .map(|vip| (vip.name.clone(), limits(vip)))
                .collect(),
        }
    }
}

/// Drop reasons whose counters are expected to stay constant, and what an increase means.
const BAD_REASONS: &[(&str, &str)] = &[
    ("NO_MEMBER", "no eligible backend"),
    ("NO_NEXT_HOP", "no next hop for the backend"),
    (
        "NAT_NO_PORT",
        "no free port on the NAT source: add addresses to node.nat_source",
    ),
    ("NO_ROOM", "the driver left no headroom for an outer header"),
    ("INTERNAL", "a map was not as the program expects it"),
];

/// Packets per second above which drops raise an alert.
const FEW_PER_S: f64 = 1.0;

/// Window over which drops are counted.
const BACK: SignedDuration = SignedDuration::from_secs(10);

/// Derives conditions from successive states.
#[derive(Debug, Default)]
pub struct Observer {
    /// Counters of [`BAD_REASONS`] in the last seconds.
    past: VecDeque<(Timestamp, Vec<u64>)>,
}

impl Observer {
    /// All conditions in a state.
    pub fn conditions(&mut self, status: &NodeState, limits: &Limits) -> Vec<Condition> {
        let mut conditions = Vec::new();
        conditions.extend(data_path(status));
        if !limits.wants_generic {
            conditions.extend(generic(status));
        }
        conditions.extend(self.drops(status));
        let mut reported: Vec<(String, Vec<String>)> = Vec::new();
        for vip in &status.vips {
            let Some(vip_limits) = limits.vips.get(&vip.name) else {
                continue;
            };
            if let Some(mut condition) = backends(vip, vip_limits) {
                explain_by_others(&mut condition, vip, &mut reported);
                conditions.push(condition);
            }
            conditions.extend(checks(vip));
            conditions.extend(routes(vip));
            conditions.extend(capacity(vip, vip_limits));
        }
        conditions
    }

    fn drops(&mut self, status: &NodeState) -> Vec<Condition> {
        let counter = |(name, _): &(&str, _)| status.reasons.get(*name).copied().unwrap_or(0);
        let now: Vec<u64> = BAD_REASONS.iter().map(counter).collect();
        while self.past.len() > 1 && status.at.duration_since(self.past[1].0) >= BACK {
            self.past.pop_front();
        }
        let mut conditions = Vec::new();
        if let Some((at, before)) = self.past.front() {
            let seconds = status.at.duration_since(*at).as_secs_f64().max(1.0);
            for (index, (name, meaning)) in BAD_REASONS.iter().enumerate() {
                let rate = now[index].saturating_sub(before[index]) as f64 / seconds;
                if rate > FEW_PER_S {
                    let summary = format!("dropping {rate:.0} packets/s ({name}): {meaning}");
                    let key = format!("drops:{name}");
                    let condition = Condition::new(key, "drops", Severity::Warning, summary);
                    conditions
                        .push(condition.cause(format!("see reason {name} in docs/operations.md")));
                }
            }
        }
        self.past.push_back((status.at, now));
        conditions
    }
}

/// Interfaces that run another program, or none.
fn data_path(status: &NodeState) -> Option<Condition> {
    let expected = status.node.program_id;
    let wrong = |id: Option<u32>| id != Some(expected);
    let interfaces = status.node.interfaces.iter();
    let odd: Vec<String> = interfaces
        .filter(|interface| wrong(interface.program_id))
        .map(|interface| match interface.program_id {
            Some(id) => format!("{} runs program {id}", interface.name),
            None => format!("{} does not run it", interface.name),
        })
        .collect();
    if odd.is_empty() {
        return None;
    }
    let summary = format!(
        "data path not as loaded: expected program {expected}, but {}",
        odd.join(", ")
    );
    let condition = Condition::new("data_path", "data_path", Severity::Critical, summary);
    Some(condition.cause(
        "the XDP program was detached or replaced, or the interface is gone (the program is attached again \
         when it comes back)",
    ))
}

fn generic(status: &NodeState) -> Option<Condition> {
    let interfaces = status.node.interfaces.iter();
    let generic: Vec<&str> = interfaces
        .filter(|interface| interface.mode == InterfaceMode::Generic)
        .map(|interface| interface.name.as_str())
        .collect();
    if generic.is_empty() {
        return None;
    }
    let summary = format!(
        "XDP runs in generic mode on {}: several times slower than native mode",
        generic.join(", ")
    );
    let condition = Condition::new("generic_xdp", "generic_xdp", Severity::Warning, summary);
    Some(condition.cause("the driver does not support native XDP, or rejected the program"))
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

/// One condition for the health of all backends of a VIP.
fn backends(vip: &VipState, limits: &VipLimits) -> Option<Condition> {
    let down: Vec<&MemberState> = wanted(vip).filter(|member| is_found_down(member)).collect();
    let all = wanted(vip).count();
    let eligible = vip.members.iter().filter(|m| m.is_eligible()).count();
    let names: Vec<&str> = down.iter().map(|member| member.backend.as_str()).collect();
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
    Some(condition)
}

/// The first few names, and the number of the others.
fn listed(names: &[&str]) -> String {
    const SHOWN: usize = 5;
    let mut text = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    text
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

/// A host that is down is missing in all of its VIPs: only the first of them raises an alert.
fn explain_by_others(
    condition: &mut Condition,
    vip: &VipState,
    reported: &mut Vec<(String, Vec<String>)>,
) {
    let down = wanted(vip).filter(|member| is_found_down(member));
    let addresses: Vec<String> = down.map(|member| member.address.to_string()).collect();
    let explains = |(_, others): &&(String, Vec<String>)| {
        !addresses.is_empty() && addresses.iter().all(|address| others.contains(address))
    };
    // A VIP without enough backends raises its own alert, whatever the cause.
    if condition.severity < Severity::Critical {
        condition.part_of = reported.iter().find(explains).map(|(key, _)| key.clone());
    }
    if condition.part_of.is_none() {
        reported.push((condition.key.clone(), addresses));
    }
}

/// Members that this node cannot check.
fn checks(vip: &VipState) -> Option<Condition> {
    let why = |member: &&MemberState| {
        let health = member.health.as_ref()?;
        let why = health.inconclusive.clone()?;
        (why != health::SILENT).then_some(why)
    };
    let unchecked: Vec<&MemberState> = wanted(vip).filter(|m| why(m).is_some()).collect();
    let cause = why(unchecked.first()?)?;
    let names: Vec<&str> = unchecked.iter().map(|m| m.backend.as_str()).collect();
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
fn routes(vip: &VipState) -> Option<Condition> {
    let lost: Vec<&MemberState> = vip
        .members
        .iter()
        .filter(|member| member.is_eligible() && member.route_problem.is_some())
        .collect();
    let first = lost.first()?;
    let names: Vec<&str> = lost.iter().map(|member| member.backend.as_str()).collect();
    let summary = format!("no route to {} of {}", listed(&names), vip.name);
    let key = format!("no_next_hop:{}", vip.name);
    let condition = Condition::new(key, "no_next_hop", Severity::Critical, summary);
    let condition = condition.vip(&vip.name).backends(names);
    Some(match &first.route_problem {
        Some(why) => condition.cause(why.clone()),
        None => condition,
    })
}

fn capacity(vip: &VipState, limits: &VipLimits) -> Option<Condition> {
    let capacity = vip.capacity()?;
    if capacity.utilisation < limits.alert_utilisation {
        return None;
    }
    let summary = format!(
        "{} gets {:.0} new flows/s: {:.0} % of the capacity of its {} eligible backends",
        vip.name,
        vip.rates.new_flows_per_s,
        capacity.utilisation * 100.0,
        capacity.eligible
    );
    let severity = if capacity.utilisation >= 1.0 {
        Severity::Critical
    } else {
        Severity::Warning
    };
    let condition = Condition::new(
        format!("capacity:{}", vip.name),
        "capacity",
        severity,
        summary,
    );
    let wanted = format!(
        "{} backends of this size are needed for a utilisation of {:.0} %",
        capacity.wanted_backends,
        vip.target_utilisation * 100.0
    );
    Some(condition.vip(&vip.name).cause(wanted))
}

#[cfg(test)]
mod tests {
    use lb_common::reason::REASONS;

    use super::*;

    #[test]
    fn every_watched_reason_exists() {
        for (name, _) in BAD_REASONS {
            assert!(
                REASONS.iter().any(|reason| reason.name == *name),
                "nothing counts {name}"
            );
        }
    }
}

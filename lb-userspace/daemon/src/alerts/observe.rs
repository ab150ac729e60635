//! Conditions that the status shows.

use std::collections::{BTreeMap, VecDeque};

use jiff::{SignedDuration, Timestamp};

use super::{Condition, Severity};
use crate::{
    health::HealthStatus,
    node::{InterfaceMode, MemberPhase, MemberState, NodeState, VipState},
};
use lb_model::config;

/// What the configuration calls too much or too little.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Whether the configuration asks for generic XDP: then it is no news.
    pub wants_generic: bool,
    /// By VIP.
    pub vips: BTreeMap<String, VipLimits>,
}

/// The limits of a VIP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VipLimits {
    /// Fewest backends that should be eligible.
    pub min_backends: u32,
    /// Utilisation that is too much.
    pub alert_utilisation: f64,
}

impl Limits {
    /// Those of a configuration.
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

/// Reasons whose counters stand still when all is well, and what it means that they don't.
const BAD_REASONS: &[(&str, &str)] = &[
    ("NO_MEMBER", "no member could take them"),
    ("NO_NEXT_HOP", "the way to the member is not known"),
    (
        "NAT_NO_PORT",
        "no port of the NAT source was free: add addresses to node.nat_source",
    ),
    ("NO_ROOM", "the driver left no room for an outer header"),
    ("INTERNAL", "a table was not as the program expects it"),
];

/// Packets a second that are worth an alert.
const FEW_PER_S: f64 = 1.0;

/// Counters are compared with those of so long ago.
const BACK: SignedDuration = SignedDuration::from_secs(10);

/// Finds what is wrong in one status after the other.
#[derive(Debug, Default)]
pub struct Observer {
    /// Counters of [`BAD_REASONS`] in the last seconds.
    past: VecDeque<(Timestamp, Vec<u64>)>,
}

impl Observer {
    /// Everything that is wrong now.
    pub fn conditions(&mut self, status: &NodeState, limits: &Limits) -> Vec<Condition> {
        let mut conditions = Vec::new();
        conditions.extend(data_path(status));
        if !limits.wants_generic {
            conditions.extend(generic(status));
        }
        conditions.extend(self.drops(status));
        let mut told: Vec<(String, Vec<String>)> = Vec::new();
        for vip in &status.vips {
            let Some(vip_limits) = limits.vips.get(&vip.name) else {
                continue;
            };
            if let Some(mut condition) = backends(vip, vip_limits) {
                explain_by_others(&mut condition, vip, &mut told);
                conditions.push(condition);
            }
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
                    let summary = format!("{rate:.0} packets a second are dropped: {meaning}");
                    let key = format!("drops:{name}");
                    let condition = Condition::new(key, "drops", Severity::Warning, summary);
                    conditions
                        .push(condition.cause(format!("reason {name} of docs/operations.md")));
                }
            }
        }
        self.past.push_back((status.at, now));
        conditions
    }
}

/// Interfaces where another program runs than ours, or none.
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
        "the data path is not as loaded: program {expected} is ours, {}",
        odd.join(", ")
    );
    let condition = Condition::new("data_path", "data_path", Severity::Critical, summary);
    Some(condition.cause(
        "somebody detached or replaced the XDP program, or the interface is gone (one that comes back gets \
         the program again)",
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
        "XDP runs in generic mode on {}: several times slower than in the driver",
        generic.join(", ")
    );
    let condition = Condition::new("generic_xdp", "generic_xdp", Severity::Warning, summary);
    Some(condition.cause("the driver can't run XDP programs, or refused this one"))
}

/// Members that the operator wants to serve.
fn wanted(vip: &VipState) -> impl Iterator<Item = &MemberState> {
    let serve = |member: &&MemberState| {
        member.weight > 0 && matches!(member.phase, MemberPhase::Up | MemberPhase::Down)
    };
    vip.members.iter().filter(serve)
}

/// Whether a check has said that it is down: at a start nobody knows yet.
fn is_found_down(member: &MemberState) -> bool {
    let is_known = |health: &HealthStatus| health.last_ok.is_some();
    member.phase == MemberPhase::Down && member.health.as_ref().is_none_or(is_known)
}

/// All that is wrong with the health of a VIP's backends: one condition, however many there are.
fn backends(vip: &VipState, limits: &VipLimits) -> Option<Condition> {
    let down: Vec<&MemberState> = wanted(vip).filter(|member| is_found_down(member)).collect();
    let all = wanted(vip).count();
    let eligible = vip.members.iter().filter(|m| m.is_eligible()).count();
    let names: Vec<&str> = down.iter().map(|member| member.backend.as_str()).collect();
    let is_few = eligible < limits.min_backends as usize && (!down.is_empty() || all == 0);
    let of = format!("{} of {all} backends of {}", down.len(), vip.name);
    let (kind, severity, summary) = if is_few {
        let least = limits.min_backends;
        let summary = format!("{of} are down; {eligible} can serve, {least} are wanted");
        ("few_backends", Severity::Critical, summary)
    } else if vip.panic {
        let summary = format!("{of} are down: panic, traffic is spread over all of them");
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

/// A few names, and how many more.
fn listed(names: &[&str]) -> String {
    const SHOWN: usize = 5;
    let mut text = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    text
}

/// What most of the failed checks met.
fn common_cause(down: &[&MemberState]) -> Option<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for member in down {
        let error = member.health.as_ref().and_then(|h| h.last_error.as_deref());
        if let Some(error) = member.route_problem.as_deref().or(error) {
            *counts.entry(error).or_default() += 1;
        }
    }
    let (error, count) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    Some(if count == down.len() {
        format!("checks say: {error}")
    } else {
        format!("{count} of {} checks say: {error}", down.len())
    })
}

/// A host that is down serves no VIP: the first VIP that lacks the addresses tells of it.
fn explain_by_others(
    condition: &mut Condition,
    vip: &VipState,
    told: &mut Vec<(String, Vec<String>)>,
) {
    let down = wanted(vip).filter(|member| is_found_down(member));
    let addresses: Vec<String> = down.map(|member| member.address.to_string()).collect();
    let explains = |(_, others): &&(String, Vec<String>)| {
        !addresses.is_empty() && addresses.iter().all(|address| others.contains(address))
    };
    // A VIP that can't serve is worth an alert of its own, whatever the cause.
    if condition.severity < Severity::Critical {
        condition.part_of = told.iter().find(explains).map(|(key, _)| key.clone());
    }
    if condition.part_of.is_none() {
        told.push((condition.key.clone(), addresses));
    }
}

/// Members that are up and can't be sent anything.
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
        "{} gets {:.0} new flows a second, {:.0} % of what its {} eligible backends can take",
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
        "{} backends of this size are wanted for {:.0} %",
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
    fn every_reason_that_is_watched_exists() {
        for (name, _) in BAD_REASONS {
            assert!(
                REASONS.iter().any(|reason| reason.name == *name),
                "nothing counts {name}"
            );
        }
    }
}

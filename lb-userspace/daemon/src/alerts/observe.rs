//! Derives conditions from the state of the node.

use std::collections::{BTreeMap, VecDeque};

use jiff::{SignedDuration, Timestamp};

use super::{
    Condition, Severity, announce,
    backends::{self, Groups},
    bound, fleet, sources,
};
use crate::node::{InterfaceMode, MemberPhase, NodeState, VipState};
use lb_model::config::{self, OnExcess};

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
        "no free port for sessions with a backend: extend node.nat_ports or add backends; if few are in use, a client has \
         used up its share, node.nat_source_share",
    ),
    ("NO_ROOM", "the driver left no headroom for an outer header"),
    ("INTERNAL", "a map was not as the program expects it"),
];

/// Packets per second above which drops, and packets of flows that are not tracked, raise an alert.
const FEW_PER_S: f64 = 1.0;

/// Window over which they are counted.
const BACK: SignedDuration = SignedDuration::from_secs(10);

/// Counters at one time.
#[derive(Debug)]
struct Counted {
    at: Timestamp,
    /// By [`BAD_REASONS`].
    drops: Vec<u64>,
    /// [`VipState::untracked_packets`] by VIP.
    untracked: BTreeMap<String, u64>,
}

impl Counted {
    fn of(status: &NodeState) -> Self {
        let counter = |(name, _): &(&str, _)| status.reasons.get(*name).copied().unwrap_or(0);
        let vips = status.vips.iter();
        Self {
            at: status.at,
            drops: BAD_REASONS.iter().map(counter).collect(),
            untracked: vips
                .map(|vip| (vip.name.clone(), vip.untracked_packets))
                .collect(),
        }
    }
}

/// Derives conditions from successive states.
#[derive(Debug, Default)]
pub struct Observer {
    /// Counters in the last seconds.
    past: VecDeque<Counted>,
    groups: Groups,
    unknown: announce::Unknown,
}

impl Observer {
    /// All conditions in a state.
    pub fn conditions(&mut self, status: &NodeState, limits: &Limits) -> Vec<Condition> {
        let mut conditions = Vec::new();
        conditions.extend(data_path(status));
        if !limits.wants_generic {
            conditions.extend(generic(status));
        }
        conditions.extend(self.rising(status));
        let fleet = status.fleet.iter();
        conditions.extend(fleet.flat_map(|fleet| fleet::conditions(fleet, status.at)));
        conditions.extend(sources::failing(status));
        let (mut down, mut lost, mut full) = (Vec::new(), Vec::new(), Vec::new());
        for vip in &status.vips {
            let Some(vip_limits) = limits.vips.get(&vip.name) else {
                continue;
            };
            down.extend(backends::down(vip, vip_limits));
            full.extend(backends::checks(vip));
            lost.extend(backends::without_route(vip));
            full.extend(capacity(vip, vip_limits));
            full.extend(nat_ports(vip));
            full.extend(limit(vip));
            full.extend(bound::spilling(vip));
        }
        self.groups.adopt(&status.alerts);
        conditions.extend(self.groups.combine("backends:", down));
        conditions.extend(self.groups.combine("no_next_hop:", lost));
        conditions.extend(full);
        if let Some(announcing) = &status.announcing {
            let unknown = &mut self.unknown;
            conditions.extend(announce::conditions(announcing, unknown, status.at));
        }
        conditions
    }

    /// Conditions derived from counters that should not rise.
    fn rising(&mut self, status: &NodeState) -> Vec<Condition> {
        let now = Counted::of(status);
        while self.past.len() > 1 && now.at.duration_since(self.past[1].at) >= BACK {
            self.past.pop_front();
        }
        let mut conditions = Vec::new();
        if let Some(before) = self.past.front() {
            conditions.extend(drops(before, &now));
            conditions.extend(untracked(before, &now, status));
        }
        self.past.push_back(now);
        conditions
    }
}

/// Increase per second, if it is too high.
fn rate(before: &Counted, now: &Counted, counts: (u64, u64)) -> Option<f64> {
    let seconds = now.at.duration_since(before.at).as_secs_f64().max(1.0);
    let rate = counts.1.saturating_sub(counts.0) as f64 / seconds;
    (rate > FEW_PER_S).then_some(rate)
}

fn drops(before: &Counted, now: &Counted) -> Vec<Condition> {
    let mut conditions = Vec::new();
    for (index, (name, meaning)) in BAD_REASONS.iter().enumerate() {
        if let Some(rate) = rate(before, now, (before.drops[index], now.drops[index])) {
            let summary = format!("dropping {rate:.0} packets/s ({name}): {meaning}");
            let key = format!("drops:{name}");
            let condition = Condition::new(key, "drops", Severity::Warning, summary);
            conditions.push(condition.cause(format!("see reason {name} in docs/operations.md")));
        }
    }
    conditions
}

/// VIPs whose flows find no room in the tracking table.
fn untracked(before: &Counted, now: &Counted, status: &NodeState) -> Vec<Condition> {
    let most = status.vips.iter().max_by_key(|vip| vip.tracked_flows);
    let mut conditions = Vec::new();
    for (vip, &count) in &now.untracked {
        let earlier = before.untracked.get(vip).copied().unwrap_or(count);
        let Some(rate) = rate(before, now, (earlier, count)) else {
            continue;
        };
        let summary =
            format!("no room in the tracking table for flows of {vip} ({rate:.0} packets/s)");
        let key = format!("track_full:{vip}");
        let condition = Condition::new(key, "track_full", Severity::Warning, summary).vip(vip);
        conditions.push(match most {
            Some(most) => condition.cause(format!(
                "most of its entries are flows of {} ({}): raise node.track_flows, or look for forged flows",
                most.name, most.tracked_flows
            )),
            None => condition,
        });
    }
    conditions
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

/// Packets over a limit.
fn limit(vip: &VipState) -> Option<Condition> {
    let limit = vip.limit.as_ref()?;
    let over = limit.over_per_s();
    if over.iter().sum::<f64>() <= FEW_PER_S {
        return None;
    }
    let parts = [
        (
            limit.source_new_flows_per_s,
            "new flows",
            limit.source_on_excess,
            "its sources",
        ),
        (
            limit.source_packets_per_s,
            "packets",
            limit.source_on_excess,
            "its sources",
        ),
        (
            limit.new_flows_per_s,
            "new flows",
            limit.on_excess,
            "the VIP",
        ),
        (limit.packets_per_s, "packets", limit.on_excess, "the VIP"),
    ];
    let parts = parts.iter().filter(|(rate, ..)| *rate > 0.0);
    let parts: Vec<String> = parts
        .map(|(rate, what, on_excess, whose)| {
            let fate = match on_excess {
                OnExcess::Count => "only counted",
                OnExcess::SecondSyn if *what == "new flows" => "only pass if they are repeated",
                OnExcess::Drop | OnExcess::SecondSyn => "are dropped",
            };
            format!("{rate:.0} {what}/s over the limit of {whose} {fate}")
        })
        .collect();
    let is_dropped = over[0] > 0.0 && limit.source_on_excess != OnExcess::Count
        || over[1] > 0.0 && limit.on_excess != OnExcess::Count;
    let severity = if is_dropped {
        Severity::Warning
    } else {
        Severity::Info
    };
    let summary = format!("{}: {}", vip.name, parts.join("; "));
    let named = limit.sources.iter().filter(|source| source.share >= 0.01);
    let named: Vec<String> = named
        .map(|source| format!("{} ({:.0} %)", source.source, source.share * 100.0))
        .collect();
    let cause = match &named[..] {
        [] => "no source has as much as 1 % of them: forged sources, or a spike of many".to_owned(),
        named => format!("most of them from {}", named.join(", ")),
    };
    let condition = Condition::new(format!("limit:{}", vip.name), "limit", severity, summary);
    Some(condition.vip(&vip.name).cause(cause))
}

/// Part of the ports of a backend in use, above which an alert is raised: then one new flow in thirty
/// finds no port.
const PORTS_SCARCE: f64 = 0.9;

/// Backends whose ports for `nat` sessions are nearly all in use.
fn nat_ports(vip: &VipState) -> Option<Condition> {
    let serving = vip.members.iter().filter(|m| m.phase == MemberPhase::Up);
    let ports = serving.filter_map(|member| Some((member, member.nat_ports?)));
    let mut scarce: Vec<_> = ports.filter(|(_, p)| p.ratio() > PORTS_SCARCE).collect();
    scarce.sort_by(|(_, a), (_, b)| b.ratio().total_cmp(&a.ratio()));
    let (worst, ports) = scarce.first()?;
    let mut summary = format!(
        "{} of the {} nat ports for sessions with {} of {} are in use ({:.0} %)",
        ports.in_use,
        ports.total,
        worst.backend,
        vip.name,
        ports.ratio() * 100.0
    );
    match scarce.len() - 1 {
        0 => {}
        1 => summary += ", as are those of 1 other backend",
        others => summary += &format!(", as are those of {others} other backends"),
    }
    let key = format!("nat_ports:{}", vip.name);
    let condition = Condition::new(key, "nat_ports", Severity::Warning, summary);
    let condition = condition.backends(scarce.iter().map(|(member, _)| &member.backend));
    Some(condition.vip(&vip.name).cause(
        "new flows find no port soon: extend node.nat_ports or add backends; if other VIPs use the same \
         backends, also add addresses to node.nat_source",
    ))
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

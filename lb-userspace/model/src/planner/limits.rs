//! Whom the limits of a candidate would have limited in the last hour.

use super::{Pair, VipFacts};
use crate::{
    config::{Limit, OnExcess, Prefix, Rate, SourceLimit, Vip},
    sources::{FINEST_V6, Prefixes, SeenSource, SourceHistory, WINDOW_S, drops, name_of},
};
use lb_api::{ExceededLimit, LimitedRate, LimitedSource, LimitsPlan};

/// Number of sources that are named.
const NAMED: usize = 10;

/// Whether a change makes limits of a VIP stricter, so that the plan needs its history.
#[must_use]
pub fn tightens_limits(pair: &Pair<'_>) -> bool {
    let none = Limit::default();
    let before = pair.before.map_or(&none, |vip| &vip.limit);
    pair.after
        .is_some_and(|vip| is_stricter(before, &vip.limit))
}

fn is_stricter(before: &Limit, after: &Limit) -> bool {
    let drops_more =
        |before: OnExcess, after: OnExcess| before == OnExcess::Count && after != OnExcess::Count;
    let limits_all = has_rates(after.flow_rate(), after.packet_rate());
    let limits_sources = has_rates(after.source.flow_rate(), after.source.packet_rate());
    let is_longer = |before: &[Prefix], after: &[Prefix]| {
        let is_new = |prefix: &Prefix| before.binary_search(prefix).is_err();
        before != after && after.iter().any(is_new)
    };
    let (old, new) = (&before.source, &after.source);
    is_lower(before.flow_rate(), after.flow_rate())
        || is_lower(before.packet_rate(), after.packet_rate())
        || is_lower(old.flow_rate(), new.flow_rate())
        || is_lower(old.packet_rate(), new.packet_rate())
        || limits_all && drops_more(before.on_excess, after.on_excess)
        || limits_sources
            && (drops_more(old.on_excess, new.on_excess)
                || new.prefix_v4 < old.prefix_v4
                || new.prefix_v6 < old.prefix_v6
                || has_more_ports(old, new))
        || (limits_all || limits_sources)
            && is_longer(&after.exempt_prefixes, &before.exempt_prefixes)
        || is_longer(&before.deny_prefixes, &after.deny_prefixes)
}

const fn has_rates(flows: Option<Rate>, packets: Option<Rate>) -> bool {
    flows.is_some() || packets.is_some()
}

fn is_lower(before: Option<Rate>, after: Option<Rate>) -> bool {
    after.is_some_and(|after| {
        before.is_none_or(|before| after.per_s < before.per_s || after.burst < before.burst)
    })
}

/// Whether more ports share a limit.
fn has_more_ports(before: &SourceLimit, after: &SourceLimit) -> bool {
    let ports = |limit: &SourceLimit| limit.port_block.unwrap_or(u32::MAX);
    ports(before) < ports(after)
}

pub(super) fn plan(pair: &Pair<'_>, facts: &VipFacts) -> Option<LimitsPlan> {
    let vip = pair.after.filter(|_| tightens_limits(pair))?;
    let (limit, seen) = (&vip.limit, &facts.seen);
    let all = seen.limited_sources(limit);
    let mut limited: Vec<(f64, LimitedSource)> = all
        .iter()
        .filter_map(|source| exceeding(source, &limit.source))
        .collect();
    limited.sort_by(|(a, x), (b, y)| b.total_cmp(a).then_with(|| x.source.cmp(&y.source)));
    let deny = Prefixes::new(&limit.deny_prefixes);
    let denied: Vec<String> = if limit.deny_prefixes.is_empty() {
        Vec::new()
    } else {
        let seen = seen.seen().filter(|source| deny.overlaps(source));
        seen.map(|source| name_of(&source)).collect()
    };
    let peak = seen.peak();
    Some(LimitsPlan {
        minutes: seen.minutes(),
        vip: [
            exceeded(LimitedRate::NewFlows, peak.new_flows, limit.flow_rate()),
            exceeded(LimitedRate::Packets, peak.packets, limit.packet_rate()),
        ]
        .into_iter()
        .flatten()
        .collect(),
        sources: all.len() as u32,
        busiest_only: seen.is_cut(),
        limited: limited.len() as u32,
        limited_sources: limited
            .into_iter()
            .take(NAMED)
            .map(|(_, source)| source)
            .collect(),
        denied: denied.len() as u32,
        denied_sources: denied.into_iter().take(NAMED).collect(),
        notes: notes(pair, vip, seen),
    })
}

/// A limit that a rate over ten seconds exceeds together with its burst.
fn exceeded(of: LimitedRate, rate_per_s: f64, limit: Option<Rate>) -> Option<ExceededLimit> {
    let limit = limit?;
    let most = f64::from(limit.per_s) + f64::from(limit.burst) / WINDOW_S;
    (rate_per_s > most).then_some(ExceededLimit {
        of,
        rate_per_s,
        limit_per_s: limit.per_s,
    })
}

/// The limits that a source exceeded, and by which factor.
fn exceeding(source: &SeenSource, limit: &SourceLimit) -> Option<(f64, LimitedSource)> {
    let peak = source.peak;
    let exceeded = [
        exceeded(LimitedRate::NewFlows, peak.new_flows, limit.flow_rate()),
        exceeded(LimitedRate::Packets, peak.packets, limit.packet_rate()),
    ];
    let exceeded: Vec<ExceededLimit> = exceeded.into_iter().flatten().collect();
    let factors = exceeded
        .iter()
        .map(|exceeded| exceeded.rate_per_s / f64::from(exceeded.limit_per_s));
    let factor = factors.reduce(f64::max)?;
    let source = source.name();
    Some((factor, LimitedSource { source, exceeded }))
}

fn notes(pair: &Pair<'_>, vip: &Vip, seen: &SourceHistory) -> Vec<String> {
    let (limit, source) = (&vip.limit, &vip.limit.source);
    let mut notes = Vec::new();
    let before = pair.before.and_then(|vip| vip.limit.source.port_block);
    let limits_sources = has_rates(source.flow_rate(), source.packet_rate());
    match source.port_block.filter(|_| limits_sources) {
        Some(_) => notes.push(
            "port_block can't be judged: ports are not kept. The rates are of whole addresses; blocks of \
             ports have less"
                .to_owned(),
        ),
        None if limits_sources && before.is_some() => {
            notes.push("port_block is removed: all ports of an address share its limits".to_owned());
        }
        None => {}
    }
    if limits_sources && !seen.is_empty() && is_ipv6_finer(vip) {
        notes.push(format!(
            "prefix_v6 = {} can't be judged: the rates are of /{FINEST_V6} networks",
            source.prefix_v6
        ));
    }
    let counts = |limits: bool, on_excess: OnExcess| limits && on_excess == OnExcess::Count;
    let limits_all = has_rates(limit.flow_rate(), limit.packet_rate());
    for (table, counts) in [
        ("[vip.limit]", counts(limits_all, limit.on_excess)),
        (
            "[vip.limit.source]",
            counts(limits_sources, source.on_excess),
        ),
    ] {
        if counts {
            notes.push(format!(
                "on_excess = \"count\" in {table}: excess is counted and passes"
            ));
        }
    }
    if pair.before.is_some_and(|vip| drops(&vip.limit)) {
        notes.push("what the limits so far dropped was not seen".to_owned());
    }
    if seen.is_overrun() {
        notes.push(
            "new flows began faster than they can be sampled: rates of sources may be too low"
                .to_owned(),
        );
    }
    notes
}

fn is_ipv6_finer(vip: &Vip) -> bool {
    vip.address.is_ipv6() && vip.limit.source.prefix_v6 > FINEST_V6.into()
}

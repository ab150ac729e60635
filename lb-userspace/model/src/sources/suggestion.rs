//! Limits that would have limited nobody in what was seen.

use std::fmt::Write as _;

use lb_api::{LimitSuggestion, SeenTraffic, SourceTraffic, SuggestedRates};

use super::{SeenSource, SourceHistory};
use crate::{
    config::{Forward, Limit, OnExcess, Protocol, SourceLimit, Track, Vip},
    text::grouped,
};

/// Multiple of the highest rate that is suggested, and of that the burst.
const MARGIN: f64 = 2.0;
const BURST: u32 = 2;
/// Smallest suggestion, per second: less hinders a browser.
const LEAST_NEW_FLOWS: u32 = 10;
const LEAST_PACKETS: u32 = 100;
/// Less than this is too little to suggest anything.
const ENOUGH_MINUTES: u32 = 10;
const ENOUGH_FLOWS: u64 = 1_000;
/// Part of the traffic from which on a source is probably many clients.
const MANY_CLIENTS: f64 = 0.5;

/// Suggests limits for a VIP. Sources are told apart as its configuration says, and those that it
/// exempts are left out.
#[must_use]
pub fn suggestion(vip: &Vip, history: &SourceHistory) -> LimitSuggestion {
    let counts_flows = counts_flows(vip);
    let seen = seen(vip, history);
    let (limit, source) = if seen.packets == 0 {
        Default::default()
    } else {
        rates(&seen, counts_flows)
    };
    let mut suggestion = LimitSuggestion {
        vip: vip.name.clone(),
        warnings: warnings(vip, history, &seen, counts_flows),
        seen,
        limit,
        source,
        toml: String::new(),
    };
    suggestion.toml = toml(vip, &suggestion);
    suggestion
}

/// Whether the data path can tell new flows from others.
pub(crate) fn counts_flows(vip: &Vip) -> bool {
    vip.protocol == Protocol::Tcp || vip.forward == Forward::Nat || vip.track == Track::Always
}

fn seen(vip: &Vip, history: &SourceHistory) -> SeenTraffic {
    let sources = history.limited_sources(&vip.limit);
    let (new_flows, packets) = history.totals();
    let peak = history.peak();
    let share = |part: f64, all: u64| (part / (all as f64).max(1.0)).min(1.0);
    let traffic = |source: &SeenSource| SourceTraffic {
        source: source.name(),
        new_flows_per_s: source.peak.new_flows,
        packets_per_s: source.peak.packets,
        share_of_new_flows: share(source.new_flows, new_flows),
        share_of_packets: share(source.packets, packets),
    };
    let busiest = |rate: fn(&SeenSource) -> f64| {
        let busy = sources.iter().filter(|source| rate(source) > 0.0);
        busy.max_by(|a, b| rate(a).total_cmp(&rate(b))).map(traffic)
    };
    SeenTraffic {
        minutes: history.minutes(),
        new_flows,
        packets,
        peak_new_flows_per_s: peak.new_flows,
        peak_packets_per_s: peak.packets,
        sources: sources.len() as u32,
        busiest_only: history.is_cut(),
        busiest_by_new_flows: busiest(|source| source.peak.new_flows),
        busiest_by_packets: busiest(|source| source.peak.packets),
    }
}

/// Limits of the VIP and of each source.
fn rates(seen: &SeenTraffic, counts_flows: bool) -> (SuggestedRates, SuggestedRates) {
    let of = |source: &Option<SourceTraffic>, rate: fn(&SourceTraffic) -> f64| {
        source.as_ref().map_or(0.0, rate)
    };
    let flows = of(&seen.busiest_by_new_flows, |source| source.new_flows_per_s);
    let packets = of(&seen.busiest_by_packets, |source| source.packets_per_s);
    let source = with_bursts(
        twice(flows, LEAST_NEW_FLOWS, SourceLimit::MAX_RATE).filter(|_| counts_flows),
        twice(packets, LEAST_PACKETS, SourceLimit::MAX_RATE),
    );
    // A VIP admits at least what it admits from one source.
    let least = |of_source: Option<u32>, least: u32| of_source.unwrap_or(least).max(least);
    let (least_flows, least_packets) = (
        least(source.new_flows, LEAST_NEW_FLOWS),
        least(source.packets, LEAST_PACKETS),
    );
    let all = with_bursts(
        twice(seen.peak_new_flows_per_s, least_flows, Limit::MAX_NEW_FLOWS)
            .filter(|_| counts_flows),
        twice(seen.peak_packets_per_s, least_packets, Limit::MAX_PACKETS),
    );
    (all, source)
}

fn with_bursts(new_flows: Option<u32>, packets: Option<u32>) -> SuggestedRates {
    SuggestedRates {
        new_flows,
        new_flows_burst: new_flows.map(|rate| rate * BURST),
        packets,
        packets_burst: packets.map(|rate| rate * BURST),
    }
}

/// Twice a rate, rounded up to two digits; none if that is more than the configuration allows.
fn twice(rate: f64, least: u32, most: u32) -> Option<u32> {
    let wanted = MARGIN * rate;
    let unit = 10_f64.powi((wanted.max(1.0).log10().floor() as i32 - 1).max(0));
    // What a division by ten adds must not count as a digit.
    let rounded = (wanted / unit - 1e-9).ceil() * unit;
    (rounded <= f64::from(most)).then(|| (rounded as u32).max(least))
}

fn warnings(
    vip: &Vip,
    history: &SourceHistory,
    seen: &SeenTraffic,
    counts_flows: bool,
) -> Vec<String> {
    let mut warnings = Vec::new();
    let (amount, what) = if counts_flows {
        (seen.new_flows, "new flows")
    } else {
        (seen.packets, "packets")
    };
    if seen.minutes < ENOUGH_MINUTES || amount < ENOUGH_FLOWS {
        warnings.push(format!(
            "too little was seen to rely on this: wait for at least {ENOUGH_MINUTES} minutes and {} {what}, \
             and for the busiest hour of the week",
            grouped(ENOUGH_FLOWS)
        ));
    }
    warnings.extend(many_clients(seen, counts_flows));
    if history.is_overrun() {
        warnings.push(
            "new flows began faster than they can be sampled: rates of sources may be too low"
                .to_owned(),
        );
    }
    if drops(&vip.limit) {
        warnings.push(
            "the VIP has limits that drop packets: what they dropped was not seen".to_owned(),
        );
    }
    warnings
}

fn many_clients(seen: &SeenTraffic, counts_flows: bool) -> Option<String> {
    let (source, share, what) = if counts_flows {
        let source = seen.busiest_by_new_flows.as_ref()?;
        (source, source.share_of_new_flows, "new flows")
    } else {
        let source = seen.busiest_by_packets.as_ref()?;
        (source, source.share_of_packets, "packets")
    };
    (share > MANY_CLIENTS).then(|| {
        let SourceTraffic { source, .. } = source;
        let share = (share * 100.0).round();
        format!(
            "{source} sent {share} % of the {what}: if it is a NAT or a proxy with many clients, \
             consider exempt = [{source:?}] in [vip.limit]"
        )
    })
}

/// Whether limits of the rates of a VIP or its sources drop packets, which are then not counted.
pub(crate) fn drops(limit: &Limit) -> bool {
    let source = &limit.source;
    is_set(limit) && limit.on_excess != OnExcess::Count
        || is_set_for_sources(source) && source.on_excess != OnExcess::Count
}

const fn is_set(limit: &Limit) -> bool {
    limit.new_flows.is_some() || limit.packets.is_some()
}

const fn is_set_for_sources(limit: &SourceLimit) -> bool {
    limit.new_flows.is_some() || limit.packets.is_some()
}

fn toml(vip: &Vip, suggestion: &LimitSuggestion) -> String {
    let mut text = String::new();
    let mut comment = |line: &str| {
        let _ = writeln!(text, "# {line}");
    };
    let counts_flows = counts_flows(vip);
    seen_lines(&suggestion.seen, counts_flows)
        .iter()
        .for_each(|line| comment(line));
    for warning in &suggestion.warnings {
        comment(&format!("warning: {warning}"));
    }
    if suggestion.seen.packets == 0 {
        comment("no limits to suggest");
        return text;
    }
    let limit = &vip.limit;
    text += "[vip.limit]\n";
    rate_lines(&mut text, &suggestion.limit, counts_flows);
    excess_line(&mut text, limit.on_excess, is_set(limit));
    text += "\n[vip.limit.source]\n";
    rate_lines(&mut text, &suggestion.source, counts_flows);
    excess_line(
        &mut text,
        limit.source.on_excess,
        is_set_for_sources(&limit.source),
    );
    let default = SourceLimit::default();
    for (key, value, default) in [
        ("prefix_v4", limit.source.prefix_v4, default.prefix_v4),
        ("prefix_v6", limit.source.prefix_v6, default.prefix_v6),
    ] {
        if value != default {
            let _ = writeln!(text, "{key} = {value}");
        }
    }
    if let Some(ports) = limit.source.port_block {
        let _ = writeln!(
            text,
            "port_block = {ports} # the rates are of whole addresses"
        );
    }
    text
}

fn seen_lines(seen: &SeenTraffic, counts_flows: bool) -> [String; 3] {
    let minutes = match seen.minutes {
        0 => "less than a minute".to_owned(),
        1 => "1 minute".to_owned(),
        minutes => format!("{minutes} minutes"),
    };
    let number = |rate: f64| grouped(rate.round() as u64);
    let mut totals = format!("seen in {minutes}: ");
    let mut peaks = "peaks over 10 s: ".to_owned();
    if counts_flows {
        totals += &format!("{} new flows, ", grouped(seen.new_flows));
        peaks += &format!("{} new flows/s, ", number(seen.peak_new_flows_per_s));
    }
    totals += &format!("{} packets", grouped(seen.packets));
    peaks += &format!("{} packets/s", number(seen.peak_packets_per_s));
    let mut busiest = Vec::new();
    if let Some(source) = seen.busiest_by_new_flows.as_ref().filter(|_| counts_flows) {
        let rate = number(source.new_flows_per_s);
        busiest.push(format!("{} with {rate} new flows/s", source.source));
    }
    if let Some(source) = &seen.busiest_by_packets {
        let rate = number(source.packets_per_s);
        busiest.push(format!("{} with {rate} packets/s", source.source));
    }
    let more = if seen.busiest_only {
        " (only the busiest are kept)"
    } else {
        ""
    };
    let mut sources = format!("sources seen: {}{more}", grouped(seen.sources.into()));
    if !busiest.is_empty() {
        sources += &format!("; the busiest: {}", busiest.join(", "));
    }
    [totals, peaks, sources]
}

fn rate_lines(text: &mut String, rates: &SuggestedRates, counts_flows: bool) {
    for (key, rate, burst, is_counted) in [
        (
            "new_flows",
            rates.new_flows,
            rates.new_flows_burst,
            counts_flows,
        ),
        ("packets", rates.packets, rates.packets_burst, true),
    ] {
        match (rate, burst) {
            (Some(rate), Some(burst)) => {
                let _ = write!(text, "{key} = {rate}\n{key}_burst = {burst}\n");
            }
            _ if is_counted => {
                let _ = writeln!(text, "# {key}: twice the rate seen is more than can be set");
            }
            _ => {}
        }
    }
}

/// A limit that is new only counts at first.
fn excess_line(text: &mut String, on_excess: OnExcess, is_set: bool) {
    let _ = if is_set {
        writeln!(text, "on_excess = \"{on_excess}\"")
    } else {
        writeln!(
            text,
            "on_excess = \"count\" # watch it for a while, then \"drop\""
        )
    };
}

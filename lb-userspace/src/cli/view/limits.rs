//! Whom the limits of a plan would have limited.

use super::{
    View,
    figures::{last_minutes, plural},
};
use lb_api::{ExceededLimit, LimitedRate, LimitedSource, LimitsPlan};
use lb_model::text::grouped;

/// Lines of a plan.
pub(in crate::cli) fn lines(view: View, limits: &LimitsPlan) -> String {
    let mut lines = Vec::new();
    if limits.minutes == 0 && limits.sources == 0 {
        let nothing = "no traffic of this VIP was seen: the effect of its limits is unknown";
        lines.push(nothing.to_owned());
    } else {
        lines.push(sources(limits));
        lines.extend(limits.vip.iter().map(vip));
    }
    lines.extend(denied(limits));
    lines.extend(limits.notes.iter().cloned());
    let line = |line: &String| view.hang("  limits: ", "    ", line) + "\n";
    lines.iter().map(line).collect()
}

fn sources(limits: &LimitsPlan) -> String {
    let time = last_minutes(limits.minutes);
    let kind = match (limits.busiest_only, limits.sources) {
        (true, _) => "busiest sources",
        (false, 1) => "source",
        (false, _) => "sources",
    };
    let all = grouped(limits.sources.into());
    if limits.limited == 0 {
        return format!("in {time} these would have limited nobody ({all} {kind} seen)");
    }
    let named: Vec<String> = limits.limited_sources.iter().map(source).collect();
    let limited = grouped(limits.limited.into());
    let more = more(limits.limited, named.len());
    let named = named.join(", ");
    format!("in {time} these would have limited {limited} of {all} {kind}: {named}{more}")
}

fn source(source: &LimitedSource) -> String {
    let rate = |exceeded: &ExceededLimit| {
        let (rate, limit) = rates(exceeded);
        format!("{}: {rate}/s, limit {limit}/s", name(exceeded.of))
    };
    let exceeded: Vec<String> = source.exceeded.iter().map(rate).collect();
    format!("{} ({})", source.source, exceeded.join("; "))
}

fn vip(exceeded: &ExceededLimit) -> String {
    let (rate, limit) = rates(exceeded);
    format!(
        "the VIP: peak {rate} {}/s, limit {limit}/s",
        name(exceeded.of)
    )
}

fn denied(limits: &LimitsPlan) -> Option<String> {
    if limits.denied == 0 {
        return None;
    }
    let (denied, names) = (limits.denied, limits.denied_sources.join(", "));
    let more = more(denied, limits.denied_sources.len());
    let sources = plural(denied as usize, "source");
    Some(format!(
        "denied prefixes contain {sources} that had traffic: {names}{more}"
    ))
}

fn more(all: u32, named: usize) -> String {
    match all as usize - named.min(all as usize) {
        0 => String::new(),
        more => format!(", {} more", grouped(more as u64)),
    }
}

fn rates(exceeded: &ExceededLimit) -> (String, String) {
    let limit = u64::from(exceeded.limit_per_s);
    // Rounding must not hide that the limit was exceeded.
    let rate = (exceeded.rate_per_s.round() as u64).max(limit + 1);
    (grouped(rate), grouped(limit))
}

const fn name(rate: LimitedRate) -> &'static str {
    match rate {
        LimitedRate::NewFlows => "new flows",
        LimitedRate::Packets => "packets",
    }
}

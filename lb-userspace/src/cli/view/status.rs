//! Status of the node.

use super::{
    View, alerts,
    figures::{amount, bits, count, since},
    fleet, members,
    paint::Tone,
    problems, revisions, sources,
};
use lb_api::{
    AnnounceSummary, BoundStatus, CapacityStatus, DrainState, InterfaceStatus, LimitStatus,
    NodeStatus, Status, VipStatus,
};

/// Members up to which each has a line.
const MOST_MEMBERS: usize = 200;

/// `is_whole`: whether members are shown however many they are.
pub(in crate::cli) fn status(view: View, status: &Status, is_whole: bool) -> String {
    let mut text = node(view, status);
    text += &revision(view, status);
    if let Some(file) = &status.file {
        text += &revisions::file(view, file);
    }
    if let Some(announce) = &status.announce {
        text += &announcing(view, announce);
    }
    if let Some(fleet) = &status.fleet {
        text += &fleet::line(view, fleet);
    }
    let members: usize = status.vips.iter().map(|vip| vip.members.len()).sum();
    if is_whole || members <= MOST_MEMBERS {
        for vip in &status.vips {
            text.push('\n');
            text += &self::vip(view, vip, status);
        }
    } else {
        text += &format!("\n{}", members::vips(view, &status.vips));
        text += &problems::of_vips(view, &status.vips, status.at);
        let hint = format!("{members} backends: `evenkeel status VIP` shows those of a VIP");
        text += &format!("{}\n", view.paint.apply(Tone::Faint, &hint));
    }
    if status.vips.is_empty() {
        text += "\nno VIPs\n";
    }
    if status.alerts.is_empty() {
        text += &format!("\n{}\n", view.paint.apply(Tone::Good, "no alerts"));
    } else {
        text += &format!("\n{}", alerts::alerts(view, &status.alerts, status.at));
    }
    text
}

pub(super) fn node(view: View, status: &Status) -> String {
    let node = &status.node;
    let NodeStatus {
        host,
        version,
        pid,
        program_id,
        ..
    } = node;
    let host = view.paint.apply(Tone::Strong, host);
    let up = since(node.started_at, status.at);
    let adopted = if node.adopted { ", adopted" } else { "" };
    let mut text = format!("{host}  evenkeel {version}, pid {pid}, up {up}{adopted}\n");
    let interfaces: Vec<(String, Tone)> = node
        .interfaces
        .iter()
        .map(|interface| self::interface(interface, *program_id))
        .collect();
    let pieces = interfaces.iter().map(|(text, tone)| (text.as_str(), *tone));
    text += &view.flow(&format!("program {program_id}: "), "  ", pieces);
    text + "\n"
}

/// `eth0 native`, or what is wrong with the interface.
fn interface(interface: &InterfaceStatus, ours: u32) -> (String, Tone) {
    let InterfaceStatus {
        name,
        mode,
        program_id,
    } = interface;
    match (mode.as_str(), program_id) {
        ("native", Some(id)) if *id == ours => (format!("{name} native"), Tone::Good),
        ("none", None) => (format!("{name} (no program)"), Tone::Bad),
        (mode, Some(id)) if *id == ours => (format!("{name} {mode} (slow)"), Tone::Warn),
        (_, Some(id)) => (format!("{name} (another program: {id})"), Tone::Bad),
        (mode, None) => (format!("{name} {mode}"), Tone::Bad),
    }
}

fn revision(view: View, status: &Status) -> String {
    match &status.revision {
        Some(revision) => revisions::line(view, revision, status.at),
        None => "no revision\n".into(),
    }
}

/// One line on what routers are told.
fn announcing(view: View, announce: &AnnounceSummary) -> String {
    let AnnounceSummary {
        error,
        drain,
        announced,
        worse,
        withheld,
        sessions,
        peers,
    } = announce;
    let all = announced + worse + withheld;
    let (addresses, tone) = match (error, drain) {
        (Some(error), _) => (format!("no answer from the announcer: {error}"), Tone::Bad),
        (None, DrainState::Drained) => ("the node is drained".to_owned(), Tone::Warn),
        (None, DrainState::Draining) => ("the node is being drained".to_owned(), Tone::Warn),
        (None, DrainState::No) => {
            let mut text = format!("{announced} of {all} addresses");
            if *worse > 0 {
                text += &format!(", {worse} as worse");
            }
            let tone = match (worse, withheld) {
                (0, 0) => Tone::Good,
                (_, 0) => Tone::Warn,
                _ => Tone::Bad,
            };
            (text, tone)
        }
    };
    let has_sessions = error.is_none() && *peers > 0;
    let comma = if has_sessions { "," } else { "" };
    let mut pieces = vec![(addresses + comma, tone)];
    if has_sessions {
        let tone = if sessions == peers {
            Tone::Good
        } else {
            Tone::Bad
        };
        pieces.push((format!("{sessions} of {peers} BGP sessions"), tone));
    }
    let pieces = pieces.iter().map(|(text, tone)| (text.as_str(), *tone));
    view.flow("announced: ", "  ", pieces) + "\n"
}

fn vip(view: View, vip: &VipStatus, status: &Status) -> String {
    let name = view.paint.apply(Tone::Strong, &vip.name);
    let mut text = format!(
        "{name}  {} {}  {} new flows/s  {} packets/s  {}\n",
        members::address(vip),
        vip.forward,
        amount(vip.rates.new_flows_per_s),
        amount(vip.rates.packets_per_s),
        bits(vip.rates.bytes_per_s),
    );
    if let Some(line) = sources::of_vip(view, &vip.name, status) {
        text += &line;
        text.push('\n');
    }
    if vip.panic {
        let line = "PANIC: too few backends are healthy; new flows go to all of them";
        text += &format!("  {}\n", view.paint.apply(Tone::Bad, line));
    }
    if let Some(line) = ring(vip) {
        text += &view.wrap("  ", &line);
        text.push('\n');
    }
    if let Some(capacity) = &vip.capacity {
        text += &view.wrap("  ", &used(vip, capacity));
        text.push('\n');
    }
    if let Some(line) = vip.limit.as_ref().and_then(over_limits) {
        let line = view.paint.apply(Tone::Warn, &line);
        text += &view.wrap("  ", &line);
        text.push('\n');
    }
    if let Some(bound) = &vip.bound {
        let tone = if bound.unplaced > 0.0 {
            Tone::Warn
        } else {
            Tone::Plain
        };
        text += &view.wrap("  ", &view.paint.apply(tone, &spilled(bound)));
        text.push('\n');
    }
    text += &members::members(view, vip);
    text + &members::problems(view, vip, status.at)
}

/// Packets over limits; none if there are none.
fn over_limits(limit: &LimitStatus) -> Option<String> {
    let LimitStatus {
        source_new_flows_per_s,
        source_packets_per_s,
        new_flows_per_s,
        packets_per_s,
        denied_per_s,
        source_on_excess,
        on_excess,
        sources,
    } = limit;
    let over = |rate: &f64, what: &str, whose: &str, on_excess: &str| {
        let (rate, what) = (amount(*rate), what);
        format!("{rate} {what}/s over the limit of {whose} ({on_excess})")
    };
    let parts = [
        (
            source_new_flows_per_s,
            over(
                source_new_flows_per_s,
                "new flows",
                "sources",
                source_on_excess,
            ),
        ),
        (
            source_packets_per_s,
            over(source_packets_per_s, "packets", "sources", source_on_excess),
        ),
        (
            new_flows_per_s,
            over(new_flows_per_s, "new flows", "the VIP", on_excess),
        ),
        (
            packets_per_s,
            over(packets_per_s, "packets", "the VIP", on_excess),
        ),
        (
            denied_per_s,
            format!("{} packets/s from denied sources", amount(*denied_per_s)),
        ),
    ];
    let parts = parts.into_iter().filter(|(rate, _)| **rate > 0.0);
    let parts: Vec<String> = parts.map(|(_, text)| text).collect();
    if parts.is_empty() {
        return None;
    }
    let named = sources.iter().filter(|source| source.share >= 0.01);
    let named: Vec<String> = named
        .map(|source| format!("{} {:.0} %", source.source, source.share * 100.0))
        .collect();
    let from = match named.is_empty() {
        true => String::new(),
        false => format!("; from {}", named.join(", ")),
    };
    Some(format!("limits: {}{from}", parts.join(", ")))
}

/// How many backends are named.
const NAMED: usize = 3;

/// What a bound spilled.
fn spilled(bound: &BoundStatus) -> String {
    let mut kinds: Vec<String> = bound
        .factor
        .iter()
        .map(|factor| format!("factor {factor}"))
        .collect();
    if bound.capacity {
        kinds.push("capacity".to_owned());
    }
    let kinds = kinds.join(", ");
    let percent = |part: f64| format!("{:.1} %", part * 100.0);
    let mut text = if bound.spilled > 0.0 {
        let names = bound.spilling.iter().take(NAMED);
        let mut names: Vec<String> = names.map(|full| full.backend.clone()).collect();
        if bound.spilling.len() > NAMED {
            names.push(format!("{} more", bound.spilling.len() - NAMED));
        }
        let (part, names) = (percent(bound.spilled), names.join(", "));
        format!("bound: {kinds}; {part} of new flows spilled, from {names}")
    } else {
        format!("bound: {kinds}; no new flows spilled")
    };
    if bound.unplaced > 0.0 {
        let why = match (bound.all_full_per_s > 0.0, bound.no_room_per_s > 0.0) {
            (true, false) => "all backends full",
            (false, true) => "tracking table full",
            _ => "all backends or the tracking table full",
        };
        text += &format!("; {} unplaced ({why})", percent(bound.unplaced));
    }
    text
}

/// Use of the capacity, and the number of backends it needs.
fn used(vip: &VipStatus, capacity: &CapacityStatus) -> String {
    let CapacityStatus {
        eligible_new_flows_per_s,
        utilisation,
        target_utilisation,
        headroom_after_failure,
        eligible_backends,
        wanted_backends,
    } = capacity;
    let failure = if *headroom_after_failure < 0.0 {
        format!("{} short", amount(-headroom_after_failure))
    } else {
        format!("{} left", amount(*headroom_after_failure))
    };
    format!(
        "capacity: {:.0} % of {} new flows/s (peak {}, target {:.0} %); {failure} if the largest \
         backend fails; {eligible_backends} backends, {wanted_backends} needed",
        utilisation * 100.0,
        amount(*eligible_new_flows_per_s),
        amount(vip.peak_new_flows_per_s),
        target_utilisation * 100.0,
    )
}

/// The use of the ports of the backend that has the fewest free ones.
fn ports(vip: &VipStatus) -> Option<String> {
    let members = vip.members.iter();
    let ports = members.filter_map(|member| Some((&member.backend, member.nat_ports?)));
    let (backend, ports) =
        ports.min_by_key(|(_, ports)| ports.total.saturating_sub(ports.in_use))?;
    Some(format!(
        "most to {backend}: {}",
        members::ports_in_use(&ports)
    ))
}

/// Slots in transition and tracked flows, if any.
fn ring(vip: &VipStatus) -> Option<String> {
    let (moving, settling) = (vip.ring.in_transition, vip.ring.settling);
    // A transition matters to flows that began before it: after a first start there are none.
    let had_flows = vip.members.iter().any(|member| member.totals.packets > 0);
    if vip.tracked_flows == 0 && (!had_flows || (moving == 0 && settling == 0)) {
        return None;
    }
    let slots = vip.ring.slots;
    let mut parts = Vec::new();
    if moving > 0 {
        parts.push(format!("{moving} of {slots} slots in transition"));
    }
    if settling > 0 {
        parts.push(format!("{settling} of {slots} slots settling"));
    }
    let flows = match vip.forward.as_str() {
        "nat" => "sessions",
        _ => "tracked flows",
    };
    parts.push(format!("{} {flows}", count(vip.tracked_flows)));
    parts.extend(ports(vip));
    Some(parts.join(", "))
}

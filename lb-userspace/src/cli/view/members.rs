//! VIPs and their members as tables.

use std::net::{IpAddr, SocketAddr};

use super::{
    View,
    figures::{amount, bits, count, share, since},
    paint::Tone,
    table::{Cell, Side, Table},
    tones,
};
use crate::cli::member;
use jiff::Timestamp;
use lb_api::{HealthStatus, MemberState, MemberStatus, NatPorts, VipStatus};

/// An observed share is highlighted if it deviates from the table share by more than this fraction.
const MAX_DEVIATION: f64 = 0.25;

/// The members of a VIP.
pub(in crate::cli) fn members(view: View, vip: &VipStatus) -> String {
    use Side::{Left, Right};
    let mut table = Table::new(&[
        (Left, "backend"),
        (Left, "state"),
        (Left, "health"),
        (Right, "weight"),
        (Right, "intended"),
        (Right, "table"),
        (Right, "observed"),
        (Right, "flows/s"),
        (Right, "pkts/s"),
    ])
    .indented("  ");
    for member in &vip.members {
        table.row([
            member.backend.as_str().into(),
            state(member),
            health(member.health.as_ref()),
            weight(member).into(),
            share(member.intended_share).into(),
            share(member.table_share).into(),
            observed(member),
            amount(member.rates.new_flows_per_s).into(),
            amount(member.rates.packets_per_s).into(),
        ]);
    }
    table.draw(view)
}

/// What is wrong with the members of a VIP, one paragraph each.
pub(in crate::cli) fn problems(view: View, vip: &VipStatus, now: Timestamp) -> String {
    let mut text = String::new();
    for member in &vip.members {
        for problem in problems_of(member, now) {
            let line = view.hang("  ! ", "    ", &format!("{}: {problem}", member.backend));
            text += &view.paint.apply(Tone::Warn, &line);
            text.push('\n');
        }
    }
    text
}

pub(super) fn problems_of(member: &MemberStatus, now: Timestamp) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(health) = &member.health {
        let error = health.last_error.as_deref().unwrap_or("no check yet");
        if !health.healthy {
            problems.push(format!(
                "unhealthy for {}: {error}",
                since(health.since, now)
            ));
        } else if health.last_ok == Some(false) {
            problems.push(format!("healthy, but the last check failed: {error}"));
        }
        if let Some(why) = &health.inconclusive {
            problems.push(format!("the last check was inconclusive: {why}"));
        }
        if health.damped {
            problems.push("flapping: held down until it is stable".into());
        }
    }
    if let Some(why) = &member.next_hop {
        problems.push(format!("unreachable: {why}"));
    }
    if let Some(ports) = member.nat_ports.filter(are_ports_scarce) {
        problems.push(ports_in_use(&ports));
    }
    if matches!(member.state, MemberState::Draining | MemberState::Leaving) {
        problems.push(remaining(member));
    }
    problems
}

/// Whether more than 80 % of the ports for sessions with a backend are in use.
pub(super) fn are_ports_scarce(ports: &NatPorts) -> bool {
    u64::from(ports.in_use) * 10 > u64::from(ports.total) * 8
}

/// `15000 of 16384 nat ports in use (92 %)`.
pub(super) fn ports_in_use(ports: &NatPorts) -> String {
    let NatPorts { in_use, total, .. } = ports;
    let percent = f64::from(*in_use) * 100.0 / f64::from(*total);
    format!("{in_use} of {total} nat ports in use ({percent:.0} %)")
}

/// The traffic that a draining member still has.
pub(in crate::cli) fn remaining(member: &MemberStatus) -> String {
    format!(
        "remaining: {} new flows/s, {} tracked flows, {} packets/s",
        amount(member.rates.new_flows_per_s),
        count(member.tracked_flows),
        amount(member.rates.packets_per_s)
    )
}

/// The members of several VIPs.
pub(in crate::cli) fn backends(view: View, vips: &[VipStatus]) -> String {
    use Side::{Left, Right};
    let mut table = Table::new(&[
        (Left, "backend"),
        (Left, "address"),
        (Left, "state"),
        (Left, "health"),
        (Right, "weight"),
        (Right, "table"),
        (Right, "flows/s"),
        (Right, "tracked"),
        (Right, "pkts/s"),
    ]);
    for (name, member) in member::all(vips) {
        table.row([
            name.path().into(),
            endpoint(member).into(),
            state(member),
            health(member.health.as_ref()),
            weight(member).into(),
            share(member.table_share).into(),
            amount(member.rates.new_flows_per_s).into(),
            count(member.tracked_flows).into(),
            amount(member.rates.packets_per_s).into(),
        ]);
    }
    table.draw(view)
}

/// One row per VIP.
pub(in crate::cli) fn vips(view: View, vips: &[VipStatus]) -> String {
    use Side::{Left, Right};
    let mut table = Table::new(&[
        (Left, "VIP"),
        (Left, "address"),
        (Left, "forward"),
        (Right, "up"),
        (Right, "flows/s"),
        (Right, "pkts/s"),
        (Right, "traffic"),
        (Right, "tracked"),
    ]);
    for vip in vips {
        table.row([
            vip.name.as_str().into(),
            address(vip).into(),
            vip.forward.as_str().into(),
            up(vip),
            amount(vip.rates.new_flows_per_s).into(),
            amount(vip.rates.packets_per_s).into(),
            bits(vip.rates.bytes_per_s).into(),
            count(vip.tracked_flows).into(),
        ]);
    }
    table.draw(view)
}

/// `203.0.113.10:443/tcp`, `[2001:db8::1]:*/udp`.
pub(in crate::cli) fn address(vip: &VipStatus) -> String {
    let protocol = &vip.protocol;
    match (vip.port, vip.address) {
        (0, IpAddr::V4(address)) => format!("{address}:*/{protocol}"),
        (0, IpAddr::V6(address)) => format!("[{address}]:*/{protocol}"),
        (port, address) => format!("{}/{protocol}", SocketAddr::new(address, port)),
    }
}

/// `10.0.1.11:8080`, or the address alone if the member has no port of its own.
fn endpoint(member: &MemberStatus) -> String {
    match member.port {
        0 => member.address.to_string(),
        port => SocketAddr::new(member.address, port).to_string(),
    }
}

pub(in crate::cli) fn state(member: &MemberStatus) -> Cell {
    Cell::toned(tones::member_state(member.state), member.state.as_str())
}

/// Members that are up, of those that are configured: `2/3`.
pub(in crate::cli) fn up(vip: &VipStatus) -> Cell {
    let count = |state| vip.members.iter().filter(|m| m.state == state).count();
    let up = count(MemberState::Up);
    let all = vip.members.len() - count(MemberState::Leaving);
    let tone = match () {
        () if vip.panic || up == 0 => Tone::Bad,
        () if up < all => Tone::Warn,
        () => Tone::Good,
    };
    Cell::toned(tone, format!("{up}/{all}"))
}

pub(in crate::cli) fn health(health: Option<&HealthStatus>) -> Cell {
    let Some(health) = health else {
        return Cell::toned(Tone::Faint, "–");
    };
    match (health.healthy, health.last_ok) {
        _ if health.inconclusive.is_some() => Cell::toned(Tone::Warn, "unknown"),
        (_, None) => Cell::toned(Tone::Warn, "waiting"),
        (true, Some(true)) => {
            let text = match health.latency_ms {
                None => "ok".into(),
                Some(ms) if ms < 1.0 => format!("ok {ms:.1}ms"),
                Some(ms) => format!("ok {ms:.0}ms"),
            };
            Cell::toned(Tone::Good, text)
        }
        (true, Some(false)) => Cell::toned(Tone::Warn, "falling"),
        (false, _) if health.damped => Cell::toned(Tone::Bad, "flapping"),
        (false, Some(true)) => Cell::toned(Tone::Warn, "rising"),
        (false, Some(false)) => Cell::toned(Tone::Bad, "failing"),
    }
}

/// `100`; `40/100` during slow start.
pub(in crate::cli) fn weight(member: &MemberStatus) -> String {
    match (member.state, member.effective_weight, member.weight) {
        (MemberState::Up, effective, weight) if effective != weight => {
            format!("{effective}/{weight}")
        }
        (_, _, weight) => weight.to_string(),
    }
}

/// The observed share, highlighted if it is far from the table share.
pub(in crate::cli) fn observed(member: &MemberStatus) -> Cell {
    let Some(observed) = member.observed_share else {
        return Cell::toned(Tone::Faint, "–");
    };
    let deviates = (observed - member.table_share).abs() > MAX_DEVIATION * member.table_share;
    let tone = if deviates { Tone::Warn } else { Tone::Plain };
    Cell::toned(tone, share(observed))
}

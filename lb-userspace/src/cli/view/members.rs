//! VIPs and their members as tables.

use super::{
    View,
    figures::{amount, bits, count, share, since},
    paint::Tone,
    table::{Cell, Side, Table},
    words,
};
use jiff::Timestamp;
use lb_api::{HealthStatus, MemberState, MemberStatus, VipStatus};

/// Further from the table share than this part of it, an observed share is marked.
const FAR: f64 = 0.25;

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
        let (state, tone) = words::member_state(member.state);
        table.row([
            member.backend.as_str().into(),
            Cell::toned(tone, state),
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

/// What is wrong with members, a paragraph for each.
pub(in crate::cli) fn troubles(view: View, vip: &VipStatus, now: Timestamp) -> String {
    let mut text = String::new();
    for member in &vip.members {
        for trouble in troubles_of(member, now) {
            let line = view.hang("  ! ", "    ", &format!("{}: {trouble}", member.backend));
            text += &view.paint.apply(Tone::Warn, &line);
            text.push('\n');
        }
    }
    text
}

fn troubles_of(member: &MemberStatus, now: Timestamp) -> Vec<String> {
    let mut troubles = Vec::new();
    if let Some(health) = &member.health
        && (!health.healthy || health.last_ok == Some(false))
    {
        let error = health.last_error.as_deref().unwrap_or("no check yet");
        let since = since(health.since, now);
        troubles.push(match health.healthy {
            false => format!("unhealthy for {since}: {error}"),
            true => format!("healthy, but the newest check failed: {error}"),
        });
    }
    if member.health.as_ref().is_some_and(|health| health.damped) {
        troubles.push("goes up and down so often that it is held down".into());
    }
    if let Some(why) = &member.next_hop {
        troubles.push(format!("can't be reached: {why}"));
    }
    if matches!(member.state, MemberState::Draining | MemberState::Leaving) {
        troubles.push(remainder(member));
    }
    troubles
}

/// What is still there of a member that is being emptied.
pub(in crate::cli) fn remainder(member: &MemberStatus) -> String {
    format!(
        "still {} new flows/s, {} tracked flows, {} packets/s",
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
    for (vip, member) in vips
        .iter()
        .flat_map(|vip| vip.members.iter().map(move |m| (vip, m)))
    {
        let (state, tone) = words::member_state(member.state);
        table.row([
            format!("{}/{}", vip.name, member.backend).into(),
            place(member).into(),
            Cell::toned(tone, state),
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

/// VIPs, a line for each.
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
    let port = match vip.port {
        0 => "*".into(),
        port => port.to_string(),
    };
    match vip.address.is_ipv6() {
        true => format!("[{}]:{port}/{}", vip.address, vip.protocol),
        false => format!("{}:{port}/{}", vip.address, vip.protocol),
    }
}

fn place(member: &MemberStatus) -> String {
    match (member.port, member.address.is_ipv6()) {
        (0, _) => member.address.to_string(),
        (port, true) => format!("[{}]:{port}", member.address),
        (port, false) => format!("{}:{port}", member.address),
    }
}

/// Members that are up, of those that are wanted.
pub(in crate::cli) fn up(vip: &VipStatus) -> Cell {
    let of = |state| move |member: &&MemberStatus| member.state == state;
    let up = vip.members.iter().filter(of(MemberState::Up)).count();
    let leaving = vip.members.iter().filter(of(MemberState::Leaving)).count();
    let all = vip.members.len() - leaving;
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
        (_, None) => Cell::toned(Tone::Warn, "waiting"),
        (true, Some(true)) => {
            let took = health.latency_ms.map(latency);
            Cell::toned(
                Tone::Good,
                format!("ok {}", took.unwrap_or_default()).trim_end(),
            )
        }
        (true, Some(false)) => Cell::toned(Tone::Warn, "falling"),
        (false, _) if health.damped => Cell::toned(Tone::Bad, "flapping"),
        (false, Some(true)) => Cell::toned(Tone::Warn, "rising"),
        (false, Some(false)) => Cell::toned(Tone::Bad, "failing"),
    }
}

fn latency(ms: f64) -> String {
    match ms {
        ms if ms < 1.0 => format!("{ms:.1}ms"),
        ms => format!("{ms:.0}ms"),
    }
}

/// `100`; `40/100` while it starts slowly.
pub(in crate::cli) fn weight(member: &MemberStatus) -> String {
    match (member.state, member.effective_weight, member.weight) {
        (MemberState::Up, effective, weight) if effective != weight => {
            format!("{effective}/{weight}")
        }
        (_, _, weight) => weight.to_string(),
    }
}

/// Its share of new flows, marked when it is far from the table's.
pub(in crate::cli) fn observed(member: &MemberStatus) -> Cell {
    let Some(observed) = member.observed_share else {
        return Cell::toned(Tone::Faint, "–");
    };
    let far = (observed - member.table_share).abs() > FAR * member.table_share;
    let tone = if far { Tone::Warn } else { Tone::Plain };
    Cell::toned(tone, share(observed))
}

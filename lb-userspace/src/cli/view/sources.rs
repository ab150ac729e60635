//! Sources of backends.

use jiff::Timestamp;

use super::{
    View,
    figures::{plural, since},
    paint::Tone,
    table::{Cell, Side, Table},
};
use lb_api::{MemberIntent, SourceMember, SourceStatus, Status};

/// The sources, one per line.
pub(in crate::cli) fn list(view: View, sources: &[SourceStatus], now: Timestamp) -> String {
    if sources.is_empty() {
        return "no sources: no VIP has `backends_from`, and none was set\n".to_owned();
    }
    let mut table = Table::new(&[
        (Side::Left, "SOURCE"),
        (Side::Right, "BACKENDS"),
        (Side::Left, "VIPS"),
        (Side::Left, "ANSWERED"),
    ]);
    for source in sources {
        let members = source.members.iter().filter(|member| !member.leaving);
        let tone = tone(source);
        table.row([
            Cell::from(name(source)),
            Cell::from(members.count().to_string()),
            Cell::from(source.vips.join(", ")),
            Cell::toned(tone, age(source, now)),
        ]);
        source.error.iter().for_each(|error| table.note(error));
        source.held.iter().for_each(|held| table.note(held));
    }
    table.draw(view)
}

/// Sources with their members.
pub(in crate::cli) fn show(view: View, sources: &[SourceStatus], now: Timestamp) -> String {
    let texts: Vec<String> = sources.iter().map(|it| one(view, it, now)).collect();
    texts.join("\n")
}

fn one(view: View, source: &SourceStatus, now: Timestamp) -> String {
    let name = view.paint.apply(Tone::Strong, &name(source));
    let vips = match source.vips.is_empty() {
        true => "used by no VIP".to_owned(),
        false => format!("VIPs: {}", source.vips.join(", ")),
    };
    let mut text = format!("{name}  {vips}\n");
    text += &view.wrap("  ", &view.paint.apply(tone(source), &state(source, now)));
    text.push('\n');
    if source.members.is_empty() {
        return text;
    }
    let mut table = Table::new(&[
        (Side::Left, "BACKEND"),
        (Side::Left, "ADDRESS"),
        (Side::Right, "WEIGHT"),
        (Side::Left, "STATE"),
    ])
    .indented("  ");
    for member in &source.members {
        let (tone, state) = intent(member);
        table.row([
            Cell::from(&member.name),
            Cell::from(address(member)),
            Cell::from(member.weight.to_string()),
            Cell::toned(tone, state),
        ]);
    }
    text + &table.draw(view)
}

/// The source of a VIP's backends, for its status; none if the configuration lists them.
pub(super) fn of_vip(view: View, vip: &str, status: &Status) -> Option<String> {
    let mut sources = status.sources.iter();
    let source = sources.find(|source| source.vips.iter().any(|name| name == vip))?;
    let line = format!("source: {}, {}", name(source), state(source, status.at));
    Some(view.wrap("  ", &view.paint.apply(tone(source), &line)))
}

fn name(source: &SourceStatus) -> String {
    match source.families.as_str() {
        "ipv4" => format!("{} (IPv4)", source.source),
        "ipv6" => format!("{} (IPv6)", source.source),
        _ => source.source.clone(),
    }
}

/// Members, age, what is wrong and what is held back.
fn state(source: &SourceStatus, now: Timestamp) -> String {
    let members = source.members.iter();
    let leaving = members.clone().filter(|member| member.leaving).count();
    let mut text = plural(members.len() - leaving, "backend");
    if leaving > 0 {
        text += &format!(", {leaving} leaving");
    }
    text += &format!("; {}", age(source, now));
    if let Some(held) = &source.held {
        text += &format!("; {held}");
    }
    if let Some(error) = &source.error {
        let times = match source.failures {
            0 | 1 => String::new(),
            failures => format!(" ({failures} times in a row)"),
        };
        text += &format!("; fails{times}: {error}");
    }
    text
}

fn age(source: &SourceStatus, now: Timestamp) -> String {
    let verb = match source.source.starts_with("api:") {
        true => "set",
        false => "answered",
    };
    match source.answered_at {
        Some(at) => format!("{verb} {} ago", since(at, now)),
        None => format!("never {verb}"),
    }
}

const fn tone(source: &SourceStatus) -> Tone {
    match (
        source.failing,
        source.error.is_some() || source.held.is_some(),
    ) {
        (true, _) => Tone::Bad,
        (false, true) => Tone::Warn,
        (false, false) => Tone::Plain,
    }
}

fn intent(member: &SourceMember) -> (Tone, &'static str) {
    match (member.leaving, member.state) {
        (true, _) => (Tone::Warn, "leaving"),
        (false, MemberIntent::Up) => (Tone::Plain, "up"),
        (false, MemberIntent::Drain) => (Tone::Warn, "drain"),
        (false, MemberIntent::Disabled) => (Tone::Warn, "disabled"),
    }
}

fn address(member: &SourceMember) -> String {
    match member.port {
        Some(port) => std::net::SocketAddr::new(member.address, port).to_string(),
        None => member.address.to_string(),
    }
}

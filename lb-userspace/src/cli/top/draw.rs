//! The screen of `top`: node, VIPs, members of the selected VIP with their graphs, alerts, keys.

use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Cell, Paragraph, Row, Table, TableState},
};

use super::{
    super::member,
    super::view::{
        alerts::sorted,
        figures::{amount, bits, count, share, since},
        members,
        paint::{Paint, Tone},
        table::shorten,
        tones,
    },
    model::{Graph, Mark, Model},
};
use lb_api::{Alert, MemberStatus, Status, VipStatus};
use lb_model::MemberRef;

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

const KEYS: &str = "q quit  ↑↓ VIP  PgUp/PgDn members  s sort  r reverse";

/// Number of alerts shown; the last line counts the others.
const ALERTS: usize = 3;

/// Minimum width for the columns health and intended share.
const WIDE: u16 = 104;

pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, paint: Paint) {
    let ink = Ink(paint);
    let Some(status) = &model.status else {
        frame.render_widget(Paragraph::new(waiting(model, ink)), frame.area());
        return;
    };
    let height = frame.area().height;
    let vips = u16::try_from(status.vips.len()).unwrap_or(u16::MAX);
    let alerts = u16::try_from(status.alerts.len().min(ALERTS)).unwrap_or(0);
    let [head, list, marks, detail, warnings, keys] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(vips.saturating_add(1).min((height / 3).max(2))),
        Constraint::Length(2),
        Constraint::Min(3),
        Constraint::Length(alerts),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(header(model, status, ink)), head);
    draw_vips(frame, list, model, status, ink);
    draw_members(frame, marks, detail, model, ink);
    let lines = alert_lines(&status.alerts, warnings.width, ink);
    frame.render_widget(Paragraph::new(lines), warnings);
    let order = model.order.name();
    let arrow = if model.reversed { "↑" } else { "↓" };
    let line = format!("{KEYS}  by {order} {arrow}");
    frame.render_widget(Paragraph::new(ink.span(Tone::Faint, line)), keys);
}

/// Styles of tones, without colours if they are disabled.
#[derive(Clone, Copy)]
struct Ink(Paint);

impl Ink {
    fn style(self, tone: Tone) -> Style {
        let style = Style::default();
        match tone {
            Tone::Plain => style,
            Tone::Strong => style.add_modifier(Modifier::BOLD),
            Tone::Faint => style.add_modifier(Modifier::DIM),
            _ if !self.0.is_colored() => style,
            Tone::Good => style.fg(Color::Green),
            Tone::Warn => style.fg(Color::Yellow),
            Tone::Bad => style.fg(Color::Red),
        }
    }

    fn span(self, tone: Tone, text: impl Into<String>) -> Span<'static> {
        Span::styled(text.into(), self.style(tone))
    }
}

fn waiting(model: &Model, ink: Ink) -> Vec<Line<'static>> {
    let mut lines = vec![Line::from("waiting for the controller")];
    if let Some((_, why)) = &model.unavailable {
        lines.push(ink.span(Tone::Bad, why).into());
    }
    lines.push(Line::default());
    lines.push(ink.span(Tone::Faint, KEYS).into());
    lines
}

fn header(model: &Model, status: &Status, ink: Ink) -> Vec<Line<'static>> {
    let node = &status.node;
    let mut first = vec![
        ink.span(Tone::Strong, node.host.clone()),
        format!("  evenkeel {}", node.version).into(),
    ];
    let Some((when, why)) = &model.unavailable else {
        let up = since(node.started_at, status.at);
        let time = status.at.strftime("%H:%M:%SZ");
        first.push(format!(", up {up}  {time}").into());
        return vec![first.into(), program(model, status, ink).into()];
    };
    let (time, age) = (when.strftime("%H:%M:%SZ"), since(*when, model.now));
    let text = format!("  no response since {time} ({age})");
    first.push(ink.span(Tone::Bad, text));
    vec![first.into(), ink.span(Tone::Bad, why).into()]
}

/// Program, interfaces, revision.
fn program(model: &Model, status: &Status, ink: Ink) -> Vec<Span<'static>> {
    let node = &status.node;
    let mut line = vec![format!("program {}:", node.program_id).into()];
    for interface in &node.interfaces {
        let ours = interface.program_id == Some(node.program_id);
        let tone = match interface.mode.as_str() {
            "native" if ours => Tone::Good,
            _ if ours => Tone::Warn,
            _ => Tone::Bad,
        };
        line.push(ink.span(tone, format!(" {} {}", interface.name, interface.mode)));
    }
    if let Some(revision) = &status.revision {
        let (state, tone) = tones::revision_state(&revision.state);
        line.push(format!("   revision {} ", revision.number).into());
        line.push(ink.span(tone, state));
        line.push(format!(", {} ago", since(revision.at, model.now)).into());
    }
    line
}

fn right(text: impl Into<String>) -> Cell<'static> {
    Cell::from(Line::from(text.into()).alignment(Alignment::Right))
}

fn toned(ink: Ink, (text, tone): (impl Into<String>, Tone)) -> Cell<'static> {
    Cell::from(ink.span(tone, text))
}

fn draw_vips(frame: &mut Frame<'_>, area: Rect, model: &Model, status: &Status, ink: Ink) {
    let titles = [
        "VIP", "address", "up", "flows/s", "pkts/s", "traffic", "tracked",
    ];
    let titles = titles
        .into_iter()
        .enumerate()
        .map(|(column, title)| match column {
            0 | 1 => Cell::from(title),
            _ => right(title),
        });
    let widths = [
        Constraint::Min(8),
        Constraint::Length(28),
        Constraint::Length(5),
        Constraint::Length(7),
        Constraint::Length(6),
        Constraint::Length(11),
        Constraint::Length(7),
    ];
    let rows = status.vips.iter().map(|vip| vip_row(vip, ink));
    let table = Table::new(rows, widths)
        .header(Row::new(titles).style(ink.style(Tone::Faint)))
        .row_highlight_style(Style::default().add_modifier(Modifier::REVERSED));
    let selected = model.selected().map(|(place, _)| place);
    let mut state = TableState::default().with_selected(selected);
    frame.render_stateful_widget(table, area, &mut state);
}

fn vip_row(vip: &VipStatus, ink: Ink) -> Row<'static> {
    let (up, tone) = members::up(vip).into_parts();
    let panic = if vip.panic { " PANIC" } else { "" };
    Row::new([
        toned(
            ink,
            (
                format!("{}{panic}", vip.name),
                if vip.panic { Tone::Bad } else { Tone::Plain },
            ),
        ),
        Cell::from(members::address(vip)),
        Cell::from(Line::from(ink.span(tone, up)).alignment(Alignment::Right)),
        right(amount(vip.rates.new_flows_per_s)),
        right(amount(vip.rates.packets_per_s)),
        right(bits(vip.rates.bytes_per_s)),
        right(count(vip.tracked_flows)),
    ])
}

/// Columns of members before the graph: title, width, whether it is a number.
fn columns(width: u16) -> Vec<(&'static str, u16, bool)> {
    let mut columns = vec![("backend", 12, false), ("state", 8, false)];
    if width >= WIDE {
        columns.push(("health", 8, false));
    }
    columns.push(("weight", 7, true));
    if width >= WIDE {
        columns.push(("intended", 8, true));
    }
    columns.extend([
        ("table", 6, true),
        ("observed", 8, true),
        ("flows/s", 7, true),
        ("pkts/s", 6, true),
    ]);
    columns
}

fn draw_members(frame: &mut Frame<'_>, marks: Rect, area: Rect, model: &Model, ink: Ink) {
    let Some((_, vip)) = model.selected() else {
        frame.render_widget(Paragraph::new("no VIPs"), area);
        return;
    };
    let columns = columns(area.width);
    let taken: u16 = columns.iter().map(|(_, width, _)| width + 1).sum();
    let room = area.width.saturating_sub(taken);
    let line = Line::from(mark_line(model, room.into()));
    let place = Rect {
        x: marks.x + taken.min(marks.width),
        y: marks.y + 1,
        width: room.min(marks.width),
        height: 1.min(marks.height),
    };
    frame.render_widget(Paragraph::new(line), place);

    let members = model.members();
    let top = peak(model, vip, room.into());
    let rows = members.iter().skip(model.scroll).map(|member| {
        let graph = model.graph(&MemberRef::new(&vip.name, &member.backend));
        let graph = graph.map(|graph| bars(graph, top, room.into()));
        let mut cells = member_cells(member, area.width, ink);
        cells.push(toned(ink, (graph.unwrap_or_default(), Tone::Good)));
        Row::new(cells)
    });
    let titles = columns.iter().map(|&(title, _, number)| match number {
        true => right(title),
        false => Cell::from(title),
    });
    let scale = format!("0 to {} flows/s", amount(top));
    let titles = titles.chain([Cell::from(shorten(&scale, room.into()))]);
    let widths = columns
        .iter()
        .map(|&(_, width, _)| Constraint::Length(width));
    let table = Table::new(rows, widths.chain([Constraint::Length(room)]))
        .header(Row::new(titles).style(ink.style(Tone::Faint)));
    frame.render_widget(table, area);
}

fn member_cells(member: &MemberStatus, width: u16, ink: Ink) -> Vec<Cell<'static>> {
    let mut cells = vec![
        Cell::from(shorten(&member.backend, 12)),
        toned(ink, members::state(member).into_parts()),
    ];
    if width >= WIDE {
        cells.push(toned(
            ink,
            members::health(member.health.as_ref()).into_parts(),
        ));
    }
    cells.push(right(members::weight(member)));
    if width >= WIDE {
        cells.push(right(share(member.intended_share)));
    }
    let (observed, tone) = members::observed(member).into_parts();
    cells.extend([
        right(share(member.table_share)),
        Cell::from(Line::from(ink.span(tone, observed)).alignment(Alignment::Right)),
        right(amount(member.rates.new_flows_per_s)),
        right(amount(member.rates.packets_per_s)),
    ]);
    cells
}

/// The maximum of the VIP's graphs in the last `width` seconds.
fn peak(model: &Model, vip: &VipStatus, width: usize) -> f64 {
    let names = member::all(std::slice::from_ref(vip)).map(|(name, _)| name);
    let graphs = names.filter_map(|name| model.graph(&name));
    let points = graphs.flat_map(|graph| graph.iter().rev().take(width).flatten());
    points.copied().fold(0.0, f64::max)
}

/// A graph as bars, the newest on the right.
pub(super) fn bars(graph: &Graph, top: f64, width: usize) -> String {
    let newest = graph.len().saturating_sub(width);
    let pad = " ".repeat(width.saturating_sub(graph.len()));
    let bar = |point: &Option<f64>| match point {
        None => ' ',
        Some(value) if top <= 0.0 || *value <= 0.0 => BARS[0],
        Some(value) => {
            let level = (value / top * BARS.len() as f64).ceil() as usize;
            BARS[level.clamp(1, BARS.len()) - 1]
        }
    };
    pad + &graph.iter().skip(newest).map(bar).collect::<String>()
}

/// The marks above the graphs; a revision has its number to the left where there is room.
pub(super) fn mark_line(model: &Model, width: usize) -> String {
    let mut line = vec![' '; width];
    let first = model.marks.len().saturating_sub(width);
    let pad = width.saturating_sub(model.marks.len());
    for (place, mark) in model.marks.iter().skip(first).enumerate() {
        let place = place + pad;
        match mark {
            None => {}
            Some(Mark::Alert) => line[place] = '!',
            Some(Mark::Health) => line[place] = '+',
            Some(Mark::Revision(number)) => {
                line[place] = '▼';
                let digits: Vec<char> = number.to_string().chars().collect();
                if let Some(start) = place.checked_sub(digits.len())
                    && line[start..place].iter().all(|c| *c == ' ')
                {
                    line[start..place].copy_from_slice(&digits);
                }
            }
        }
    }
    line.into_iter().collect()
}

fn alert_lines(alerts: &[Alert], width: u16, ink: Ink) -> Vec<Line<'static>> {
    let shown = sorted(alerts).into_iter().take(ALERTS).enumerate();
    shown
        .map(|(place, alert)| {
            let tone = tones::severity(alert.severity);
            let severity = alert.severity.as_str();
            let more = alerts.len() - place - 1;
            let more = match more {
                more if place + 1 == ALERTS && more > 0 => format!(" (and {more} more)"),
                _ => String::new(),
            };
            let text = format!("{severity}{more}: {}", alert.summary);
            ink.span(tone, truncate(&text, width.into())).into()
        })
        .collect()
}

/// Truncates a text that is too long.
fn truncate(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.into();
    }
    text.chars()
        .take(width.saturating_sub(1))
        .chain(['…'])
        .collect()
}

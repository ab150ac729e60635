//! Draws the shares of all runs over time, with marks for events, as SVG.

use std::fmt::Write as _;

use super::{Fault, Report, report::Run};

const COLOURS: [&str; 4] = ["#d1495b", "#1b6e53", "#7a5195", "#edae49"];
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 150.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 740.0;
const HEAD: f64 = 60.0;
/// Top and bottom of a plot in its panel.
const TOP: f64 = 26.0;
const BOTTOM: f64 = 122.0;
/// Range of the time axis.
const FROM_S: f64 = -8.0;
const TO_S: f64 = 24.0;

pub(super) fn text(svg: &mut String, x: f64, y: f64, style: &str, content: &str) {
    let content = content.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{content}</text>"
    );
}

pub(super) fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), style: &str) {
    let _ = writeln!(
        svg,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" {style}/>",
        from.0, from.1, to.0, to.1
    );
}

fn x_of(at_s: f64) -> f64 {
    LEFT + (at_s.clamp(FROM_S, TO_S) - FROM_S) / (TO_S - FROM_S) * (RIGHT - LEFT)
}

/// Draws the runs one below the other.
#[must_use]
pub fn draw(report: &Report) -> String {
    let height = HEAD + HEIGHT * report.runs.len() as f64 + 30.0;
    let title = "Outage replay: share of each backend over time";
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>{title}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"24\" font-size=\"15\" font-weight=\"bold\">{title}</text>\n"
    );
    for (number, colour) in COLOURS.iter().enumerate() {
        let x = LEFT + 110.0 * number as f64;
        line(
            &mut svg,
            (x, 42.0),
            (x + 20.0, 42.0),
            &format!("stroke=\"{colour}\" stroke-width=\"2\""),
        );
        text(&mut svg, x + 26.0, 46.0, "", &format!("backend-{number}"));
    }
    for (number, run) in report.runs.iter().enumerate() {
        panel(&mut svg, HEAD + HEIGHT * number as f64, run);
    }
    let style = "text-anchor=\"middle\"";
    let middle = f64::midpoint(LEFT, RIGHT);
    text(
        &mut svg,
        middle,
        height - 10.0,
        style,
        "seconds since the fault",
    );
    svg + "</svg>\n"
}

fn panel(svg: &mut String, top: f64, run: &Run) {
    let y_of = |share: f64| top + BOTTOM - share * (BOTTOM - TOP);
    let bytes = run.fault == Fault::Elephant;
    let what = if bytes {
        "share of bytes"
    } else {
        "share of new flows"
    };
    let name = format!("{} – {what}", run.fault.name());
    text(svg, LEFT, top + 16.0, "font-weight=\"bold\"", &name);
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        line(
            svg,
            (LEFT, y_of(share)),
            (RIGHT, y_of(share)),
            "stroke=\"#dddddd\"",
        );
        let words = format!("{:.0} %", share * 100.0);
        text(
            svg,
            LEFT - 6.0,
            y_of(share) + 4.0,
            "text-anchor=\"end\" font-size=\"10\"",
            &words,
        );
    }
    let mut at_s = -5.0;
    while at_s <= TO_S {
        let style = "text-anchor=\"middle\" font-size=\"10\"";
        text(
            svg,
            x_of(at_s),
            top + BOTTOM + 13.0,
            style,
            &format!("{at_s:.0}"),
        );
        at_s += 5.0;
    }
    for (backend, colour) in COLOURS.iter().enumerate() {
        let shown = run
            .record
            .seconds
            .iter()
            .filter(|s| (FROM_S..=TO_S).contains(&s.at_s));
        let points: Vec<String> = shown
            .map(|second| {
                let share = second.shares(bytes).get(backend).copied().unwrap_or(0.0);
                format!(
                    "{:.1},{:.1}",
                    x_of(second.at_s - second.seconds / 2.0),
                    y_of(share)
                )
            })
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\"/>",
            points.join(" ")
        );
    }
    marks(svg, top, run);
}

fn marks(svg: &mut String, top: f64, run: &Run) {
    let begins = match run.fault {
        Fault::Guarded => "refused",
        Fault::Baked | Fault::Forced => "the change is active",
        Fault::BlackHole => "backend-2 stops replying",
        Fault::Nat => "one NAT is half of the traffic",
        Fault::Elephant => "one elephant flow",
    };
    let mut marks = vec![(0.0, begins.to_owned(), "#555555")];
    if let Some(at_s) = run.rolled_back_s {
        marks.push((at_s, format!("rolled back, {at_s:.1} s"), "#1b6e53"));
    }
    if let Some(at_s) = run.alerted_s {
        let cause = run.named_cause.as_deref().unwrap_or("unknown");
        let cause = match run.revision {
            Some(number) => format!("{cause} {number}"),
            None => cause.to_owned(),
        };
        marks.push((at_s, format!("alert, {at_s:.1} s: {cause}"), "#d1495b"));
    }
    for (number, (at_s, words, colour)) in marks.into_iter().enumerate() {
        let x = x_of(at_s);
        let style = format!("stroke=\"{colour}\" stroke-dasharray=\"4 3\"");
        line(svg, (x, top + TOP - 4.0), (x, top + BOTTOM), &style);
        let y = top + TOP + 8.0 + 14.0 * number as f64;
        text(
            svg,
            x + 4.0,
            y,
            &format!("fill=\"{colour}\" font-size=\"11\""),
            &words,
        );
    }
}

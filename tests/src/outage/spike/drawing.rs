//! Draws the answered and the lost requests of each contestant over time, with crashes, as SVG.

use std::fmt::Write as _;

use super::result::{Run, Second};
use super::{ORDINARY, Report, SPIKE, Timeline};
use crate::outage::drawing::{line, text};

const ANSWERED: &str = "#1b6e53";
const LOST: &str = "#d1495b";
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 96.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 740.0;
const HEAD: f64 = 76.0;
/// Top and bottom of a plot in its panel.
const TOP: f64 = 30.0;
const BOTTOM: f64 = 82.0;
/// Requests per second at the top of a plot.
const MOST: f64 = 500.0;

/// Positions on the time axis.
#[derive(Clone, Copy)]
struct Axis(Timeline);

impl Axis {
    fn x_of(self, at_s: f64) -> f64 {
        let (from, to) = (-self.0.before.as_secs_f64(), self.0.end_s());
        LEFT + (at_s.clamp(from, to) - from) / (to - from) * (RIGHT - LEFT)
    }
}

/// Draws the contestants one below the other.
#[must_use]
pub fn draw(report: &Report) -> String {
    let runs = report.medians();
    let height = HEAD + HEIGHT * runs.len() as f64 + 34.0;
    let title = "Outage with a spike: requests per second, by the second in which they were sent";
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>{title}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"24\" font-size=\"15\" font-weight=\"bold\">{title}</text>\n"
    );
    legend(&mut svg);
    for (number, run) in runs.iter().enumerate() {
        panel(&mut svg, HEAD + HEIGHT * number as f64, run);
    }
    let style = "text-anchor=\"middle\"";
    let words = format!(
        "seconds since the wrong weight and the spike from {ORDINARY} to {SPIKE} requests per second"
    );
    text(
        &mut svg,
        f64::midpoint(LEFT, RIGHT),
        height - 8.0,
        style,
        &words,
    );
    svg + "</svg>\n"
}

fn legend(svg: &mut String) {
    for (x, colour, words) in [(LEFT, ANSWERED, "answered"), (LEFT + 100.0, LOST, "lost")] {
        bar(svg, (x, 38.0), (14.0, 10.0), colour);
        text(svg, x + 20.0, 47.0, "", words);
    }
    cross(svg, LEFT + 187.0, 43.0);
    text(
        svg,
        LEFT + 200.0,
        47.0,
        "",
        "a server crashes (it is restarted after 5 s)",
    );
}

fn bar(svg: &mut String, (x, y): (f64, f64), (width, height): (f64, f64), colour: &str) {
    let _ = writeln!(
        svg,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
    );
}

fn cross(svg: &mut String, x: f64, y: f64) {
    let style = "stroke=\"#000000\" stroke-width=\"1.8\"";
    line(svg, (x - 4.0, y - 4.0), (x + 4.0, y + 4.0), style);
    line(svg, (x - 4.0, y + 4.0), (x + 4.0, y - 4.0), style);
}

fn panel(svg: &mut String, top: f64, run: &Run) {
    let axis = Axis(run.timeline);
    let name = run.contestant.name();
    text(svg, LEFT, top + 14.0, "font-weight=\"bold\"", name);
    let style = "text-anchor=\"end\"";
    text(svg, RIGHT, top + 14.0, style, &run.summary());
    let y_of = |rate: f64| top + BOTTOM - rate / MOST * (BOTTOM - TOP);
    for rate in [0.0, 250.0, 500.0] {
        line(
            svg,
            (LEFT, y_of(rate)),
            (RIGHT, y_of(rate)),
            "stroke=\"#dddddd\"",
        );
        let style = "text-anchor=\"end\" font-size=\"10\"";
        text(
            svg,
            LEFT - 6.0,
            y_of(rate) + 4.0,
            style,
            &format!("{rate:.0}"),
        );
    }
    for second in &run.seconds {
        stack(svg, axis, second, y_of);
    }
    // The spike.
    for at_s in [0.0, run.timeline.spike.as_secs_f64()] {
        let style = "stroke=\"#555555\" stroke-dasharray=\"4 3\"";
        line(
            svg,
            (axis.x_of(at_s), top + TOP - 8.0),
            (axis.x_of(at_s), top + BOTTOM),
            style,
        );
    }
    for crash in &run.crashes {
        cross(svg, axis.x_of(crash.at_s), top + TOP - 5.0);
    }
    ticks(svg, top + BOTTOM + 11.0, axis);
}

/// Draws a second: lost requests on top of answered ones.
fn stack(svg: &mut String, axis: Axis, second: &Second, y_of: impl Fn(f64) -> f64) {
    let x = axis.x_of(second.at_s as f64);
    let width = axis.x_of(second.at_s as f64 + 1.0) - x - 1.0;
    let answered = y_of(second.answered as f64);
    let all = y_of((second.answered + second.lost) as f64);
    for (from, to, colour) in [(y_of(0.0), answered, ANSWERED), (answered, all, LOST)] {
        if from > to {
            bar(svg, (x, to), (width, from - to), colour);
        }
    }
}

fn ticks(svg: &mut String, y: f64, axis: Axis) {
    let mut at_s = -axis.0.before.as_secs_f64();
    while at_s <= axis.0.end_s() {
        let style = "text-anchor=\"middle\" font-size=\"10\"";
        text(svg, axis.x_of(at_s), y, style, &format!("{at_s:.0}"));
        at_s += 10.0;
    }
}

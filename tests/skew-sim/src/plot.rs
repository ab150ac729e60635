//! Plots of the results as SVG, written directly: two plots do not justify a dependency.

use std::fmt::Write as _;

use super::{faultless, power};

const COLOURS: [&str; 5] = ["#1b6e53", "#7a5195", "#d1495b", "#edae49", "#5c7c9c"];
const WIDTH: f64 = 760.0;

fn open(height: f64, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>{title}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"24\" font-size=\"15\" font-weight=\"bold\">{title}</text>\n"
    )
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"
    );
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), style: &str) {
    let _ = writeln!(
        svg,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" {style}/>",
        from.0, from.1, to.0, to.1
    );
}

/// Position of a value on a logarithmic axis.
fn at(value: f64, range: (f64, f64), pixels: (f64, f64)) -> f64 {
    let part = (value.clamp(range.0, range.1) / range.0).ln() / (range.1 / range.0).ln();
    pixels.0 + part * (pixels.1 - pixels.0)
}

const FLOWS: (f64, f64) = (0.01, 1e6);
const SECONDS: (f64, f64) = (2.0, 7200.0);
const LEFT: f64 = 70.0;
const RIGHT: f64 = 560.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 400.0;

/// Median time to detection by the share monitor over the expected flows of the member, for each
/// size of the skew.
#[must_use]
pub fn detection(lines: &[power::Line]) -> String {
    let mut svg = open(
        450.0,
        "Seconds until a member off its share is found (median)",
    );
    for (seconds, words) in [
        (2.0, "2 s"),
        (5.0, "5 s"),
        (15.0, "15 s"),
        (60.0, "1 min"),
        (300.0, "5 min"),
        (1800.0, "30 min"),
        (7200.0, "2 h"),
    ] {
        let y = at(seconds, SECONDS, (BOTTOM, TOP));
        line(&mut svg, (LEFT, y), (RIGHT, y), "stroke=\"#dddddd\"");
        text(&mut svg, LEFT - 8.0, y + 4.0, "end", words);
    }
    for flows in [0.01, 0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6] {
        let x = at(flows, FLOWS, (LEFT, RIGHT));
        line(&mut svg, (x, TOP), (x, BOTTOM), "stroke=\"#eeeeee\"");
        let words = if flows >= 1e5 {
            format!("{flows:e}")
        } else {
            flows.to_string()
        };
        text(&mut svg, x, BOTTOM + 18.0, "middle", &words);
    }
    text(
        &mut svg,
        f64::midpoint(LEFT, RIGHT),
        BOTTOM + 40.0,
        "middle",
        "new flows a second that the member should get",
    );
    let own: Vec<&power::Line> = lines
        .iter()
        .filter(|line| line.rule == "evenkeel")
        .collect();
    let mut times: Vec<f64> = own.iter().map(|line| line.times_its_share).collect();
    times.sort_by(f64::total_cmp);
    times.dedup();
    for (number, &times) in times.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let dash = if number >= COLOURS.len() {
            " stroke-dasharray=\"5 3\""
        } else {
            ""
        };
        // In VIPs of two members both deviate at once, so they are not on the line of the others.
        let mut points: Vec<(f64, f64)> = own
            .iter()
            .filter(|line| line.times_its_share == times && line.members > 2)
            .filter_map(|line| Some((line.flows_per_s / line.members as f64, line.median_s?)))
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let places: Vec<String> = points
            .iter()
            .map(|&(flows, seconds)| {
                let x = at(flows, FLOWS, (LEFT, RIGHT));
                let y = at(seconds, SECONDS, (BOTTOM, TOP));
                let _ = writeln!(
                    svg,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"
                );
                format!("{x:.1},{y:.1}")
            })
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>",
            places.join(" ")
        );
        let y = TOP + 20.0 + 22.0 * number as f64;
        line(
            &mut svg,
            (RIGHT + 20.0, y - 4.0),
            (RIGHT + 44.0, y - 4.0),
            &format!("stroke=\"{colour}\" stroke-width=\"2\"{dash}"),
        );
        text(
            &mut svg,
            RIGHT + 52.0,
            y,
            "start",
            &format!("{times} times its share"),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// False alarms per VIP-day, by rule and scenario.
#[must_use]
pub fn false_alarms(lines: &[faultless::Line]) -> String {
    let mut scenarios: Vec<&str> = lines.iter().map(|line| line.scenario).collect();
    scenarios.dedup();
    let rules: Vec<&str> = lines
        .iter()
        .filter(|l| Some(&l.scenario) == scenarios.first())
        .map(|l| l.rule)
        .collect();
    let height = 110.0 + 24.0 * scenarios.len() as f64;
    let mut svg = open(height, "False alarms per VIP-day while nothing is wrong");
    let (left, right, range) = (210.0, 740.0, (0.01, 10_000.0));
    let bottom = height - 60.0;
    for rate in [0.01, 0.1, 1.0, 10.0, 100.0, 1000.0, 10_000.0] {
        let x = at(rate, range, (left, right));
        line(&mut svg, (x, 40.0), (x, bottom), "stroke=\"#eeeeee\"");
        let words = if rate == 0.01 {
            "none".to_owned()
        } else {
            rate.to_string()
        };
        text(&mut svg, x, bottom + 16.0, "middle", &words);
    }
    for (row, scenario) in scenarios.iter().enumerate() {
        let y = 54.0 + 24.0 * row as f64;
        text(&mut svg, left - 12.0, y + 4.0, "end", scenario);
        for found in lines
            .iter()
            .filter(|l| l.scenario == *scenario && l.vip_days > 0.0)
        {
            let number = rules
                .iter()
                .position(|rule| *rule == found.rule)
                .unwrap_or(0);
            let x = at(
                found.false_alarms as f64 / found.vip_days,
                range,
                (left, right),
            );
            let y = y + 3.0 * (number as f64 - 2.0);
            let _ = writeln!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{}\"/>",
                COLOURS[number % 5]
            );
        }
    }
    for (number, rule) in rules.iter().enumerate() {
        let x = 20.0 + 148.0 * number as f64;
        let _ = writeln!(
            svg,
            "<circle cx=\"{x}\" cy=\"{:.1}\" r=\"4\" fill=\"{}\"/>",
            height - 20.0,
            COLOURS[number % 5]
        );
        text(&mut svg, x + 8.0, height - 16.0, "start", rule);
    }
    svg.push_str("</svg>\n");
    svg
}

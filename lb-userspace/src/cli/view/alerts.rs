//! Alerts that are on.

use jiff::Timestamp;

use super::{
    View,
    figures::{moment, since},
    paint::Tone,
    words,
};
use lb_api::Alert;

/// A paragraph for each alert, the worst first.
pub(in crate::cli) fn alerts(view: View, alerts: &[Alert], now: Timestamp) -> String {
    let mut worst_first: Vec<&Alert> = alerts.iter().collect();
    worst_first.sort_by_key(|alert| (std::cmp::Reverse(alert.severity), alert.since));
    worst_first
        .iter()
        .map(|alert| self::alert(view, alert, now))
        .collect()
}

fn alert(view: View, alert: &Alert, now: Timestamp) -> String {
    let (severity, tone) = words::severity(alert.severity);
    let severity = view.paint.apply(tone, severity);
    let kind = view.paint.apply(Tone::Strong, &alert.kind);
    let about: Vec<&str> = alert.vip.iter().map(String::as_str).collect();
    let backends = alert.backends.iter().map(String::as_str);
    let about: Vec<&str> = about.into_iter().chain(backends).collect();
    let age = since(alert.since, now);
    let id = view.paint.apply(Tone::Faint, &alert.id);
    let mut text = format!("{severity} {kind} {} for {age}  {id}\n", about.join(" "));
    let mut paragraph = |line: &str| {
        text += &view.wrap("  ", line);
        text.push('\n');
    };
    paragraph(&alert.summary);
    if let Some(cause) = &alert.cause {
        paragraph(&format!("cause: {cause}"));
    }
    if let Some(revision) = alert.revision {
        paragraph(&format!(
            "revision {revision} explains it: `evenkeel history {revision}`"
        ));
    }
    if let Some(who) = &alert.acknowledged_by {
        paragraph(&format!("acknowledged by {who}"));
    }
    if let Some(until) = alert.silenced_until.filter(|until| *until > now) {
        paragraph(&format!("silenced until {}", moment(until)));
    }
    text
}

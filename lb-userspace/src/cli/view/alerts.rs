//! Alerts as paragraphs.

use std::cmp::Reverse;

use jiff::Timestamp;

use super::{
    View,
    figures::{moment, since},
    paint::Tone,
    tones,
};
use lb_api::Alert;

/// Sorts alerts by severity, the worst first, then by age.
pub(in crate::cli) fn sorted(alerts: &[Alert]) -> Vec<&Alert> {
    let mut sorted: Vec<&Alert> = alerts.iter().collect();
    sorted.sort_by_key(|alert| (Reverse(alert.severity), alert.since));
    sorted
}

/// One paragraph per alert, the worst first.
pub(in crate::cli) fn alerts(view: View, alerts: &[Alert], now: Timestamp) -> String {
    sorted(alerts)
        .into_iter()
        .map(|alert| self::alert(view, alert, now))
        .collect()
}

fn alert(view: View, alert: &Alert, now: Timestamp) -> String {
    let severity = alert.severity;
    let tone = tones::severity(severity);
    let severity = match alert.resolves_at {
        None => view.paint.apply(tone, severity.as_str()),
        Some(_) => view.paint.apply(Tone::Faint, "clearing"),
    };
    let kind = view.paint.apply(Tone::Strong, &alert.kind);
    let objects: Vec<&str> = alert
        .vip
        .iter()
        .chain(&alert.backends)
        .map(String::as_str)
        .collect();
    let age = since(alert.since, now);
    let id = view.paint.apply(Tone::Faint, &alert.id);
    let mut text = format!("{severity} {kind} {} for {age}  {id}\n", objects.join(" "));
    let mut paragraph = |line: &str| {
        text += &view.wrap("  ", line);
        text.push('\n');
    };
    if let Some(at) = alert.resolves_at {
        let left = since(now, at);
        paragraph(&format!(
            "the condition has ended; resolved in {left} unless it returns. It was:"
        ));
    }
    paragraph(&alert.summary);
    if !alert.vips.is_empty() {
        paragraph(&format!("VIPs: {}", alert.vips.join(", ")));
    }
    if let Some(cause) = &alert.cause {
        paragraph(&format!("cause: {cause}"));
    }
    if let Some(revision) = alert.revision {
        paragraph(&format!(
            "caused by revision {revision}: see `evenkeel history {revision}`"
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

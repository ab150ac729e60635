//! How many new flows the bound of a plan would have spilled.

use super::{
    View,
    figures::{last_minutes, share},
};
use lb_api::{BoundPlan, FullBackend};
use lb_model::text::grouped;

/// Lines of a plan.
pub(in crate::cli) fn lines(view: View, bound: &BoundPlan) -> String {
    let mut lines = Vec::new();
    if let Some(why) = &bound.unknown {
        lines.push(format!("how many new flows would spill is unknown: {why}"));
    } else {
        lines.push(spilled(bound));
        if bound.unplaced > 0.0 {
            let part = part(bound.unplaced);
            lines.push(format!(
                "{part} of them were over a bound when no other backend had room: they would have gone where \
                 the ring says"
            ));
        }
    }
    lines.extend(bound.notes.iter().cloned());
    let line = |line: &String| view.hang("  bound: ", "    ", line) + "\n";
    lines.iter().map(line).collect()
}

fn spilled(bound: &BoundPlan) -> String {
    let time = last_minutes(bound.minutes);
    if bound.spilled <= 0.0 {
        return format!("none of the new flows of {time} would have spilled");
    }
    let part = part(bound.spilled);
    let from = match &bound.full_backends[..] {
        [only] if bound.full == 1 => format!("all from {} ({})", only.backend, times(only)),
        several => {
            let named = several.iter().map(|backend| {
                let (name, times) = (&backend.backend, times(backend));
                format!(
                    "{name} ({} of these; {times})",
                    share(backend.share_of_spilled)
                )
            });
            let more = match bound.full as usize - several.len().min(bound.full as usize) {
                0 => String::new(),
                more => format!(", {more} more"),
            };
            format!("from {}{more}", named.collect::<Vec<_>>().join(", "))
        }
    };
    format!("{part} of the new flows of {time} would have spilled, {from}")
}

/// A share that is not 0.
fn part(value: f64) -> String {
    match value {
        ..0.0005 => "less than 0.1%".to_owned(),
        value => share(value),
    }
}

/// By how much a backend was over its bound.
fn times(backend: &FullBackend) -> String {
    match backend.capacity.map(u64::from) {
        Some(capacity) => {
            // Rounding must not hide that the capacity was exceeded.
            let peak = (backend.peak_new_flows_per_s.round() as u64).max(capacity + 1);
            let (peak, capacity) = (grouped(peak), grouped(capacity));
            format!("peak {peak}/s, capacity {capacity}/s")
        }
        None => format!("{:.1} × its share", backend.times_share),
    }
}

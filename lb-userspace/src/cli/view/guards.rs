//! What guards say, and how to get past those that refuse.

use super::{View, paint::Tone, words};
use lb_api::{GuardResult, GuardVerdict, Plan};

/// A line for each guard.
pub(super) fn lines(view: View, guards: &[GuardResult]) -> String {
    let width = guards.iter().map(|g| words::guard(g.guard).len()).max();
    let width = width.unwrap_or(0);
    guards
        .iter()
        .map(|result| line(view, result, width))
        .collect()
}

fn line(view: View, result: &GuardResult, width: usize) -> String {
    let (mark, tone) = match result.verdict {
        GuardVerdict::Passed => ("✓", Tone::Good),
        GuardVerdict::Refused => ("✗", Tone::Bad),
        GuardVerdict::Forced => ("!", Tone::Warn),
    };
    let forced = match result.verdict {
        GuardVerdict::Forced => " (forced)",
        _ => "",
    };
    let name = words::guard(result.guard);
    // The mark may be coloured, and then is longer than it looks.
    let indent = " ".repeat(width + 6);
    let text = view.wrap(&indent, &format!("{}{forced}", result.detail));
    let mark = view.paint.apply(tone, mark);
    format!("  {mark} {name:<width$}  {}\n", text.trim_start())
}

/// Names of the guards that refuse, each once.
pub(in crate::cli) fn refusing(plan: &Plan) -> Vec<&'static str> {
    let guards = plan.vips.iter().flat_map(|vip| &vip.guards);
    let refusing = guards.filter(|result| result.verdict == GuardVerdict::Refused);
    let mut names: Vec<&str> = refusing.map(|result| words::guard(result.guard)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

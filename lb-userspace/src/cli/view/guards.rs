//! Results of guards, and how to override those that refuse.

use super::{View, paint::Tone};
use lb_api::{GuardResult, GuardVerdict, Plan};

/// One line per guard.
pub(super) fn lines(view: View, guards: &[GuardResult]) -> String {
    let names = guards.iter().map(|result| result.guard.as_str().len());
    let width = names.max().unwrap_or(0);
    guards
        .iter()
        .map(|result| line(view, result, width))
        .collect()
}

fn line(view: View, result: &GuardResult, width: usize) -> String {
    let (mark, tone, forced) = match result.verdict {
        GuardVerdict::Passed => ("✓", Tone::Good, ""),
        GuardVerdict::Refused => ("✗", Tone::Bad, ""),
        GuardVerdict::Forced => ("!", Tone::Warn, " (forced)"),
    };
    let indent = " ".repeat(width + 6);
    let text = view.wrap(&indent, &format!("{}{forced}", result.detail));
    let mark = view.paint.apply(tone, mark);
    let name = result.guard.as_str();
    format!("  {mark} {name:<width$}  {}\n", text.trim_start())
}

/// Names of the guards that refuse, without duplicates.
pub(super) fn refusing(plan: &Plan) -> Vec<&'static str> {
    let guards = plan.vips.iter().flat_map(|vip| &vip.guards);
    let refusing = guards.filter(|result| result.verdict == GuardVerdict::Refused);
    let mut names: Vec<&str> = refusing.map(|result| result.guard.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

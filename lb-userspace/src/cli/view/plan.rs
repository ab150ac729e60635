//! Plans.

use std::fmt::Write as _;

use super::{
    View, bound,
    figures::{amount, count, share},
    guards, limits,
    paint::Tone,
    table::{Cell, Side, Table},
    tones,
};
use lb_api::{MemberPlan, MemberSide, Plan, PlanVerdict, VipAction, VipPlan, WantedState};

/// The plan; its last line is the verdict.
pub(in crate::cli) fn plan(view: View, plan: &Plan) -> String {
    changes(view, plan) + &verdict(view, plan)
}

/// The changes of a plan, without the verdict.
pub(in crate::cli) fn changes(view: View, plan: &Plan) -> String {
    let mut text = String::new();
    for vip in &plan.vips {
        text += &vip_plan(view, vip);
        text.push('\n');
    }
    for change in &plan.other {
        text += &view.wrap("", change);
        text.push('\n');
    }
    if !plan.other.is_empty() {
        text.push('\n');
    }
    for warning in &plan.warnings {
        text += &view.hang("warning: ", "  ", warning);
        text += "\n\n";
    }
    text
}

fn verdict(view: View, plan: &Plan) -> String {
    let base = plan.base;
    let (word, tone, rest) = match plan.verdict {
        PlanVerdict::Nothing => (
            "no changes:",
            Tone::Good,
            format!("identical to revision {base}"),
        ),
        PlanVerdict::Allowed => {
            let vips = match plan.vips.len() {
                0 => "no VIP changes".into(),
                1 => "1 VIP changes".into(),
                vips => format!("{vips} VIPs change"),
            };
            let rest = format!("{vips} compared with revision {base}");
            ("allowed:", Tone::Good, rest)
        }
        PlanVerdict::Refused => {
            let names = guards::refusing(plan);
            let force: Vec<String> = names.iter().map(|name| format!("--force {name}")).collect();
            let (names, force) = (names.join(", "), force.join(" "));
            let rest = format!("by {names}; to override: {force}");
            ("refused", Tone::Bad, rest)
        }
    };
    let rest = rest.split_whitespace().map(|word| (word, Tone::Plain));
    view.flow("", "  ", [(word, tone)].into_iter().chain(rest)) + "\n"
}

fn vip_plan(view: View, vip: &VipPlan) -> String {
    let action = match vip.action {
        VipAction::Replaced => "replaced: its connections break",
        action => action.as_str(),
    };
    let tone = tones::vip_action(vip.action);
    let mut text = format!(
        "VIP {} {}\n",
        view.paint.apply(Tone::Strong, &vip.vip),
        view.paint.apply(tone, action),
    );
    let _ = writeln!(text, "  {}", slots(vip));
    text += &view.wrap("  ", &load(vip));
    text.push('\n');
    for setting in &vip.settings {
        text += &view.wrap("  ", setting);
        text.push('\n');
    }
    if let Some(limits) = &vip.limits {
        text += &limits::lines(view, limits);
    }
    if let Some(bound) = &vip.bound {
        text += &bound::lines(view, bound);
    }
    if !vip.members.is_empty() {
        text.push('\n');
        text += &members(view, vip);
    }
    if !vip.guards.is_empty() {
        text.push('\n');
        text += &guards::lines(view, &vip.guards);
    }
    text
}

fn slots(vip: &VipPlan) -> String {
    let part = f64::from(vip.slots_moved) / f64::from(vip.ring_size.max(1));
    let (moved, all) = (vip.slots_moved, vip.ring_size);
    match vip.action {
        VipAction::Added => format!("{all} slots filled"),
        VipAction::Removed => format!("{all} slots freed"),
        _ => format!("{moved} of {all} slots move ({})", share(part)),
    }
}

fn load(vip: &VipPlan) -> String {
    format!(
        "new flows/s: {} now, {} at the peak of the last hour",
        amount(vip.new_flows_per_s),
        amount(vip.peak_new_flows_per_s)
    )
}

fn members(view: View, vip: &VipPlan) -> String {
    // The column is left out if every member is up.
    let states = vip.members.iter().any(|member| {
        let sides = [&member.before, &member.after];
        let mut sides = sides.into_iter().flatten();
        sides.any(|side| side.state != WantedState::Up || !side.eligible)
    });
    let mut columns = vec![(Side::Left, "  backend")];
    if states {
        columns.push((Side::Left, "state"));
    }
    columns.extend([
        (Side::Right, "weight"),
        (Side::Right, "intended"),
        (Side::Right, "table"),
        (Side::Right, "flows/s"),
    ]);
    let mut table = Table::new(&columns).indented("  ");
    for member in &vip.members {
        table.row(row(member, states));
    }
    table.draw(view)
}

fn row(member: &MemberPlan, states: bool) -> Vec<Cell> {
    let (mark, tone) = match (&member.before, &member.after) {
        (None, _) => ("+", Tone::Good),
        (Some(_), None) => ("-", Tone::Bad),
        (Some(before), Some(after)) if is_same(before, after) => (" ", Tone::Plain),
        (Some(_), Some(_)) => ("~", Tone::Warn),
    };
    let mut cells = vec![Cell::toned(tone, format!("{mark} {}", member.backend))];
    if states {
        cells.push(both(member, |side| state(side).into()).into());
    }
    cells.push(both(member, |side| side.weight.to_string()).into());
    cells.push(both(member, |side| share(side.intended_share)).into());
    cells.push(both(member, |side| share(side.table_share)).into());
    cells.push(predicted(member));
    cells
}

fn is_same(before: &MemberSide, after: &MemberSide) -> bool {
    (before.weight, before.state, before.eligible) == (after.weight, after.state, after.eligible)
}

fn state(side: &MemberSide) -> &'static str {
    match side.state {
        WantedState::Up if !side.eligible => "down",
        state => state.as_str(),
    }
}

/// A value before and after, or once if it does not change.
fn both(member: &MemberPlan, value: impl Fn(&MemberSide) -> String) -> String {
    let value = |side: &Option<MemberSide>| side.as_ref().map(&value);
    match (value(&member.before), value(&member.after)) {
        (Some(before), Some(after)) if before != after => format!("{before} → {after}"),
        (Some(before), None) => format!("{before} → –"),
        (_, after) => after.unwrap_or_default(),
    }
}

/// Predicted new flows per second, of the capacity if it is known.
fn predicted(member: &MemberPlan) -> Cell {
    let flows = member.predicted_new_flows_per_s;
    let Some(capacity) = member.capacity else {
        return amount(flows).into();
    };
    let tone = if flows > f64::from(capacity) {
        Tone::Bad
    } else {
        Tone::Plain
    };
    Cell::toned(
        tone,
        format!("{}/{}", amount(flows), count(capacity.into())),
    )
}

//! What a change would do.

use std::fmt::Write as _;

pub(in crate::cli) use super::guards::refusing;
use super::{
    View,
    figures::{amount, count, plural, share},
    guards,
    paint::Tone,
    table::{Cell, Side, Table},
    words,
};
use lb_api::{MemberPlan, MemberSide, Plan, PlanVerdict, VipAction, VipPlan, WantedState};

/// The plan; its last line says what would come of it.
pub(in crate::cli) fn plan(view: View, plan: &Plan) -> String {
    changes(view, plan) + &verdict(view, plan)
}

/// The changes of a plan, without what would come of it.
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
    let (word, tone) = words::verdict(plan.verdict);
    let base = plan.base;
    let rest = match plan.verdict {
        PlanVerdict::Nothing => format!("revision {base} says the same"),
        PlanVerdict::Allowed => match plan.vips.len() {
            0 => format!("no VIP would change from revision {base}"),
            vips => format!("{} would change from revision {base}", plural(vips, "VIP")),
        },
        PlanVerdict::Refused => {
            let names = refusing(plan);
            let force: Vec<String> = names.iter().map(|name| format!("--force {name}")).collect();
            let (names, force) = (names.join(", "), force.join(" "));
            format!("by {names}; if it is meant to be so: {force}")
        }
    };
    let rest = rest.split_whitespace().map(|word| (word, Tone::Plain));
    view.flow("", "  ", [(word, tone)].into_iter().chain(rest)) + "\n"
}

fn vip_plan(view: View, vip: &VipPlan) -> String {
    let (action, tone) = words::vip_action(vip.action);
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
        VipAction::Added => format!("{all} slots are filled"),
        VipAction::Removed => format!("{all} slots are freed"),
        _ => format!("{moved} of {all} slots move ({})", share(part)),
    }
}

fn load(vip: &VipPlan) -> String {
    format!(
        "{} new flows/s now, {} at the peak of the last hour",
        amount(vip.new_flows_per_s),
        amount(vip.peak_new_flows_per_s)
    )
}

fn members(view: View, vip: &VipPlan) -> String {
    // Only where there is something to tell.
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
        state => words::wanted(state),
    }
}

/// A value before and after: once if it stays.
fn both(member: &MemberPlan, value: impl Fn(&MemberSide) -> String) -> String {
    let value = |side: &Option<MemberSide>| side.as_ref().map(&value);
    match (value(&member.before), value(&member.after)) {
        (Some(before), Some(after)) if before != after => format!("{before} → {after}"),
        (Some(before), None) => format!("{before} → –"),
        (_, after) => after.unwrap_or_default(),
    }
}

/// New flows that it would get, against what it can take.
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

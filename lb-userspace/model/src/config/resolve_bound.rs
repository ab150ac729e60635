//! Checks whether the bound of a VIP fits its other keys.

use super::{
    keys::{Table, span_of, value_of},
    model::{Bound, Forward, Protocol, Track, TypedBound, TypedVip},
    problem::{Problem, Problems},
    typed::VipTables,
};

/// The bound of a VIP; the default if it has none.
pub(super) fn resolve_bound(tables: &VipTables, problems: &Problems) -> Option<Bound> {
    let Some(typed) = &tables.bound else {
        return Some(Bound::default());
    };
    let bound = typed.resolve()?;
    let is_known = !typed.has("factor") && (!typed.has("capacity") || typed.capacity.is_some());
    if !bound.is_set() && is_known {
        let title = "`vip.bound` without a bound";
        let label = "neither `factor` nor `capacity = true`";
        let help = "add `factor = 1.25` (at most 1.25 times its share for each backend), or `capacity = true`, \
                    or remove the table";
        problems.add(Problem::new(typed.at(), title, label, help));
    }
    check_track(typed, &tables.vip, problems);
    if bound.capacity {
        check_capacity(typed, tables, problems);
    }
    Some(bound)
}

/// A spilled flow is found again by its entry in the tracking table.
fn check_track(bound: &TypedBound, vip: &TypedVip, problems: &Problems) {
    let is_nat = value_of(&vip.forward) == Some(Forward::Nat);
    let (Some(at), Some(track), false) = (span_of(&vip.track), value_of(&vip.track), is_nat) else {
        return;
    };
    let is_udp = value_of(&vip.protocol) == Some(Protocol::Udp);
    let (title, label, help) = match track {
        Track::Always => return,
        Track::OnChange if !is_udp => return,
        Track::OnChange | Track::Never if is_udp => (
            "`vip.bound` of a UDP VIP needs `track = \"always\"`",
            "new flows can't be told from others",
            "remove `track`, or the table `[vip.bound]`",
        ),
        _ => (
            "`vip.bound` with `track = \"never\"`",
            "spilled flows could not be found again",
            "use `track = \"on-change\"`, or remove the table `[vip.bound]`",
        ),
    };
    let problem = Problem::new(at, title, label, help);
    problems.add(problem.related(bound.at(), "the bound"));
}

fn check_capacity(bound: &TypedBound, tables: &VipTables, problems: &Problems) {
    let backends = &tables.backends;
    let at = span_of(&bound.capacity).unwrap_or(bound.at());
    if let Some(source) = span_of(&tables.vip.backends_from) {
        let title = "`vip.bound.capacity = true` with `vip.backends_from`";
        let help = "use `factor`: sources do not name capacities";
        let problem = Problem::new(at, title, "no capacity is known", help);
        problems.add(problem.related(source, "the source"));
        return;
    }
    // A wrong capacity is reported by itself.
    if backends.is_empty() || backends.iter().any(|backend| backend.has("capacity")) {
        return;
    }
    let title = "`vip.bound.capacity = true`, but no backend of the VIP has a `capacity`";
    let help = "add `capacity`, the new flows per second that it can take, to the backends; or use `factor`";
    problems.add(Problem::new(at, title, "no capacity is known", help));
}

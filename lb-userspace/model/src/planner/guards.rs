//! The guards. The table in the documentation of `planner` says when each refuses a change.

use super::{
    members::{Line, Placement},
    pairs::Pair,
    side::{Load, VipFacts},
    words::{percent, rate},
};
use crate::config::{self, Fraction};
use lb_api::{Guard, GuardResult, GuardVerdict, VipAction};

/// Capacity that is required beyond the peak of new flows, as a share of the peak.
const HEADROOM: f64 = 0.2;

/// A factor of two, with room for rounding.
const TWICE: f64 = 2.0 + 1e-6;

/// Tolerance for comparing shares, far below one slot.
const EPSILON: f64 = 1e-9;

struct Finding {
    refuses: bool,
    detail: String,
}

impl Finding {
    fn passed(detail: impl Into<String>) -> Self {
        Self {
            refuses: false,
            detail: detail.into(),
        }
    }

    fn refused(detail: impl Into<String>) -> Self {
        Self {
            refuses: true,
            detail: detail.into(),
        }
    }

    /// The limit is exceeded, but the change makes it no worse.
    fn no_worse(detail: &str) -> Self {
        Self::passed(format!("{detail}; no worse than now"))
    }

    /// One finding from those of all members: a member above the limit, with whether it is worse than
    /// before. `passed` is the detail if there is none.
    fn of_members(found: Vec<(bool, String)>, passed: String) -> Self {
        let (worse, same): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|(is_worse, _)| *is_worse);
        let text = |found: Vec<(bool, String)>| {
            let details: Vec<String> = found.into_iter().map(|(_, detail)| detail).collect();
            details.join("; ")
        };
        match (worse.is_empty(), same.is_empty()) {
            (false, _) => Self::refused(text(worse)),
            (true, false) => Self::no_worse(&text(same)),
            (true, true) => Self::passed(passed),
        }
    }
}

/// A VIP that the candidate has, with what the guards compare.
struct Change<'a> {
    /// The limits before the change; `None` for a new VIP.
    old: Option<&'a config::Guard>,
    limits: &'a config::Guard,
    ring_size: u32,
    slots_moved: u32,
    load: Load,
    lines: &'a [Line<'a>],
}

/// Runs all guards on a VIP.
pub(super) fn check(
    pair: &Pair<'_>,
    facts: &VipFacts,
    lines: &[Line<'_>],
    force: &[Guard],
) -> Vec<GuardResult> {
    let mut found: Vec<(Guard, Finding)> = Vec::new();
    if let Some(after) = pair.after {
        let change = Change {
            old: pair.before.map(|vip| &vip.guard),
            limits: &after.guard,
            ring_size: after.ring_size.get(),
            slots_moved: facts.slots_moved,
            load: facts.load,
            lines,
        };
        found.extend([
            (Guard::ShareError, change.share_error()),
            (Guard::NoSlots, change.no_slots()),
            (Guard::MaxShare, change.max_share()),
        ]);
        if pair.action == VipAction::Changed {
            found.push((Guard::MaxMoved, change.max_moved()));
        }
        found.extend([
            (Guard::MinBackends, change.min_backends()),
            (Guard::Capacity, change.capacity()),
            (Guard::NothingLeft, change.nothing_left()),
        ]);
    }
    if matches!(pair.action, VipAction::Removed | VipAction::Replaced) {
        found.push((Guard::VipRemoved, vip_removed(pair, &facts.load)));
    }
    let result = |(guard, finding): (Guard, Finding)| GuardResult {
        guard,
        verdict: match finding.refuses {
            false => GuardVerdict::Passed,
            true if force.contains(&guard) => GuardVerdict::Forced,
            true => GuardVerdict::Refused,
        },
        detail: finding.detail,
    };
    found.into_iter().map(result).collect()
}

/// A number of backends, with the noun.
fn backends(number: usize) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} backend{plural}")
}

fn share_error(placement: &Placement<'_>) -> f64 {
    (placement.table_share - placement.intended_share).abs()
}

/// Slots that a share allows, rounded up.
fn slots_of(share: Fraction, ring_size: u32) -> u32 {
    (u64::from(share.millionths()) * u64::from(ring_size)).div_ceil(1_000_000) as u32
}

impl<'a> Change<'a> {
    /// The members of the new ring.
    fn placements(&self) -> impl Iterator<Item = (&'a Line<'a>, Placement<'a>)> {
        let lines: &'a [Line<'a>] = self.lines;
        lines
            .iter()
            .filter_map(|line| line.after.map(|after| (line, after)))
    }

    /// Whether the change itself makes a limit stricter.
    fn is_stricter(&self, is: impl Fn(&config::Guard, &config::Guard) -> bool) -> bool {
        self.old.is_some_and(|old| is(old, self.limits))
    }

    fn share_error(&self) -> Finding {
        let mut found = Vec::new();
        let mut largest = 0.0_f64;
        for (line, after) in self.placements() {
            let error = share_error(&after);
            largest = largest.max(error);
            let rounding = 2.0 / f64::from(self.ring_size);
            if error <= rounding.max(0.01 * after.intended_share) + EPSILON {
                continue;
            }
            let was = line.before.map(|before| share_error(&before));
            let detail = format!(
                "backend {} would have {} of the ring instead of {}",
                line.backend.name,
                percent(after.table_share),
                percent(after.intended_share)
            );
            found.push((was.is_none_or(|was| error > was + EPSILON), detail));
        }
        let passed = format!(
            "every share is within {} of the intended one",
            percent(largest)
        );
        Finding::of_members(found, passed)
    }

    fn no_slots(&self) -> Finding {
        let is_empty = |placement: &Placement<'_>| placement.eligible && placement.slots == 0;
        let found = self.placements().filter(|(_, after)| is_empty(after));
        let found = found.map(|(line, _)| {
            let detail = format!(
                "backend {} with weight {} would get none of the {} slots",
                line.backend.name, line.backend.weight, self.ring_size
            );
            (!line.before.is_some_and(|before| is_empty(&before)), detail)
        });
        let passed = "every backend with a weight has slots".to_owned();
        Finding::of_members(found.collect(), passed)
    }

    fn max_share(&self) -> Finding {
        match self.limits.max_share {
            Some(limit) => self.share_limit(limit),
            None => self.concentration(),
        }
    }

    /// Without a limit: whether the change concentrates the traffic. Two zeros too many in a weight do,
    /// and so does draining all backends but one; what follows from one backend more or less does not.
    fn concentration(&self) -> Finding {
        // Not those of the table, whose rounding is no concentration.
        let share = |placement: Option<Placement<'_>>| placement.map_or(0.0, |p| p.intended_share);
        let shares = |line: &Line<'a>| (share(line.before), share(line.after));
        let largest = |of: &dyn Fn(&Line<'a>) -> f64| self.lines.iter().map(of).fold(0.0, f64::max);
        let busiest = largest(&|line| shares(line).0);
        let passed = format!(
            "largest share is {}",
            percent(largest(&|line| shares(line).1))
        );
        if busiest == 0.0 {
            return Finding::passed(passed);
        }
        let odds = |share: f64| share / (1.0 - share);
        let mut found = Vec::new();
        for line in self
            .lines
            .iter()
            .filter(|line| shares(line).1 > 0.5 + EPSILON)
        {
            let (name, (before, after)) = (&line.backend.name, shares(line));
            let as_weighted = self.share_by_old_weights(line).max(before);
            if after > as_weighted * TWICE || odds(after) > odds(as_weighted) * TWICE * TWICE {
                found.push(format!(
                    "backend {name} would have {} of the ring ({} without the change of weights)",
                    percent(after),
                    percent(as_weighted)
                ));
            } else if after > busiest * TWICE {
                found.push(format!(
                    "backend {name} would have {} of the ring; now the busiest one has {}",
                    percent(after),
                    percent(busiest)
                ));
            }
        }
        if found.is_empty() {
            return Finding::passed(passed);
        }
        let allow = "if that is wanted, set guard.max_share";
        Finding::refused(format!("{}; {allow}", found.join("; ")))
    }

    /// The share that a backend would have among those that serve after the change, if all had kept
    /// their weights. New ones have no weight to keep, and count with an even share.
    fn share_by_old_weights(&self, line: &Line<'_>) -> f64 {
        let weight = |placement: Placement<'_>| f64::from(placement.backend.weight);
        let old = |line: &Line<'_>| line.before.map(weight).filter(|weight| *weight > 0.0);
        let serving = self.placements().filter(|(_, after)| after.eligible);
        let (mut all, mut number) = (0.0, 0.0);
        for (line, after) in serving {
            all += old(line).unwrap_or_else(|| weight(after));
            number += 1.0;
        }
        old(line).map_or(1.0 / number, |own| own / all)
    }

    fn share_limit(&self, limit: Fraction) -> Finding {
        let allowed = percent(f64::from(limit.millionths()) / 1e6);
        let or_all = |limits: &config::Guard| limits.max_share.unwrap_or(Fraction::ALL);
        let is_stricter = self.is_stricter(|old, new| or_all(new) < or_all(old));
        let mut found = Vec::new();
        let mut largest: Option<(&str, f64)> = None;
        for (line, after) in self.placements() {
            if largest.is_none_or(|(_, share)| after.table_share > share) {
                largest = Some((&line.backend.name, after.table_share));
            }
            if after.slots <= slots_of(limit, self.ring_size) {
                continue;
            }
            let was = line.before.map(|before| before.table_share);
            let grew = was.is_none_or(|was| after.table_share > was + EPSILON);
            let detail = format!(
                "backend {} would have {} of the ring; maximum is {allowed}",
                line.backend.name,
                percent(after.table_share)
            );
            found.push((grew || is_stricter, detail));
        }
        let passed = largest.map_or_else(String::new, |(name, share)| {
            format!(
                "largest share is {} (backend {name}); maximum is {allowed}",
                percent(share)
            )
        });
        Finding::of_members(found, passed)
    }

    fn max_moved(&self) -> Finding {
        let limit = self.limits.max_moved;
        let detail = format!(
            "{} of the ring would move ({} of {} slots); maximum is {}",
            percent(f64::from(self.slots_moved) / f64::from(self.ring_size)),
            self.slots_moved,
            self.ring_size,
            percent(f64::from(limit.millionths()) / 1e6)
        );
        let had_slots = |line: &Line<'_>| line.before.is_some_and(|before| before.slots > 0);
        if !self.lines.iter().any(had_slots) {
            return Finding::passed("no backend has slots now, so no flow moves");
        }
        Finding {
            refuses: self.slots_moved > slots_of(limit, self.ring_size),
            detail,
        }
    }

    fn min_backends(&self) -> Finding {
        let limit = self.limits.min_backends;
        let count =
            |is: &dyn Fn(&Line<'_>) -> bool| self.lines.iter().filter(|line| is(line)).count();
        let serves = |placement: Option<Placement<'_>>| {
            placement.is_some_and(|placement| placement.eligible && placement.proven)
        };
        let before = count(&|line| serves(line.before));
        let after = count(&|line| serves(line.after));
        let wanted = count(&|line| line.after.is_some_and(|placement| placement.eligible));
        let is_below = |number: usize| number < limit as usize;
        let is_stricter = self.is_stricter(|old, new| new.min_backends > old.min_backends);
        let must_be_wanted = self.old.is_none() || is_stricter;
        let would = |number| format!("{} would remain; minimum is {limit}", backends(number));
        if must_be_wanted && is_below(wanted) {
            Finding::refused(would(wanted))
        } else if self.old.is_some() && is_below(after) && after < before {
            let unproven = match wanted - after {
                0 => String::new(),
                n => format!(" ({n} more once their checks pass)"),
            };
            Finding::refused(would(after) + &unproven)
        } else if self.old.is_some() && is_below(after) && is_below(wanted) {
            Finding::no_worse(&would(after))
        } else {
            Finding::passed(would(wanted))
        }
    }

    fn capacity(&self) -> Finding {
        let whole = self.whole_capacity();
        let members = self.member_capacity();
        match (whole.refuses, members.refuses) {
            (true, true) => Finding::refused(format!("{}; {}", whole.detail, members.detail)),
            (true, false) => whole,
            (false, true) => members,
            (false, false) => Finding::passed(format!("{}; {}", whole.detail, members.detail)),
        }
    }

    /// The capacity of all members against the peak.
    fn whole_capacity(&self) -> Finding {
        let peak = self.load.peak_new_flows_per_s;
        let serves = |placement: Option<Placement<'a>>| {
            placement.filter(|placement| placement.eligible && placement.proven)
        };
        let after: Option<f64> = self
            .lines
            .iter()
            .filter_map(|line| serves(line.after))
            .map(|placement| placement.backend.capacity.map(f64::from))
            .sum();
        let is_unknown =
            |placement: &Placement<'_>| placement.eligible && placement.backend.capacity.is_none();
        let is_any_unknown = self.placements().any(|(_, after)| is_unknown(&after));
        // Where none serves yet, the sum is that of nothing.
        let after = after.filter(|all| *all > 0.0 || !is_any_unknown);
        let Some(after) = after else {
            return Finding::passed("not every backend has a `capacity`");
        };
        let detail = format!(
            "capacity would be {} new flows/s; the peak is {} ({} with headroom)",
            rate(after),
            rate(peak),
            rate(peak * (1.0 + HEADROOM))
        );
        if after >= peak * (1.0 + HEADROOM) {
            return Finding::passed(detail);
        }
        // A capacity that the change only adds to the file was the same before.
        let before: Option<f64> = self
            .lines
            .iter()
            .filter_map(|line| Some((line, serves(line.before)?)))
            .map(|(line, placement)| {
                placement
                    .backend
                    .capacity
                    .or(line.backend.capacity)
                    .map(f64::from)
            })
            .sum();
        match before {
            Some(before) if after >= before => Finding::no_worse(&detail),
            _ => Finding::refused(detail),
        }
    }

    /// The capacity of each member against its share of the peak.
    fn member_capacity(&self) -> Finding {
        let peak = self.load.peak_new_flows_per_s;
        let mut found = Vec::new();
        for (line, after) in self.placements() {
            let predicted = line.predicted(&self.load);
            let Some(capacity) = after.backend.capacity else {
                continue;
            };
            if predicted <= f64::from(capacity) {
                continue;
            }
            let is_worse = line.before.is_none_or(|before| {
                predicted > before.table_share * peak + EPSILON * peak
                    || before.backend.capacity.is_some_and(|was| was > capacity)
            });
            let detail = format!(
                "backend {} would get {} new flows/s at peak; its capacity is {capacity}",
                line.backend.name,
                rate(predicted)
            );
            found.push((is_worse, detail));
        }
        Finding::of_members(found, "no backend exceeds its capacity".to_owned())
    }

    fn nothing_left(&self) -> Finding {
        let is_eligible = |placement: Option<Placement<'_>>| {
            placement.is_some_and(|placement| placement.eligible)
        };
        let served = self.lines.iter().any(|line| is_eligible(line.before));
        // In panic mode unhealthy backends get traffic too, and keep getting it.
        let serves = |line: &Line<'_>| {
            line.after.is_some_and(|placement| {
                placement.eligible && (placement.proven || is_eligible(line.before))
            })
        };
        let wanted = self
            .lines
            .iter()
            .filter(|line| is_eligible(line.after))
            .count();
        let serving = self.lines.iter().filter(|line| serves(line)).count();
        match (wanted, serving) {
            (0, _) if served || self.old.is_none() => {
                Finding::refused("no eligible backend would remain")
            }
            (0, _) => Finding::no_worse("no backend would be eligible"),
            (_, 0) if served => Finding::refused(
                "no backend would serve until the checks of the new ones pass; add them first, and \
                 remove the old ones in a second change",
            ),
            (wanted, 0) => Finding::passed(format!(
                "{} would serve once their checks pass",
                backends(wanted)
            )),
            (_, serving) => Finding::passed(format!("{} would serve", backends(serving))),
        }
    }
}

fn vip_removed(pair: &Pair<'_>, load: &Load) -> Finding {
    let what = if pair.action == VipAction::Replaced {
        "replaced"
    } else {
        "removed"
    };
    if load.new_flows_per_s > 0.0 || load.packets_per_s > 0.0 {
        return Finding::refused(format!(
            "the VIP would be {what} and its connections would break: it has {} new flows/s and {} packets/s",
            rate(load.new_flows_per_s),
            rate(load.packets_per_s)
        ));
    }
    Finding::passed(format!("the VIP would be {what}; it has no traffic"))
}

//! The guards. The table in the module's documentation says what each looks at.

use super::{
    members::{Line, Placement},
    pairs::Pair,
    side::{Load, VipFacts},
    words::{percent, rate},
};
use crate::config::{self, Fraction};
use lb_api::{Guard, GuardResult, GuardVerdict, VipAction};

/// Capacity beyond the peak of new flows that there must be, in the mean of all members.
const HEADROOM: f64 = 0.2;

/// Shares are compared with this tolerance: it is far below one slot.
const EPSILON: f64 = 1e-9;

/// What a guard found.
struct Finding {
    refuses: bool,
    detail: String,
}

impl Finding {
    fn fine(detail: impl Into<String>) -> Self {
        Self {
            refuses: false,
            detail: detail.into(),
        }
    }

    fn broken(detail: impl Into<String>) -> Self {
        Self {
            refuses: true,
            detail: detail.into(),
        }
    }

    /// Broken, but not by this change.
    fn as_before(detail: &str) -> Self {
        Self::fine(format!("{detail}; that is no worse than now"))
    }

    /// One finding for several members: what is broken, else what is worth saying, else `fine`.
    fn of_members(found: Vec<(bool, String)>, fine: String) -> Self {
        let (worse, same): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|(is_worse, _)| *is_worse);
        let text = |found: Vec<(bool, String)>| {
            let details: Vec<String> = found.into_iter().map(|(_, detail)| detail).collect();
            details.join("; ")
        };
        match (worse.is_empty(), same.is_empty()) {
            (false, _) => Self::broken(text(worse)),
            (true, false) => Self::as_before(&text(same)),
            (true, true) => Self::fine(fine),
        }
    }
}

/// A VIP that stays or comes.
struct Scene<'a> {
    /// The guards' limits before; none for a new VIP.
    old: Option<&'a config::Guard>,
    /// The guards' limits.
    limits: &'a config::Guard,
    ring_size: u32,
    slots_moved: u32,
    load: Load,
    lines: &'a [Line<'a>],
}

/// What all guards say about a VIP.
pub(super) fn judge(
    pair: &Pair<'_>,
    facts: &VipFacts,
    lines: &[Line<'_>],
    force: &[Guard],
) -> Vec<GuardResult> {
    let mut found: Vec<(Guard, Finding)> = Vec::new();
    if let Some(after) = pair.after {
        let scene = Scene {
            old: pair.before.map(|vip| &vip.guard),
            limits: &after.guard,
            ring_size: after.ring_size.get(),
            slots_moved: facts.slots_moved,
            load: facts.load,
            lines,
        };
        found.extend([
            (Guard::ShareError, scene.share_error()),
            (Guard::NoSlots, scene.no_slots()),
            (Guard::MaxShare, scene.max_share()),
        ]);
        if pair.action == VipAction::Changed {
            found.push((Guard::MaxMoved, scene.max_moved()));
        }
        found.extend([
            (Guard::MinBackends, scene.min_backends()),
            (Guard::Capacity, scene.capacity()),
            (Guard::NothingLeft, scene.nothing_left()),
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

fn share_error(placement: &Placement<'_>) -> f64 {
    (placement.table_share - placement.intended_share).abs()
}

/// Slots that a share allows, rounded up: no table has half a slot.
fn slots_of(share: Fraction, ring_size: u32) -> u32 {
    (u64::from(share.millionths()) * u64::from(ring_size)).div_ceil(1_000_000) as u32
}

impl<'a> Scene<'a> {
    /// Members with a place in the new table.
    fn placements(&self) -> impl Iterator<Item = (&'a Line<'a>, Placement<'a>)> {
        let lines: &'a [Line<'a>] = self.lines;
        lines
            .iter()
            .filter_map(|line| line.after.map(|after| (line, after)))
    }

    /// Whether the change asks for more than was asked for before.
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
                "backend {} would have {} of the table where {} is intended",
                line.backend.name,
                percent(after.table_share),
                percent(after.intended_share)
            );
            found.push((was.is_none_or(|was| error > was + EPSILON), detail));
        }
        let fine = format!(
            "no share is further than {} from the intended one",
            percent(largest)
        );
        Finding::of_members(found, fine)
    }

    fn no_slots(&self) -> Finding {
        let is_empty = |placement: &Placement<'_>| placement.eligible && placement.slots == 0;
        let found = self.placements().filter(|(_, after)| is_empty(after));
        let found = found.map(|(line, _)| {
            let detail = format!(
                "backend {} has weight {} and would have none of the {} slots",
                line.backend.name, line.backend.weight, self.ring_size
            );
            (!line.before.is_some_and(|before| is_empty(&before)), detail)
        });
        let fine = "every member with weight has slots".to_owned();
        Finding::of_members(found.collect(), fine)
    }

    fn max_share(&self) -> Finding {
        let limit = self.limits.max_share;
        let allowed = percent(f64::from(limit.millionths()) / 1e6);
        let is_stricter = self.is_stricter(|old, new| new.max_share < old.max_share);
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
                "backend {} would have {} of the table; {allowed} is allowed",
                line.backend.name,
                percent(after.table_share)
            );
            found.push((grew || is_stricter, detail));
        }
        let fine = largest.map_or_else(String::new, |(name, share)| {
            format!(
                "backend {name} has the largest share, {}; {allowed} is allowed",
                percent(share)
            )
        });
        Finding::of_members(found, fine)
    }

    fn max_moved(&self) -> Finding {
        let limit = self.limits.max_moved;
        let detail = format!(
            "{} of the table would move ({} of {} slots); {} is allowed",
            percent(f64::from(self.slots_moved) / f64::from(self.ring_size)),
            self.slots_moved,
            self.ring_size,
            percent(f64::from(limit.millionths()) / 1e6)
        );
        let had_slots = |line: &Line<'_>| line.before.is_some_and(|before| before.slots > 0);
        if !self.lines.iter().any(had_slots) {
            return Finding::fine("nobody has slots now, so no flow moves");
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
        let would = |number| format!("{number} would serve; {limit} must");
        if must_be_wanted && is_below(wanted) {
            Finding::broken(would(wanted))
        } else if self.old.is_some() && is_below(after) && after < before {
            let unproven = match wanted - after {
                0 => String::new(),
                n => format!(" ({n} more when their checks have succeeded)"),
            };
            Finding::broken(would(after) + &unproven)
        } else if self.old.is_some() && is_below(after) && is_below(wanted) {
            Finding::as_before(&would(after))
        } else {
            Finding::fine(would(wanted))
        }
    }

    fn capacity(&self) -> Finding {
        let whole = self.whole_capacity();
        let members = self.member_capacity();
        match (whole.refuses, members.refuses) {
            (true, true) => Finding::broken(format!("{}; {}", whole.detail, members.detail)),
            (true, false) => whole,
            (false, true) => members,
            (false, false) => Finding::fine(format!("{}; {}", whole.detail, members.detail)),
        }
    }

    /// All members together against the peak.
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
        let Some(after) = after else {
            return Finding::fine("not every backend has a `capacity`");
        };
        let detail = format!(
            "those that serve can take {} new flows a second; the peak is {}, {} with headroom",
            rate(after),
            rate(peak),
            rate(peak * (1.0 + HEADROOM))
        );
        if after >= peak * (1.0 + HEADROOM) {
            return Finding::fine(detail);
        }
        // A capacity that is only now written down was the same before.
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
            Some(before) if after >= before => Finding::as_before(&detail),
            _ => Finding::broken(detail),
        }
    }

    /// Each member against its part of the peak.
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
                "backend {} would get {} new flows a second of the peak; it can take {capacity}",
                line.backend.name,
                rate(predicted)
            );
            found.push((is_worse, detail));
        }
        Finding::of_members(found, "nobody gets more than it can take".to_owned())
    }

    fn nothing_left(&self) -> Finding {
        let is_eligible = |placement: Option<Placement<'_>>| {
            placement.is_some_and(|placement| placement.eligible)
        };
        let served = self.lines.iter().any(|line| is_eligible(line.before));
        // With too few that are healthy, others get traffic too, and go on getting it.
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
                Finding::broken("nobody would be left to serve the VIP")
            }
            (0, _) => Finding::as_before("nobody would serve the VIP"),
            (_, 0) if served => Finding::broken(
                "nobody would serve the VIP until the checks of the new backends succeed; add them \
                 first, and remove the old ones in a second change",
            ),
            (wanted, 0) => Finding::fine(format!(
                "{wanted} will serve when their checks have succeeded"
            )),
            (_, serving) => Finding::fine(format!("{serving} serve")),
        }
    }
}

fn vip_removed(pair: &Pair<'_>, load: &Load) -> Finding {
    let what = if pair.action == VipAction::Replaced {
        "goes and comes again"
    } else {
        "goes"
    };
    if load.new_flows_per_s > 0.0 || load.packets_per_s > 0.0 {
        return Finding::broken(format!(
            "the VIP {what}, and its connections break: it has {} new flows and {} packets a second",
            rate(load.new_flows_per_s),
            rate(load.packets_per_s)
        ));
    }
    Finding::fine(format!("the VIP {what}; it has no traffic"))
}

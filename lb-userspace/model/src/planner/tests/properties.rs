//! Random pairs of configurations: guards hold, shares add up, a rollback mirrors its change.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{super::*, parse};
use crate::config::{self, Backend};
use lb_api::{GuardResult, MemberSide};

/// A backend: index in a pool of addresses, weight, capacity, state.
type Drawn = (u8, u32, Option<u32>, &'static str);

fn backends() -> impl Strategy<Value = Vec<Drawn>> {
    let weight = prop_oneof![Just(0), Just(1), 50u32..200, Just(65_535)];
    let state = prop::sample::select(vec!["up", "up", "up", "drain", "disabled"]);
    let backend = (0u8..6, weight, prop::option::of(1u32..3000), state);
    prop::collection::vec(backend, 1..6)
}

/// Configurations of up to three VIPs from a small pool, so that pairs have much in common.
fn configuration() -> impl Strategy<Value = Config> {
    let guard = (1u32..=10, 1u32..=10, 1u32..4);
    let forward = prop::sample::select(vec!["l2", "l2", "ipip"]);
    let vip = (0u8..4, forward, guard, backends());
    prop::collection::vec(vip, 0..4).prop_map(|vips| {
        let mut text = String::new();
        let mut ports = BTreeSet::new();
        for (n, forward, (share, moved, min), backends) in vips {
            if !ports.insert(n) {
                continue;
            }
            text += &format!(
                "[[vip]]\nname = \"v{n}\"\naddress = \"192.0.2.1\"\nport = 8{n}\nprotocol = \"tcp\"\n\
                 forward = \"{forward}\"\nring_size = 251\n[vip.guard]\nmax_share = 0.{share:02}1\n\
                 max_moved = 0.{moved:02}1\nmin_backends = {min}\n"
            );
            let mut seen = BTreeSet::new();
            let weightless = backends.iter().all(|(_, weight, ..)| *weight == 0);
            for (b, weight, capacity, state) in backends {
                if !seen.insert(b) {
                    continue;
                }
                let weight = if weightless || seen.len() == 1 { weight.max(1) } else { weight };
                text += &format!(
                    "[[vip.backend]]\nname = \"b{b}\"\naddress = \"10.0.0.{b}\"\nweight = {weight}\n\
                     state = \"{state}\"\n"
                );
                if let Some(capacity) = capacity {
                    text += &format!("capacity = {capacity}\n");
                }
            }
        }
        parse(&text.replace("0.101", "1.0"))
    })
}

/// Health of the six addresses of the pool, and the traffic.
fn conditions() -> impl Strategy<Value = (Vec<(bool, bool)>, Load)> {
    let health = prop::collection::vec((prop::bool::weighted(0.8), any::<bool>()), 6);
    let load =
        (0.0..100.0f64, 0.0..5000.0f64, 0.0..10.0f64).prop_map(|(now, peak, packets)| Load {
            new_flows_per_s: now.floor(),
            peak_new_flows_per_s: peak.max(now),
            packets_per_s: packets.floor(),
        });
    (health, load)
}

fn facts(pair: &Pair<'_>, health: &[(bool, bool)], load: Load) -> VipFacts {
    let chance = |backend: &Backend| {
        let at = backend.name[1..].parse::<usize>().unwrap();
        let (healthy, proven) = health[at];
        Chance {
            weight: backend.weight,
            healthy,
            proven,
        }
    };
    VipFacts {
        load,
        ..VipFacts::with(pair, chance)
    }
}

fn sum(sides: &[&MemberSide], of: impl Fn(&MemberSide) -> f64) -> f64 {
    sides.iter().map(|side| of(side)).sum()
}

fn check_shares(vip: &VipPlan) -> Result<(), TestCaseError> {
    let before: Vec<_> = vip
        .members
        .iter()
        .filter_map(|m| m.before.as_ref())
        .collect();
    let after: Vec<_> = vip
        .members
        .iter()
        .filter_map(|m| m.after.as_ref())
        .collect();
    for sides in [&before, &after] {
        let whole = f64::from(u8::from(sides.iter().any(|side| side.eligible)));
        prop_assert!((sum(sides, |side| side.intended_share) - whole).abs() < 1e-9);
        prop_assert!((sum(sides, |side| side.table_share) - whole).abs() < 1e-9);
        for side in sides {
            let error = (side.intended_share - side.table_share).abs();
            prop_assert!(error < 1.0 / f64::from(vip.ring_size), "{:?}", side);
            prop_assert!(side.eligible || side.table_share == 0.0);
        }
    }
    let predicted: f64 = vip
        .members
        .iter()
        .map(|m| m.predicted_new_flows_per_s)
        .sum();
    let peak = if after.iter().any(|side| side.eligible) {
        vip.peak_new_flows_per_s
    } else {
        0.0
    };
    prop_assert!((predicted - peak).abs() < 1e-6 * (1.0 + peak));
    Ok(())
}

fn verdict(vip: &VipPlan, guard: Guard) -> Option<&GuardResult> {
    vip.guards.iter().find(|result| result.guard == guard)
}

/// Checks a VIP that passed all guards, by other formulas than the guards'.
fn check_allowed(
    vip: &VipPlan,
    old: Option<&config::Vip>,
    new: Option<&config::Vip>,
) -> Result<(), TestCaseError> {
    let Some(new) = new else {
        prop_assert_eq!(vip.new_flows_per_s, 0.0);
        return Ok(());
    };
    let slot = 1.0 / f64::from(vip.ring_size);
    let cap = new.guard.max_share.map_or(1.0, config::Fraction::as_f64);
    let was_cap = old.map(|old| old.guard.max_share.map_or(1.0, config::Fraction::as_f64));
    for member in &vip.members {
        let Some(after) = &member.after else { continue };
        let before = member
            .before
            .as_ref()
            .map_or(0.0, |before| before.table_share);
        let grew = after.table_share > before + 1e-9;
        if grew || was_cap.is_none_or(|was| was > cap) {
            prop_assert!(after.table_share < cap + slot, "{:?}", member);
        }
        if let (true, Some(capacity)) = (grew, member.capacity) {
            prop_assert!(member.predicted_new_flows_per_s <= f64::from(capacity) + 1e-6);
        }
        if after.eligible && member.before.is_none() {
            prop_assert!(after.table_share > 0.0);
        }
    }
    let had_slots = vip
        .members
        .iter()
        .any(|m| m.before.as_ref().is_some_and(|b| b.table_share > 0.0));
    if vip.action == VipAction::Changed && had_slots {
        let moved = f64::from(vip.slots_moved) * slot;
        prop_assert!(moved < f64::from(new.guard.max_moved.millionths()) / 1e6 + slot);
    }
    let eligible = vip
        .members
        .iter()
        .filter(|m| m.after.as_ref().is_some_and(|a| a.eligible))
        .count();
    if had_slots || old.is_none() {
        prop_assert!(eligible > 0);
    }
    if old.is_none_or(|old| old.guard.min_backends < new.guard.min_backends) {
        prop_assert!(eligible >= new.guard.min_backends as usize);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_same_configuration_is_no_change(config in configuration(), (health, load) in conditions()) {
        let input = Input { base: 1, running: Some(&config), candidate: &config, force: &[] };
        let plan = plan(&input, |pair| facts(pair, &health, load));
        prop_assert_eq!(plan.verdict, PlanVerdict::Nothing);
        prop_assert!(plan.vips.is_empty() && plan.other.is_empty());
    }

    #[test]
    fn plans_match_the_difference_of_the_configurations(
        running in prop::option::of(configuration()),
        candidate in configuration(),
        (health, load) in conditions(),
    ) {
        let input = Input { base: 1, running: running.as_ref(), candidate: &candidate, force: &[] };
        let result = plan(&input, |pair| facts(pair, &health, load));
        let find = |config: Option<&Config>, name: &str| {
            config.and_then(|config| config.vips.iter().find(|vip| vip.name == name).cloned())
        };
        for vip in &result.vips {
            check_shares(vip)?;
            let (old, new) = (find(running.as_ref(), &vip.vip), find(Some(&candidate), &vip.vip));
            prop_assert_ne!(&old, &new, "only changes are planned");
            let action = match (&old, &new) {
                (None, _) => VipAction::Added,
                (_, None) => VipAction::Removed,
                (Some(old), Some(new)) if old.forward != new.forward => VipAction::Replaced,
                _ => VipAction::Changed,
            };
            prop_assert_eq!(vip.action, action);
            if vip.guards.iter().all(|guard| guard.verdict == GuardVerdict::Passed) {
                check_allowed(vip, old.as_ref(), new.as_ref())?;
            }
            let moves = verdict(vip, Guard::MaxMoved).is_some();
            prop_assert_eq!(moves, action == VipAction::Changed);
        }
        // Every difference is planned.
        let all = running.iter().flat_map(|config| &config.vips).chain(&candidate.vips);
        for vip in all {
            let planned = result.vips.iter().any(|plan| plan.vip == vip.name);
            let sorted = |mut vip: config::Vip| {
                vip.backends.sort_by_key(Backend::identity);
                vip
            };
            let old = find(running.as_ref(), &vip.name).map(sorted);
            let new = find(Some(&candidate), &vip.name).map(sorted);
            prop_assert_eq!(planned, old != new);
        }
    }

    #[test]
    fn forced_guards_allow_the_change_and_are_marked(
        running in configuration(),
        candidate in configuration(),
        (health, load) in conditions(),
    ) {
        let with = |force| {
            let input = Input { base: 1, running: Some(&running), candidate: &candidate, force };
            plan(&input, |pair| facts(pair, &health, load))
        };
        let (strict, forced) = (with(&[]), with(&ALL_GUARDS));
        prop_assert_ne!(forced.verdict, PlanVerdict::Refused);
        let guards = |plan: &Plan| -> Vec<GuardResult> {
            plan.vips.iter().flat_map(|vip| vip.guards.clone()).collect()
        };
        for (strict, forced) in guards(&strict).into_iter().zip(guards(&forced)) {
            prop_assert_eq!(
                strict.verdict == GuardVerdict::Refused,
                forced.verdict == GuardVerdict::Forced
            );
            prop_assert_eq!(strict.detail, forced.detail);
        }
    }

    /// The plan of a rollback swaps the sides of the plan of the change and moves as many slots.
    #[test]
    fn a_rollback_mirrors_its_change(
        a in configuration(),
        b in configuration(),
        (health, load) in conditions(),
    ) {
        let go = |running, candidate| {
            let input = Input { base: 1, running: Some(running), candidate, force: &[] };
            plan(&input, |pair| facts(pair, &health, load))
        };
        let (there, back) = (go(&a, &b), go(&b, &a));
        prop_assert_eq!(there.vips.len(), back.vips.len());
        for vip in &there.vips {
            let mirror = back.vips.iter().find(|other| other.vip == vip.vip).unwrap();
            if matches!(vip.action, VipAction::Changed | VipAction::Replaced) {
                prop_assert_eq!(vip.slots_moved, mirror.slots_moved);
            }
            for member in &vip.members {
                let other = mirror.members.iter().find(|m| m.address == member.address).unwrap();
                prop_assert_eq!(&member.before, &other.after);
                prop_assert_eq!(&member.after, &other.before);
            }
        }
    }
}

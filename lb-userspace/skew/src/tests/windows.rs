//! When findings are raised and cleared.

use super::*;
use crate::Severity;

#[test]
fn detects_twice_the_share_within_15_s() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_faultless(200, 100.0);
    let (seconds, found) = vip.run_until(
        Kind::Overload,
        15,
        100.0,
        &[2.0, 2.0 / 3.0, 2.0 / 3.0, 2.0 / 3.0],
    );
    assert!(seconds >= 4, "{seconds}");
    assert_eq!(names(&found), ["b0"], "the others only make room");
    assert!((found.since_s - 1200.0).abs() <= 2.0, "{found:?}");
    assert_eq!(found.raised_s, vip.now_s);
    let affected = &found.members[0];
    assert!((1.6..2.5).contains(&affected.ratio), "{affected:?}");
    assert_eq!(affected.expected_share, 0.25);
    assert!(affected.z > 5.0, "{affected:?}");
}

#[test]
fn reports_one_starved_member_and_no_overload() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_faultless(200, 100.0);
    let rest = 4.0 / 3.0;
    let (_, found) = vip.run_until(Kind::Starvation, 15, 100.0, &[rest, 0.0, rest, rest]);
    assert_eq!(names(&found), ["b1"]);
    let found = vip.run(120, 100.0, &[rest, 0.0, rest, rest]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].severity, Severity::Critical);
}

#[test]
fn reports_two_faulty_members() {
    let mut vip = Vip::new(TCP, 10);
    vip.run_faultless(200, 1000.0);
    let mut times = [0.75; 10];
    times[3] = 2.5;
    times[7] = 1.5;
    vip.run(30, 1000.0, &times);
    let found = vip.detector.findings();
    let overloaded = found
        .iter()
        .find(|f| f.kind == Kind::Overload)
        .expect("an overload");
    assert_eq!(names(overloaded), ["b3", "b7"], "{found:?}");
}

#[test]
fn names_the_overloaded_of_two_members() {
    let mut vip = Vip::new(TCP, 2);
    vip.run_faultless(200, 100.0);
    let (_, found) = vip.run_until(Kind::Overload, 15, 100.0, &[0.4, 1.6]);
    assert_eq!(names(&found), ["b1"]);
    assert_eq!(vip.run(60, 100.0, &[0.4, 1.6]).len(), 1);
}

#[test]
fn raises_nothing_after_one_second() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_faultless(200, 10_000.0);
    let found = vip.run(1, 10_000.0, &[4.0, 0.0, 0.0, 0.0]);
    assert!(found.is_empty(), "{found:?}");
    vip.run_faultless(60, 10_000.0);
}

/// Multiples of the share of a hundred members while a few NATs reuse their ports.
fn uneven(vip: &mut Vip) -> Vec<f64> {
    let mut normal = || (0..12).map(|_| vip.random()).sum::<f64>() - 6.0;
    let times: Vec<_> = (0..100).map(|_| 1.0 + 0.07 * normal()).collect();
    let mean = times.iter().sum::<f64>() / 100.0;
    times.iter().map(|times| times / mean).collect()
}

#[test]
fn tolerates_reused_ports_and_detects_larger_deviations() {
    let mut vip = Vip::new(TCP, 100);
    let mut times = uneven(&mut vip);
    let most = times.iter().fold(0.0, |most, &times| f64::max(most, times));
    assert!(most > 1.17, "{most}");
    for _ in 0..1800 {
        let found = vip.run(1, 2000.0, &times);
        assert!(found.is_empty(), "{found:?}");
    }
    times[7] = 2.0;
    let (_, found) = vip.run_until(Kind::Overload, 15, 2000.0, &times);
    assert_eq!(names(&found), ["b7"]);
}

#[test]
fn detects_a_fault_of_many_members() {
    let mut vip = Vip::new(TCP, 100);
    vip.run_faultless(1800, 2000.0);
    let mut times = [1.25; 100];
    times[..40].fill(0.6);
    vip.run_until(Kind::Starvation, 120, 2000.0, &times);
}

#[test]
fn ignores_deviations_within_the_tolerance_at_any_rate() {
    let mut vip = Vip::new(TCP, 4);
    for _ in 0..600 {
        let found = vip.run(1, 1e6, &[1.12, 0.96, 0.96, 0.96]);
        assert!(found.is_empty(), "{found:?}");
    }
}

#[test]
fn clears_a_finding_after_three_normal_windows() {
    let mut vip = Vip::new(TCP, 4);
    let skew = [2.0, 2.0 / 3.0, 2.0 / 3.0, 2.0 / 3.0];
    vip.run(200, 1000.0, &[1.0; 4]);
    vip.run_until(Kind::Overload, 15, 1000.0, &skew);
    // Within the tolerance, but not within half of it.
    assert_eq!(vip.run(120, 1000.0, &[1.12, 0.96, 0.96, 0.96]).len(), 1);
    assert_eq!(
        vip.run(20, 1000.0, &[1.0; 4]).len(),
        1,
        "two windows are not three"
    );
    assert!(vip.run(20, 1000.0, &[1.0; 4]).is_empty());
    vip.run_faultless(300, 1000.0);
}

#[test]
fn does_not_learn_dispersion_from_a_fault() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_faultless(300, 10_000.0);
    let before = vip.detector.dispersion();
    vip.run(300, 10_000.0, &[1.6, 0.8, 0.8, 0.8]);
    assert_eq!(vip.detector.findings().len(), 1);
    assert!(
        vip.detector.dispersion() < before * 1.2,
        "{}",
        vip.detector.dispersion()
    );
}

#[test]
fn detects_a_fault_at_few_flows_later() {
    let mut vip = Vip::new(TCP, 2);
    vip.run_faultless(1800, 1.0 / 6.0);
    let (seconds, found) = vip.run_until(Kind::Overload, 1800, 1.0 / 6.0, &[1.95, 0.05]);
    assert!(seconds > 120, "{seconds}");
    assert_eq!(names(&found), ["b0"]);
}

#[test]
fn compares_a_member_with_its_own_small_share() {
    let mut vip = Vip::weighted(TCP, &[1.0, 1000.0]);
    vip.run_faultless(600, 10_000.0);
    let less = 1.0 - 0.002 / 1.0;
    let (_, found) = vip.run_until(Kind::Overload, 60, 10_000.0, &[3.0, less]);
    assert_eq!(names(&found), ["b0"]);
}

#[test]
fn learns_bursts_with_source_affinity() {
    let mut vip = Vip::new(SOURCE, 4);
    for _ in 0..900 {
        // Bursts of ten flows.
        let bunches: Vec<u64> = (0..4).map(|_| 10 * vip.poisson(2.5)).collect();
        for (member, came) in vip.members.iter_mut().zip(bunches) {
            member.new_flows += came;
        }
        let found = vip.observe();
        assert!(found.is_empty(), "{found:?}");
    }
    assert!(
        (6.0..15.0).contains(&vip.detector.dispersion()),
        "{}",
        vip.detector.dispersion()
    );
}

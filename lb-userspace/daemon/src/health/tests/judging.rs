//! Rise, fall, intervals and damping.

use std::time::Duration;

use proptest::prelude::*;

use crate::health::judge::{HALF_LIFE, Judge, LONGEST_HOLD, Rules, Verdict};
use lb_model::config::Fraction;

const SECOND: Duration = Duration::from_secs(1);

fn rules(rise: u32, fall: u32, damping: bool) -> Rules {
    Rules {
        rise,
        fall,
        interval: SECOND,
        fast_interval: SECOND / 4,
        jitter: Fraction::TENTH,
        damping,
    }
}

/// Returns the verdicts on results one second apart: `U` up, `D` down, `.` no change.
fn verdicts(judge: &mut Judge, rules: &Rules, results: &str) -> String {
    let show = |(i, c): (usize, char)| {
        let at = SECOND * u32::try_from(i).unwrap();
        match judge.observe(rules, at, c == '+') {
            Verdict::Same => '.',
            Verdict::Up => 'U',
            Verdict::Down => 'D',
        }
    };
    results.chars().enumerate().map(show).collect()
}

#[test]
fn needs_rise_consecutive_successes_or_fall_consecutive_failures() {
    let rules = rules(2, 3, false);
    for (results, expected) in [
        ("++++", ".U.."),
        ("+-++", "...U"),
        ("-----", "....."),
        ("++---++", ".U..D.U"),
        ("++--+---", ".U.....D"),
    ] {
        let mut judge = Judge::new(false);
        assert_eq!(verdicts(&mut judge, &rules, results), expected, "{results}");
    }
    // A backend that starts as up stays up until its checks fail.
    assert_eq!(verdicts(&mut Judge::new(true), &rules, "---+"), "..D.");
}

#[test]
fn checks_run_at_the_fast_interval_while_uncertain() {
    let rules = rules(2, 3, true);
    let mut judge = Judge::new(true);
    assert_eq!(judge.interval(&rules, 0.5), SECOND);
    judge.observe(&rules, SECOND, false);
    assert!(judge.is_uncertain());
    assert_eq!(judge.interval(&rules, 0.5), SECOND / 4);
    judge.observe(&rules, SECOND, true);
    assert_eq!(judge.interval(&rules, 0.5), SECOND);
    for _ in 0..3 {
        judge.observe(&rules, SECOND, false);
    }
    assert_eq!(judge.interval(&rules, 0.5), SECOND, "down for certain");
    judge.observe(&rules, SECOND, true);
    assert_eq!(judge.interval(&rules, 0.5), SECOND / 4);
}

#[test]
fn a_flapping_backend_is_held_down_and_released() {
    let rules = rules(1, 1, true);
    let mut judge = Judge::new(true);
    // Down at seconds 0, 2, 4 and 6.
    let flaps = verdicts(&mut judge, &rules, "-+-+-+-+++++");
    assert_eq!(flaps, "DUDUDUD.....");
    assert!(judge.is_damped() && !judge.is_healthy());
    assert!(!judge.is_uncertain(), "no fast checks while it is held");
    let mut now = SECOND * 12;
    while judge.observe(&rules, now, true) == Verdict::Same {
        now += SECOND;
        assert!(now < LONGEST_HOLD + SECOND * 12, "it is never released");
    }
    // A penalty of nearly 4 decays to 1.5 in 1.4 half-lives.
    assert!(now > HALF_LIFE && now < HALF_LIFE * 2, "{now:?}");
    assert!(!judge.is_damped());
}

#[test]
fn occasional_restarts_are_not_damped() {
    let rules = rules(2, 3, true);
    let mut judge = Judge::new(true);
    let minute = SECOND * 60;
    for restart in 0..100 {
        let at = minute * restart;
        let mut seen = Vec::new();
        for (i, ok) in [false, false, false, true, true].into_iter().enumerate() {
            seen.push(judge.observe(&rules, at + SECOND * i as u32, ok));
        }
        assert_eq!(
            (seen[2], seen[4]),
            (Verdict::Down, Verdict::Up),
            "{restart}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Compares with a model that counts consecutive results since the last change.
    #[test]
    fn verdicts_match_the_model(
        initial: bool,
        rise in 1u32..5,
        fall in 1u32..5,
        results in prop::collection::vec(any::<bool>(), 0..60),
    ) {
        let rules = rules(rise, fall, false);
        let mut judge = Judge::new(initial);
        let (mut healthy, mut row) = (initial, 0);
        for (i, &ok) in results.iter().enumerate() {
            row = if ok == healthy { 0 } else { row + 1 };
            let needed = if healthy { fall } else { rise };
            let expected = match (row == needed, ok) {
                (false, _) => Verdict::Same,
                (true, true) => Verdict::Up,
                (true, false) => Verdict::Down,
            };
            if row == needed {
                (healthy, row) = (ok, 0);
            }
            let verdict = judge.observe(&rules, SECOND * i as u32, ok);
            prop_assert_eq!(verdict, expected, "at {} of {:?}", i, results);
            prop_assert_eq!(judge.is_healthy(), healthy);
            prop_assert_eq!(judge.is_uncertain(), row > 0);
        }
    }

    /// Damping never brings a backend up, never delays its going down, and ends.
    #[test]
    fn damping_only_holds_down(
        results in prop::collection::vec((any::<bool>(), 1u64..20_000), 1..80),
    ) {
        let (damped, plain) = (rules(1, 2, true), rules(1, 2, false));
        let (mut held, mut free) = (Judge::new(true), Judge::new(true));
        let mut now = Duration::ZERO;
        for (ok, wait) in results {
            now += Duration::from_millis(wait);
            held.observe(&damped, now, ok);
            free.observe(&plain, now, ok);
            prop_assert!(!held.is_healthy() || free.is_healthy());
            prop_assert!(!held.is_damped() || !held.is_healthy());
            prop_assert!(!free.is_damped());
        }
        held.observe(&damped, now + LONGEST_HOLD, true);
        prop_assert!(held.is_healthy(), "held for longer than LONGEST_HOLD: {:?}", held);
    }

    #[test]
    fn intervals_stay_within_the_jitter(random in 0.0..1.0f64, millionths in 0u32..=500_000) {
        let jitter = Fraction::new(f64::from(millionths) / 1e6).unwrap();
        let rules = Rules { jitter, ..rules(1, 1, true) };
        let share = f64::from(jitter.millionths()) / 1e6;
        let interval = Judge::new(true).interval(&rules, random).as_secs_f64();
        prop_assert!((1.0 - share - 1e-9..=1.0 + share + 1e-9).contains(&interval), "{}", interval);
    }
}

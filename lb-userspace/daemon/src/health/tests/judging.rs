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

/// The verdicts of results that come a second apart.
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
fn it_takes_rise_successes_and_fall_failures_in_a_row() {
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
    // One that is known to serve goes on until it is proven not to.
    assert_eq!(verdicts(&mut Judge::new(true), &rules, "---+"), "..D.");
}

#[test]
fn checks_come_faster_while_it_is_uncertain() {
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
    assert_eq!(
        judge.interval(&rules, 0.5),
        SECOND,
        "down, and that is certain"
    );
    judge.observe(&rules, SECOND, true);
    assert_eq!(judge.interval(&rules, 0.5), SECOND / 4);
}

#[test]
fn one_that_flaps_is_held_down_and_let_go() {
    let rules = rules(1, 1, true);
    let mut judge = Judge::new(true);
    // Up and down every second: it goes down at 0, 2, 4 and 6.
    let flaps = verdicts(&mut judge, &rules, "-+-+-+-+++++");
    assert_eq!(flaps, "DUDUDUD.....");
    assert!(judge.is_damped() && !judge.is_healthy());
    assert!(!judge.is_uncertain(), "no hurry while it is held");
    let mut now = SECOND * 12;
    while judge.observe(&rules, now, true) == Verdict::Same {
        now += SECOND;
        assert!(now < LONGEST_HOLD + SECOND * 12, "it is never let go");
    }
    // Nearly four points are one and a half after 1.4 half-lives.
    assert!(now > HALF_LIFE && now < HALF_LIFE * 2, "{now:?}");
    assert!(!judge.is_damped());
}

#[test]
fn a_restart_now_and_then_is_no_flap() {
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

    /// Against a model that only looks at the tail of what was seen since the last change.
    #[test]
    fn a_verdict_needs_its_row(
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

    /// Damping only ever holds back: it never makes anything up, never delays a fall, and ends.
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

    /// Intervals stay within the jitter, for all random numbers.
    #[test]
    fn intervals_vary_by_the_jitter(random in 0.0..1.0f64, millionths in 0u32..=500_000) {
        let jitter = Fraction::new(f64::from(millionths) / 1e6).unwrap();
        let rules = Rules { jitter, ..rules(1, 1, true) };
        let share = f64::from(jitter.millionths()) / 1e6;
        let interval = Judge::new(true).interval(&rules, random).as_secs_f64();
        prop_assert!((1.0 - share - 1e-9..=1.0 + share + 1e-9).contains(&interval), "{}", interval);
    }
}

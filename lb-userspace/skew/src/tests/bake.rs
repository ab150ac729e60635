//! The sequential test after a change.

use super::*;
use crate::{AfterChange, ChangedMember, Reference, Verdict};

fn member(name: &str, before: f64, after: f64) -> ChangedMember {
    ChangedMember {
        name: Arc::from(name),
        table_share: after,
        share_before: before,
        capacity: None,
    }
}

fn test(members: &[(f64, f64)], allowed: Option<f64>) -> AfterChange {
    let members = members
        .iter()
        .enumerate()
        .map(|(number, &(before, after))| member(&format!("b{number}"), before, after));
    AfterChange::new(&Thresholds::default(), 1.0, allowed, members.collect())
}

/// Adds the same flows every second until there is a verdict. Returns the seconds.
fn feed(test: &mut AfterChange, flows: &[u64], most: u64) -> (u64, Verdict) {
    for second in 0..=most {
        let totals: Vec<u64> = flows.iter().map(|flows| 7000 + flows * second).collect();
        let verdict = test.observe(&totals);
        if verdict != Verdict::Undecided {
            return (second, verdict);
        }
    }
    (most, Verdict::Undecided)
}

#[test]
fn accepts_flows_that_follow_a_fair_table() {
    let mut test = test(&[(0.5, 0.25), (0.5, 0.25), (0.0, 0.25), (0.0, 0.25)], None);
    let (seconds, verdict) = feed(&mut test, &[25, 25, 25, 25], 60);
    assert_eq!(verdict, Verdict::Accept);
    assert!(seconds <= 3, "{seconds}");
}

#[test]
fn rolls_back_if_a_member_gets_twice_its_table_share() {
    let mut test = test(&[(0.25, 0.25); 4], None);
    let (seconds, verdict) = feed(&mut test, &[50, 17, 17, 16], 60);
    let Verdict::RollBack {
        member,
        llr,
        observed_share,
        expected_share,
        against,
    } = verdict
    else {
        panic!("{verdict:?}");
    };
    assert_eq!(&*member, "b0");
    assert!(llr >= 9.2, "{llr}");
    assert_eq!((observed_share, expected_share), (0.5, 0.25));
    assert_eq!(against, Reference::Table);
    assert!((3..=10).contains(&seconds), "{seconds}");
}

#[test]
fn rolls_back_a_wrong_table_that_traffic_follows_within_10_s() {
    let mut test = test(
        &[(0.25, 0.94), (0.25, 0.02), (0.25, 0.02), (0.25, 0.02)],
        Some(0.4),
    );
    let (seconds, verdict) = feed(&mut test, &[188, 4, 4, 4], 60);
    let Verdict::RollBack {
        member,
        against,
        expected_share,
        ..
    } = verdict
    else {
        panic!("{verdict:?}");
    };
    assert_eq!(
        (&*member, against, expected_share),
        ("b0", Reference::Fair, 0.25)
    );
    assert!((3..=10).contains(&seconds), "{seconds}");
}

#[test]
fn accepts_a_share_that_the_guard_allows() {
    let shares = [
        (0.1, 0.37),
        (0.1, 0.07),
        (0.1, 0.07),
        (0.1, 0.07),
        (0.1, 0.07),
        (0.1, 0.07),
        (0.1, 0.07),
        (0.1, 0.07),
        (0.1, 0.07),
        (0.1, 0.07),
    ];
    let flows = [37, 7, 7, 7, 7, 7, 7, 7, 7, 7];
    assert_eq!(
        feed(&mut test(&shares, Some(0.4)), &flows, 60).1,
        Verdict::Accept
    );
    let alone = feed(&mut test(&shares, None), &flows, 60).1;
    assert!(matches!(alone, Verdict::RollBack { .. }), "{alone:?}");
}

#[test]
fn is_undecided_without_flows() {
    let mut test = test(&[(0.5, 0.5); 2], None);
    assert_eq!(feed(&mut test, &[0, 0], 60).1, Verdict::Undecided);
}

#[test]
fn rolls_back_a_fault_after_acceptance() {
    let mut test = test(&[(0.25, 0.25); 4], None);
    let mut totals = [0u64; 4];
    for second in 0..120 {
        let flows = if second < 100 {
            [25, 25, 25, 25]
        } else {
            [60, 13, 13, 14]
        };
        for (total, came) in totals.iter_mut().zip(flows) {
            *total += came;
        }
        let verdict = test.observe(&totals);
        if matches!(verdict, Verdict::RollBack { .. }) {
            assert!(second < 108, "{second}");
            return;
        }
    }
    panic!("not rolled back");
}

#[test]
fn follows_table_changes_by_health() {
    let mut test = test(&[(0.5, 0.5), (0.5, 0.5)], None);
    test.observe(&[0, 0]);
    test.table_changed(&[1.0, 0.0]);
    for second in 1..20 {
        let verdict = test.observe(&[second * 100, 0]);
        assert!(!matches!(verdict, Verdict::RollBack { .. }), "{verdict:?}");
    }
}

//! The test right after a change: false rollbacks of good changes, and time to rollback of bad
//! ones.

use lb_skew::{AfterChange, ChangedMember, Thresholds, Verdict};

use super::random::Random;

/// One line of the result.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Members of the VIP.
    pub members: usize,
    /// New flows per second of the VIP.
    pub flows_per_s: f64,
    /// Good changes that were rolled back within a minute, and all good changes.
    pub false_rollbacks: (usize, usize),
    /// Seconds until half of the good changes were accepted.
    pub accepted_s: Option<u64>,
    /// Seconds until half of the changes that give one member 94 % of the table and traffic were
    /// rolled back.
    pub wrong_table_s: Option<u64>,
    /// The same for one member at twice its table share.
    pub not_followed_s: Option<u64>,
}

/// Bake time, seconds.
const BAKE_S: u64 = 60;

fn trial(table: &[f64], odds: &[f64], flows_per_s: f64, seed: u64) -> (u64, Verdict) {
    let mut random = Random::new(seed);
    let even = 1.0 / table.len() as f64;
    let members = table
        .iter()
        .enumerate()
        .map(|(number, &share)| ChangedMember {
            name: format!("b{number}").into(),
            table_share: share,
            share_before: even,
            capacity: None,
        });
    let thresholds = Thresholds::default();
    let mut test = AfterChange::new(&thresholds, 1.0, Some(0.4), members.collect());
    let mut totals = vec![0; table.len()];
    test.observe(&totals);
    let mut accepted = None;
    for second in 1..=BAKE_S {
        for (total, odd) in totals.iter_mut().zip(odds) {
            *total += random.poisson(flows_per_s * odd) as u64;
        }
        match test.observe(&totals) {
            Verdict::Undecided => {}
            // The test continues: an accepted change may still be rolled back.
            Verdict::Accept => accepted = accepted.or(Some(second)),
            verdict @ Verdict::RollBack { .. } => return (second, verdict),
        }
    }
    accepted.map_or((BAKE_S, Verdict::Undecided), |second| {
        (second, Verdict::Accept)
    })
}

fn median(mut seconds: Vec<Option<u64>>) -> Option<u64> {
    seconds.sort_by_key(|seconds| seconds.unwrap_or(u64::MAX));
    seconds[seconds.len() / 2]
}

/// Simulates changes of VIPs of several sizes.
#[must_use]
pub fn run(trials: usize, seed: u64) -> Vec<Line> {
    let vips = [
        (2, 20.0),
        (4, 20.0),
        (4, 200.0),
        (10, 200.0),
        (100, 1000.0),
        (1000, 10_000.0),
    ];
    let line = |(members, flows_per_s): (usize, f64)| {
        let trials = if members > 10 {
            trials.div_ceil(20)
        } else {
            trials
        };
        let even = vec![1.0 / members as f64; members];
        let one = |share: f64| {
            let mut shares = vec![(1.0 - share) / (members as f64 - 1.0); members];
            shares[0] = share;
            shares
        };
        let seconds = |table: &[f64], odds: &[f64], accept: bool| -> Vec<Option<u64>> {
            (0..trials)
                .map(|trial_number| {
                    let seed = seed.wrapping_add(trial_number as u64);
                    match trial(table, odds, flows_per_s, seed) {
                        (second, Verdict::Accept) => accept.then_some(second),
                        (second, Verdict::RollBack { .. }) => (!accept).then_some(second),
                        (_, Verdict::Undecided) => None,
                    }
                })
                .collect()
        };
        let good = |roll_back: bool| seconds(&even, &even, !roll_back);
        Line {
            members,
            flows_per_s,
            false_rollbacks: (good(true).iter().flatten().count(), trials),
            accepted_s: median(good(false)),
            wrong_table_s: median(seconds(&one(0.94), &one(0.94), false)),
            not_followed_s: median(seconds(&even, &one(2.0 / members as f64), false)),
        }
    };
    vips.into_iter().map(line).collect()
}

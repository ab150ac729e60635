//! The sequential test right after a change.
//!
//! Wald's sequential probability ratio test (A. Wald, "Sequential tests of statistical hypotheses",
//! Annals of Mathematical Statistics 16, 1945) needs the fewest flows of all tests with its errors. Each member has
//! two of them: whether it gets far more than the **table** gives it, and, where the table itself gives it far more than a
//! **fair** share and than it had, whether it really gets that.

use std::sync::Arc;

use super::{Thresholds, evidence::Alternative};

/// Logarithm of the odds at which a change is taken back, for one member: one false in 10,000.
const ROLL_BACK: f64 = 9.2;
/// Logarithm of the odds at which a member is taken for well: one in a hundred is not.
const ACCEPT: f64 = -4.6;
/// Times a share that is tested for.
const TWICE: f64 = 2.0;
/// Observations that must speak against a change.
const LEAST_OBSERVATIONS: f64 = 3.0;
/// Share that a member without slots is tested with.
const LEAST_SHARE: f64 = 1e-4;

/// A member as a change left it.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangedMember {
    /// Its name.
    pub name: Arc<str>,
    /// Table share after the change; 0 if it should get nothing.
    pub table_share: f64,
    /// Table share before; 0 for a new one.
    pub share_before: f64,
    /// New flows a second that it can take, if that is known.
    pub capacity: Option<f64>,
}

/// What the counts since a change say about it.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Every member gets what it should.
    Accept,
    /// A member gets too much.
    RollBack {
        /// The member.
        member: Arc<str>,
        /// Logarithm of the likelihood ratio.
        llr: f64,
        /// The part of the flows since the change that it got.
        observed_share: f64,
        /// The part that it should have got.
        expected_share: f64,
        /// What it was held against.
        against: Reference,
    },
    /// Not enough flows yet to tell.
    Undecided,
}

/// What a member's flows are held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// Its share of the new table: the traffic does not follow the table.
    Table,
    /// A fair share, or its share before: the traffic follows the table, and the table is wrong.
    Fair,
}

/// One test of one member.
#[derive(Clone, Copy, Debug)]
struct Test {
    share: f64,
    alternative: Alternative,
    llr: f64,
    expected: f64,
    /// Whether it was once taken for well. What comes after must begin again at [`ACCEPT`], not at
    /// whatever minutes of good traffic have gathered.
    well: bool,
}

impl Test {
    fn new(share: f64, times: f64) -> Self {
        Self {
            share,
            alternative: Alternative::new(times),
            llr: 0.0,
            expected: 0.0,
            well: false,
        }
    }

    fn add(&mut self, got: f64, all: f64, dispersion: f64, most: f64) {
        let expected = all * self.share;
        let gain = self.alternative.gain(got, expected) / dispersion;
        self.llr += gain.min(most);
        self.well |= self.llr <= ACCEPT;
        self.llr = self.llr.max(ACCEPT);
        self.expected += expected;
    }
}

#[derive(Clone, Debug)]
struct Trial {
    name: Arc<str>,
    got: f64,
    table: Test,
    fair: Option<Test>,
    last: Option<u64>,
}

/// A sequential probability ratio test for each member of a VIP after a change.
#[derive(Clone, Debug)]
pub struct AfterChange {
    trials: Vec<Trial>,
    dispersion: f64,
    roll_back: f64,
    all: f64,
}

impl AfterChange {
    /// Begins; `dispersion` is [`super::Detector::dispersion`] of the time before the change (1 if
    /// unknown), `allowed_share` the share that the guard lets any member have (`vip.guard.max_share`): up to it
    /// a table that is obeyed is not held against the change.
    #[must_use]
    pub fn new(
        thresholds: &Thresholds,
        dispersion: f64,
        allowed_share: Option<f64>,
        members: Vec<ChangedMember>,
    ) -> Self {
        let served = members.iter().filter(|member| member.table_share > 0.0);
        let even = 1.0 / served.clone().count().max(1) as f64;
        let capacity: Option<f64> = served.map(|member| member.capacity).sum();
        let fair = |member: &ChangedMember| {
            let part = member.capacity.zip(capacity.filter(|&all| all > 0.0));
            part.map_or(even, |(own, all)| own / all)
        };
        let trial = |member: ChangedMember| {
            let reference = fair(&member).max(member.share_before).max(LEAST_SHARE);
            let limit = thresholds
                .concentrated(reference)
                .max(allowed_share.unwrap_or(0.0));
            let concentrated = member.table_share > limit;
            Trial {
                table: Test::new(member.table_share.max(LEAST_SHARE), TWICE),
                fair: concentrated.then(|| Test::new(reference, limit / reference)),
                name: member.name,
                got: 0.0,
                last: None,
            }
        };
        let trials: Vec<Trial> = members.into_iter().map(trial).collect();
        Self {
            // One in 10,000 for all members together, not for each of a thousand.
            roll_back: ROLL_BACK + (trials.len().max(1) as f64).ln(),
            trials,
            dispersion: dispersion.max(1.0),
            all: 0.0,
        }
    }

    /// Takes the new flows of each member (totals that grow, in the order of the members), about once a
    /// second. The first call tells where they stand: what came before it does not count.
    ///
    /// # Panics
    ///
    /// When there is not one number for each member.
    pub fn observe(&mut self, new_flows: &[u64]) -> Verdict {
        assert_eq!(
            new_flows.len(),
            self.trials.len(),
            "a count for each member"
        );
        let came: Vec<f64> = self
            .trials
            .iter_mut()
            .zip(new_flows)
            .map(|(trial, &now)| {
                let before = trial.last.replace(now).unwrap_or(now);
                now.checked_sub(before).unwrap_or(now) as f64
            })
            .collect();
        let all: f64 = came.iter().sum();
        self.all += all;
        let most = self.roll_back / LEAST_OBSERVATIONS;
        for (trial, &got) in self.trials.iter_mut().zip(&came) {
            trial.got += got;
            trial.table.add(got, all, self.dispersion, most);
            if let Some(fair) = &mut trial.fair {
                fair.add(got, all, self.dispersion, most);
            }
        }
        self.verdict()
    }

    /// Tells that health changed the table in the meantime: the shares that count from now on, in the order
    /// of the members.
    ///
    /// # Panics
    ///
    /// When there is not one share for each member.
    pub fn table_changed(&mut self, table_shares: &[f64]) {
        assert_eq!(
            table_shares.len(),
            self.trials.len(),
            "a share for each member"
        );
        for (trial, &share) in self.trials.iter_mut().zip(table_shares) {
            trial.table.share = share.max(LEAST_SHARE);
        }
    }

    fn verdict(&self) -> Verdict {
        let mut worst: Option<(&Trial, &Test, Reference)> = None;
        let mut all_well = self.all > 0.0;
        for trial in &self.trials {
            let fair = trial.fair.as_ref().map(|test| (test, Reference::Fair));
            for (test, against) in fair.into_iter().chain([(&trial.table, Reference::Table)]) {
                all_well &= test.well;
                let worse = worst.is_none_or(|(_, other, _)| test.llr > other.llr);
                if test.llr >= self.roll_back && worse {
                    worst = Some((trial, test, against));
                }
            }
        }
        match worst {
            Some((trial, test, against)) => Verdict::RollBack {
                member: trial.name.clone(),
                llr: test.llr,
                observed_share: trial.got / self.all.max(1.0),
                expected_share: test.expected / self.all.max(1.0),
                against,
            },
            None if all_well => Verdict::Accept,
            None => Verdict::Undecided,
        }
    }
}

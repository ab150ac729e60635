//! The sequential test right after a change.
//!
//! Wald's sequential probability ratio test (A. Wald, "Sequential tests of statistical hypotheses",
//! Annals of Mathematical Statistics 16, 1945) needs the fewest flows of all tests with the same
//! error rates. Each member has two: against its **table** share, and, if the table gives it far
//! more than a **fair** share and its former share, against the fair share.

use std::sync::Arc;

use super::{Thresholds, evidence::Alternative};

/// Log likelihood ratio that rolls a change back, for one member: one error in 10,000.
const ROLL_BACK: f64 = 9.2;
/// Log likelihood ratio that accepts a member: one error in 100.
const ACCEPT: f64 = -4.6;
/// Multiple of the table share that is the alternative hypothesis.
const TWICE: f64 = 2.0;
/// Fewest observations that roll a change back.
const LEAST_OBSERVATIONS: f64 = 3.0;
/// Share assumed for a member without slots.
const LEAST_SHARE: f64 = 1e-4;

/// A member after a change.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangedMember {
    pub name: Arc<str>,
    /// Table share after the change; 0 if it should get nothing.
    pub table_share: f64,
    /// Table share before; 0 for a new member.
    pub share_before: f64,
    /// New flows per second that it can take, if known.
    pub capacity: Option<f64>,
}

/// Result of the test.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// All members get their shares.
    Accept,
    /// A member gets too much.
    RollBack {
        member: Arc<str>,
        /// Log likelihood ratio, nats.
        llr: f64,
        /// Observed share of the flows since the change.
        observed_share: f64,
        /// Expected share.
        expected_share: f64,
        against: Reference,
    },
    /// Not enough flows yet.
    Undecided,
}

/// What the flows of a member are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// The new table share: the traffic does not follow the table.
    Table,
    /// A fair or its former share: the traffic follows the table, and the table is wrong.
    Fair,
}

#[derive(Clone, Copy, Debug)]
struct Test {
    share: f64,
    alternative: Alternative,
    llr: f64,
    expected: f64,
    /// Whether the sum has reached [`ACCEPT`], which is also its lower limit: a later fault does
    /// not have to outweigh minutes of good traffic.
    accepted: bool,
}

impl Test {
    fn new(share: f64, times: f64) -> Self {
        Self {
            share,
            alternative: Alternative::new(times),
            llr: 0.0,
            expected: 0.0,
            accepted: false,
        }
    }

    fn add(&mut self, observed: f64, all: f64, dispersion: f64, most: f64) {
        let expected = all * self.share;
        let gain = self.alternative.gain(observed, expected) / dispersion;
        self.llr += gain.min(most);
        self.accepted |= self.llr <= ACCEPT;
        self.llr = self.llr.max(ACCEPT);
        self.expected += expected;
    }
}

#[derive(Clone, Debug)]
struct MemberTest {
    name: Arc<str>,
    observed: f64,
    table: Test,
    fair: Option<Test>,
    last: Option<u64>,
}

/// A sequential probability ratio test for each member of a VIP after a change.
#[derive(Clone, Debug)]
pub struct AfterChange {
    members: Vec<MemberTest>,
    dispersion: f64,
    roll_back: f64,
    all: f64,
}

impl AfterChange {
    /// `dispersion` is [`super::Detector::dispersion`] before the change (1 if unknown).
    /// `allowed_share` is `vip.guard.max_share`: up to this share, a table that the traffic follows
    /// is accepted.
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
        let new_test = |member: ChangedMember| {
            let reference = fair(&member).max(member.share_before).max(LEAST_SHARE);
            let limit = thresholds
                .concentrated(reference)
                .max(allowed_share.unwrap_or(0.0));
            let concentrated = member.table_share > limit;
            MemberTest {
                table: Test::new(member.table_share.max(LEAST_SHARE), TWICE),
                fair: concentrated.then(|| Test::new(reference, limit / reference)),
                name: member.name,
                observed: 0.0,
                last: None,
            }
        };
        let members: Vec<MemberTest> = members.into_iter().map(new_test).collect();
        Self {
            // One error in 10,000 for all members together.
            roll_back: ROLL_BACK + (members.len().max(1) as f64).ln(),
            members,
            dispersion: dispersion.max(1.0),
            all: 0.0,
        }
    }

    /// Adds the totals of new flows of each member, in the order of the members, about once per
    /// second. The first call sets the start of the totals.
    ///
    /// # Panics
    ///
    /// If the number of totals is not the number of members.
    pub fn observe(&mut self, new_flows: &[u64]) -> Verdict {
        assert_eq!(
            new_flows.len(),
            self.members.len(),
            "a count for each member"
        );
        let counts: Vec<f64> = self
            .members
            .iter_mut()
            .zip(new_flows)
            .map(|(member, &now)| {
                let before = member.last.replace(now).unwrap_or(now);
                now.checked_sub(before).unwrap_or(now) as f64
            })
            .collect();
        let all: f64 = counts.iter().sum();
        self.all += all;
        let most = self.roll_back / LEAST_OBSERVATIONS;
        for (member, &observed) in self.members.iter_mut().zip(&counts) {
            member.observed += observed;
            member.table.add(observed, all, self.dispersion, most);
            if let Some(fair) = &mut member.fair {
                fair.add(observed, all, self.dispersion, most);
            }
        }
        self.verdict()
    }

    /// Sets new table shares, in the order of the members, after a health change.
    ///
    /// # Panics
    ///
    /// If the number of shares is not the number of members.
    pub fn table_changed(&mut self, table_shares: &[f64]) {
        assert_eq!(
            table_shares.len(),
            self.members.len(),
            "a share for each member"
        );
        for (member, &share) in self.members.iter_mut().zip(table_shares) {
            member.table.share = share.max(LEAST_SHARE);
        }
    }

    fn verdict(&self) -> Verdict {
        let mut worst: Option<(&MemberTest, &Test, Reference)> = None;
        let mut all_accepted = self.all > 0.0;
        for member in &self.members {
            let fair = member.fair.as_ref().map(|test| (test, Reference::Fair));
            for (test, against) in fair.into_iter().chain([(&member.table, Reference::Table)]) {
                all_accepted &= test.accepted;
                let worse = worst.is_none_or(|(_, other, _)| test.llr > other.llr);
                if test.llr >= self.roll_back && worse {
                    worst = Some((member, test, against));
                }
            }
        }
        match worst {
            Some((member, test, against)) => Verdict::RollBack {
                member: member.name.clone(),
                llr: test.llr,
                observed_share: member.observed / self.all.max(1.0),
                expected_share: test.expected / self.all.max(1.0),
                against,
            },
            None if all_accepted => Verdict::Accept,
            None => Verdict::Undecided,
        }
    }
}

//! The sequential test right after a change.

use std::sync::Arc;

use super::Thresholds;

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

/// A sequential probability ratio test for each member of a VIP after a change.
#[derive(Clone, Debug)]
pub struct AfterChange {
    members: Vec<ChangedMember>,
}

impl AfterChange {
    /// Begins; `dispersion` is [`super::Detector::dispersion`] of the time before the change (1 if
    /// unknown), `allowed_share` the share that the guard lets any member have (`vip.guard.max_share`): up to it
    /// a table that is obeyed is not held against the change.
    #[must_use]
    pub fn new(
        _thresholds: &Thresholds,
        _dispersion: f64,
        _allowed_share: Option<f64>,
        members: Vec<ChangedMember>,
    ) -> Self {
        Self { members }
    }

    /// Takes the new flows of each member **since the change** (totals that grow, in the order of
    /// the members), about once a second.
    ///
    /// # Panics
    ///
    /// When there is not one number for each member.
    pub fn observe(&mut self, new_flows: &[u64]) -> Verdict {
        assert_eq!(
            new_flows.len(),
            self.members.len(),
            "a count for each member"
        );
        Verdict::Undecided
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
            self.members.len(),
            "a share for each member"
        );
    }
}

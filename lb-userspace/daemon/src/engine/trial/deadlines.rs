//! Deadlines of a trial, in wall-clock time. They are on disk with the revision, so that a restarted
//! controller resumes the trial. When the clock is set, they are moved with it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    clock::later,
    durable, fault,
    revision::{RevisionNumber, RevisionState, StoreError},
};

/// When the bake ends, and when a change must be confirmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::engine) struct Deadlines {
    pub(super) bake_until: Option<Timestamp>,
    /// Time to confirm, after the bake.
    pub(super) confirm: Option<SignedDuration>,
    pub(super) confirm_until: Option<Timestamp>,
}

/// The part that a revision's state has no place for.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    revision: RevisionNumber,
    confirm_s: i64,
}

fn stored_in(state_dir: &Path) -> PathBuf {
    state_dir.join("trial.json")
}

impl Deadlines {
    pub(in crate::engine) fn from(
        now: Timestamp,
        bake: SignedDuration,
        confirm: Option<SignedDuration>,
    ) -> Self {
        let bakes = !bake.is_zero();
        Self {
            bake_until: bakes.then(|| later(now, bake)),
            confirm,
            confirm_until: confirm.filter(|_| !bakes).map(|time| later(now, time)),
        }
    }

    /// Moves the end of the time to confirm a change that has baked.
    pub(in crate::engine) const fn set_confirm_until(&mut self, until: Timestamp) {
        self.confirm_until = Some(until);
    }

    /// Shifts the deadlines after the system clock was set.
    pub(super) fn moved(self, by: SignedDuration) -> Self {
        Self {
            bake_until: self.bake_until.map(|until| later(until, by)),
            confirm: self.confirm,
            confirm_until: self.confirm_until.map(|until| later(until, by)),
        }
    }

    /// The deadlines of a revision that the previous process left in this state.
    pub(super) fn of(state_dir: &Path, number: RevisionNumber, state: &RevisionState) -> Self {
        match state {
            RevisionState::Baking { until } => Self {
                bake_until: Some(*until),
                confirm: read_stored(state_dir, number),
                confirm_until: None,
            },
            RevisionState::AwaitingConfirm { until } => Self {
                bake_until: None,
                confirm: Some(SignedDuration::ZERO),
                confirm_until: Some(*until),
            },
            _ => Self::default(),
        }
    }

    /// Limits each deadline to its distance from `made`, the time of the change: the clock may have been
    /// set back while no controller was running.
    pub(super) fn since(self, made: Timestamp, now: Timestamp) -> Self {
        let nearer = |until: Timestamp| until.min(later(now, until.duration_since(made)));
        Self {
            bake_until: self.bake_until.map(nearer),
            confirm: self.confirm,
            confirm_until: self.confirm_until.map(nearer),
        }
    }

    pub(in crate::engine) fn state(&self) -> RevisionState {
        match (self.bake_until, self.confirm_until) {
            (Some(until), _) => RevisionState::Baking { until },
            (None, Some(until)) => RevisionState::AwaitingConfirm { until },
            (None, None) => RevisionState::Applied,
        }
    }

    /// Stores the time to confirm a change after its bake.
    pub(in crate::engine) fn store(
        &self,
        state_dir: &Path,
        number: RevisionNumber,
    ) -> Result<(), StoreError> {
        let path = stored_in(state_dir);
        let failed = |source| StoreError::System {
            what: "write",
            path: path.clone(),
            source,
        };
        let (Some(_), Some(confirm)) = (self.bake_until, self.confirm) else {
            // A file that is there names a revision that no longer bakes.
            return Ok(());
        };
        let stored = Stored {
            revision: number,
            confirm_s: confirm.as_secs(),
        };
        fault::point("trial: write").map_err(failed)?;
        let json = serde_json::to_vec(&stored).map_err(|error| failed(io::Error::other(error)))?;
        durable::replace(&path, &json).map_err(failed)
    }
}

fn read_stored(state_dir: &Path, number: RevisionNumber) -> Option<SignedDuration> {
    let bytes = fs::read(stored_in(state_dir)).ok()?;
    let stored: Stored = serde_json::from_slice(&bytes).ok()?;
    (stored.revision == number).then(|| SignedDuration::from_secs(stored.confirm_s))
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan as _;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + second.seconds()
    }

    fn awaiting(second: i64) -> Deadlines {
        let until = at(second);
        Deadlines::of(
            Path::new("/nowhere"),
            1,
            &RevisionState::AwaitingConfirm { until },
        )
    }

    #[test]
    fn setting_the_clock_moves_deadlines() {
        let bakes = Deadlines::from(
            at(100),
            SignedDuration::from_secs(30),
            Some(SignedDuration::from_mins(5)),
        );
        for by in [3600, -50] {
            let moved = bakes.moved(SignedDuration::from_secs(by));
            assert_eq!(moved.bake_until, Some(at(130 + by)));
            assert_eq!((moved.confirm, moved.confirm_until), (bakes.confirm, None));
            let moved = awaiting(200).moved(SignedDuration::from_secs(by));
            assert_eq!(moved, awaiting(200 + by));
        }
    }

    #[test]
    fn a_clock_set_back_before_the_start_does_not_extend_a_trial() {
        // Made at 1,000 with 300 s to confirm.
        assert_eq!(awaiting(1300).since(at(1000), at(1100)), awaiting(1300));
        assert_eq!(awaiting(1300).since(at(1000), at(10)), awaiting(310));
    }
}

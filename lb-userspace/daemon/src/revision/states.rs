//! Which revision is in force: rules over the states alone.

use jiff::Timestamp;

use super::info::{RevisionNumber, RevisionState};

/// Whether a revision of this state is what the kernel is meant to hold.
///
/// One that is being applied is not, yet: until its result is written down, the one before counts.
#[must_use]
pub const fn is_in_force(state: &RevisionState) -> bool {
    match state {
        RevisionState::Baking { .. }
        | RevisionState::AwaitingConfirm { .. }
        | RevisionState::Applied => true,
        RevisionState::Applying
        | RevisionState::RolledBack { .. }
        | RevisionState::Failed { .. } => false,
    }
}

/// Whether nothing can become of it any more.
#[must_use]
pub const fn is_final(state: &RevisionState) -> bool {
    match state {
        RevisionState::Applied
        | RevisionState::RolledBack { .. }
        | RevisionState::Failed { .. } => true,
        RevisionState::Applying
        | RevisionState::Baking { .. }
        | RevisionState::AwaitingConfirm { .. } => false,
    }
}

/// Whether `to` may follow `from`: a state that is final stays, and nothing is applied twice. To say
/// again what is so already is no mistake.
pub(super) fn is_step(from: &RevisionState, to: &RevisionState) -> bool {
    from == to || (!is_final(from) && !matches!(to, RevisionState::Applying))
}

/// What a start finds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AtStart {
    /// The revision that must be in force; none if there is no good one. It may still bake or wait to
    /// be confirmed: its state says until when.
    pub active: Option<RevisionNumber>,
    /// Revisions that nobody finished, newest first, and what is to be written down of each, once
    /// `active` is in the kernel. A start that does not get that far finds the same again.
    pub ended: Vec<(RevisionNumber, RevisionState)>,
}

/// What a start at `now` finds in these revisions, **newest first**.
pub(super) fn at_start<'a>(
    revisions: impl Iterator<Item = (RevisionNumber, &'a RevisionState)>,
    now: Timestamp,
) -> AtStart {
    let mut found = AtStart::default();
    for (number, state) in revisions {
        match (ending(state, now), found.active) {
            (None, None) if is_in_force(state) => found.active = Some(number),
            (Some(end), None) => found.ended.push((number, end)),
            (_, Some(newer)) if !is_final(state) => {
                let why = format!("it was not finished when revision {newer} took its place");
                found
                    .ended
                    .push((number, RevisionState::RolledBack { why, at: now }));
            }
            _ => {}
        }
    }
    found
}

/// What becomes of a revision in this state when the controller was away until `now`; `None`: nothing.
fn ending(state: &RevisionState, now: Timestamp) -> Option<RevisionState> {
    let rolled_back = |why| Some(RevisionState::RolledBack { why, at: now });
    match state {
        RevisionState::Applying => Some(RevisionState::Failed {
            why: "the controller ended while it was being applied".to_owned(),
        }),
        RevisionState::Baking { until } if *until <= now => rolled_back(format!(
            "nobody watched it until {}: the controller did not run",
            to_the_second(*until)
        )),
        RevisionState::AwaitingConfirm { until } if *until <= now => {
            rolled_back(not_confirmed(*until))
        }
        _ => None,
    }
}

/// Why a revision was rolled back that had to be confirmed.
pub(crate) fn not_confirmed(until: Timestamp) -> String {
    format!("it was not confirmed until {}", to_the_second(until))
}

/// A time as people read it.
pub(crate) fn to_the_second(at: Timestamp) -> Timestamp {
    at.round(jiff::Unit::Second).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan as _;
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + second.seconds()
    }

    /// The states of all kinds, with deadlines before and after second 100.
    fn state() -> impl Strategy<Value = RevisionState> {
        let deadline = prop::sample::select(vec![50i64, 99, 100, 101, 200]);
        prop_oneof![
            Just(RevisionState::Applying),
            deadline
                .clone()
                .prop_map(|s| RevisionState::Baking { until: at(s) }),
            deadline.prop_map(|s| RevisionState::AwaitingConfirm { until: at(s) }),
            Just(RevisionState::Applied),
            Just(RevisionState::RolledBack {
                why: "x".into(),
                at: at(1)
            }),
            Just(RevisionState::Failed { why: "x".into() }),
        ]
    }

    fn start(states: &[RevisionState], now: Timestamp) -> AtStart {
        let newest_first = states.iter().enumerate().rev();
        at_start(newest_first.map(|(i, state)| (i as u64 + 1, state)), now)
    }

    #[test]
    fn the_table_of_the_documentation() {
        let until = at(200);
        let good = RevisionState::Applied;
        let table = [
            (RevisionState::Applying, 100, 1, 1),
            (RevisionState::Baking { until }, 199, 2, 0),
            (RevisionState::Baking { until }, 200, 1, 1),
            (RevisionState::AwaitingConfirm { until }, 199, 2, 0),
            (RevisionState::AwaitingConfirm { until }, 200, 1, 1),
            (RevisionState::Applied, 100, 2, 0),
            (RevisionState::Failed { why: String::new() }, 100, 1, 0),
        ];
        for (newest, now, active, ended) in table {
            let found = start(&[good.clone(), newest.clone()], at(now));
            assert_eq!(found.active, Some(active), "{newest:?}");
            assert_eq!(found.ended.len(), ended, "{newest:?}");
        }
        assert_eq!(start(&[], at(0)), AtStart::default());
    }

    proptest! {
        #[test]
        fn the_newest_that_is_good_is_in_force(states in prop::collection::vec(state(), 0..8)) {
            let now = at(100);
            let found = start(&states, now);
            let holds = |state: &RevisionState| match state {
                RevisionState::Applied => true,
                RevisionState::Baking { until } | RevisionState::AwaitingConfirm { until } => *until > now,
                _ => false,
            };
            let expected = states.iter().rposition(holds).map(|i| i as u64 + 1);
            prop_assert_eq!(found.active, expected);
        }

        #[test]
        fn what_is_written_down_makes_the_next_start_clean(
            mut states in prop::collection::vec(state(), 0..8),
            later in 0i64..300,
        ) {
            let first = start(&states, at(100));
            for (number, end) in &first.ended {
                let state = &mut states[*number as usize - 1];
                prop_assert!(is_step(state, end), "{:?} → {:?}", state, end);
                prop_assert!(is_final(end) && !is_in_force(end));
                *state = end.clone();
            }
            // The same again, at once; and whenever the next start is, at most one is unfinished.
            let second = start(&states, at(100));
            prop_assert_eq!(second.active, first.active);
            prop_assert_eq!(second.ended, vec![]);
            let third = start(&states, at(100 + later));
            prop_assert!(third.ended.len() <= 1);
            prop_assert!(third.active <= first.active);
        }

        #[test]
        fn steps_only_lead_forward(from in state(), to in state()) {
            if is_step(&from, &to) && from != to {
                prop_assert!(!is_final(&from));
                prop_assert!(!matches!(to, RevisionState::Applying));
            }
        }
    }
}

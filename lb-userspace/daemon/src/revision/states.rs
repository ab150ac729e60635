//! Rules over revision states: which revision is active, and how unfinished ones end.

use jiff::Timestamp;

use super::info::{RevisionNumber, RevisionState};

/// Whether the kernel should hold a revision of this state.
///
/// One that is being applied is not active yet: until its result is written, the one before is.
#[must_use]
pub(super) const fn is_active(state: &RevisionState) -> bool {
    match state {
        RevisionState::Baking { .. }
        | RevisionState::AwaitingConfirm { .. }
        | RevisionState::Applied => true,
        RevisionState::Applying
        | RevisionState::RolledBack { .. }
        | RevisionState::Failed { .. } => false,
    }
}

/// Whether the state never changes again.
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

/// Whether `to` may follow `from`. Final states do not change and nothing is applied twice; repeating
/// a state is allowed.
pub(super) fn is_step(from: &RevisionState, to: &RevisionState) -> bool {
    from == to || (!is_final(from) && !matches!(to, RevisionState::Applying))
}

/// What a start of the controller has to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AtStart {
    /// The revision to activate, if any is good. It may still be baking or awaiting confirmation; its
    /// state has the deadline.
    pub active: Option<RevisionNumber>,
    /// Unfinished revisions, newest first, with the states to write once `active` is in the kernel. A
    /// start that fails before that finds the same ones again.
    pub ended: Vec<(RevisionNumber, RevisionState)>,
}

/// Decides what a start at `now` has to do. `revisions` are sorted newest first.
pub(super) fn at_start<'a>(
    revisions: impl Iterator<Item = (RevisionNumber, &'a RevisionState)>,
    now: Timestamp,
) -> AtStart {
    let mut found = AtStart::default();
    for (number, state) in revisions {
        match (ending(state, now), found.active) {
            (None, None) if is_active(state) => found.active = Some(number),
            (Some(end), None) => found.ended.push((number, end)),
            (_, Some(newer)) if !is_final(state) => {
                let why = format!("superseded by revision {newer} before it was finished");
                found
                    .ended
                    .push((number, RevisionState::RolledBack { why, at: now }));
            }
            _ => {}
        }
    }
    found
}

/// Returns the final state of a revision in this state after the controller was away until `now`;
/// `None` if it does not change.
fn ending(state: &RevisionState, now: Timestamp) -> Option<RevisionState> {
    let rolled_back = |why| Some(RevisionState::RolledBack { why, at: now });
    match state {
        RevisionState::Applying => Some(RevisionState::Failed {
            why: "the controller stopped while applying it".to_owned(),
        }),
        RevisionState::Baking { until } if *until <= now => rolled_back(format!(
            "the controller did not run until the end of the bake at {}",
            to_the_second(*until)
        )),
        RevisionState::AwaitingConfirm { until } if *until <= now => {
            rolled_back(not_confirmed(*until))
        }
        _ => None,
    }
}

/// Why a revision that had to be confirmed was rolled back.
pub(crate) fn not_confirmed(until: Timestamp) -> String {
    format!("not confirmed by {}", to_the_second(until))
}

/// Returns a time without fractions of a second, for display.
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
    fn follows_the_table_in_the_module_documentation() {
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
        fn the_newest_good_revision_is_active(states in prop::collection::vec(state(), 0..8)) {
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
        fn writing_the_final_states_leaves_nothing_for_the_next_start(
            mut states in prop::collection::vec(state(), 0..8),
            later in 0i64..300,
        ) {
            let first = start(&states, at(100));
            for (number, end) in &first.ended {
                let state = &mut states[*number as usize - 1];
                prop_assert!(is_step(state, end), "{:?} → {:?}", state, end);
                prop_assert!(is_final(end) && !is_active(end));
                *state = end.clone();
            }
            // The next start, whenever it is, finds at most one unfinished revision.
            let second = start(&states, at(100));
            prop_assert_eq!(second.active, first.active);
            prop_assert_eq!(second.ended, vec![]);
            let third = start(&states, at(100 + later));
            prop_assert!(third.ended.len() <= 1);
            prop_assert!(third.active <= first.active);
        }

        #[test]
        fn final_states_do_not_change(from in state(), to in state()) {
            if is_step(&from, &to) && from != to {
                prop_assert!(!is_final(&from));
                prop_assert!(!matches!(to, RevisionState::Applying));
            }
        }
    }
}

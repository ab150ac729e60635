//! Words and tones for states, as the API spells them.

use super::paint::Tone;
use lb_api::{Guard, MemberState, PlanVerdict, RevisionState, Severity, VipAction, WantedState};

/// All guards with their names.
pub(in crate::cli) const GUARDS: [(&str, Guard); 8] = [
    ("share_error", Guard::ShareError),
    ("no_slots", Guard::NoSlots),
    ("max_share", Guard::MaxShare),
    ("max_moved", Guard::MaxMoved),
    ("min_backends", Guard::MinBackends),
    ("capacity", Guard::Capacity),
    ("nothing_left", Guard::NothingLeft),
    ("vip_removed", Guard::VipRemoved),
];

pub(in crate::cli) fn guard(guard: Guard) -> &'static str {
    let named = GUARDS.iter().find(|(_, known)| *known == guard);
    named.map_or("?", |(name, _)| name)
}

pub(in crate::cli) fn member_state(state: MemberState) -> (&'static str, Tone) {
    match state {
        MemberState::Up => ("up", Tone::Good),
        MemberState::Down => ("down", Tone::Bad),
        MemberState::Draining => ("draining", Tone::Warn),
        MemberState::Disabled => ("disabled", Tone::Warn),
        MemberState::Leaving => ("leaving", Tone::Warn),
    }
}

pub(in crate::cli) fn wanted(state: WantedState) -> &'static str {
    match state {
        WantedState::Up => "up",
        WantedState::Drain => "drain",
        WantedState::Disabled => "disabled",
    }
}

pub(in crate::cli) fn revision_state(state: &RevisionState) -> (&'static str, Tone) {
    match state {
        RevisionState::Applying => ("applying", Tone::Warn),
        RevisionState::Baking { .. } => ("baking", Tone::Warn),
        RevisionState::AwaitingConfirm { .. } => ("awaiting confirm", Tone::Warn),
        RevisionState::Applied => ("applied", Tone::Good),
        RevisionState::RolledBack { .. } => ("rolled back", Tone::Bad),
        RevisionState::Failed { .. } => ("failed", Tone::Bad),
    }
}

pub(in crate::cli) fn vip_action(action: VipAction) -> (&'static str, Tone) {
    match action {
        VipAction::Added => ("is added", Tone::Good),
        VipAction::Removed => ("is removed", Tone::Bad),
        VipAction::Replaced => ("is replaced: its connections break", Tone::Bad),
        VipAction::Changed => ("changes", Tone::Warn),
    }
}

pub(in crate::cli) fn verdict(verdict: PlanVerdict) -> (&'static str, Tone) {
    match verdict {
        PlanVerdict::Nothing => ("nothing to do:", Tone::Good),
        PlanVerdict::Allowed => ("allowed:", Tone::Good),
        PlanVerdict::Refused => ("refused", Tone::Bad),
    }
}

pub(in crate::cli) fn severity(severity: Severity) -> (&'static str, Tone) {
    match severity {
        Severity::Info => ("info", Tone::Plain),
        Severity::Warning => ("warning", Tone::Warn),
        Severity::Critical => ("critical", Tone::Bad),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_are_called_as_the_api_calls_them() {
        for (name, guard) in GUARDS {
            assert_eq!(serde_json::to_value(guard).unwrap(), name);
        }
    }
}

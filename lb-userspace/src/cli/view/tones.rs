//! Tones of states. Their names are those of the API (`as_str`).

use super::paint::Tone;
use lb_api::{MemberState, RevisionState, Severity, VipAction};

pub(in crate::cli) fn member_state(state: MemberState) -> Tone {
    match state {
        MemberState::Up => Tone::Good,
        MemberState::Down => Tone::Bad,
        MemberState::Draining | MemberState::Disabled | MemberState::Leaving => Tone::Warn,
    }
}

/// The state in words, as in `rolled back`, and its tone.
pub(in crate::cli) fn revision_state(state: &RevisionState) -> (String, Tone) {
    let tone = match state {
        RevisionState::Applied => Tone::Good,
        RevisionState::RolledBack { .. } | RevisionState::Failed { .. } => Tone::Bad,
        RevisionState::Applying
        | RevisionState::Baking { .. }
        | RevisionState::AwaitingConfirm { .. } => Tone::Warn,
    };
    (state.as_str().replace('_', " "), tone)
}

pub(in crate::cli) fn vip_action(action: VipAction) -> Tone {
    match action {
        VipAction::Added => Tone::Good,
        VipAction::Removed | VipAction::Replaced => Tone::Bad,
        VipAction::Changed => Tone::Warn,
    }
}

pub(in crate::cli) fn severity(severity: Severity) -> Tone {
    match severity {
        Severity::Info => Tone::Plain,
        Severity::Warning => Tone::Warn,
        Severity::Critical => Tone::Bad,
    }
}

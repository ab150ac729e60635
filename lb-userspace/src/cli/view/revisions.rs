//! Revisions.

use jiff::Timestamp;

use super::{
    View,
    figures::{duration, moment, since},
    paint::Tone,
    table::{Cell, Side, Table},
    tones::revision_state,
};
use lb_api::{FileState, FileStatus, Progress, RevisionInfo, RevisionState};

/// A revision in one line: number, state, age, who and how.
pub(in crate::cli) fn line(view: View, revision: &RevisionInfo, now: Timestamp) -> String {
    let (state, tone) = revision_state(&revision.state);
    let state = view.paint.apply(tone, &state);
    let mut text = format!("revision {} {state}", revision.number);
    if let Some(until) = deadline(&revision.state) {
        text += &format!(" ({} left)", duration(until.duration_since(now)));
    }
    text += &format!(
        ", {} ago by {}: {}\n",
        since(revision.at, now),
        revision.who,
        revision.how
    );
    if let Some(why) = &revision.why {
        text += &view.wrap("  ", why);
        text.push('\n');
    }
    text
}

/// How the configuration file differs from the active revision; empty if it does not.
pub(in crate::cli) fn file(view: View, file: &FileStatus) -> String {
    let line = match file.state {
        FileState::Active => return String::new(),
        FileState::Overridden => "overridden by later changes (`evenkeel diff --file`)",
        FileState::Edited => "edited, not applied (`evenkeel diff --file`, `evenkeel reload`)",
        FileState::Invalid => &format!(
            "invalid, not applied: {}",
            file.problem.as_deref().unwrap_or("unknown error")
        ),
    };
    let tone = match file.state {
        FileState::Overridden => Tone::Faint,
        _ => Tone::Warn,
    };
    let text = view.hang(&format!("file {}: ", file.path), "  ", line);
    format!("{}\n", view.paint.apply(tone, &text))
}

/// The result of a reload that found the file as it was applied, and later changes.
pub(in crate::cli) fn overridden(file: &FileStatus) -> String {
    let path = &file.path;
    format!(
        "no changes: {path} was not edited since it was applied; changes made since stay active \
         (`evenkeel diff --file`). To apply it as it is: evenkeel apply {path}\n"
    )
}

fn deadline(state: &RevisionState) -> Option<Timestamp> {
    match state {
        RevisionState::Baking { until } | RevisionState::AwaitingConfirm { until } => Some(*until),
        _ => None,
    }
}

/// All revisions, newest first.
pub(in crate::cli) fn history(view: View, revisions: &[RevisionInfo]) -> String {
    use Side::{Left, Right};
    let mut newest_first: Vec<&RevisionInfo> = revisions.iter().collect();
    newest_first.sort_by_key(|revision| std::cmp::Reverse(revision.number));
    let mut table = Table::new(&[
        (Right, "rev"),
        (Left, "when"),
        (Left, "result"),
        (Left, "who"),
        (Left, "how"),
    ])
    .shrinking(&[3, 4]);
    for revision in newest_first {
        let (state, tone) = revision_state(&revision.state);
        table.row([
            revision.number.to_string().into(),
            moment(revision.at).into(),
            Cell::toned(tone, state),
            revision.who.as_str().into(),
            revision.how.as_str().into(),
        ]);
        for note in notes(revision) {
            table.note(note);
        }
    }
    table.draw(view)
}

/// Reasons and overridden guards of a revision.
fn notes(revision: &RevisionInfo) -> Vec<String> {
    let mut notes = Vec::new();
    match &revision.state {
        RevisionState::RolledBack { why, .. } | RevisionState::Failed { why } => {
            notes.push(why.clone());
        }
        _ => {}
    }
    if let Some(why) = &revision.why {
        notes.push(format!("why: {why}"));
    }
    if !revision.forced.is_empty() {
        let names: Vec<&str> = revision.forced.iter().map(lb_api::Guard::as_str).collect();
        notes.push(format!("forced: {}", names.join(", ")));
    }
    notes
}

/// A revision in full.
pub(in crate::cli) fn details(view: View, revision: &RevisionInfo) -> String {
    let (state, tone) = revision_state(&revision.state);
    let mut table = Table::new(&[(Side::Left, ""), (Side::Left, "")]);
    let mut row = |name: &str, value: Cell| table.row([Cell::toned(Tone::Faint, name), value]);
    row("revision", revision.number.to_string().into());
    let parent = revision
        .parent
        .map_or("–".into(), |number| number.to_string());
    row("parent", parent.into());
    row("when", moment(revision.at).into());
    row("who", revision.who.as_str().into());
    row("how", revision.how.as_str().into());
    row("result", Cell::toned(tone, state));
    for note in notes(revision) {
        row("", note.into());
    }
    row("digest", revision.digest.as_str().into());
    table.draw(view)
}

/// Progress of a revision in one line.
pub(in crate::cli) fn progress(progress: &Progress) -> String {
    let number = progress.revision.number;
    let left = jiff::SignedDuration::from_secs(progress.remaining_s.max(0.0).ceil() as i64);
    let left = duration(left);
    let notes: String = progress
        .notes
        .iter()
        .map(|note| format!("; {note}"))
        .collect();
    match &progress.revision.state {
        RevisionState::AwaitingConfirm { .. } => {
            format!("revision {number} awaits `evenkeel confirm`, {left} left{notes}")
        }
        RevisionState::Baking { .. } => format!("revision {number} is baking, {left} left{notes}"),
        state => format!("revision {number}: {}{notes}", revision_state(state).0),
    }
}

/// Outcome of a revision in one sentence.
pub(in crate::cli) fn outcome(view: View, revision: &RevisionInfo) -> String {
    let number = revision.number;
    let (state, tone) = revision_state(&revision.state);
    let state = view.paint.apply(tone, &state);
    match &revision.state {
        RevisionState::RolledBack { why, .. } => format!("revision {number} was {state}: {why}\n"),
        RevisionState::Failed { why } => {
            format!("revision {number} {state}; the previous revision is active: {why}\n")
        }
        RevisionState::Baking { until } => {
            let until = moment(*until);
            format!("revision {number} is active and {state} until {until}\n")
        }
        RevisionState::AwaitingConfirm { until } => {
            let until = moment(*until);
            format!(
                "revision {number} is active; it is rolled back at {until} unless you run \
                 `evenkeel confirm`\n"
            )
        }
        RevisionState::Applied | RevisionState::Applying => {
            format!("revision {number} is {state}\n")
        }
    }
}

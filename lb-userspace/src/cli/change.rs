//! Making a change and following it to its end: what `apply`, `rollback` and the edits do alike.

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use clap::Args;
use tokio::time::{Instant, sleep};

use super::{
    argument,
    exit::{self, code},
    session::{Output, Session},
    view,
};
use lb_api::{
    Applied, ApplyRequest, Change, ErrorCode, Guard, PlanRequest, PlanVerdict, RevisionInfo,
    RevisionNumber, RevisionState,
    client::{Client, ClientError},
};

/// How often a change that is under way is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long a controller may be away while its change is followed: it may be restarting.
const AWAY: Duration = Duration::from_secs(30);

/// How a change is made.
#[derive(Args, Clone, Debug)]
pub(super) struct ChangeArgs {
    /// Roll back by itself unless `evenkeel confirm` comes within this time, as in 5m.
    ///
    /// For changes that might cut you off from the host. It holds when the controller is restarted
    /// in between.
    #[arg(long, value_name = "T", value_parser = argument::some_seconds)]
    confirm: Option<u32>,
    /// Watch health and shares for this time, and roll back by itself if they get worse; 0: don't.
    /// Without it, as `change.bake` of the configuration says.
    #[arg(long, value_name = "T", value_parser = argument::seconds)]
    bake: Option<u32>,
    /// Do it although this guard refuses. Can be given several times.
    #[arg(long, value_name = "GUARD", value_parser = argument::guards())]
    force: Vec<Guard>,
    /// Why, for the history.
    #[arg(long, value_name = "TEXT")]
    why: Option<String>,
    /// Refuse unless this is the running revision: the one that `plan` was made from.
    #[arg(long, value_name = "REV")]
    base: Option<RevisionNumber>,
    /// Only say what would happen, with the exit codes of `plan`.
    #[arg(long, conflicts_with_all = ["confirm", "base", "no_wait"])]
    dry_run: bool,
    /// Return as soon as the change is in force, and don't wait for bake and confirmation.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    pub(super) output: Output,
}

impl ChangeArgs {
    #[cfg(test)]
    pub(super) fn forced(&self) -> &[Guard] {
        &self.force
    }
}

/// Makes a change, says what it does, and follows it to its end.
pub(super) async fn make(client: Client, change: Change, args: &ChangeArgs) -> Result<ExitCode> {
    let session = Session::new(client, args.output);
    if args.dry_run {
        return plan(&session, change, &args.force).await;
    }
    let request = ApplyRequest {
        change,
        force: args.force.clone(),
        base: args.base,
        confirm_s: args.confirm,
        bake_s: args.bake,
        why: args.why.clone(),
    };
    match session.client.apply(&request).await {
        Ok(applied) => finish(&session, applied, args.no_wait).await,
        Err(error) => refused(&session, error),
    }
}

/// Says what a change would do.
pub(super) async fn plan(session: &Session, change: Change, force: &[Guard]) -> Result<ExitCode> {
    let force = force.to_vec();
    let plan = session.client.plan(&PlanRequest { change, force }).await?;
    session.print(&plan, |view| view::plan::plan(view, &plan))?;
    Ok(match plan.verdict {
        PlanVerdict::Nothing => ExitCode::SUCCESS,
        PlanVerdict::Allowed => code(exit::CHANGES),
        PlanVerdict::Refused => code(exit::REFUSED),
    })
}

/// A refusal by a guard is a plan that says so; all else is an error.
fn refused(session: &Session, error: ClientError) -> Result<ExitCode> {
    let Some(answer) = error.api().filter(|e| e.code == ErrorCode::Refused) else {
        return Err(error.into());
    };
    session.print(answer, |view| match &answer.plan {
        Some(plan) => view::plan::plan(view, plan),
        None => String::new(),
    })?;
    complain(&format!(
        "evenkeel: {}; nothing was changed",
        answer.message
    ));
    Ok(code(exit::REFUSED))
}

/// Says what was done and, unless nobody wants to wait, what becomes of it.
pub(super) async fn finish(session: &Session, applied: Applied, no_wait: bool) -> Result<ExitCode> {
    let Applied { revision, plan } = applied;
    let Some(revision) = revision else {
        session.say("nothing to do: the running revision says the same\n")?;
        session.give(&Applied {
            revision: None,
            plan,
        })?;
        return Ok(ExitCode::SUCCESS);
    };
    session.say(&view::plan::changes(session.view, &plan))?;
    let end = if no_wait || !is_open(&revision.state) {
        Some(revision)
    } else {
        follow(session, revision.number).await?
    };
    let Some(revision) = end else {
        return Ok(code(exit::INTERRUPTED));
    };
    session.say(&view::revisions::outcome(session.view, &revision))?;
    let result = result(&revision.state);
    let applied = Applied {
        revision: Some(revision),
        plan,
    };
    session.give(&applied)?;
    Ok(result)
}

/// Whether more is to come.
fn is_open(state: &RevisionState) -> bool {
    matches!(
        state,
        RevisionState::Applying
            | RevisionState::Baking { .. }
            | RevisionState::AwaitingConfirm { .. }
    )
}

fn result(state: &RevisionState) -> ExitCode {
    match state {
        RevisionState::RolledBack { .. } => code(exit::ROLLED_BACK),
        RevisionState::Failed { .. } => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

/// Follows a revision until it is settled. None if somebody pressed Ctrl-C.
pub(super) async fn follow(
    session: &Session,
    number: RevisionNumber,
) -> Result<Option<RevisionInfo>> {
    tokio::select! {
        end = settle(session, number) => end.map(Some),
        pressed = tokio::signal::ctrl_c() => {
            pressed?;
            complain(&format!(
                "\nrevision {number} goes on without this command; `evenkeel history {number}` says \
                 what becomes of it, `evenkeel rollback` undoes it"
            ));
            Ok(None)
        }
    }
}

async fn settle(session: &Session, number: RevisionNumber) -> Result<RevisionInfo> {
    let mut line = ProgressLine::new();
    let mut away_since = None;
    loop {
        match session.client.progress(number).await {
            Ok(progress) if !is_open(&progress.revision.state) => {
                line.end();
                return Ok(progress.revision);
            }
            Ok(progress) => {
                away_since = None;
                line.show(&view::revisions::progress(&progress));
            }
            Err(error) if error.is_passing() => {
                let since = *away_since.get_or_insert_with(Instant::now);
                if since.elapsed() > AWAY {
                    line.end();
                    return Err(error.into());
                }
                line.show(&format!("waiting for the controller: {error}"));
            }
            Err(error) => {
                line.end();
                return Err(error.into());
            }
        }
        sleep(LOOK).await;
    }
}

/// A line on standard error that is written again and again; where that is no terminal, a line
/// whenever it says something new but the time.
pub(super) struct ProgressLine {
    terminal: bool,
    shown: String,
}

impl ProgressLine {
    pub(super) fn new() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            shown: String::new(),
        }
    }

    pub(super) fn show(&mut self, text: &str) {
        let mut err = std::io::stderr().lock();
        // Whether somebody reads it or not, the change goes on.
        let _ = if self.terminal {
            let width = ratatui::crossterm::terminal::size().map_or(80, |(columns, _)| columns);
            let text = view::table::shorten(text, usize::from(width) - 1);
            write!(err, "\r\x1b[K{text}").and_then(|()| err.flush())
        } else if without_digits(text) != without_digits(&self.shown) {
            writeln!(err, "{text}")
        } else {
            Ok(())
        };
        self.shown = text.into();
    }

    /// Leaves the line clean.
    pub(super) fn end(&mut self) {
        if self.terminal && !self.shown.is_empty() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn without_digits(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// Says something on standard error; one that can't be written is no reason to stop.
pub(super) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", text.trim_end_matches('\n'));
}

//! Applies a change and follows it to its end, for `apply`, `rollback` and the edits.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Args;
use tokio::time::{Instant, sleep};

use super::{
    argument, exit,
    progress::ProgressLine,
    session::{Output, Session},
    stream::print_error,
    view::{plan, revisions},
};
use lb_api::{
    Applied, ApplyRequest, Change, Edit, ErrorCode, Guard, PlanRequest, PlanVerdict, RevisionInfo,
    RevisionNumber, RevisionState,
    client::{Client, ClientError},
};

const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How long the controller may be unavailable while a change is followed: it may be restarting.
const MAX_ABSENCE: Duration = Duration::from_secs(30);

#[derive(Args, Clone, Debug)]
pub(super) struct ChangeArgs {
    /// Roll back unless `evenkeel confirm` is run within this time, as in 5m.
    ///
    /// For changes that might cut you off from the host. The deadline survives a restart of the
    /// controller.
    #[arg(long, value_name = "DURATION", value_parser = argument::nonzero_seconds)]
    confirm: Option<u32>,
    /// Roll back if health or shares get worse within this time; 0: do not bake
    /// [default: change.bake of the configuration].
    #[arg(long, value_name = "DURATION", value_parser = argument::seconds)]
    bake: Option<u32>,
    /// Override this guard. Can be repeated.
    #[arg(long, value_name = "GUARD", value_parser = argument::guards())]
    pub(super) force: Vec<Guard>,
    /// Reason for the change, for the history.
    #[arg(long, value_name = "TEXT")]
    why: Option<String>,
    /// Refuse unless this is the active revision, as shown by `plan`.
    #[arg(long, value_name = "REV")]
    base: Option<RevisionNumber>,
    /// If another change is baking or awaits confirmation, wait for its end, then apply.
    #[arg(long)]
    after: bool,
    /// Print the plan only; exit codes are those of `plan`.
    #[arg(long, conflicts_with_all = ["after", "confirm", "base", "no_wait"])]
    dry_run: bool,
    /// Return once the change is active; do not wait for bake and confirmation.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    pub(super) output: Output,
}

/// Applies an edit.
pub(super) async fn edit(client: Client, edit: Edit, args: &ChangeArgs) -> Result<ExitCode> {
    apply(client, Change::Edits { edits: vec![edit] }, args).await
}

/// Applies a change, prints its plan, and follows it to its end.
pub(super) async fn apply(client: Client, change: Change, args: &ChangeArgs) -> Result<ExitCode> {
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
    match when_settled(args.after, || session.client.apply(&request)).await {
        Ok(applied) => finish(&session, applied, args.no_wait).await,
        Err(error) => refused(&session, error),
    }
}

/// Makes a request, with `wait` again until no change is in progress.
pub(super) async fn when_settled<T, F>(
    wait: bool,
    mut request: impl FnMut() -> F,
) -> Result<T, ClientError>
where
    F: Future<Output = Result<T, ClientError>>,
{
    let mut line = ProgressLine::new();
    loop {
        match request().await {
            Err(ClientError::Api(error)) if wait && error.remaining_s.is_some() => {
                line.show(&format!("waiting: {}", error.message));
                sleep(POLL_INTERVAL).await;
            }
            done => return done,
        }
    }
}

/// Prints the plan of a change.
pub(super) async fn plan(session: &Session, change: Change, force: &[Guard]) -> Result<ExitCode> {
    let force = force.to_vec();
    let plan = session.client.plan(&PlanRequest { change, force }).await?;
    session.print(&plan, |view| plan::plan(view, &plan))?;
    Ok(match plan.verdict {
        PlanVerdict::Nothing => ExitCode::SUCCESS,
        PlanVerdict::Allowed => exit::CHANGES.into(),
        PlanVerdict::Refused => exit::REFUSED.into(),
    })
}

/// Prints the plan if a guard refused it; any other error is returned.
pub(super) fn refused(session: &Session, error: ClientError) -> Result<ExitCode> {
    let Some(refusal) = error.api().filter(|e| e.code == ErrorCode::Refused) else {
        return Err(error.into());
    };
    session.print(refusal, |view| match &refusal.plan {
        Some(plan) => plan::plan(view, plan),
        None => String::new(),
    })?;
    print_error(&format!(
        "evenkeel: {}; nothing was changed",
        refusal.message
    ));
    Ok(exit::REFUSED.into())
}

/// Prints what was applied and, unless `no_wait`, follows it to its end.
pub(super) async fn finish(session: &Session, applied: Applied, no_wait: bool) -> Result<ExitCode> {
    let Some(revision) = &applied.revision else {
        return session.print(&applied, |_| {
            "no changes: identical to the active revision\n".into()
        });
    };
    session.print_text(&plan::changes(session.view, &applied.plan))?;
    let revision = if no_wait || is_settled(&revision.state) {
        revision.clone()
    } else {
        match follow(session, revision.number).await? {
            Some(revision) => revision,
            None => return Ok(exit::INTERRUPTED.into()),
        }
    };
    session.print_text(&revisions::outcome(session.view, &revision))?;
    let code = match &revision.state {
        RevisionState::RolledBack { .. } => exit::ROLLED_BACK.into(),
        RevisionState::Failed { .. } => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    };
    session.print_json(&Applied {
        revision: Some(revision),
        ..applied
    })?;
    Ok(code)
}

/// Whether the state is final.
fn is_settled(state: &RevisionState) -> bool {
    !matches!(
        state,
        RevisionState::Applying
            | RevisionState::Baking { .. }
            | RevisionState::AwaitingConfirm { .. }
    )
}

/// Follows a revision until it is settled. Returns none if Ctrl-C is pressed.
async fn follow(session: &Session, number: RevisionNumber) -> Result<Option<RevisionInfo>> {
    tokio::select! {
        settled = settle(session, number) => settled.map(Some),
        pressed = tokio::signal::ctrl_c() => {
            pressed?;
            print_error(&format!(
                "\nrevision {number} continues without this command; see `evenkeel history {number}`, or \
                 undo it with `evenkeel rollback`"
            ));
            Ok(None)
        }
    }
}

async fn settle(session: &Session, number: RevisionNumber) -> Result<RevisionInfo> {
    let mut line = ProgressLine::new();
    let mut absent_since = None;
    loop {
        match session.client.progress(number).await {
            Ok(progress) if is_settled(&progress.revision.state) => return Ok(progress.revision),
            Ok(progress) => {
                absent_since = None;
                line.show(&revisions::progress(&progress));
            }
            Err(error) if error.is_transient() => {
                let since = *absent_since.get_or_insert_with(Instant::now);
                if since.elapsed() > MAX_ABSENCE {
                    return Err(error.into());
                }
                line.show(&format!("waiting for the controller: {error}"));
            }
            Err(error) => return Err(error.into()),
        }
        sleep(POLL_INTERVAL).await;
    }
}

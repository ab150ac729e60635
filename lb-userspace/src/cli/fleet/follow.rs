//! Follows a rollout to its end.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use lb_api::{FleetPhase, FleetRollout, FleetRolloutState, FleetStarted};
use tokio::time::{Instant, sleep};

use crate::cli::{
    exit, progress::ProgressLine, session::Session, stream::print_error, view::fleet,
};

const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// How long the controller may be unavailable, or not know of the rollout yet.
const MAX_ABSENCE: Duration = Duration::from_secs(30);

/// Prints the end of a rollout, or with `detach` that it has begun. Returns the exit code.
pub(super) async fn to_the_end(
    session: &Session,
    begun: FleetStarted,
    detach: bool,
) -> Result<ExitCode> {
    let number = begun.revision;
    if detach {
        return session.print(&begun, |_| {
            format!("rollout of revision {number} has begun: see `evenkeel fleet status`\n")
        });
    }
    let rollout = tokio::select! {
        ended = end_of(session, begun) => ended?,
        pressed = tokio::signal::ctrl_c() => {
            pressed?;
            print_error(&format!(
                "\nrollout of revision {number} continues without this command: see `evenkeel fleet status`, or \
                 undo it with `evenkeel fleet rollback`"
            ));
            return Ok(exit::INTERRUPTED.into());
        }
    };
    session.print(&rollout, |view| fleet::outcome(view, &rollout))?;
    Ok(code_of(&rollout))
}

fn code_of(rollout: &FleetRollout) -> ExitCode {
    let is_refused = |result: &lb_api::FleetResult| result.phase == FleetPhase::Refused;
    match rollout.state {
        FleetRolloutState::Failed | FleetRolloutState::Undone => {
            let in_preflight = rollout.waves.is_empty() && rollout.results.iter().any(is_refused);
            let code = if in_preflight {
                exit::REFUSED
            } else {
                exit::ROLLED_BACK
            };
            code.into()
        }
        _ => ExitCode::SUCCESS,
    }
}

/// The rollout once it has ended.
async fn end_of(session: &Session, begun: FleetStarted) -> Result<FleetRollout> {
    let mut line = ProgressLine::new();
    let mut known_at = Instant::now();
    loop {
        let state = session.client.fleet().await;
        let rollout = match state {
            Ok(state) => state.rollout,
            Err(error) if error.is_transient() => {
                if known_at.elapsed() > MAX_ABSENCE {
                    return Err(error.into());
                }
                line.show(&format!("waiting for the controller: {error}"));
                None
            }
            Err(error) => return Err(error.into()),
        };
        match rollout {
            Some(rollout) if rollout.revision == begun.revision => {
                known_at = Instant::now();
                if rollout.state.is_over() {
                    return Ok(rollout);
                }
                line.show(&fleet::progress(&rollout));
            }
            // A newer rollout: this one has ended, and its outcome is in the history.
            Some(rollout) if rollout.revision > begun.revision => anyhow::bail!(
                "revision {} is being rolled out by now: see `evenkeel fleet history` for revision {}",
                rollout.revision,
                begun.revision
            ),
            _ if known_at.elapsed() > MAX_ABSENCE => anyhow::bail!(
                "this node does not see the rollout of revision {}: see `evenkeel fleet doctor`",
                begun.revision
            ),
            _ => {}
        }
        sleep(POLL_INTERVAL).await;
    }
}

//! Follows a rollout to its end.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use lb_api::{FleetRollout, FleetRolloutState, FleetStarted, FleetState};
use tokio::time::{Instant, sleep};

use crate::cli::{
    exit, progress::ProgressLine, session::Session, stream::print_error, view::fleet,
};

const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// How long the controller or etcd may be unavailable, or the rollout unknown to this node.
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
    Ok(code_of(&rollout, begun).into())
}

fn code_of(rollout: &FleetRollout, begun: FleetStarted) -> u8 {
    match rollout.state {
        // `fleet rollback` asked for it.
        FleetRolloutState::Failed | FleetRolloutState::Undone if begun.undone => exit::SUCCESS,
        FleetRolloutState::Failed | FleetRolloutState::Undone if rollout.waves.is_empty() => {
            exit::REFUSED
        }
        FleetRolloutState::Failed | FleetRolloutState::Undone => exit::ROLLED_BACK,
        _ => exit::SUCCESS,
    }
}

/// What the state of the fleet says about a rollout.
#[derive(Debug, PartialEq)]
enum Seen {
    Ended(Box<FleetRollout>),
    Runs(String),
    /// This node reads nothing new about it; why.
    Lost(String),
    /// A newer rollout has begun: this one has ended, and its outcome is in the history.
    Replaced,
}

fn seen(state: FleetState, revision: u64) -> Seen {
    match state.rollout {
        Some(rollout) if rollout.revision > revision => Seen::Replaced,
        Some(rollout) if rollout.revision == revision && rollout.state.is_over() => {
            Seen::Ended(rollout.into())
        }
        _ if !state.connected => {
            let error = state.last_error.as_deref().unwrap_or("no answer");
            Seen::Lost(format!("etcd does not answer this node: {error}"))
        }
        Some(rollout) if rollout.revision == revision => Seen::Runs(fleet::progress(&rollout)),
        _ => Seen::Lost(format!(
            "this node does not see the rollout of revision {revision} yet"
        )),
    }
}

/// The rollout once it has ended.
async fn end_of(session: &Session, begun: FleetStarted) -> Result<FleetRollout> {
    let mut line = ProgressLine::new();
    let mut known_at = Instant::now();
    loop {
        let seen = match session.client.fleet().await {
            Ok(state) => seen(state, begun.revision),
            Err(error) if error.is_transient() => {
                Seen::Lost(format!("waiting for the controller: {error}"))
            }
            Err(error) => return Err(error.into()),
        };
        match seen {
            Seen::Ended(rollout) => return Ok(*rollout),
            Seen::Runs(progress) => {
                known_at = Instant::now();
                line.show(&progress);
            }
            Seen::Lost(why) if known_at.elapsed() > MAX_ABSENCE => anyhow::bail!(
                "{why}; the rollout of revision {} goes on without this command: see `evenkeel fleet doctor` \
                 here and `evenkeel fleet status` on another node",
                begun.revision
            ),
            Seen::Lost(why) => line.show(&why),
            Seen::Replaced => anyhow::bail!(
                "a newer rollout has begun: see `evenkeel fleet history` for revision {}",
                begun.revision
            ),
        }
        sleep(POLL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use lb_api::FleetWave;

    use super::*;
    use crate::cli::view::tests::fleet::known;

    fn ended(state: FleetRolloutState) -> FleetRollout {
        let rollout = known().rollout.unwrap();
        FleetRollout { state, ..rollout }
    }

    #[test]
    fn the_exit_code_says_whether_a_node_was_changed() {
        let revision = 7;
        for (undone, waves, code) in [
            (false, vec![], exit::REFUSED),
            (false, vec![wave()], exit::ROLLED_BACK),
            (true, vec![], exit::SUCCESS),
            (true, vec![wave()], exit::SUCCESS),
        ] {
            let begun = FleetStarted { revision, undone };
            // Also without a node that refuses, for example because one was lost.
            let rollout = FleetRollout {
                waves,
                ..ended(FleetRolloutState::Undone)
            };
            assert_eq!(code_of(&rollout, begun), code, "{begun:?}");
        }
        let undone = false;
        let begun = FleetStarted { revision, undone };
        let confirmed = ended(FleetRolloutState::Confirmed);
        assert_eq!(code_of(&confirmed, begun), exit::SUCCESS);
    }

    fn wave() -> FleetWave {
        FleetWave {
            nodes: vec!["lb-1".to_owned()],
            verdict: None,
        }
    }

    #[test]
    fn a_node_without_etcd_does_not_follow_the_rollout() {
        assert!(matches!(seen(known(), 7), Seen::Runs(_)));
        assert!(matches!(seen(known(), 8), Seen::Lost(_)));
        assert_eq!(seen(known(), 6), Seen::Replaced);
        let away = FleetState {
            connected: false,
            last_error: Some("connection refused".to_owned()),
            ..known()
        };
        let why = "etcd does not answer this node: connection refused".to_owned();
        assert_eq!(seen(away.clone(), 7), Seen::Lost(why));
        // What was read before etcd was lost counts.
        let rollout = Some(ended(FleetRolloutState::Undone));
        let ended = FleetState { rollout, ..away };
        assert!(matches!(seen(ended, 7), Seen::Ended(_)));
    }
}

//! The engine, as the agent of the fleet sees it.

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::SignedDuration;
use lb_api::{ExplainRequest, Explanation, Guard, Plan, RevisionNumber};
use lb_common::ABI_VERSION;
use lb_fleet::{Facts, How, Node, NodeError, Observed, Outcome, Running, Trial};
use lb_model::{
    config::{Config, HashSeed},
    fleet,
    ring::RingSize,
};
use sha2::Sha256;

use crate::{
    caller::Caller,
    engine::{Change, ChangeRequest, Engine, EngineError, FLEET, REQUESTED_BY, TrialPhase},
    http::wire,
    revision::RevisionState,
};

/// The text under the seed: a fingerprint for another purpose differs.
const FINGERPRINT_OF: &[u8] = b"evenkeel fleet: hash seed fingerprint, version 1";

/// An engine, and what does not change while it runs.
#[derive(Clone, Debug)]
pub(super) struct EngineNode {
    engine: Engine,
    facts: Facts,
}

impl EngineNode {
    pub(super) fn new(engine: Engine, config: &Config) -> Self {
        let facts = Facts {
            abi: ABI_VERSION,
            table_size: RingSize::MAX,
            seed_fingerprint: fingerprint(&config.node.hash_seed),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        Self { engine, facts }
    }
}

/// Identifies a seed without disclosing it: 16 bytes in hexadecimal.
fn fingerprint(seed: &HashSeed) -> String {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(&seed.bytes()).expect("HMAC takes keys of any length");
    mac.update(FINGERPRINT_OF);
    let mut text = String::new();
    for byte in &mac.finalize().into_bytes()[..16] {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn caller() -> Caller {
    Caller::itself(FLEET)
}

const fn trial(phase: TrialPhase) -> Trial {
    match phase {
        TrialPhase::Baking => Trial::Baking,
        TrialPhase::AwaitsConfirm => Trial::AwaitsConfirm,
    }
}

fn node_error(error: EngineError) -> NodeError {
    match error {
        EngineError::Busy {
            message,
            remaining_s,
        } => NodeError::Busy {
            message,
            remaining_s,
        },
        EngineError::Refused { message, plan } => NodeError::Refused { message, plan },
        EngineError::InvalidConfig(message) => NodeError::Invalid(message),
        EngineError::Conflict(message) => NodeError::Conflict(message),
        other => NodeError::Failed(other.to_string()),
    }
}

impl Node for EngineNode {
    fn facts(&self) -> Facts {
        self.facts.clone()
    }

    async fn running(&self) -> Result<Running, NodeError> {
        let running = self.engine.fleet_running().await.map_err(node_error)?;
        Ok(Running {
            digest: running.digest,
            local: running.number,
            trial: running.trial.map(trial),
        })
    }

    async fn text(&self) -> Result<String, NodeError> {
        let active = self.engine.revision(None).await.map_err(node_error)?;
        fleet::fleet_part(&active.text).map_err(|error| NodeError::Failed(error.to_string()))
    }

    async fn outcome(&self, local: RevisionNumber) -> Result<Outcome, NodeError> {
        let progress = match self.engine.progress(local).await {
            Ok(progress) => progress,
            Err(EngineError::Store(_) | EngineError::NotFound(_)) => return Ok(Outcome::Unknown),
            Err(error) => return Err(node_error(error)),
        };
        Ok(match progress.revision.state {
            RevisionState::Applying | RevisionState::Baking { .. } => Outcome::Trial(Trial::Baking),
            RevisionState::AwaitingConfirm { .. } => Outcome::Trial(Trial::AwaitsConfirm),
            RevisionState::Applied => Outcome::Kept,
            RevisionState::RolledBack { why, .. } | RevisionState::Failed { why } => {
                let by_operator = why.starts_with(REQUESTED_BY);
                Outcome::RolledBack { why, by_operator }
            }
        })
    }

    async fn plan(&self, text: &str, force: &[Guard]) -> Result<Plan, NodeError> {
        let change = Change::Fleet {
            vips: text.to_owned(),
            origin: "fleet plan".to_owned(),
        };
        let plan = self.engine.plan(change, force.to_vec()).await;
        plan.map_err(node_error)
    }

    async fn explain(&self, request: &ExplainRequest) -> Result<Explanation, NodeError> {
        let explained = self.engine.explain(request.flow.clone(), request.syn).await;
        explained.map(wire::explanation).map_err(node_error)
    }

    async fn apply(&self, text: &str, how: &How) -> Result<Option<RevisionNumber>, NodeError> {
        let request = ChangeRequest {
            change: Change::Fleet {
                vips: text.to_owned(),
                origin: how.origin.clone(),
            },
            force: how.force.clone(),
            base: None,
            confirm: how
                .confirm_s
                .map(|seconds| SignedDuration::from_secs(seconds.into())),
            bake: Some(SignedDuration::from_secs(how.bake_s.into())),
            why: how.why.clone(),
        };
        let applied = self.engine.apply(request, caller()).await;
        let applied = applied.map_err(node_error)?;
        Ok(applied.revision.map(|revision| revision.number))
    }

    async fn extend(&self, local: RevisionNumber, confirm_s: u32) -> Result<(), NodeError> {
        let by = SignedDuration::from_secs(confirm_s.into());
        self.engine.extend(local, by).await.map_err(node_error)
    }

    async fn confirm(&self, local: RevisionNumber) -> Result<(), NodeError> {
        match self.engine.confirm(Some(local), caller()).await {
            Ok(_) => Ok(()),
            Err(error) => match self.outcome(local).await? {
                Outcome::Kept => Ok(()),
                _ => Err(node_error(error)),
            },
        }
    }

    async fn roll_back(&self, local: RevisionNumber, why: &str) -> Result<(), NodeError> {
        let ended = self.engine.end_trial(local, why.to_owned()).await;
        ended.map_err(node_error)
    }

    async fn observed(&self) -> Observed {
        // A controller that stops has nothing to compare.
        let counts = self.engine.fleet_counts().await.unwrap_or_default();
        Observed {
            new_flows: counts.new_flows,
            resets: counts.resets,
            drops: counts.drops,
            members_down: counts.members_down,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_tells_seeds_apart_and_does_not_show_them() {
        let seed = HashSeed::new([7; 16]);
        let shown = fingerprint(&seed);
        // From Python: hmac.new(bytes([7] * 16), text, "sha256").hexdigest()[:32]
        assert_eq!(shown, "f5c653f1709781a89f792cf5e8eeb6a1");
        assert_ne!(shown, fingerprint(&HashSeed::new([8; 16])));
    }
}

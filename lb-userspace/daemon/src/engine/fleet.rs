//! What the fleet does with the node: its part of the configuration, and revisions on trial that only the
//! fleet may confirm.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use jiff::SignedDuration;
use lb_fleet::Fleet;
use lb_model::{
    config::{BackendState, Config, same_vips},
    fleet,
};
use tracing::{info, warn};

use super::{
    EngineError, EngineResult,
    actor::Actor,
    change::{ChangeControl, Running},
    command::{Reply, send},
    data_path::DataPath,
    request::{self, Candidate},
    trial::{Trial, TrialPhase, WATCHED_DROPS},
};
use crate::{
    caller::Caller,
    clock::later,
    reconciler::{Experience, RingPast, VipReport},
    revision::{OnFailure, RevisionNumber, RevisionState},
    traffic::Traffic,
};

/// Who makes the changes of the fleet, in the history of revisions.
pub const FLEET: &str = "evenkeel fleet";

/// The fleet's view of the active configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetRunning {
    /// SHA-256 of the text of the VIPs, in hexadecimal.
    pub digest: String,
    pub number: RevisionNumber,
    pub trial: Option<TrialPhase>,
}

/// Counters for the comparison of nodes. All but the last only grow while the controller runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FleetCounts {
    pub new_flows: u64,
    /// Packets of clients with RST.
    pub resets: u64,
    /// Packets dropped for the reasons that a trial watches.
    pub drops: u64,
    /// Backends that should serve and are found down by their checks.
    pub members_down: u64,
}

impl FleetCounts {
    pub(super) fn of(
        traffic: &Traffic,
        reasons: &BTreeMap<&'static str, u64>,
        report: &[VipReport],
    ) -> Self {
        let (new_flows, resets) = traffic.flows_and_resets();
        let drops = WATCHED_DROPS.map(|reason| reasons.get(reason.text().name).copied());
        let members = report.iter().flat_map(|vip| &vip.members);
        let is_down = |member: &&crate::reconciler::MemberReport| {
            member.wanted == BackendState::Up && !member.leaving && member.proven && !member.healthy
        };
        Self {
            new_flows,
            resets,
            drops: drops.into_iter().flatten().sum(),
            members_down: members.filter(is_down).count() as u64,
        }
    }
}

/// How the reason of a rollback begins that a caller has asked for.
pub const REQUESTED_BY: &str = "requested by ";

/// What only the fleet asks of the actor.
pub(super) enum FleetCommand {
    Running(Reply<FleetRunning>),
    Extend(RevisionNumber, SignedDuration, Reply<()>),
    EndTrial(RevisionNumber, String, Reply<()>),
    Counts(Reply<FleetCounts>),
    /// What another node remembers of its rings.
    Learn(String, Vec<RingPast>),
    /// The other nodes have told the past, or can't be asked.
    PastIsKnown,
}

impl Actor {
    pub(super) fn handle_fleet(&mut self, command: FleetCommand) {
        let changes = &mut self.changes;
        match command {
            FleetCommand::Running(reply) => send(reply, changes.fleet_running()),
            FleetCommand::Extend(number, by, reply) => send(reply, changes.extend(number, by)),
            FleetCommand::EndTrial(number, why, reply) => {
                let ended = changes.end_trial_of(&mut self.data_path, number, &why);
                self.finish_change(reply, ended);
            }
            FleetCommand::Counts(reply) => send(reply, Ok(self.fleet_counts())),
            FleetCommand::Learn(from, pasts) => self.learn(&from, pasts),
            FleetCommand::PastIsKnown => {
                self.health.past_is_known();
                self.end_warming();
            }
        }
    }
}

impl Actor {
    /// A node with new tables waits until it knows its backends, and then learns all at once.
    fn learn(&mut self, from: &str, pasts: Vec<RingPast>) {
        if self.health.is_warming() {
            self.health.remember(from, pasts);
        } else {
            self.learn_now(&pasts, Experience::Forwards);
        }
    }

    /// Publishes the indexes of VIPs and members, if they may have changed.
    pub(super) fn publish_directory(&mut self) {
        let (published, directory) = &mut self.directory;
        let reconciler = &self.data_path.reconciler;
        if *published != reconciler.version() && !directory.is_closed() {
            *published = reconciler.version();
            directory.send_replace(Arc::new(reconciler.directory()));
        }
    }

    pub(super) fn learn_now(&mut self, pasts: &[RingPast], experience: Experience) {
        let DataPath {
            reconciler,
            dataplane,
            ..
        } = &mut self.data_path;
        match reconciler.learn(dataplane, pasts, experience) {
            Ok(0) => {}
            Ok(slots) => info!(slots, "learnt the past of rings from other nodes"),
            Err(error) => warn!(%error, "can't write the past of rings"),
        }
    }
}

/// Whether other nodes will tell the past of connections.
pub(super) fn has_exchange(config: &Config) -> bool {
    let fleet = config.fleet.as_ref();
    fleet.is_some_and(|fleet| fleet.exchange.is_some())
}

/// A configuration that [keeps the VIPs](keeps_vips), with the text of the VIPs that the node runs. Any
/// other is returned as it is.
pub(super) fn with_vips_of(running: &Running, candidate: Candidate) -> EngineResult<Candidate> {
    if !keeps_vips(&candidate.config, running) {
        return Ok(candidate);
    }
    let text = fleet::fleet_part(&running.text)
        .and_then(|vips| fleet::compose(&candidate.text, &vips))
        .map_err(|error| EngineError::InvalidConfig(error.to_string()))?;
    // Files that VIPs name start at the folder of the running configuration, as they did before.
    let mut config = candidate.config;
    config.vips.clone_from(&running.config.vips);
    Ok(Candidate {
        config,
        text,
        ..candidate
    })
}

/// Whether a configuration leaves the VIPs to the fleet: it has none, or the same ones, however they are
/// written.
pub(super) fn keeps_vips(config: &Config, running: &Running) -> bool {
    let (vips, is_of_fleet) = (&running.config.vips, config.fleet.is_some());
    let has_none = is_of_fleet && config.vips.is_empty();
    // Without `[fleet]`, a node leaves its fleet at the next start only.
    let has_same = (is_of_fleet || running.config.fleet.is_some()) && same_vips(&config.vips, vips);
    !vips.is_empty() && (has_none || has_same)
}

impl ChangeControl {
    /// The agent of the fleet.
    pub(super) fn agent(&self) -> Option<&Fleet> {
        self.fleet.get()?.as_ref()
    }

    /// Fails for a change of what can't change while the controller runs.
    pub(super) fn check_fixed(&self, candidate: &Candidate) -> EngineResult<()> {
        let (new, running) = (&candidate.config.node, &self.running.config.node);
        let message = if new.state_dir != running.state_dir {
            "node.state_dir can't be changed while the controller runs: stop the controller, move the \
             folder and start it again"
        } else if self.agent().is_some() && new.hash_seed != running.hash_seed {
            "node.hash_seed can't be changed while a node of a fleet runs, because all its nodes need the \
             same seed: change it in the files of all nodes, restart all controllers, and run `evenkeel \
             fleet import` on one node (docs/fleet.md)"
        } else {
            return Ok(());
        };
        Err(EngineError::InvalidConfig(message.into()))
    }

    /// Warns of changes to what is read at the start only. What changes during the start is read after it.
    pub(super) fn warn_of_restart(&self, before: &Config) {
        let running = &self.running.config;
        let seed_differs = before.node.hash_seed != running.node.hash_seed;
        let changes = [
            ("[api]", before.api != running.api),
            ("[fleet]", before.fleet != running.fleet),
            // By the rollback of a seed that was on trial at the start.
            ("node.hash_seed", seed_differs && self.agent().is_some()),
        ];
        let has_started = self.fleet.get().is_some();
        for (what, _) in changes.into_iter().filter(|(_, is)| *is && has_started) {
            warn!("{what} changed: takes effect when the controller is restarted");
        }
    }

    /// Whether a revision belongs to a rollout of the fleet.
    pub(super) fn is_of_fleet(&self, number: RevisionNumber) -> bool {
        let record = self.store.record(number);
        record.is_ok_and(|record| record.info.who == FLEET)
    }

    /// The running configuration with other VIPs.
    pub(super) fn candidate_of_fleet(&self, vips: &str, origin: &str) -> EngineResult<Candidate> {
        let running = &self.running;
        let text = fleet::compose(&running.text, vips)
            .map_err(|error| EngineError::InvalidConfig(error.to_string()))?;
        let name = running.base.join(origin.replace('/', " "));
        let config = request::parse(&name.display().to_string(), &text)?;
        Ok(Candidate {
            config: self.in_place(config),
            text,
            base: running.base.clone(),
            how: request::one_line(origin),
            file_digest: None,
        })
    }

    /// A warning if a change replaces VIPs of the fleet on this node only.
    pub(super) fn fleet_warning(&self, candidate: &Candidate) -> Option<String> {
        let fleet = self.running.config.fleet.as_ref()?;
        let is_local = !same_vips(&self.running.config.vips, &candidate.config.vips)
            && !candidate.how.starts_with("fleet ");
        is_local.then(|| {
            format!(
                "only this node of the fleet {} is changed, and rollouts of the fleet are refused until \
                 `evenkeel fleet join` or `evenkeel fleet apply --override-local` replaces the change; \
                 `evenkeel fleet apply` changes all nodes",
                fleet.name
            )
        })
    }

    /// Fails for a trial of the fleet, unless the fleet asks.
    pub(super) fn check_confirms(
        &self,
        number: RevisionNumber,
        caller: &Caller,
    ) -> EngineResult<()> {
        if !self.is_of_fleet(number) || caller.to_string() == FLEET {
            return Ok(());
        }
        let message = format!(
            "revision {number} belongs to a rollout of the fleet, which confirms it on all nodes: see \
             `evenkeel fleet status`; `evenkeel fleet confirm` and `evenkeel fleet rollback` end the rollout"
        );
        Err(EngineError::Conflict(message))
    }

    pub(super) fn fleet_running(&self) -> EngineResult<FleetRunning> {
        let nothing = || EngineError::NotFound("there is no active revision yet".into());
        let running = &self.running;
        let digest = running.fleet_digest.get_or_init(|| {
            let part = fleet::fleet_part(&running.text);
            part.map_or_else(|_| String::new(), |part| lb_fleet::digest(&part))
        });
        Ok(FleetRunning {
            digest: digest.clone(),
            number: running.number.ok_or_else(nothing)?,
            trial: self.trial.as_ref().map(Trial::phase),
        })
    }

    /// Moves the deadline to confirm of a trial that has baked.
    pub(super) fn extend(
        &mut self,
        number: RevisionNumber,
        by: SignedDuration,
    ) -> EngineResult<()> {
        let trial = self.trial.as_mut().filter(|trial| trial.number == number);
        let Some(trial) = trial.filter(|trial| trial.phase() == TrialPhase::AwaitsConfirm) else {
            let message = format!("revision {number} does not wait for confirmation");
            return Err(EngineError::Conflict(message));
        };
        let until = later(super::now(), by);
        // In memory only once it is on disk: a controller that starts must not undo what was promised.
        let state = RevisionState::AwaitingConfirm { until };
        self.store.set_state_with(number, state, OnFailure::Keep)?;
        trial.deadlines.set_confirm_until(until);
        Ok(())
    }

    /// Rolls back a revision on trial, and no other.
    pub(super) fn end_trial_of(
        &mut self,
        data_path: &mut DataPath,
        number: RevisionNumber,
        why: &str,
    ) -> EngineResult<()> {
        if self
            .trial
            .as_ref()
            .is_none_or(|trial| trial.number != number)
        {
            let message = format!("revision {number} is not on trial");
            return Err(EngineError::Conflict(message));
        }
        self.revert(data_path, &request::one_line(why))
    }
}

/// The configuration file, as a change of a node of a fleet shows it.
pub(super) fn file_text(text: &str, running: &Running, path: &Path) -> String {
    let config = request::parse(&path.display().to_string(), text);
    let composed = config
        .ok()
        .filter(|config| keeps_vips(config, running))
        .and_then(|_| {
            let vips = fleet::fleet_part(&running.text).ok()?;
            fleet::compose(text, &vips).ok()
        });
    composed.unwrap_or_else(|| text.to_owned())
}

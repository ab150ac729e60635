//! Domain values as API types. Nothing else in this crate knows both.

mod sources;

use jiff::SignedDuration;
use lb_model::{config::BoundFactor, secrets};

use crate::{
    alerts::{Alert, Severity},
    clock, engine, events,
    health::HealthStatus,
    node::{
        Announcement, Announcing, BoundUse, DrainPhase, ExcessSource, FileState, FileStatus,
        Interface, LimitUse, MemberPhase, MemberState, NodeInfo, NodeState, VipState,
    },
    revision::{self, RevisionInfo, RevisionState},
    traffic::{Rates, Totals},
};

pub(super) use sources::new_member;

impl From<&NodeState> for lb_api::Status {
    fn from(state: &NodeState) -> Self {
        let reasons = state.reasons.iter();
        Self {
            at: state.at,
            node: (&state.node).into(),
            revision: state.revision.as_ref().map(Into::into),
            file: Some((&state.file).into()),
            vips: state.vips.iter().map(Into::into).collect(),
            sources: state.sources.iter().map(Into::into).collect(),
            announce: state.announcing.as_ref().map(Into::into),
            alerts: state.alerts.iter().map(Into::into).collect(),
            reasons: reasons
                .map(|(name, count)| ((*name).to_owned(), *count))
                .collect(),
            fleet: state.fleet.clone(),
        }
    }
}

impl From<&Announcing> for lb_api::AnnounceSummary {
    fn from(announcing: &Announcing) -> Self {
        let peers = announcing.peers.len() as u32;
        let answer = match &announcing.answer {
            Ok(answer) => answer,
            Err(error) => {
                return Self {
                    error: Some(error.clone()),
                    drain: lb_api::DrainState::No,
                    announced: 0,
                    worse: 0,
                    withheld: announcing.wanted.len() as u32,
                    sessions: 0,
                    peers,
                };
            }
        };
        let count = |state| {
            let all = answer.addresses.iter();
            all.filter(|it| it.state == state).count() as u32
        };
        let up = answer.sessions.iter().filter(|session| session.is_up);
        Self {
            error: None,
            drain: match answer.drain {
                DrainPhase::No => lb_api::DrainState::No,
                DrainPhase::Draining => lb_api::DrainState::Draining,
                DrainPhase::Drained => lb_api::DrainState::Drained,
            },
            announced: count(Announcement::Announced),
            worse: count(Announcement::Worse),
            withheld: count(Announcement::Withheld) + announcing.unknown().count() as u32,
            sessions: up.count() as u32,
            peers,
        }
    }
}

impl From<&FileStatus> for lb_api::FileStatus {
    fn from(file: &FileStatus) -> Self {
        let (state, problem) = match &file.state {
            FileState::Active => (lb_api::FileState::Active, None),
            FileState::Overridden => (lb_api::FileState::Overridden, None),
            FileState::Edited => (lb_api::FileState::Edited, None),
            FileState::Invalid(why) => (lb_api::FileState::Invalid, Some(why.clone())),
        };
        Self {
            path: file.path.display().to_string(),
            state,
            problem,
        }
    }
}

impl From<&NodeInfo> for lb_api::NodeStatus {
    fn from(node: &NodeInfo) -> Self {
        Self {
            host: node.host.clone(),
            version: node.version.to_owned(),
            pid: node.pid,
            started_at: node.started_at,
            adopted: node.adopted,
            program_id: node.program_id,
            interfaces: node.interfaces.iter().map(Into::into).collect(),
        }
    }
}

impl From<&Interface> for lb_api::InterfaceStatus {
    fn from(interface: &Interface) -> Self {
        Self {
            name: interface.name.clone(),
            mode: interface.mode.as_str().to_owned(),
            program_id: interface.program_id,
        }
    }
}

impl From<&VipState> for lb_api::VipStatus {
    fn from(vip: &VipState) -> Self {
        let capacity = vip.capacity().map(|capacity| lb_api::CapacityStatus {
            eligible_new_flows_per_s: capacity.eligible_capacity,
            utilisation: capacity.utilisation,
            target_utilisation: vip.target_utilisation,
            headroom_after_failure: capacity.headroom_after_failure,
            eligible_backends: capacity.eligible as u32,
            wanted_backends: capacity.wanted_backends,
        });
        Self {
            name: vip.name.clone(),
            address: vip.address,
            port: vip.port,
            protocol: vip.protocol.to_string(),
            forward: vip.forward_name().to_owned(),
            panic: vip.panic,
            ring: lb_api::RingStatus {
                slots: vip.ring.total,
                in_transition: vip.ring.in_transition,
                settling: vip.ring.settling,
            },
            rates: vip.rates.into(),
            peak_new_flows_per_s: vip.peak_new_flows_per_s,
            capacity,
            tracked_flows: vip.tracked_flows,
            limit: vip.limit.as_ref().map(Into::into),
            bound: vip.bound.as_ref().map(Into::into),
            members: vip.members.iter().map(Into::into).collect(),
        }
    }
}

impl From<&LimitUse> for lb_api::LimitStatus {
    fn from(limit: &LimitUse) -> Self {
        Self {
            source_new_flows_per_s: limit.source_new_flows_per_s,
            source_packets_per_s: limit.source_packets_per_s,
            new_flows_per_s: limit.new_flows_per_s,
            packets_per_s: limit.packets_per_s,
            denied_per_s: limit.denied_per_s,
            source_on_excess: limit.source_on_excess.to_string(),
            on_excess: limit.on_excess.to_string(),
            sources: limit.sources.iter().map(Into::into).collect(),
        }
    }
}

impl From<&ExcessSource> for lb_api::ExcessSource {
    fn from(source: &ExcessSource) -> Self {
        Self {
            source: source.source.clone(),
            share: source.share,
        }
    }
}

impl From<&BoundUse> for lb_api::BoundStatus {
    fn from(used: &BoundUse) -> Self {
        let spilling = used.spilling.iter().map(|full| lb_api::SpillingBackend {
            backend: full.backend.clone(),
            share_of_spilled: full.share_of_spilled,
            assigned_per_s: full.assigned_per_s,
            times_share: full.times_share,
            capacity: full.capacity,
            source: full.source.as_ref().map(Into::into),
        });
        let receiving = used.receiving.iter().map(|other| lb_api::ReceivingBackend {
            backend: other.backend.clone(),
            share_of_spilled: other.share_of_spilled,
        });
        Self {
            factor: used.bound.factor.map(BoundFactor::as_f64),
            capacity: used.bound.capacity,
            spilled: used.spilled(),
            spilled_per_s: used.spilled_per_s,
            unplaced: used.unplaced(),
            all_full_per_s: used.all_full_per_s,
            no_room_per_s: used.no_room_per_s,
            spilling: spilling.collect(),
            receiving: receiving.collect(),
        }
    }
}

impl From<&MemberState> for lb_api::MemberStatus {
    fn from(member: &MemberState) -> Self {
        Self {
            backend: member.backend.clone(),
            address: member.address,
            port: member.port,
            state: member.phase.into(),
            weight: member.weight,
            effective_weight: member.effective_weight,
            capacity: member.capacity,
            health: member.health.as_ref().map(Into::into),
            next_hop: member.route_problem.clone(),
            totals: member.totals.into(),
            rates: member.rates.into(),
            tracked_flows: member.tracked_flows,
            nat_ports: member.nat_ports.map(|ports| lb_api::NatPorts {
                in_use: ports.in_use,
                over: ports.over,
                total: ports.total,
            }),
            intended_share: member.intended_share,
            table_share: member.table_share,
            observed_share: member.observed_share,
        }
    }
}

impl From<MemberPhase> for lb_api::MemberState {
    fn from(phase: MemberPhase) -> Self {
        match phase {
            MemberPhase::Up => Self::Up,
            MemberPhase::Down => Self::Down,
            MemberPhase::Draining => Self::Draining,
            MemberPhase::Disabled => Self::Disabled,
            MemberPhase::Leaving => Self::Leaving,
        }
    }
}

impl From<Rates> for lb_api::Rates {
    fn from(rates: Rates) -> Self {
        Self {
            packets_per_s: rates.packets_per_s,
            bytes_per_s: rates.bytes_per_s,
            new_flows_per_s: rates.new_flows_per_s,
        }
    }
}

impl From<Totals> for lb_api::Totals {
    fn from(totals: Totals) -> Self {
        Self {
            packets: totals.packets,
            bytes: totals.bytes,
            new_flows: totals.new_flows,
        }
    }
}

impl From<&HealthStatus> for lb_api::HealthStatus {
    fn from(health: &HealthStatus) -> Self {
        Self {
            healthy: health.healthy,
            since: clock::at(health.since),
            last_ok: health.last_ok,
            last_error: health.last_error.clone(),
            inconclusive: health.inconclusive.clone(),
            latency_ms: health.latency.map(|latency| latency.as_secs_f64() * 1e3),
            damped: health.damped,
        }
    }
}

impl From<&Alert> for lb_api::Alert {
    fn from(alert: &Alert) -> Self {
        Self {
            id: alert.id.clone(),
            kind: alert.kind.clone(),
            severity: match alert.severity {
                Severity::Info => lb_api::Severity::Info,
                Severity::Warning => lb_api::Severity::Warning,
                Severity::Critical => lb_api::Severity::Critical,
            },
            vip: alert.vip.clone(),
            vips: alert.vips.clone(),
            backends: alert.backends.clone(),
            summary: alert.summary.clone(),
            cause: alert.cause.clone(),
            revision: alert.revision,
            since: alert.since,
            acknowledged_by: alert.acknowledged_by.clone(),
            silenced_until: alert.silenced_until,
            resolves_at: alert.resolves_at,
        }
    }
}

impl From<events::Event> for lb_api::Event {
    fn from(event: events::Event) -> Self {
        Self {
            id: event.id,
            at: event.at,
            kind: event.kind,
            vip: event.vip,
            backend: event.backend,
            message: event.message,
        }
    }
}

impl From<&RevisionInfo> for lb_api::RevisionInfo {
    fn from(info: &RevisionInfo) -> Self {
        Self {
            number: info.number,
            parent: info.parent,
            at: info.at,
            who: info.who.clone(),
            how: info.how.clone(),
            why: info.why.clone(),
            forced: info.forced.clone(),
            state: info.state.clone().into(),
            digest: info.digest.clone(),
        }
    }
}

impl From<RevisionState> for lb_api::RevisionState {
    fn from(state: RevisionState) -> Self {
        match state {
            RevisionState::Applying => Self::Applying,
            RevisionState::Baking { until } => Self::Baking { until },
            RevisionState::AwaitingConfirm { until } => Self::AwaitingConfirm { until },
            RevisionState::Applied => Self::Applied,
            RevisionState::RolledBack { why, at } => Self::RolledBack { why, at },
            RevisionState::Failed { why } => Self::Failed { why },
        }
    }
}

/// A revision with its text; secrets in it are masked unless `with_secrets`.
pub(super) fn revision(revision: revision::Revision, with_secrets: bool) -> lb_api::Revision {
    lb_api::Revision {
        info: (&revision.record.info).into(),
        text: if with_secrets {
            revision.text
        } else {
            secrets::mask(&revision.text)
        },
        base: revision.record.base.display().to_string(),
    }
}

impl From<engine::Applied> for lb_api::Applied {
    fn from(applied: engine::Applied) -> Self {
        Self {
            revision: applied.revision.as_ref().map(Into::into),
            plan: applied.plan,
        }
    }
}

impl From<engine::Reloaded> for lb_api::Reloaded {
    fn from(reloaded: engine::Reloaded) -> Self {
        Self {
            applied: reloaded.applied.map(Into::into),
            waits_for: reloaded.waits_for.map(Into::into),
            file: (&reloaded.file).into(),
        }
    }
}

impl From<engine::FileDiff> for lb_api::FileDiff {
    fn from(diff: engine::FileDiff) -> Self {
        Self {
            revision: diff.revision,
            file: diff.file,
            unified: diff.unified,
        }
    }
}

impl From<engine::Progress> for lb_api::Progress {
    fn from(progress: engine::Progress) -> Self {
        Self {
            revision: (&progress.revision).into(),
            remaining_s: progress.remaining_s,
            notes: progress.notes,
        }
    }
}

impl From<engine::SampledFlow> for lb_api::SampledFlow {
    fn from(flow: engine::SampledFlow) -> Self {
        Self {
            flow: flow.flow,
            vip: flow.vip,
            backend: flow.backend,
            packets: flow.counts.packets,
            bytes: flow.counts.bytes,
            syns: flow.counts.syns,
            resets: flow.counts.resets,
            age_s: flow.age_s,
            idle_s: flow.idle_s,
        }
    }
}

pub(crate) fn explanation(explanation: lb_dataplane::explain::Explanation) -> lb_api::Explanation {
    let lb_dataplane::explain::Explanation {
        flow,
        walk,
        vip,
        backend,
    } = explanation;
    let steps = walk.steps.into_iter().map(|step| lb_api::ExplainStep {
        step: step.step.to_owned(),
        finding: step.finding,
    });
    lb_api::Explanation {
        flow: flow.to_string(),
        steps: steps.collect(),
        verdict: walk.verdict.to_string(),
        reason: walk.reason.text().name.to_owned(),
        vip,
        backend,
    }
}

impl From<lb_api::Change> for engine::Change {
    fn from(change: lb_api::Change) -> Self {
        match change {
            lb_api::Change::Config { file, text } => Self::Config { file, text },
            lb_api::Change::Edits { edits } => Self::Edits(edits),
            lb_api::Change::Revision { revision } => Self::Revision(revision),
        }
    }
}

impl From<lb_api::ApplyRequest> for engine::ChangeRequest {
    fn from(request: lb_api::ApplyRequest) -> Self {
        let seconds = |s: u32| SignedDuration::from_secs(s.into());
        Self {
            change: request.change.into(),
            force: request.force,
            base: request.base,
            confirm: request.confirm_s.map(seconds),
            bake: request.bake_s.map(seconds),
            why: request.why,
        }
    }
}

#[cfg(test)]
mod tests;

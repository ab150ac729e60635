//! Reads the counters and builds the state that is published.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use jiff::{SignedDuration, Timestamp};
use lb_common::{counters::NodeCounters, reason::REASONS, ring::MemberIndex};
use tracing::error;

use super::{
    actor::Actor, bounds::BoundWatch, fleet::FleetCounts, limits::LimitWatch, nat_ports,
    trial::WATCHED_DROPS,
};
use crate::{
    alerts::Limits,
    clock::later,
    health::HealthStatus,
    metrics,
    nexthop::UnresolvedReason,
    node::{MemberPhase, MemberState, NodeInfo, NodeState, PortUse, RingSlots, VipState},
    reconciler::{MemberReport, VipReport, reported},
    traffic::{MemberSample, Rates, Sample, Traffic, VipSample},
};
use lb_dataplane::{Established, MapSize, Result};
use lb_model::{
    MemberRef,
    config::{self, BackendState, Forward},
};

/// Seconds over which drops are averaged.
const DROP_WINDOW: usize = 10;

/// Facts about the node, and its counters at the last readings.
pub(super) struct Observer {
    pub(super) host: String,
    pub(super) started_at: Timestamp,
    pub(super) program_id: u32,
    /// Sizes of the maps; read now and then.
    pub(super) maps: Vec<MapSize>,
    reasons: BTreeMap<&'static str, u64>,
    tracked: Vec<u32>,
    /// Counted by the sweep that expires sessions.
    pub(super) sessions: Established,
    ports: BTreeMap<MemberIndex, PortUse>,
    /// Counters of [`WATCHED_DROPS`] and their times, the newest last.
    drops: VecDeque<(Instant, [u64; 3])>,
    pub(super) limits: LimitWatch,
    bounds: BoundWatch,
    is_failing: bool,
}

impl Observer {
    pub(super) fn new(program_id: u32) -> Self {
        Self {
            host: crate::reconciler::system::host_name(),
            started_at: super::now(),
            program_id,
            maps: Vec::new(),
            reasons: BTreeMap::new(),
            tracked: Vec::new(),
            sessions: Established::default(),
            ports: BTreeMap::new(),
            drops: VecDeque::new(),
            limits: LimitWatch::default(),
            bounds: BoundWatch::default(),
            is_failing: false,
        }
    }

    /// Shifts times after the system clock was set.
    pub(super) fn move_by(&mut self, by: SignedDuration) {
        self.started_at = later(self.started_at, by);
    }

    fn note_reasons(&mut self, counters: &NodeCounters) {
        let counted = REASONS.iter().zip(counters.reasons);
        self.reasons = counted
            .map(|(reason, count)| (reason.name, count))
            .collect();
        let drops = WATCHED_DROPS.map(|reason| counters.reasons[reason as usize]);
        self.drops.push_back((Instant::now(), drops));
        while self.drops.len() > DROP_WINDOW + 1 {
            self.drops.pop_front();
        }
    }

    /// Drops per second from a reading to the newest one.
    fn rate(&self, from: usize) -> [f64; 3] {
        let (Some((then, old)), Some((now, new))) = (self.drops.get(from), self.drops.back())
        else {
            return [0.0; 3];
        };
        let seconds = now.duration_since(*then).as_secs_f64();
        if seconds == 0.0 {
            return [0.0; 3];
        }
        std::array::from_fn(|i| new[i].saturating_sub(old[i]) as f64 / seconds)
    }

    /// Drops per second over [`DROP_WINDOW`], by [`WATCHED_DROPS`].
    pub(super) fn drops_per_s(&self) -> [f64; 3] {
        self.rate(0)
    }

    /// The same over the last second.
    pub(super) fn drops_last_s(&self) -> [f64; 3] {
        self.rate(self.drops.len().saturating_sub(2))
    }
}

impl Actor {
    /// Reads all counters.
    pub(super) fn count(&mut self) {
        let report = self.data_path.reconciler.report();
        let counted = self.try_count(&report);
        let failed = counted.is_err();
        if let Err(error) = counted
            && !self.observer.is_failing
        {
            error!(%error, "can't read the counters");
        }
        self.observer.is_failing = failed;
    }

    fn try_count(&mut self, report: &[VipReport]) -> Result<()> {
        let counters = &self.data_path.dataplane.counters;
        let mut sample = Sample {
            at: Instant::now(),
            wall: super::now(),
            members: Vec::new(),
            vips: Vec::new(),
        };
        let limited = report.iter().filter(|vip| vip.is_limited);
        let limits = &self.data_path.dataplane.limits;
        (self.observer.limits).read(limits, limited.map(|vip| vip.index))?;
        let bounds = &mut self.observer.bounds;
        // Before the counters of members: a flow is counted as received before it is counted as new.
        bounds.read(&self.data_path.dataplane, report)?;
        for vip in report {
            sample.vips.push(VipSample {
                vip: &vip.name,
                index: vip.index,
                counters: counters.vip(vip.index)?,
                limits: self.observer.limits.counters(vip.index),
                overfull: bounds.overfull(vip.index),
            });
            for member in &vip.members {
                sample.members.push(MemberSample {
                    vip: &vip.name,
                    backend: &member.name,
                    index: member.index,
                    generation: member.generation,
                    counters: counters.member(member.index)?,
                    spills: bounds.spills(vip.index, member.index),
                });
            }
        }
        self.recorder.observe(&sample);
        self.observer.note_reasons(&counters.node()?);
        self.observer.tracked = self.data_path.dataplane.tracking.count_by_member();
        self.observer.ports = nat_ports::usage(report, &self.observer.sessions);
        Ok(())
    }

    /// Counters for the comparison of the nodes of a fleet.
    pub(super) fn fleet_counts(&mut self) -> FleetCounts {
        let report = self.data_path.reconciler.report();
        let traffic = self.recorder.traffic();
        FleetCounts::of(&traffic.lock(), &self.observer.reasons, &report)
    }

    /// Publishes the state with the alerts as they were at the last tick.
    pub(super) fn publish(&mut self) {
        let state = self.node_state();
        self.publisher.publish(state);
    }

    /// Publishes the state with the alerts that it raises or resolves, and the facts for the metrics.
    pub(super) fn publish_with_alerts(&mut self) {
        let state = self.node_state();
        let problem = self.recorder.problem();
        let problem = problem.or_else(|| self.changes.membership.problem());
        let disk = self.changes.disk_condition(problem);
        let config = &self.changes.running.config;
        let limits = Limits::of(config);
        let mut conditions = self.drift_check.conditions(config, &self.shares);
        conditions.extend(disk);
        conditions.extend(self.shares.conditions(&self.changes.store));
        conditions.extend(self.shares.fleet_conditions(&self.changes.store));
        conditions.extend(self.compared());
        self.publisher
            .publish_with_alerts(state, &limits, conditions);
        let (ring_builds, seconds) = self.data_path.reconciler.ring_builds();
        let maps = self.maps();
        self.publisher.update_facts(|facts| {
            facts.maps = maps;
            facts.ring_builds = ring_builds;
            facts.ring_build_seconds = seconds.as_secs_f64();
        });
    }

    fn node_state(&mut self) -> NodeState {
        let report = self.data_path.reconciler.report();
        let health = self.health.statuses();
        let traffic = self.recorder.traffic();
        let traffic = traffic.lock();
        let view = View {
            actor: self,
            health,
            traffic: &traffic,
        };
        let vips = reported(&self.changes.running.config.vips, &report)
            .map(|(vip, reported)| view.vip(vip, reported));
        let number = self.changes.running.number;
        let record = number.and_then(|number| self.changes.store.record(number).ok());
        NodeState {
            at: super::now(),
            node: self.node_info(),
            revision: record.map(|record| record.info.clone()),
            file: self.changes.file_status(),
            vips: vips.collect(),
            sources: self.changes.membership.states(&self.changes.running.config),
            announcing: self.announce_watch.state(&self.changes.running.config),
            alerts: Vec::new(),
            reasons: self.observer.reasons.clone(),
            fleet: self.changes.agent().map(|fleet| lb_fleet::FleetState {
                health: self.votes.shown(super::now()),
                ..fleet.state().borrow().clone()
            }),
        }
    }

    /// The maps, with their number of entries where it is known without counting.
    fn maps(&self) -> Vec<metrics::MapFacts> {
        let used = |name: &str| {
            Some(match name {
                "VIPS" => self.changes.running.config.vips.len() as u64,
                "MEMBERS" => self.data_path.reconciler.member_count() as u64,
                "RINGS" => self.data_path.dataplane.rings.len() as u64,
                "TRACK" => {
                    let tracked = self.observer.tracked.iter();
                    tracked.copied().map(u64::from).sum()
                }
                _ => return None,
            })
        };
        let sizes = self.observer.maps.iter();
        sizes
            .map(|map| metrics::MapFacts {
                name: map.name.to_owned(),
                entries: used(map.name),
                max_entries: map.places,
                bytes: map.bytes,
            })
            .collect()
    }

    fn node_info(&self) -> NodeInfo {
        NodeInfo {
            host: self.observer.host.clone(),
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            started_at: self.observer.started_at,
            adopted: self.data_path.adopted,
            program_id: self.observer.program_id,
            interfaces: self.drift_check.interfaces(&self.changes.running.config),
        }
    }

    /// Why no frame can be sent to a member; none if one can.
    fn route_problem(&self, vip: &VipReport, member: &MemberReport) -> Option<String> {
        if member.next_hop.is_some() {
            return None;
        }
        let reason = self.data_path.routes.problem(&member.identity.address);
        // An address may belong to members of several VIPs.
        let reason = reason.filter(|why| match why {
            UnresolvedReason::BehindGateway { .. } => vip.forward == Forward::L2.code(),
            UnresolvedReason::RepliesUnseen { .. } => vip.forward == Forward::Nat.code(),
            _ => true,
        });
        Some(match reason {
            Some(reason) => reason.to_string(),
            None if self
                .data_path
                .reconciler
                .has_route_to(member.identity.address) =>
            {
                "no source address".to_owned()
            }
            None => "the neighbour has not answered yet".to_owned(),
        })
    }
}

/// Input of a node state.
struct View<'a> {
    actor: &'a Actor,
    health: BTreeMap<MemberRef, HealthStatus>,
    traffic: &'a Traffic,
}

impl View<'_> {
    fn vip(&self, vip: &config::Vip, reported: &VipReport) -> VipState {
        let configured = vip.backends.iter().filter_map(|backend| {
            let mut members = reported.members.iter().filter(|m| !m.leaving);
            let member = members.find(|m| m.identity == backend.identity())?;
            Some(self.member(reported, member, backend.capacity))
        });
        let leaving = reported.members.iter().filter(|m| m.leaving);
        let leaving = leaving.map(|member| self.member(reported, member, None));
        let members: Vec<MemberState> = configured.chain(leaving).collect();
        let traffic = self.traffic.vip(&vip.name);
        let sources = self.actor.shares.sources(&vip.name);
        VipState {
            name: vip.name.clone(),
            address: vip.address,
            port: vip.port,
            protocol: vip.protocol,
            forward: vip.forward,
            panic: reported.panic,
            ring: RingSlots {
                total: reported.slots,
                in_transition: reported.counts.in_transition,
                settling: reported.counts.settling,
            },
            rates: traffic.map_or_else(Rates::default, |traffic| traffic.rates),
            peak_new_flows_per_s: traffic.map_or(0.0, |traffic| traffic.peak_new_flows_per_s),
            target_utilisation: vip.scaling.target_utilisation.as_f64(),
            tracked_flows: members.iter().map(|member| member.tracked_flows).sum(),
            untracked_packets: traffic.map_or(0, |traffic| traffic.counters.track_full),
            limit: self.actor.observer.limits.of(reported.index, &vip.limit),
            bound: self.actor.observer.bounds.of(vip, reported, sources),
            members,
        }
    }

    fn member(&self, vip: &VipReport, member: &MemberReport, capacity: Option<u32>) -> MemberState {
        let traffic = self.traffic.member(&vip.name, &member.name);
        let observer = &self.actor.observer;
        // The flows of `nat` are its sessions.
        let tracked = [
            observer.tracked.get(usize::from(member.index)),
            observer.sessions.members.get(&member.index),
        ];
        let tracked: u32 = tracked.into_iter().flatten().sum();
        let name = MemberRef::new(&vip.name, &member.check_name);
        MemberState {
            backend: member.name.clone(),
            address: member.identity.address,
            port: member.identity.port,
            phase: phase_of(member),
            weight: member.weight,
            effective_weight: member.effective_weight,
            capacity,
            health: self.health.get(&name).cloned(),
            route_problem: self.actor.route_problem(vip, member),
            totals: traffic.map_or_else(Default::default, |traffic| traffic.totals()),
            rates: traffic.map_or_else(Rates::default, |traffic| traffic.rates),
            tracked_flows: tracked.into(),
            nat_ports: observer.ports.get(&member.index).copied(),
            intended_share: member.intended_share,
            table_share: member.table_share,
            observed_share: traffic.and_then(|traffic| traffic.observed_share),
        }
    }
}

const fn phase_of(member: &MemberReport) -> MemberPhase {
    if member.leaving {
        return MemberPhase::Leaving;
    }
    match member.wanted {
        BackendState::Disabled => MemberPhase::Disabled,
        BackendState::Up | BackendState::Drain if !member.healthy => MemberPhase::Down,
        BackendState::Drain => MemberPhase::Draining,
        BackendState::Up => MemberPhase::Up,
    }
}

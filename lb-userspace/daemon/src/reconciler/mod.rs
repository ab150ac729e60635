//! The reconciler: makes the maps hold a configuration, and keeps them that way.
//!
//! ```text
//! Config ──┐
//! health ──┼──► Plan ──► State ──► Snapshot ──install──► Dataplane
//! routes ──┘     pure     pure       pure                 kernel
//! ```
//!
//! Planning finds every error before the kernel is touched. If an operation on the kernel fails, the
//! old snapshot is installed again.
//!
//! Members that are removed from the configuration keep their flows: they have no slots, but serve
//! until no ring, tracked flow or session refers to them ([`Reconciler::tick`]). They are checked
//! like others, and lose their flows when they are down.

mod adoption;
mod bounds;
#[cfg(test)]
mod cost;
mod entry;
mod error;
mod indexes;
mod install;
mod integrity;
mod limits;
pub mod lock;
mod maintenance;
mod members;
pub mod nat_sources;
mod parallel;
mod past;
mod plan;
mod planned;
pub mod ports;
mod report;
mod rings;
mod shares;
mod state;
mod summary;
pub mod system;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use lb_common::ring::MemberIndex;

pub use entry::{Route, Routes};
pub use error::{ReconcilerError, Result};
pub use integrity::Digests;
pub use maintenance::Tick;
pub use past::{Directory, Experience, RingPast, SharedVip};
pub use planned::{PlannedChange, VipPreview};
pub(crate) use report::reported;
pub use report::{Assignment, MemberReport, VipReport};
pub use shares::MemberShare;
pub use state::ServiceId;
pub use summary::Summary;

use install::Rounds;
use plan::Plan;
use rings::RingBuilds;
use state::{MemberState, State, Versioned};

use lb_dataplane::{Dataplane, LoadOptions};
use lb_model::{
    MemberRef,
    config::{Config, Forward, Fraction},
    ring::Identity,
};

/// The load options of the data path for a configuration.
#[must_use]
pub fn load_options(config: &Config) -> LoadOptions {
    LoadOptions {
        track_buckets: (config.node.track_flows / lb_common::track::WAYS as u32).max(1),
        nat_sessions: config.node.nat_sessions,
        ..LoadOptions::default()
    }
}

/// The state that the tables of a data path hold.
#[derive(Debug)]
pub struct Reconciler {
    state: Versioned,
    /// The configuration that was applied last.
    config: Option<Config>,
    routes: Routes,
    /// Whether members without a health check result count as up.
    presume_up: bool,
    reports: report::Reports,
    crowded: maintenance::Crowded,
    /// Rings built, and the time spent planning them.
    built: (u64, Duration),
}

/// A new health check result for a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthUpdate {
    pub member: MemberRef,
    pub healthy: bool,
    /// Effective fraction of the configured weight; below 1 during slow start.
    pub ramp: Fraction,
}

impl Reconciler {
    /// A reconciler for empty tables.
    #[must_use]
    pub fn fresh() -> Self {
        Self {
            state: Versioned::default(),
            config: None,
            routes: Routes::new(),
            presume_up: false,
            reports: report::Reports::default(),
            crowded: maintenance::Crowded::default(),
            built: (0, Duration::ZERO),
        }
    }

    /// Without health checks: members count as up until [`Self::set_healths`] says otherwise.
    #[must_use]
    pub fn presuming_up(mut self) -> Self {
        self.presume_up = true;
        self
    }

    /// A reconciler for tables that another controller filled. Changes nothing that packets see, and
    /// nothing at all until a configuration is applied.
    ///
    /// # Errors
    ///
    /// The tables are inconsistent, or can't be read.
    pub fn adopt(dataplane: &mut Dataplane) -> Result<Self> {
        let now_s = dataplane.now_s()? as u32;
        let state = adoption::read(dataplane, now_s)?;
        adoption::sweep(dataplane, &state)?;
        let mut reconciler = Self::fresh();
        reconciler.state.replace(state);
        Ok(reconciler)
    }

    /// Makes the tables hold a configuration.
    ///
    /// # Errors
    ///
    /// The configuration is not possible, or the kernel rejected a write; the tables are unchanged.
    pub fn apply(&mut self, dataplane: &mut Dataplane, config: &Config) -> Result<Summary> {
        let routes = self.routes.clone();
        self.apply_with_routes(dataplane, config, routes)
    }

    /// Makes the tables hold a configuration and the current routes to its backends.
    ///
    /// # Errors
    ///
    /// As [`Self::apply`].
    pub fn apply_with_routes(
        &mut self,
        dataplane: &mut Dataplane,
        config: &Config,
        routes: Routes,
    ) -> Result<Summary> {
        self.configure(dataplane, config.clone(), routes, RingBuilds::default())
    }

    /// Makes the tables hold a configuration that was planned before ([`Self::plan`]). Rings that
    /// the plan built are not built again.
    ///
    /// # Errors
    ///
    /// As [`Self::apply`]; [`ReconcilerError::Outdated`] if the state changed since.
    pub fn apply_planned(
        &mut self,
        dataplane: &mut Dataplane,
        planned: PlannedChange,
        routes: Routes,
    ) -> Result<Summary> {
        if planned.version != self.state.version() {
            return Err(ReconcilerError::Outdated);
        }
        self.configure(dataplane, planned.config, routes, planned.rings)
    }

    fn configure(
        &mut self,
        dataplane: &mut Dataplane,
        config: Config,
        routes: Routes,
        mut rings: RingBuilds,
    ) -> Result<Summary> {
        if let Some(running) = &self.config {
            check_node(running, &config)?;
        }
        let now_s = dataplane.now_s()? as u32;
        let begun = Instant::now();
        let mut plan = Plan::new(&self.state, &config, &routes);
        if self.presume_up {
            plan = plan.presume_up();
        }
        let (next, summary) = plan.configure()?.finish(now_s, &mut rings)?;
        self.note_built(&summary, begun);
        self.commit(dataplane, next)?;
        self.config = Some(config);
        self.routes = routes;
        Ok(summary)
    }

    /// The routes to backends that are in the tables.
    #[must_use]
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// Updates the routes to the backends.
    ///
    /// # Errors
    ///
    /// The kernel rejected a write; the tables are unchanged.
    pub fn set_routes(&mut self, dataplane: &mut Dataplane, routes: Routes) -> Result<()> {
        if routes == self.routes {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.routes, routes);
        let done = self.reconcile(dataplane).map(drop);
        if done.is_err() {
            self.routes = before;
        }
        done
    }

    /// Applies health check results in one change, by [`MemberReport::check_name`]. An unhealthy member
    /// receives no packets and has no slots. Unknown members are ignored: the checks may not know yet that
    /// they are gone.
    ///
    /// # Errors
    ///
    /// The kernel rejected a write; the tables are unchanged.
    pub fn set_healths(
        &mut self,
        dataplane: &mut Dataplane,
        updates: &[HealthUpdate],
    ) -> Result<Summary> {
        let mut before = Vec::new();
        for update in updates {
            let Some(index) = self.find(&update.member.vip, &update.member.backend) else {
                continue;
            };
            let Some(member) = self.state.members.get(&index) else {
                continue;
            };
            let now = (update.healthy, true, update.ramp);
            let was = (member.healthy, member.proven, member.ramp);
            if was != now {
                before.push((index, was));
                self.set_member_health(index, now);
            }
        }
        if before.is_empty() {
            return Ok(Summary::default());
        }
        let done = self.reconcile(dataplane);
        if done.is_err() {
            for (index, was) in before {
                self.set_member_health(index, was);
            }
        }
        done
    }

    /// Sets whether a member is healthy, whether that is proven, and its ramp.
    fn set_member_health(&mut self, index: MemberIndex, health: (bool, bool, Fraction)) {
        if let Some(member) = self.state.change().members.get_mut(index) {
            (member.healthy, member.proven, member.ramp) = health;
        }
    }

    /// Number of rings built, and the time that it took.
    #[must_use]
    pub const fn ring_builds(&self) -> (u64, Duration) {
        self.built
    }

    fn note_built(&mut self, summary: &Summary, since: Instant) {
        if summary.rings_changed > 0 {
            self.built.0 += u64::from(summary.rings_changed);
            self.built.1 += since.elapsed();
        }
    }

    /// Updates the tables with current health and routes.
    fn reconcile(&mut self, dataplane: &mut Dataplane) -> Result<Summary> {
        let Some(config) = &self.config else {
            return Ok(Summary::default());
        };
        let now_s = dataplane.now_s()? as u32;
        let begun = Instant::now();
        let (next, summary) = Plan::new(&self.state, config, &self.routes)
            .finish(now_s, &mut RingBuilds::default())?;
        self.note_built(&summary, begun);
        self.commit(dataplane, next)?;
        Ok(summary)
    }

    /// Makes the tables hold the next state, or restores the current one.
    fn commit(&mut self, dataplane: &mut Dataplane, mut next: State) -> Result<()> {
        next.end_forming(|member| Ok(dataplane.counters.member(member)?.packets))?;
        let rounds = Rounds::of(&next);
        let staged = install::stage(dataplane, &mut next, &rounds.first)?;
        let advanced = install::advance(dataplane, &self.state, &mut next, staged, &rounds.later);
        if let Err(first) = advanced {
            return Err(match install::go_back(dataplane, &self.state, &next) {
                Ok(old) => {
                    self.state.replace(old);
                    first
                }
                Err(second) => ReconcilerError::NotUndone {
                    first: first.into(),
                    second: second.into(),
                },
            });
        }
        self.state.replace(next);
        Ok(())
    }

    fn find(&self, vip: &str, backend: &str) -> Option<MemberIndex> {
        let names = |index: u16| self.state.vips.get(&index).is_some_and(|v| v.name == vip);
        let mut members = self.state.members.iter();
        let found = members.find(|(i, m)| m.check_name(**i) == backend && names(m.vip));
        found.map(|(index, _)| *index)
    }

    /// Removed members of this name or address that still have flows: their VIPs and addresses.
    pub fn leaving(&self, backend: &str) -> impl Iterator<Item = (String, Identity)> {
        let address: Option<IpAddr> = backend.parse().ok();
        let members = self.state.members.values();
        let leaving = members.filter(move |member| {
            let is_meant = member.name == backend || Some(member.identity.address) == address;
            member.leaving && is_meant
        });
        leaving.filter_map(|member| {
            let vip = self.state.vips.get(&member.vip)?;
            Some((vip.name.clone(), member.identity))
        })
    }

    #[must_use]
    pub fn vip_name(&self, index: u16) -> Option<&str> {
        self.state.vips.get(&index).map(|vip| vip.name.as_str())
    }

    #[must_use]
    pub fn member_name(&self, index: MemberIndex) -> Option<&str> {
        let member = self.state.members.get(&index);
        member.map(|member| member.name.as_str())
    }

    /// Number of members in the tables, including removed ones whose flows have not ended.
    #[must_use]
    pub fn member_count(&self) -> usize {
        self.state.members.len()
    }

    /// Names of the backends with this address, and their VIPs.
    #[must_use]
    pub fn backends_at(&self, address: IpAddr) -> Vec<String> {
        self.named(|member, _| member.identity.address == address)
    }

    /// Names of the backends with this address and forwarding mode, and their VIPs.
    #[must_use]
    pub fn backends_with(&self, address: IpAddr, mode: Forward) -> Vec<String> {
        self.named(|member, forward| member.identity.address == address && forward == mode.code())
    }

    /// Backends with a known route, but without a source address for packets to them.
    #[must_use]
    pub fn without_source(&self) -> Vec<String> {
        self.named(|member, forward| {
            forward != Forward::L2.code()
                && member.entry.source == [0; 2]
                && self.has_route_to(member.identity.address)
        })
    }

    /// Names of the members that match, given their VIP's forwarding mode.
    fn named(&self, is_wanted: impl Fn(&MemberState, u8) -> bool) -> Vec<String> {
        let members = self.state.members.values();
        members
            .filter_map(|member| Some((member, self.state.vips.get(&member.vip)?)))
            .filter(|(member, vip)| is_wanted(member, vip.entry.mode()))
            .map(|(member, vip)| format!("{} of VIP {}", member.name, vip.name))
            .collect()
    }

    /// Addresses that need routes: backends in the configuration and leaving ones.
    #[must_use]
    pub fn backends(&self) -> BTreeSet<IpAddr> {
        self.state.backends()
    }

    /// Source addresses of new `nat` sessions.
    #[must_use]
    pub fn nat_sources(&self) -> BTreeSet<IpAddr> {
        let sources = self.state.sources.values();
        sources
            .filter(|source| source.entry.ports > 0)
            .map(|source| source.address)
            .collect()
    }

    /// Intended, table and observed shares of all members.
    ///
    /// # Errors
    ///
    /// A counter can't be read.
    pub fn shares(&self, dataplane: &Dataplane) -> Result<Vec<MemberShare>> {
        shares::shares(&self.state, dataplane)
    }
}

/// Rejects changes of settings that the maps were created with.
fn check_node(running: &Config, wanted: &Config) -> Result<()> {
    let pairs = [
        (
            "node.track_flows",
            running.node.track_flows,
            wanted.node.track_flows,
        ),
        (
            "node.nat_sessions",
            running.node.nat_sessions,
            wanted.node.nat_sessions,
        ),
    ];
    for (what, has, new) in pairs {
        if has != new {
            return Err(ReconcilerError::NodeFixed {
                what,
                has: has.to_string(),
                new: new.to_string(),
            });
        }
    }
    Ok(())
}

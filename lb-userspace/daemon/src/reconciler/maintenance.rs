//! Periodic work: expire flows, end transitions, free unreferenced members and NAT sources.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lb_common::{
    ring::MemberIndex,
    vip::{forward, track},
};

use super::{
    Reconciler,
    error::Result,
    state::{MemberState, State, VipState},
};
use lb_dataplane::{Dataplane, Expired, SessionLimits};

/// Found unreferenced this many times, a second apart: no running program can refer to it.
const UNREFERENCED_TICKS: u8 = 2;

/// Seconds between two attempts to clean the ring of a VIP that always tracks.
const CLEAN_TRACKED_EVERY_S: u32 = 32;

/// While flows of a VIP find no room in the tracking table, its transitions last up to this many times
/// as long: until they end, a flow without an entry keeps its member.
const CROWDED_TTLS: u32 = 4;

/// When flows of a VIP last found no room in the tracking table.
#[derive(Debug, Default)]
pub(super) struct Crowded {
    /// By VIP index: counter of these flows, and when it last rose.
    seen: BTreeMap<u16, (u64, Option<u32>)>,
}

impl Crowded {
    fn note(&mut self, vip: u16, count: u64, now_s: u32) {
        let (last, rose_at_s) = self.seen.entry(vip).or_insert((count, None));
        if count > *last {
            *rose_at_s = Some(now_s);
        }
        *last = count;
    }

    /// How long transitions of a VIP last.
    fn ttl_s(&self, vip: u16, now_s: u32, ttl_s: u32) -> u32 {
        let rose_at_s = self.seen.get(&vip).and_then(|(_, at_s)| *at_s);
        match rose_at_s {
            Some(at_s) if now_s.saturating_sub(at_s) < ttl_s => ttl_s.saturating_mul(CROWDED_TTLS),
            _ => ttl_s,
        }
    }
}

/// Result of a tick.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tick {
    /// Expired entries of the tracking table.
    pub flows_expired: usize,
    /// Expired entries of sessions, and the sessions that remain.
    pub sessions: Expired,
    /// Members that have no spilled flows any more.
    pub spillers_forgotten: usize,
    /// Slots whose transition ended.
    pub slots_settled: u32,
    /// Slots that became clean.
    pub slots_cleaned: u32,
    /// Leaving members that were freed.
    pub members_gone: u32,
}

impl Reconciler {
    /// Call it about every second, with [`Dataplane::now_s`].
    ///
    /// # Errors
    ///
    /// The kernel rejected a write; the tables are unchanged.
    pub fn tick(&mut self, dataplane: &mut Dataplane, now_s: u64) -> Result<Tick> {
        let Some(config) = &self.config else {
            return Ok(Tick::default());
        };
        let idle_s = config.node.track_idle.as_secs();
        let ttl_s = config.node.transition_ttl.as_secs() as u32;
        // Cells store the time modulo 2^16 seconds.
        let idle_s = u16::try_from(idle_s)
            .unwrap_or(u16::MAX)
            .min(u16::MAX - 1024);
        let mut tick = Tick {
            flows_expired: dataplane.tracking.expire(now_s, idle_s),
            sessions: dataplane.sessions.expire(now_s, SessionLimits::default())?,
            spillers_forgotten: dataplane.bounds.forget_spilled(now_s, idle_s.into()),
            ..Tick::default()
        };
        let now_s = now_s as u32;
        for (&index, vip) in &self.state.vips {
            if vip.ring.counts().in_transition > 0 {
                let counters = dataplane.counters.vip(index)?;
                self.crowded.note(index, counters.track_full, now_s);
            }
        }
        let ttl_of = |vip| self.crowded.ttl_s(vip, now_s, ttl_s);
        if !self.state.is_due(now_s, ttl_of) {
            return Ok(tick);
        }
        let mut next = State::clone(&self.state);
        let tracked = dataplane.tracking.count_by_member();
        next.age_rings(now_s, ttl_of, &tracked, &mut tick);
        next.free_unreferenced(dataplane, &tracked, &mut tick)?;
        next.forget_bounds(dataplane)?;
        self.commit(dataplane, next)?;
        Ok(tick)
    }
}

/// Whether it is time to look if settling slots of a VIP can be clean. A VIP that always tracks looks
/// up every flow anyway, and may always have some.
fn may_clean(vip: &VipState, now_s: u32) -> bool {
    let is_time = vip.entry.track != track::ALWAYS || now_s.is_multiple_of(CLEAN_TRACKED_EVERY_S);
    vip.ring.counts().settling > 0 && is_time
}

impl State {
    /// Whether a transition may end, or something that is leaving may be gone. This reads no slots: it
    /// is asked every second, for a thousand rings.
    fn is_due(&self, now_s: u32, ttl_s: impl Fn(u16) -> u32) -> bool {
        let may_change = |(&index, vip): (&u16, &VipState)| {
            let may_settle = vip.ring.next_settle_s(ttl_s(index));
            may_settle.is_some_and(|at_s| at_s <= now_s) || may_clean(vip, now_s)
        };
        self.vips.iter().any(may_change)
            || self.members.values().any(|member| member.leaving)
            || self.unbound().next().is_some()
            || self.sources.values().any(|source| source.entry.ports == 0)
    }

    fn age_rings(
        &mut self,
        now_s: u32,
        ttl_s: impl Fn(u16) -> u32,
        tracked: &[u32],
        tick: &mut Tick,
    ) {
        let indexes: Vec<u16> = self.vips.keys().copied().collect();
        for index in indexes {
            let has_flows = self
                .members_of(index)
                .any(|(member, _)| tracked.get(usize::from(member)).is_some_and(|&n| n > 0));
            let Some(vip) = self.vips.get_mut(&index) else {
                continue;
            };
            let mut aged = (0, 0);
            let ttl_s = ttl_s(index);
            let settles_at_s = vip.ring.next_settle_s(ttl_s);
            if settles_at_s.is_some_and(|at_s| at_s <= now_s) {
                aged.0 = Arc::make_mut(&mut vip.ring).settle(now_s, ttl_s);
            }
            if !has_flows && may_clean(vip, now_s) {
                aged.1 = Arc::make_mut(&mut vip.ring).clean();
            }
            vip.dirty |= aged != (0, 0);
            tick.slots_settled += aged.0;
            tick.slots_cleaned += aged.1;
        }
    }

    /// Removes leaving members and NAT sources without ports that are unreferenced.
    fn free_unreferenced(
        &mut self,
        dataplane: &Dataplane,
        tracked: &[u32],
        tick: &mut Tick,
    ) -> Result<()> {
        let leaving: Vec<MemberIndex> = (self.members.iter())
            .filter(|(_, member)| member.leaving)
            .map(|(index, _)| *index)
            .collect();
        let closing = self.sources.values().any(|source| source.entry.ports == 0);
        if leaving.is_empty() && !closing {
            return Ok(());
        }
        let sessions = dataplane.sessions.names()?;
        for index in leaving {
            let named = self.is_in_ring(index)
                || tracked.get(usize::from(index)).is_some_and(|&n| n > 0)
                || sessions.members.contains(&index);
            let Some(member) = self.members.get_mut(index) else {
                continue;
            };
            member.unreferenced = if named { 0 } else { member.unreferenced + 1 };
            if member.unreferenced >= UNREFERENCED_TICKS {
                self.members.remove(index);
                tick.members_gone += 1;
            }
        }
        let uses_nat = |member: &&MemberState| {
            let vip = self.vips.get(&member.vip);
            vip.is_none_or(|vip| vip.entry.mode() == forward::NAT) && member.entry.source != [0; 2]
        };
        let members = self.members.values().filter(uses_nat);
        let used: BTreeSet<u16> = members.map(|member| member.entry.nat_source).collect();
        self.sources.retain(|index, source| {
            let named =
                source.entry.ports > 0 || used.contains(index) || sessions.sources.contains(index);
            source.unreferenced = if named { 0 } else { source.unreferenced + 1 };
            source.unreferenced < UNREFERENCED_TICKS
        });
        Ok(())
    }

    fn is_in_ring(&self, member: MemberIndex) -> bool {
        let vip = self.members.get(&member).map(|state| state.vip);
        vip.and_then(|vip| self.vips.get(&vip))
            .is_some_and(|vip| vip.ring.references(member))
    }
}

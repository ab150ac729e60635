//! Accounts of VIPs and members, by name.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytemuck::Zeroable as _;
use jiff::SignedDuration;
use lb_common::{
    counters::{MemberCounters, VipCounters},
    limit::LimitCounters,
};
use lb_dataplane::{Overfull, Spills};

use super::{MemberTotals, PEAK_MINUTES, Totals, VipSample, VipTotals, window::Cumulative};

/// The last reading of a member index.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) generation: u32,
    pub(super) vip: Arc<str>,
    pub(super) backend: Arc<str>,
    pub(super) counters: MemberCounters,
    pub(super) spills: Spills,
}

#[derive(Clone, Debug)]
pub(super) struct MemberAccount {
    pub(super) counters: MemberCounters,
    pub(super) spills: Spills,
    /// New flows as the ring assigned them; monotonic, although the counters are not read at once.
    pub(super) ring_flows: u64,
    /// Unix time at which it was last in the maps, seconds.
    pub(super) seen: i64,
    pub(super) window: Cumulative,
    /// Whether it was in the last sample.
    pub(super) is_present: bool,
}

#[derive(Clone, Debug)]
pub(super) struct VipAccount {
    pub(super) totals: Totals,
    pub(super) counters: VipCounters,
    pub(super) limits: LimitCounters,
    pub(super) overfull: Overfull,
    pub(super) reading: Option<VipReading>,
    pub(super) window: Cumulative,
    /// The highest rate of each minute of the last hour: (Unix time in minutes, new flows per second).
    pub(super) peaks: VecDeque<(i64, f64)>,
    pub(super) members: BTreeMap<Arc<str>, MemberAccount>,
}

/// The last reading of a VIP's own counters.
#[derive(Clone, Copy, Debug)]
pub(super) struct VipReading {
    pub(super) index: u16,
    pub(super) counters: VipCounters,
    pub(super) limits: LimitCounters,
    pub(super) overfull: Overfull,
}

impl Default for MemberAccount {
    fn default() -> Self {
        Self {
            counters: MemberCounters::zeroed(),
            spills: Spills::default(),
            ring_flows: 0,
            seen: 0,
            window: Cumulative::default(),
            is_present: false,
        }
    }
}

impl Default for VipAccount {
    fn default() -> Self {
        Self {
            totals: Totals::default(),
            counters: VipCounters::zeroed(),
            limits: LimitCounters::zeroed(),
            overfull: Overfull::default(),
            reading: None,
            window: Cumulative::default(),
            peaks: VecDeque::new(),
            members: BTreeMap::new(),
        }
    }
}

/// A counter struct as a slice.
fn words<T: bytemuck::Pod>(counters: &T) -> &[u64] {
    bytemuck::cast_slice(std::slice::from_ref(counters))
}

/// Adds counters field by field.
pub(super) fn add<T: bytemuck::Pod>(total: &mut T, delta: &T) {
    let totals: &mut [u64] = bytemuck::cast_slice_mut(std::slice::from_mut(total));
    for (total, delta) in totals.iter_mut().zip(words(delta)) {
        *total = total.saturating_add(*delta);
    }
}

/// The difference to the last reading. Counters that are smaller than before were reset.
pub(super) fn difference<T: bytemuck::Pod>(last: Option<&T>, now: &T) -> T {
    let Some(last) = last else { return *now };
    let pairs = || words(now).iter().zip(words(last));
    if pairs().any(|(now, last)| now < last) {
        return *now;
    }
    let mut delta = *now;
    let deltas: &mut [u64] = bytemuck::cast_slice_mut(std::slice::from_mut(&mut delta));
    for (delta, last) in deltas.iter_mut().zip(words(last)) {
        *delta -= last;
    }
    delta
}

/// Adds counters that are only read sometimes. Returns the last reading.
pub(super) fn add_some<T: bytemuck::Pod>(total: &mut T, last: Option<&T>, now: Option<&T>) -> T {
    if let Some(now) = now {
        add(total, &difference(last, now));
    }
    now.or(last).copied().unwrap_or_else(T::zeroed)
}

/// The entry of a name; created if missing.
fn entry<'m, T: Default>(map: &'m mut BTreeMap<Arc<str>, T>, name: &str) -> &'m mut T {
    // Looked up twice, so that only a new name is copied.
    if map.contains_key(name) {
        return map.get_mut(name).expect("it is there");
    }
    map.entry(name.into()).or_default()
}

pub(super) fn of<'m>(
    vips: &'m mut BTreeMap<Arc<str>, VipAccount>,
    name: &str,
) -> &'m mut VipAccount {
    entry(vips, name)
}

impl MemberAccount {
    /// Updates the new flows as the ring assigned them.
    pub(super) fn assign(&mut self) {
        let flows = self.counters.new_flows.saturating_add(self.spills.spilled);
        let flows = flows.saturating_sub(self.spills.received);
        self.ring_flows = self.ring_flows.max(flows);
    }

    const fn totals(&self) -> MemberTotals {
        MemberTotals {
            counters: self.counters,
            spills: self.spills,
        }
    }
}

impl VipAccount {
    pub(super) fn member(&mut self, backend: &str) -> &mut MemberAccount {
        entry(&mut self.members, backend)
    }

    /// Adds the counters of one of its members.
    pub(super) fn count_members(&mut self, delta: &Totals, windowed: &Totals) {
        self.totals.packets += delta.packets;
        self.totals.bytes += delta.bytes;
        self.totals.new_flows += delta.new_flows;
        self.window.add(windowed);
    }

    /// Adds its own counters. Returns whether their index changed.
    pub(super) fn count_own(&mut self, sample: &VipSample<'_>) -> bool {
        let last = self.reading.filter(|last| last.index == sample.index);
        let last = last.as_ref();
        let delta = difference(last.map(|last| &last.counters), &sample.counters);
        add(&mut self.counters, &delta);
        let limits = last.map(|last| &last.limits);
        let overfull = last.map(|last| &last.overfull);
        let reading = VipReading {
            index: sample.index,
            counters: sample.counters,
            limits: add_some(&mut self.limits, limits, sample.limits.as_ref()),
            overfull: add_some(&mut self.overfull, overfull, sample.overfull.as_ref()),
        };
        self.reading
            .replace(reading)
            .is_none_or(|last| last.index != sample.index)
    }

    /// Begins a reading: members are absent until found in the sample.
    pub(super) fn begin_frame(&mut self) {
        for member in self.members.values_mut() {
            member.is_present = false;
        }
    }

    /// Ends a reading.
    pub(super) fn end_frame(&mut self) {
        self.window.end_frame();
        for member in self.members.values_mut() {
            if member.is_present || !member.window.is_quiet() {
                member.window.end_frame();
            } else {
                member.window.clear();
            }
        }
    }

    pub(super) fn is_present(&self) -> bool {
        self.members.values().any(|member| member.is_present)
    }

    pub(super) fn note_peak(&mut self, minute: i64, flows: f64) {
        match self.peaks.back_mut() {
            Some((last, peak)) if *last >= minute => *peak = peak.max(flows),
            _ => self.peaks.push_back((minute, flows)),
        }
        while let Some((first, _)) = self.peaks.front()
            && *first <= minute - PEAK_MINUTES
        {
            self.peaks.pop_front();
        }
    }

    /// Moves times after the system clock was set.
    pub(super) fn move_by(&mut self, by: SignedDuration) {
        // To the nearest minute.
        let minutes = (by.as_secs() + 30).div_euclid(60);
        for (minute, _) in &mut self.peaks {
            *minute = minute.saturating_add(minutes);
        }
        for member in self.members.values_mut() {
            member.seen = member.seen.saturating_add(by.as_secs());
        }
    }

    pub(super) fn peak(&self) -> f64 {
        self.peaks
            .iter()
            .map(|(_, flows)| *flows)
            .fold(0.0, f64::max)
    }

    pub(super) fn copy(&self) -> VipTotals {
        let present = self.members.iter().filter(|(_, member)| member.is_present);
        VipTotals {
            totals: self.totals,
            counters: self.counters,
            limits: self.limits,
            overfull: self.overfull,
            peak_new_flows_per_s: self.peak(),
            members: present
                .map(|(name, member)| (Arc::clone(name), member.totals()))
                .collect(),
        }
    }
}

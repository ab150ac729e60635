//! Traffic accounts: totals that never go backwards, rates, shares and windows.
//!
//! The kernel counts per member index. An index is reused after its member has gone, and its counters
//! restart at 0. Operators and Prometheus need counters per *name* (VIP and backend). So once per
//! second all counters are read, and the difference to the last reading is added to the account of the
//! name:
//!
//! ```text
//! kernel counters by (index, generation) ──difference──► accounts by (VIP, backend)
//!                                              └───────► windows of the last two minutes
//! ```
//!
//! Accounts *and* last readings are written to one file. After a crash, the account has what was
//! counted until the file was written, and the first difference is what was counted since: nothing is
//! lost or counted twice, however old the file is.
//!
//! [`Traffic`] is pure: no maps, clocks or files. [`Recorder`] keeps it on disk.

mod account;
mod capacity;
mod ledger;
mod recorder;
mod window;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use account::{Reading, VipAccount, add, add_some, difference};
pub use capacity::Capacity;
use jiff::{SignedDuration, Timestamp};
use lb_common::{
    counters::{MemberCounters, VipCounters},
    limit::LimitCounters,
    ring::MemberIndex,
};
use lb_dataplane::{Overfull, Spills};
pub use ledger::LedgerError;
pub use recorder::{Recorder, SharedTraffic};
use serde::{Deserialize, Serialize};
use window::Frames;

/// Window of rates.
pub const RATE_WINDOW: Duration = Duration::from_secs(10);
/// Window of observed shares.
pub const SHARE_WINDOW: Duration = Duration::from_secs(60);
/// The longest window.
pub const LONGEST_WINDOW: Duration = Duration::from_secs(120);
/// Window of peaks.
pub const PEAK_MINUTES: i64 = 60;

/// Counters that never go backwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub packets: u64,
    pub bytes: u64,
    pub new_flows: u64,
}

/// Rates over [`RATE_WINDOW`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    pub packets_per_s: f64,
    pub bytes_per_s: f64,
    pub new_flows_per_s: f64,
}

/// All kernel counters at one time.
#[derive(Clone, Debug)]
pub struct Sample<'a> {
    /// For rates.
    pub at: Instant,
    /// The same time on the wall clock, for what is kept across restarts.
    pub wall: Timestamp,
    /// All members in the maps, including leaving ones.
    pub members: Vec<MemberSample<'a>>,
    /// All VIPs in the maps.
    pub vips: Vec<VipSample<'a>>,
}

#[derive(Clone, Copy, Debug)]
pub struct MemberSample<'a> {
    pub vip: &'a str,
    pub backend: &'a str,
    pub index: MemberIndex,
    /// Changes when the index is reused.
    pub generation: u32,
    pub counters: MemberCounters,
    /// None if its VIP has no bound.
    pub spills: Option<Spills>,
}

#[derive(Clone, Copy, Debug)]
pub struct VipSample<'a> {
    pub vip: &'a str,
    pub index: u16,
    pub counters: VipCounters,
    /// None if it has no limits.
    pub limits: Option<LimitCounters>,
    /// None if it has no bound.
    pub overfull: Option<Overfull>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MemberTraffic {
    /// Totals since the controller first saw the name.
    pub counters: MemberCounters,
    pub rates: Rates,
    /// Share of the VIP's new flows in [`SHARE_WINDOW`]; none without new flows.
    pub observed_share: Option<f64>,
}

impl MemberTraffic {
    #[must_use]
    pub const fn totals(&self) -> Totals {
        totals_of(&self.counters)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VipTraffic {
    /// Sum over its members, including former ones, since the controller first saw the name.
    pub totals: Totals,
    pub counters: VipCounters,
    pub rates: Rates,
    /// Peak over [`RATE_WINDOW`] in the last hour.
    pub peak_new_flows_per_s: f64,
}

/// Traffic of the members of a VIP in a window.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Time between the two readings: close to the requested length, shorter soon after a start.
    pub seconds: f64,
    /// Sum over all members, including those removed in the meantime.
    pub total: Totals,
    /// Members in the maps.
    pub members: Vec<(Arc<str>, Totals)>,
}

/// A copy of the totals, so that rendering does not hold the lock.
#[derive(Clone, Debug, Default)]
pub struct TotalsCopy {
    pub vips: BTreeMap<Arc<str>, VipTotals>,
}

#[derive(Clone, Debug)]
pub struct VipTotals {
    /// Sum over its members.
    pub totals: Totals,
    pub counters: VipCounters,
    pub limits: LimitCounters,
    pub overfull: Overfull,
    pub peak_new_flows_per_s: f64,
    /// Members in the maps, by name.
    pub members: BTreeMap<Arc<str>, MemberTotals>,
}

#[derive(Clone, Copy, Debug)]
pub struct MemberTotals {
    pub counters: MemberCounters,
    pub spills: Spills,
}

/// The accounts of all VIPs and members.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Identifies the counter maps: others start at 0.
    epoch: String,
    vips: BTreeMap<Arc<str>, VipAccount>,
    /// The last reading of each member index.
    readings: BTreeMap<MemberIndex, Reading>,
    frames: Frames,
}

const fn totals_of(counters: &MemberCounters) -> Totals {
    Totals {
        packets: counters.packets,
        bytes: counters.bytes,
        new_flows: counters.new_flows,
    }
}

impl Traffic {
    /// Empty accounts. `epoch` identifies the counter maps: kernel boot id and map id.
    #[must_use]
    pub fn new(epoch: impl Into<String>) -> Self {
        Self {
            epoch: epoch.into(),
            ..Self::default()
        }
    }

    /// Adds a reading. Returns whether a member was added, removed or renamed: the ledger must then be
    /// saved before the totals are shown.
    pub fn observe(&mut self, sample: &Sample<'_>) -> bool {
        let is_first = self.frames.is_empty();
        self.frames.begin(sample.at);
        for vip in self.vips.values_mut() {
            vip.begin_frame();
        }
        let mut changed = self.forget_absent(sample);
        for member in &sample.members {
            changed |= self.count_member(member, sample.wall, is_first);
        }
        for vip in &sample.vips {
            let account = account::of(&mut self.vips, vip.vip);
            changed |= account.count_own(vip);
        }
        self.end_frame(sample.wall, is_first);
        changed
    }

    /// Drops the readings of removed members.
    fn forget_absent(&mut self, sample: &Sample<'_>) -> bool {
        let before = self.readings.len();
        let present: std::collections::BTreeSet<_> =
            sample.members.iter().map(|member| member.index).collect();
        self.readings.retain(|index, _| present.contains(index));
        before != self.readings.len()
    }

    fn count_member(&mut self, sample: &MemberSample<'_>, wall: Timestamp, is_first: bool) -> bool {
        let last = self.readings.get(&sample.index);
        let same = last.filter(|last| last.generation == sample.generation);
        let delta = difference(same.map(|last| &last.counters), &sample.counters);
        let vip = account::of(&mut self.vips, sample.vip);
        let member = vip.member(sample.backend);
        // Counts from before the first reading of this process belong to no current window.
        let windowed = if is_first {
            Totals::default()
        } else {
            totals_of(&delta)
        };
        add(&mut member.counters, &delta);
        let spills = add_some(
            &mut member.spills,
            same.map(|last| &last.spills),
            sample.spills.as_ref(),
        );
        member.assign();
        member.seen = wall.as_second();
        member.window.add(&windowed);
        member.is_present = true;
        vip.count_members(&totals_of(&delta), &windowed);
        let known =
            same.is_some_and(|last| *last.vip == *sample.vip && *last.backend == *sample.backend);
        if known {
            if let Some(last) = self.readings.get_mut(&sample.index) {
                (last.counters, last.spills) = (sample.counters, spills);
            }
            return false;
        }
        let reading = Reading {
            generation: sample.generation,
            vip: sample.vip.into(),
            backend: sample.backend.into(),
            counters: sample.counters,
            spills,
        };
        self.readings.insert(sample.index, reading);
        true
    }

    fn end_frame(&mut self, wall: Timestamp, is_first: bool) {
        let back = self.frames.back(RATE_WINDOW);
        let seconds = self.frames.seconds(back);
        // A rate over less than the window would let one busy second look like a peak.
        let is_full = !is_first && seconds > RATE_WINDOW.as_secs_f64() / 2.0;
        for vip in self.vips.values_mut() {
            vip.end_frame();
            if is_full && vip.is_present() {
                let flows = vip.window.over(back).new_flows as f64 / seconds;
                vip.note_peak(wall.as_second() / 60, flows);
            }
        }
    }

    /// Moves times after the system clock was set.
    pub fn move_by(&mut self, by: SignedDuration) {
        for vip in self.vips.values_mut() {
            vip.move_by(by);
        }
    }

    /// A current or former member.
    #[must_use]
    pub fn member(&self, vip: &str, backend: &str) -> Option<MemberTraffic> {
        let vip = self.vips.get(vip)?;
        let member = vip.members.get(backend)?;
        let back = self.frames.back(SHARE_WINDOW);
        let all = vip.window.over(back).new_flows;
        let own = member.window.over(back).new_flows;
        Some(MemberTraffic {
            counters: member.counters,
            rates: self.rates(&member.window),
            observed_share: (all > 0).then(|| own as f64 / all as f64),
        })
    }

    /// Totals of a member since the controller first saw its name.
    #[must_use]
    pub fn counters(&self, vip: &str, backend: &str) -> Option<&MemberCounters> {
        let member = self.vips.get(vip)?.members.get(backend)?;
        Some(&member.counters)
    }

    /// New flows of a member as the ring assigned them since the controller first saw its name: those
    /// that went elsewhere because it was full count, and those that came for that reason do not.
    #[must_use]
    pub fn ring_flows(&self, vip: &str, backend: &str) -> u64 {
        let vip = self.vips.get(vip);
        let member = vip.and_then(|vip| vip.members.get(backend));
        member.map_or(0, |member| member.ring_flows)
    }

    /// A current or former VIP.
    #[must_use]
    pub fn vip(&self, vip: &str) -> Option<VipTraffic> {
        let vip = self.vips.get(vip)?;
        Some(VipTraffic {
            totals: vip.totals,
            counters: vip.counters,
            rates: self.rates(&vip.window),
            peak_new_flows_per_s: vip.peak(),
        })
    }

    /// New flows of all members, also former ones, and packets of their clients with RST.
    #[must_use]
    pub fn flows_and_resets(&self) -> (u64, u64) {
        let members = self.vips.values().flat_map(|vip| vip.members.values());
        members.fold((0, 0), |(flows, resets), member| {
            let counters = &member.counters;
            (flows + counters.new_flows, resets + counters.resets)
        })
    }

    fn rates(&self, window: &window::Cumulative) -> Rates {
        let back = self.frames.back(RATE_WINDOW);
        let seconds = self.frames.seconds(back);
        if seconds <= 0.0 {
            return Rates::default();
        }
        let amount = window.over(back);
        Rates {
            packets_per_s: amount.packets as f64 / seconds,
            bytes_per_s: amount.bytes as f64 / seconds,
            new_flows_per_s: amount.new_flows as f64 / seconds,
        }
    }

    /// Traffic of a VIP in the last `span` (up to [`LONGEST_WINDOW`]); none before the second reading or
    /// for an unknown VIP.
    #[must_use]
    pub fn window(&self, vip: &str, span: Duration) -> Option<Window> {
        self.window_of_frames(vip, self.frames.back(span))
    }

    /// Traffic of a VIP between the last two readings.
    #[must_use]
    pub fn newest(&self, vip: &str) -> Option<Window> {
        self.window_of_frames(vip, 1)
    }

    fn window_of_frames(&self, vip: &str, back: usize) -> Option<Window> {
        let vip = self.vips.get(vip)?;
        let seconds = self.frames.seconds(back);
        if seconds <= 0.0 {
            return None;
        }
        let present = vip.members.iter().filter(|(_, member)| member.is_present);
        Some(Window {
            seconds,
            total: vip.window.over(back),
            members: present
                .map(|(name, member)| (Arc::clone(name), member.window.over(back)))
                .collect(),
        })
    }

    /// A copy of the totals of everything in the maps.
    #[must_use]
    pub fn copy(&self) -> TotalsCopy {
        let present = self.vips.iter().filter(|(_, vip)| vip.is_present());
        let vips = present.map(|(name, vip)| (Arc::clone(name), vip.copy()));
        TotalsCopy {
            vips: vips.collect(),
        }
    }
}

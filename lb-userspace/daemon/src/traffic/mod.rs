//! What the members got: totals that never go backwards, rates, shares, windows.
//!
//! The kernel counts per member, in an entry that belongs to an index. An index is given to another
//! member when the first has gone, and its counters then begin at 0 again. What people and
//! Prometheus want to see belongs to a *name*: VIP and backend. So once a second everything the
//! kernel has counted is read, and what is new since the last reading is added to the name's
//! account:
//!
//! ```text
//! kernel counters by (index, generation) ──difference to the last reading──► accounts by (VIP, backend)
//!                                                                  └───────► windows of the last two minutes
//! ```
//!
//! The accounts *and* the last readings are written to a file together. A controller that was killed
//! goes on from there: the account has what was counted until the file was written, and the first
//! difference is what was counted since. Nothing is lost and nothing counted twice, however old the file is.
//!
//! [`Traffic`] is pure: it knows no maps, no clocks and no files. [`Recorder`] keeps it on disk.
//! [`Capacity`] says what the rates mean for the size of a service.

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

use account::{Reading, VipAccount, add, difference};
pub use capacity::Capacity;
use jiff::{SignedDuration, Timestamp};
use lb_common::{
    counters::{MemberCounters, VipCounters},
    ring::MemberIndex,
};
pub use ledger::LedgerError;
pub use recorder::{Recorder, SharedTraffic};
use serde::{Deserialize, Serialize};
use window::Frames;

/// Rates are over this time.
pub const RATE_WINDOW: Duration = Duration::from_secs(10);
/// Observed shares are over this time.
pub const SHARE_WINDOW: Duration = Duration::from_secs(60);
/// The longest window that can be asked for.
pub const LONGEST_WINDOW: Duration = Duration::from_secs(120);
/// Peaks are over this many minutes.
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

/// Everything the kernel counted, read at one moment.
#[derive(Clone, Debug)]
pub struct Sample<'a> {
    /// When, for rates.
    pub at: Instant,
    /// The same moment of the calendar, for what is kept over restarts.
    pub wall: Timestamp,
    /// All members that are in the tables, those that leave too.
    pub members: Vec<MemberSample<'a>>,
    /// All VIPs that are in the tables.
    pub vips: Vec<VipSample<'a>>,
}

/// The counters of a member.
#[derive(Clone, Copy, Debug)]
pub struct MemberSample<'a> {
    /// Name of the VIP.
    pub vip: &'a str,
    /// Name of the backend.
    pub backend: &'a str,
    /// Its index in the member table.
    pub index: MemberIndex,
    /// The generation of the index: another one, another member.
    pub generation: u32,
    /// What the kernel counted under the index.
    pub counters: MemberCounters,
}

/// The counters of a VIP.
#[derive(Clone, Copy, Debug)]
pub struct VipSample<'a> {
    /// Its name.
    pub vip: &'a str,
    /// Its index in the VIP table.
    pub index: u16,
    /// What the kernel counted under the index.
    pub counters: VipCounters,
}

/// What is known of a member.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MemberTraffic {
    /// All counters since the controller first knew the name.
    pub counters: MemberCounters,
    /// Rates over [`RATE_WINDOW`].
    pub rates: Rates,
    /// New flows over those of the VIP in [`SHARE_WINDOW`]; none when there were none.
    pub observed_share: Option<f64>,
}

impl MemberTraffic {
    /// The counters that everybody asks for.
    #[must_use]
    pub const fn totals(&self) -> Totals {
        totals_of(&self.counters)
    }
}

/// What is known of a VIP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VipTraffic {
    /// What its members got since the controller first knew the name, those that are gone too.
    pub totals: Totals,
    /// Its own counters.
    pub counters: VipCounters,
    /// Rates over [`RATE_WINDOW`].
    pub rates: Rates,
    /// The highest number of new flows a second (over [`RATE_WINDOW`]) in the last hour.
    pub peak_new_flows_per_s: f64,
}

/// What the members of a VIP got in a span of time.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Its length in seconds: that between two readings, a little off what was asked for, and less
    /// soon after a start.
    pub seconds: f64,
    /// All members together, those that went in the meantime too.
    pub total: Totals,
    /// Each member that is in the tables.
    pub members: Vec<(Arc<str>, Totals)>,
}

/// A copy of the totals, for whoever renders them without holding up the engine.
#[derive(Clone, Debug, Default)]
pub struct TotalsCopy {
    /// VIPs by name.
    pub vips: BTreeMap<Arc<str>, VipTotals>,
}

/// The totals of a VIP and its members.
#[derive(Clone, Debug)]
pub struct VipTotals {
    /// What its members got.
    pub totals: Totals,
    /// Its own counters.
    pub counters: VipCounters,
    /// The highest number of new flows a second in the last hour.
    pub peak_new_flows_per_s: f64,
    /// Its members that are in the tables, by name.
    pub members: BTreeMap<Arc<str>, MemberCounters>,
}

/// The accounts of all members and VIPs.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Which maps the readings are of: others begin at 0.
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
    /// Accounts that begin at 0. `epoch` names the maps that samples will be of: the boot id of the kernel and
    /// the id of the map of counters.
    #[must_use]
    pub fn new(epoch: impl Into<String>) -> Self {
        Self {
            epoch: epoch.into(),
            ..Self::default()
        }
    }

    /// Takes in a reading. Says whether a member came, went or changed its name: the ledger should
    /// then be saved before the totals are shown to anybody.
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

    /// Drops the readings of members that are not there any more.
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
        // What was counted before the first reading of this process is no rate of now.
        let windowed = if is_first {
            Totals::default()
        } else {
            totals_of(&delta)
        };
        add(&mut member.counters, &delta);
        member.seen = wall.as_second();
        member.window.add(&windowed);
        member.is_present = true;
        vip.count_members(&totals_of(&delta), &windowed);
        let known =
            same.is_some_and(|last| *last.vip == *sample.vip && *last.backend == *sample.backend);
        if known {
            if let Some(last) = self.readings.get_mut(&sample.index) {
                last.counters = sample.counters;
            }
            return false;
        }
        let reading = Reading {
            generation: sample.generation,
            vip: sample.vip.into(),
            backend: sample.backend.into(),
            counters: sample.counters,
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

    /// The clock was set.
    pub fn move_by(&mut self, by: SignedDuration) {
        for vip in self.vips.values_mut() {
            vip.move_by(by);
        }
    }

    /// What is known of a member that is in the tables, or was.
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

    /// All counters of a member since the controller first knew its name.
    #[must_use]
    pub fn counters(&self, vip: &str, backend: &str) -> Option<&MemberCounters> {
        let member = self.vips.get(vip)?.members.get(backend)?;
        Some(&member.counters)
    }

    /// What is known of a VIP that is in the tables, or was.
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

    /// What the members of a VIP got in the last `span` (up to [`LONGEST_WINDOW`]); none before the second
    /// reading, or when there is no such VIP.
    #[must_use]
    pub fn window(&self, vip: &str, span: Duration) -> Option<Window> {
        self.window_of_frames(vip, self.frames.back(span))
    }

    /// What they got between the last two readings.
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

    /// A copy of the totals of everything that is in the tables.
    #[must_use]
    pub fn copy(&self) -> TotalsCopy {
        let present = self.vips.iter().filter(|(_, vip)| vip.is_present());
        let vips = present.map(|(name, vip)| (Arc::clone(name), vip.copy()));
        TotalsCopy {
            vips: vips.collect(),
        }
    }
}

//! Bounded load: the bounds of members, and what the data path has counted.

use std::sync::atomic::Ordering;

use aya::maps::Map;
use lb_common::{
    bound::{Candidates, CpuLoads, MemberBound, MemberLoad, SynNote, VipLoad, is_over, second},
    ring::{MAX_MEMBERS, MemberIndex},
    track::Place,
    vip::MAX_VIPS,
};

use super::{Mapped, catalog::name, error::Result, maps::mapped_from};

/// Words of a CPU's block.
const BLOCK: usize = size_of::<CpuLoads>() / size_of::<u64>();

/// Flows that were spilled, on all CPUs together; both only increase.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Spills {
    /// Flows of the member's slots that went to another one.
    pub spilled: u64,
    /// Flows that came from others.
    pub received: u64,
}

/// Flows of a VIP that stayed with a full member; both only increase.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Overfull {
    /// All candidates were full.
    pub all_full: u64,
    /// The tracking table had no room.
    pub no_room: u64,
}

#[derive(Debug)]
pub struct Bounds {
    table: Mapped<MemberBound>,
    candidates: Mapped<Candidates>,
    capacities: Mapped<u64>,
    spilled: Mapped<u64>,
    /// A block per CPU.
    loads: Mapped<u64>,
    notes: Mapped<u64>,
}

impl Bounds {
    /// The maps of bounds; `open` gets each by its name.
    pub(super) fn of(mut open: impl FnMut(&'static str) -> Result<Map>) -> Result<Self> {
        Ok(Self {
            table: mapped_from(name::BOUNDS, &open(name::BOUNDS)?)?,
            candidates: mapped_from(name::CANDIDATES, &open(name::CANDIDATES)?)?,
            capacities: mapped_from(name::CAPACITY_CELLS, &open(name::CAPACITY_CELLS)?)?,
            spilled: mapped_from(name::SPILLED, &open(name::SPILLED)?)?,
            loads: mapped_from(name::LOADS, &open(name::LOADS)?)?,
            notes: mapped_from(name::SPILLED_SYNS, &open(name::SPILLED_SYNS)?)?,
        })
    }

    pub fn read(&self, member: MemberIndex) -> Result<MemberBound> {
        self.table.read(member.into())
    }

    /// Writes the bound of a member word by word.
    pub fn write(&self, member: MemberIndex, bound: &MemberBound) -> Result<()> {
        self.table.write(member.into(), bound)
    }

    /// The members of a VIP that spilled flows may go to.
    pub fn candidates(&self, vip: u16) -> Result<Candidates> {
        self.candidates.read(vip.into())
    }

    /// Writes the candidates of a VIP word by word.
    pub fn set_candidates(&self, vip: u16, candidates: &Candidates) -> Result<()> {
        self.candidates.write(vip.into(), candidates)
    }

    /// Forgets what was counted for the member that had this index before.
    pub fn reset_member(&self, member: MemberIndex) -> Result<()> {
        self.capacities.store_word(member.into(), 0, 0)?;
        self.spilled.store_word(member.into(), 0, 0)?;
        self.clear(
            usize::from(member) * size_of::<MemberLoad>(),
            size_of::<MemberLoad>(),
        );
        Ok(())
    }

    /// Forgets what was counted for the VIP that had this index before.
    pub fn reset_vip(&self, vip: u16) {
        let at = MAX_MEMBERS as usize * size_of::<MemberLoad>();
        self.clear(
            at + usize::from(vip) * size_of::<VipLoad>(),
            size_of::<VipLoad>(),
        );
    }

    /// Clears bytes of each CPU's block.
    fn clear(&self, at: usize, bytes: usize) {
        let words = at / size_of::<u64>()..(at + bytes) / size_of::<u64>();
        for block in self.loads.words().chunks_exact(BLOCK) {
            for word in &block[words.clone()] {
                word.store(0, Ordering::Relaxed);
            }
        }
    }

    /// What each CPU knows of the new flows of a member.
    pub fn member_loads(&self, member: MemberIndex) -> impl Iterator<Item = MemberLoad> + '_ {
        self.loads_at(usize::from(member) % MAX_MEMBERS as usize * size_of::<MemberLoad>())
    }

    /// What each CPU knows of the new flows of a VIP.
    pub fn vip_loads(&self, vip: u16) -> impl Iterator<Item = VipLoad> + '_ {
        let vips = MAX_MEMBERS as usize * size_of::<MemberLoad>();
        self.loads_at(vips + usize::from(vip) % MAX_VIPS as usize * size_of::<VipLoad>())
    }

    fn loads_at<T: bytemuck::Pod>(&self, at: usize) -> impl Iterator<Item = T> + '_ {
        let words = at / size_of::<u64>()..(at + size_of::<T>()) / size_of::<u64>();
        let blocks = self.loads.words().chunks_exact(BLOCK);
        blocks.map(move |block| {
            let words = block[words.clone()].iter();
            let words: Vec<u64> = words.map(|word| word.load(Ordering::Relaxed)).collect();
            bytemuck::pod_read_unaligned(bytemuck::cast_slice(&words))
        })
    }

    /// Spilled flows of a member.
    #[must_use]
    pub fn spills(&self, member: MemberIndex) -> Spills {
        let loads = self.member_loads(member);
        loads.fold(Spills::default(), |all, load| Spills {
            spilled: all.spilled.wrapping_add(load.spilled),
            received: all.received.wrapping_add(load.received),
        })
    }

    /// Flows of a VIP that stayed with a full member.
    #[must_use]
    pub fn overfull(&self, vip: u16) -> Overfull {
        let loads = self.vip_loads(vip);
        loads.fold(Overfull::default(), |all, load| Overfull {
            all_full: all.all_full.wrapping_add(load.all_full),
            no_room: all.no_room.wrapping_add(load.no_room),
        })
    }

    /// How far the capacity of a member is used up.
    pub fn capacity_cell(&self, member: MemberIndex) -> Result<lb_common::limit::Cell> {
        let word = self.capacities.load_word(member.into(), 0)?;
        Ok(lb_common::limit::Cell(word))
    }

    /// Whether packets of a member's slots are looked up, because it has spilled flows.
    pub fn has_spilled(&self, member: MemberIndex) -> Result<bool> {
        Ok(self.spilled.load_word(member.into(), 0)? != 0)
    }

    /// The members that have spilled flows, with the second in which these were last seen.
    pub fn spillers(&self) -> impl Iterator<Item = (MemberIndex, u64)> + '_ {
        let stamps = (0..).zip(self.spilled.words());
        let stamps = stamps.map(|(member, stamp)| (member, stamp.load(Ordering::Acquire)));
        stamps.filter(|(_, seen_s)| *seen_s != 0)
    }

    /// Notes that a member has spilled flows on another node, last seen at this second.
    pub fn note_spilled(&self, member: MemberIndex, seen_s: u64) {
        if let Some(stamp) = self.spilled.words().get(usize::from(member)) {
            stamp.fetch_max(seen_s, Ordering::AcqRel);
        }
    }

    /// The noted SYN of a flow with an unproven cell.
    #[must_use]
    pub fn note(&self, place: Place) -> Option<SynNote> {
        let note = SynNote(self.notes.load_word(SynNote::index(place), 0).ok()?);
        note.is_of(place).then_some(note)
    }

    /// Whether the SYN of a flow can be noted: no other flow has the place.
    #[must_use]
    pub fn can_note(&self, place: Place, now_ns: u64) -> bool {
        let word = self.notes.load_word(SynNote::index(place), 0).unwrap_or(0);
        SynNote(word).is_of(place) || SynNote(word).is_over(second(now_ns))
    }

    /// Lets members forget their spilled flows when all have been idle for `idle_s`, and so have lost
    /// their cells; returns how many did.
    pub fn forget_spilled(&self, now_s: u64, idle_s: u64) -> usize {
        let stamps = self.spilled.words().iter();
        let forgotten = stamps.filter(|word| {
            let stamp_s = word.load(Ordering::Acquire);
            // If it was stamped meanwhile, it stays.
            stamp_s != 0
                && is_over(stamp_s, now_s, idle_s)
                && word
                    .compare_exchange(stamp_s, 0, Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok()
        });
        forgotten.count()
    }
}

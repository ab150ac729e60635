//! Selects the member of a packet: by the ring, and in slots that changed, by the tracking table.

use core::hint::black_box;

use lb_common::{
    counters::MemberCounters,
    hash::slot_of,
    reason::Reason,
    ring::{ENTRIES_PER_WORD, IMAGE_WORDS, LOOK_UP, MemberIndex, NO_MEMBER, SECTION_WORDS, entry},
    trace::decision,
    vip::{Vip, affinity, track},
};

use crate::{
    headers::{Headers, tcp},
    limits::NEW_FLOWS,
    maps::RINGS,
    route::no_member,
    spilled::has_spilled,
    trace, tracking,
};

/// The selected member.
#[derive(Clone, Copy)]
pub(crate) struct Choice {
    pub(crate) packet: Counted,
    /// Hash of the whole flow.
    pub(crate) flow_hash: u64,
}

impl Choice {
    #[inline(always)]
    pub(crate) const fn member(self) -> MemberIndex {
        self.packet.member()
    }
}

/// A packet as it is counted: its member in bits 16–31, its TCP flags in bits 0–7, and marks. One word,
/// of which most packets have nothing to look at ([`Self::is_plain`]).
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Counted(u32);

impl Counted {
    /// Part of a new flow that no flag reveals.
    pub(crate) const NEW_FLOW: u32 = 1 << 8;
    /// Of a flow that is kept although the ring maps it to another member.
    pub(crate) const KEPT: u32 = 1 << 9;
    /// Of a sampled flow.
    pub(crate) const SAMPLED: u32 = 1 << 10;
    /// The first fragment of a datagram.
    pub(crate) const FIRST_FRAGMENT: u32 = 1 << 11;

    #[inline(always)]
    pub(crate) const fn new(member: MemberIndex, tcp_flags: u8) -> Self {
        Self((member as u32) << 16 | tcp_flags as u32)
    }

    /// Sets a mark if `is_so`.
    #[inline(always)]
    pub(crate) const fn mark(self, mark: u32, is_so: bool) -> Self {
        Self(if is_so { self.0 | mark } else { self.0 })
    }

    #[inline(always)]
    pub(crate) const fn has(self, marks: u32) -> bool {
        self.0 & marks != 0
    }

    #[inline(always)]
    pub(crate) const fn member(self) -> MemberIndex {
        (self.0 >> 16) as MemberIndex
    }

    /// Whether it has no mark and neither opens nor resets a connection.
    #[inline(always)]
    pub(crate) const fn is_plain(self) -> bool {
        const MARKS: u32 =
            Counted::NEW_FLOW | Counted::KEPT | Counted::SAMPLED | Counted::FIRST_FRAGMENT;
        self.0 & (MARKS | (tcp::SYN | tcp::RST) as u32) == 0
    }

    /// Counts a packet that is not plain as new flow, reset or kept.
    #[inline(always)]
    pub(crate) fn count(self, counters: &mut MemberCounters) {
        let tcp_flags = self.0 as u8;
        if self.has(Self::NEW_FLOW) || tcp::opens(tcp_flags) {
            counters.new_flows += 1;
        }
        if tcp_flags & tcp::RST != 0 {
            counters.resets += 1;
        }
        if self.has(Self::KEPT) {
            counters.kept += 1;
        }
    }
}

/// A slot, read from a ring image.
#[derive(Clone, Copy)]
pub(crate) struct SlotView {
    pub(crate) image: u32,
    pub(crate) slot: u32,
    entry: u32,
}

/// The member of a slot.
#[inline(always)]
pub(crate) fn member_of(image: u32, slot: u32) -> Option<MemberIndex> {
    let entry = first_entry(image, slot)?;
    Some((entry & !LOOK_UP_BIT) as MemberIndex)
}

/// A word, because half words cost shifts.
const LOOK_UP_BIT: u32 = LOOK_UP as u32;
/// From the modes in [`track`] to bits of an entry.
const TRACK_SHIFT: u32 = LOOK_UP_BIT.trailing_zeros();

impl SlotView {
    /// The slot's member.
    #[inline(always)]
    pub(crate) fn current(self) -> MemberIndex {
        (self.entry & !LOOK_UP_BIT) as MemberIndex
    }

    /// Whether its flows may have been in another member's slot.
    #[inline(always)]
    pub(crate) const fn has_changed(self) -> bool {
        self.entry & LOOK_UP_BIT != 0
    }

    /// Whether the tracking table must be looked up with this mode of a VIP ([`track`]): one test of
    /// the bit of the slot, or of one that is always set, or of none.
    #[inline(always)]
    const fn must_look_up(self, mode: u8) -> bool {
        const { assert!((track::ON_CHANGE as u32) << TRACK_SHIFT == LOOK_UP_BIT) };
        const ALWAYS_BIT: u32 = (track::ALWAYS as u32) << TRACK_SHIFT;
        const { assert!(track::NEVER == 0 && ALWAYS_BIT & (LOOK_UP_BIT * 2 - 1) == 0) };
        (self.entry | ALWAYS_BIT) & (mode as u32) << TRACK_SHIFT != 0
    }

    /// The slot's member in its last clean state. Only for slots with [`LOOK_UP`].
    #[inline(always)]
    pub(crate) fn previous(self) -> MemberIndex {
        // Compared and not masked: a mask large enough would exceed the image.
        let at = black_box(SECTION_WORDS + self.slot / ENTRIES_PER_WORD) as usize;
        match words(self.image) {
            Some(words) if at < IMAGE_WORDS as usize => {
                // SAFETY: in bounds; otherwise as in `first_entry`.
                let word = unsafe { words.add(at).read_volatile() };
                entry(word, self.slot)
            }
            _ => NO_MEMBER,
        }
    }
}

/// Reads the entry of a slot in the first section.
///
/// Four entries share a word, the first in its lowest bits: on a little-endian machine they are an
/// array, and need not be shifted.
#[inline(always)]
fn first_entry(image: u32, slot: u32) -> Option<u32> {
    const MASK: u32 = (SECTION_WORDS * ENTRIES_PER_WORD).next_power_of_two() - 1;
    const { assert!(MASK < IMAGE_WORDS * ENTRIES_PER_WORD) };
    const { assert!(cfg!(target_endian = "little")) };
    let entries = words(image)?.cast::<u16>();
    // SAFETY: in bounds of a mapped array; the controller writes an image only while it is unused.
    let entry = unsafe { entries.add((slot & MASK) as usize).read_volatile() };
    Some(entry.into())
}

/// Returns the words of an image.
#[inline(always)]
fn words(image: u32) -> Option<*const u64> {
    // A variable: `&0` would be a constant in the object, and the linker merges constants of value
    // 0, including read-only globals that the controller sets to other values.
    let only = 0;
    RINGS
        .get_value_ptr_mut(image, &only)
        .map(|words| words.cast::<u64>().cast_const())
}

/// The image of a VIP's ring, and the number of slots.
#[inline(always)]
pub(crate) fn ring_of(vip: &Vip) -> (u32, u32) {
    // SAFETY: a word of a mapped array, stored atomically by the controller; read once, so that
    // image and size match.
    let ring = unsafe { (&raw const vip.ring).read_volatile() };
    (ring as u32, (ring >> 32) as u32)
}

/// The hash that selects the slot of a packet.
#[inline(always)]
pub(crate) fn slot_hash(vip: &Vip, headers: &Headers, flow_hash: u64) -> u64 {
    if vip.affinity == affinity::SOURCE {
        headers.source_hash(vip)
    } else {
        flow_hash
    }
}

/// Reads the slot of `hash`.
#[inline(always)]
pub(crate) fn slot(vip: &Vip, vip_index: u16, hash: u64) -> Result<SlotView, Reason> {
    let (image, size) = ring_of(vip);
    let slot = slot_of(hash, size);
    if size == 0 {
        core::hint::cold_path();
        return Err(no_member(vip_index));
    }
    let entry = first_entry(image, slot).ok_or(Reason::Internal)?;
    Ok(SlotView { image, slot, entry })
}

/// What is known of a packet before its member is selected.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    /// The limits that it has to be held against if it begins a flow ([`limited`](lb_common::vip::limited)).
    pub(crate) limits: u8,
    /// Its member if that is decided, otherwise [`NO_MEMBER`].
    pub(crate) decided: MemberIndex,
}

impl Asked {
    /// All limits are to be asked.
    pub(crate) const ALL: Self = Self {
        limits: NEW_FLOWS,
        decided: NO_MEMBER,
    };
    /// No limit is to be asked.
    pub(crate) const NONE: Self = Self {
        limits: 0,
        decided: NO_MEMBER,
    };
}

/// Selects the member for a packet of a VIP. With `record` false (ICMP errors) the tracking table is not
/// modified. If the packet has to be held against limits first, the result is [`tracking::ASK_LIMITS`]; if
/// it has to prove that it belongs to a spilled flow, [`tracking::ASK_PROOF`].
#[inline(always)]
pub(crate) fn choose(
    vip: &Vip,
    vip_index: u16,
    headers: &Headers,
    record: bool,
    asked: Asked,
) -> Result<Choice, Reason> {
    let flow_hash = headers.flow_hash(vip);
    let slot_hash = slot_hash(vip, headers, flow_hash);
    let slot = slot(vip, vip_index, slot_hash)?;
    trace::slot(vip_index, slot_hash, flow_hash, slot.slot, slot.current());
    // SAFETY: a field of a valid VIP. Read on its own, so that it is not kept for those that go on.
    let mode = unsafe { (&raw const vip.track).read_volatile() };
    if !slot.must_look_up(mode) {
        return Ok(Choice {
            packet: Counted::new(slot.current(), headers.tcp_flags),
            flow_hash,
        });
    }
    if asked.decided != NO_MEMBER {
        let is_new = headers.opens() || !headers.is_tcp();
        let how = if is_new && asked.decided != slot.current() {
            decision::SPILLED
        } else {
            decision::TRACKED
        };
        trace::member(asked.decided, how);
        let packet = Counted::new(asked.decided, headers.tcp_flags)
            .mark(Counted::NEW_FLOW, !headers.is_tcp())
            .mark(Counted::KEPT, asked.decided != slot.current());
        return Ok(Choice { packet, flow_hash });
    }
    let is_settled = mode == track::ON_SPILL && !slot.has_changed();
    if is_settled && !has_spilled(slot.current()) {
        return Ok(Choice {
            packet: Counted::new(slot.current(), headers.tcp_flags),
            flow_hash,
        });
    }
    let query = tracking::Query {
        flow_hash,
        vip: vip_index,
        current: slot.current(),
        previous: if slot.has_changed() {
            slot.previous()
        } else {
            slot.current()
        },
        always: mode == track::ALWAYS,
        protocol: headers.protocol,
        tcp_flags: headers.tcp_flags,
        record,
        is_limited: vip.is_limited(asked.limits),
    };
    let selection = match tracking::find_confirmed(&query) {
        Some(member) => tracking::Selection::new(member, false),
        None => tracking::look_up(&query)?,
    };
    let packet = Counted::new(selection.member(), headers.tcp_flags)
        .mark(Counted::NEW_FLOW, selection.new_flow())
        .mark(Counted::KEPT, selection.member() != slot.current());
    Ok(Choice { packet, flow_hash })
}

//! Selects the member of a packet: by the ring, and in slots that changed, by the tracking table.

use core::hint::black_box;

use lb_common::{
    counters::MemberCounters,
    hash::slot_of,
    reason::Reason,
    ring::{ENTRIES_PER_WORD, IMAGE_WORDS, LOOK_UP, MemberIndex, NO_MEMBER, SECTION_WORDS, entry},
    vip::{Vip, affinity, track},
};

use crate::{
    headers::{Headers, tcp},
    maps::{RINGS, Tables},
    route::no_member,
    trace, tracking,
};

/// The selected member.
#[derive(Clone, Copy)]
pub(crate) struct Choice {
    pub(crate) member: MemberIndex,
    /// What the packet is counted as.
    pub(crate) marks: Marks,
    /// Hash of the whole flow.
    pub(crate) flow_hash: u64,
}

/// How a packet is counted besides its TCP flags: as part of a new flow that no flag reveals, or of
/// a flow that is kept although the ring maps it to another member. Most packets have no marks.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Marks(u32);

impl Marks {
    const NEW_FLOW: u32 = 1 << 8;
    const KEPT: u32 = 1 << 9;

    #[inline(always)]
    pub(crate) const fn none() -> Self {
        Self(0)
    }

    #[inline(always)]
    pub(crate) const fn of(new_flow: bool, kept: bool) -> Self {
        Self(((new_flow as u32) * Self::NEW_FLOW) | ((kept as u32) * Self::KEPT))
    }

    /// Counts the packet as new flow, reset or kept.
    #[inline(always)]
    pub(crate) fn count(self, tcp_flags: u8, counters: &mut MemberCounters) {
        if self.0 | u32::from(tcp_flags & (tcp::SYN | tcp::RST)) == 0 {
            return;
        }
        if self.0 & Self::NEW_FLOW != 0 || tcp::opens(tcp_flags) {
            counters.new_flows += 1;
        }
        if tcp_flags & tcp::RST != 0 {
            counters.resets += 1;
        }
        if self.0 & Self::KEPT != 0 {
            counters.kept += 1;
        }
    }
}

/// A slot, read from a ring image.
#[derive(Clone, Copy)]
pub(crate) struct SlotView {
    pub(crate) image: u32,
    pub(crate) slot: u32,
    pub(crate) entry: u16,
}

impl SlotView {
    /// The slot's member.
    #[inline(always)]
    pub(crate) fn current(self) -> MemberIndex {
        self.entry & !LOOK_UP
    }

    /// The slot's member in its last clean state. Only for slots with [`LOOK_UP`].
    #[inline(always)]
    pub(crate) fn previous(self) -> MemberIndex {
        // Compared and not masked: a mask large enough would exceed the image.
        let at = black_box(SECTION_WORDS + self.slot / ENTRIES_PER_WORD) as usize;
        match words(self.image) {
            Some(words) if at < IMAGE_WORDS as usize => {
                // SAFETY: in bounds; otherwise as in `first_word`.
                let word = unsafe { words.add(at).read_volatile() };
                entry(word, self.slot)
            }
            _ => NO_MEMBER,
        }
    }
}

/// Reads the word of the first section that holds the entry of a slot.
#[inline(always)]
fn first_word(image: u32, slot: u32) -> Option<u64> {
    const MASK: u32 = SECTION_WORDS.next_power_of_two() - 1;
    const { assert!(MASK < IMAGE_WORDS) };
    let at = (slot / ENTRIES_PER_WORD) & MASK;
    // SAFETY: in bounds of a mapped array; the controller writes an image only while it is unused.
    Some(unsafe { words(image)?.add(at as usize).read_volatile() })
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

/// Reads the slot of `hash`.
#[inline(always)]
pub(crate) fn slot(vip: &Vip, vip_index: u16, hash: u64) -> Result<SlotView, Reason> {
    // SAFETY: a word of a mapped array, stored atomically by the controller; read once, so that
    // image and size match.
    let ring = unsafe { (&raw const vip.ring).read_volatile() };
    let (image, size) = (ring as u32, (ring >> 32) as u32);
    let slot = slot_of(hash, size);
    if size == 0 {
        return Err(no_member(vip_index));
    }
    let word = first_word(image, slot).ok_or(Reason::Internal)?;
    Ok(SlotView {
        image,
        slot,
        entry: entry(word, slot),
    })
}

/// Selects the member for a packet of a VIP. With `record` false (ICMP errors) the tracking table
/// is not modified.
#[inline(always)]
pub(crate) fn choose(
    tables: Tables,
    vip: &Vip,
    vip_index: u16,
    headers: &Headers,
    record: bool,
) -> Result<Choice, Reason> {
    let flow_hash = headers.flow_hash(vip);
    let slot_hash = if vip.affinity == affinity::SOURCE {
        headers.source_hash(vip)
    } else {
        flow_hash
    };
    let slot = slot(vip, vip_index, slot_hash)?;
    trace::slot(vip_index, slot_hash, flow_hash, slot.slot, slot.current());
    if slot.entry & LOOK_UP == 0 && vip.track != track::ALWAYS || vip.track == track::NEVER {
        return Ok(Choice {
            member: slot.current(),
            marks: Marks::none(),
            flow_hash,
        });
    }
    let query = tracking::Query {
        flow_hash,
        vip: vip_index,
        current: slot.current(),
        previous: if slot.entry & LOOK_UP == 0 {
            slot.current()
        } else {
            slot.previous()
        },
        always: vip.track == track::ALWAYS,
        protocol: headers.protocol,
        tcp_flags: headers.tcp_flags,
        record,
    };
    let selection = match tracking::find_confirmed(tables, &query) {
        Some(member) => tracking::Selection::new(member, false),
        None => tracking::look_up(&query),
    };
    Ok(Choice {
        member: selection.member(),
        marks: Marks::of(selection.new_flow(), selection.member() != slot.current()),
        flow_hash,
    })
}

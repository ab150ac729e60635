//! Which member gets the packet: the ring, and for slots that changed, the tracking table.

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

/// A member, and how it was found.
#[derive(Clone, Copy)]
pub(crate) struct Choice {
    /// The member.
    pub(crate) member: MemberIndex,
    /// What the packet counts as besides.
    pub(crate) marks: Marks,
    /// Hash of the whole flow.
    pub(crate) flow_hash: u64,
}

/// What a packet to a member counts as, besides what its TCP flags say: a flow that is new without saying so,
/// a flow that stays where it is although the ring says otherwise. Few packets are anything of that.
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

    /// Counts the packet for what it is besides a packet.
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

/// What a slot says, read from the ring's image.
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

    /// The slot's member in its last clean state; only of slots with [`LOOK_UP`].
    #[inline(always)]
    pub(crate) fn previous(self) -> MemberIndex {
        // Compared and not masked: a mask that is large enough would reach beyond the image.
        let at = black_box(SECTION_WORDS + self.slot / ENTRIES_PER_WORD) as usize;
        match words(self.image) {
            Some(words) if at < IMAGE_WORDS as usize => {
                // SAFETY: inside the image; as for `first_word`.
                let word = unsafe { words.add(at).read_volatile() };
                entry(word, self.slot)
            }
            _ => NO_MEMBER,
        }
    }
}

/// The word of the first section that has the entry of a slot.
#[inline(always)]
fn first_word(image: u32, slot: u32) -> Option<u64> {
    const MASK: u32 = SECTION_WORDS.next_power_of_two() - 1;
    const { assert!(MASK < IMAGE_WORDS) };
    let at = (slot / ENTRIES_PER_WORD) & MASK;
    // SAFETY: inside the image, a mapped array; the controller writes images only while none is in use.
    Some(unsafe { words(image)?.add(at as usize).read_volatile() })
}

/// The words of an image.
#[inline(always)]
fn words(image: u32) -> Option<*const u64> {
    // A variable: `&0` is a constant in the object, and the linker takes any that is 0 for it, a setting
    // too, which is another number once the controller has set it.
    let only = 0;
    RINGS
        .get_value_ptr_mut(image, &only)
        .map(|words| words.cast::<u64>().cast_const())
}

/// Reads the slot that `hash` falls into.
#[inline(always)]
pub(crate) fn slot(vip: &Vip, vip_index: u16, hash: u64) -> Result<SlotView, Reason> {
    // SAFETY: a word of a mapped array that the controller replaces in one step; read once, so that
    // image and size belong together.
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

/// Chooses the member for a packet of a VIP. `record` is false for packets that only ask (ICMP
/// errors): they leave no trace in the tracking table.
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

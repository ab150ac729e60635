//! The ring of a VIP as the data path reads it.
//!
//! A ring is stored as an **image**: an array of 64-bit words with four 16-bit entries each. The
//! first section has one entry per slot: the member that owns it and, in the top bit, whether the
//! tracking table must be looked up first ([`LOOK_UP`]). The second section holds the slot's
//! previous member and is read only for slots with that bit, so a clean slot costs one load.
//!
//! | state of a slot | first section | second section |
//! | --- | --- | --- |
//! | clean | member | – |
//! | in transition | member, `LOOK_UP` | member of the last clean state |
//! | settling: flows of the transition are still tracked | member, `LOOK_UP` | the same member |

/// Index of a member in the node's member table; 15 bits.
pub type MemberIndex = u16;

/// No member: the ring is empty, or the slot has no previous member.
pub const NO_MEMBER: MemberIndex = 0x7fff;

/// Maximum number of members of a node. Index 0 is a valid member.
pub const MAX_MEMBERS: u32 = 4096;

/// Flag of a first-section entry: look the flow up in the tracking table.
pub const LOOK_UP: u16 = 0x8000;

/// Slots of the largest ring.
pub const MAX_RING_SIZE: u32 = 65_537;

/// Entries per word.
pub const ENTRIES_PER_WORD: u32 = 4;

/// Words per section.
pub const SECTION_WORDS: u32 = MAX_RING_SIZE.div_ceil(ENTRIES_PER_WORD);

/// Words of an image: two sections.
pub const IMAGE_WORDS: u32 = 2 * SECTION_WORDS;

/// All words of an image.
pub type Image = [u64; IMAGE_WORDS as usize];

/// Ring images of a node: one per VIP, and spare ones in which the next rings are built.
pub const MAX_IMAGES: u32 = 1024 + 64;

/// Extracts the entry of a slot from its word.
#[inline(always)]
#[must_use]
pub const fn entry(word: u64, slot: u32) -> u16 {
    (word >> (slot % ENTRIES_PER_WORD * 16)) as u16
}

/// Returns `word` with the entry of `slot` replaced.
#[must_use]
pub const fn with_entry(word: u64, slot: u32, entry: u16) -> u64 {
    let shift = slot % ENTRIES_PER_WORD * 16;
    word & !(0xffff << shift) | (entry as u64) << shift
}

/// A slot, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Member that owns the slot; [`NO_MEMBER`] in an empty ring.
    pub current: MemberIndex,
    /// Unless the slot is clean: its member in the last clean state ([`NO_MEMBER`] if none).
    pub previous: Option<MemberIndex>,
}

impl Slot {
    /// A clean slot.
    #[must_use]
    pub const fn clean(current: MemberIndex) -> Self {
        Self {
            current,
            previous: None,
        }
    }

    /// Returns the entries of both sections.
    #[must_use]
    pub const fn encode(self) -> (u16, u16) {
        match self.previous {
            None => (self.current, 0),
            Some(previous) => (self.current | LOOK_UP, previous),
        }
    }

    /// Decodes the entries of both sections.
    #[must_use]
    pub const fn decode(first: u16, second: u16) -> Self {
        Self {
            current: first & !LOOK_UP,
            previous: if first & LOOK_UP == 0 {
                None
            } else {
                Some(second)
            },
        }
    }
}

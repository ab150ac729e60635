//! The ring of a VIP as the data path reads it.
//!
//! A ring is one **image**: an array of 64-bit words with four 16-bit entries each. The first
//! section has an entry for each slot: the member that has it and, in the top bit, whether the
//! tracking table must be asked first ([`LOOK_UP`]). The second section has the slot's previous
//! member and is read only for slots with that bit: a clean slot costs one load.
//!
//! | state of a slot | first section | second section |
//! | --- | --- | --- |
//! | clean | member | – |
//! | in transition | member, `LOOK_UP` | member of the last clean state |
//! | settling: only entries of the past matter | member, `LOOK_UP` | the same member |

/// Index of a member in the member table of the node; 15 bits.
pub type MemberIndex = u16;

/// No member: an empty ring, or a slot without a previous member.
pub const NO_MEMBER: MemberIndex = 0x7fff;

/// Members that a node can have. Index 0 is a member like any other; [`NO_MEMBER`] is not.
pub const MAX_MEMBERS: u32 = 4096;

/// Flag of an entry of the first section: look the flow up in the tracking table.
pub const LOOK_UP: u16 = 0x8000;

/// The largest ring.
pub const MAX_RING_SIZE: u32 = 65_537;

/// Entries in one word.
pub const ENTRIES_PER_WORD: u32 = 4;

/// Words of one section.
pub const SECTION_WORDS: u32 = MAX_RING_SIZE.div_ceil(ENTRIES_PER_WORD);

/// Words of an image: two sections.
pub const IMAGE_WORDS: u32 = 2 * SECTION_WORDS;

/// All words of an image.
pub type Image = [u64; IMAGE_WORDS as usize];

/// Images that a node can hold: one for each VIP, and some to prepare the next ones in.
pub const MAX_IMAGES: u32 = 1024 + 64;

/// An entry of an image, read out of its word.
#[inline(always)]
#[must_use]
pub const fn entry(word: u64, slot: u32) -> u16 {
    (word >> (slot % ENTRIES_PER_WORD * 16)) as u16
}

/// `word` with the entry of `slot` set.
#[must_use]
pub const fn with_entry(word: u64, slot: u32, entry: u16) -> u64 {
    let shift = slot % ENTRIES_PER_WORD * 16;
    word & !(0xffff << shift) | (entry as u64) << shift
}

/// What one slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The member that has the slot; [`NO_MEMBER`] in an empty ring.
    pub current: MemberIndex,
    /// For a slot that is not clean, the member of its last clean state ([`NO_MEMBER`] if none).
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

    /// The entries of both sections.
    #[must_use]
    pub const fn encode(self) -> (u16, u16) {
        match self.previous {
            None => (self.current, 0),
            Some(previous) => (self.current | LOOK_UP, previous),
        }
    }

    /// The slot that two entries mean.
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

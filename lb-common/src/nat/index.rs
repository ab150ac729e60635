//! The index of embryonic sessions.

use super::MEMBER_BITS;
use crate::track;

/// Index of the embryonic sessions by flow: the flow's tag in bits 44–63, the member in bits 32–43, the
/// port of the node (packet order) in bits 16–31, when the session was created (units of four
/// jiffies) in bits 0–15. 0: free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexWord(pub u64);

impl IndexWord {
    /// Builds a word; the flow's tag is that of [`track::Place`].
    #[inline(always)]
    #[must_use]
    pub const fn new(tag: u32, member: u16, nat_port_be: u16, jiffies: u32) -> Self {
        let tag = (tag >> 12) as u64;
        let time = (jiffies >> 2) as u16 as u64;
        Self(tag << 44 | (member as u64) << 32 | (nat_port_be as u64) << 16 | time)
    }

    /// Whether the word is that of a flow with this tag.
    #[inline(always)]
    #[must_use]
    pub const fn is_of(self, tag: u32) -> bool {
        self.0 != 0 && (self.0 >> 44) as u32 == tag >> 12
    }

    /// Index of the member.
    #[inline(always)]
    #[must_use]
    pub const fn member(self) -> u16 {
        (self.0 >> 32) as u16 & ((1 << MEMBER_BITS) - 1)
    }

    /// Port of the node (packet order).
    #[inline(always)]
    #[must_use]
    pub const fn nat_port_be(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Eviction rank: the highest is replaced first.
    #[inline(always)]
    #[must_use]
    pub const fn rank(self, jiffies: u32) -> u32 {
        if self.0 == 0 {
            u32::MAX
        } else {
            // As in `idle_s`: a word that is slightly ahead comes from another CPU.
            track::idle_s(self.0 as u16, (jiffies >> 2) as u16) as u32
        }
    }
}

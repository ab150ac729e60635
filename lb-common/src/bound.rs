//! Bounded load: no member gets more than a factor times its share of a VIP's new flows, or more of them
//! than its capacity.
//!
//! Each CPU holds the members to the bound by its own counts: if each of them keeps `xᵢ ≤ c·X·sᵢ`, so do
//! the sums over all CPUs, and over all nodes. Nothing is shared, and nothing is exchanged. The counts are
//! halved each second, so they cover about the last two.
//!
//! A flow that its member has no room for is **spilled**: it goes to another [candidate](Candidates), and
//! gets a cell in the tracking table. Packets of a member's slots are looked up there only while the member
//! has spilled flows, so those of others cost nothing.
//!
//! A member at its capacity can't serve more, whatever the shares are. If no candidate has room within its
//! factor, its flows go to one that has only its capacity left ([`room`]): otherwise a wrong share would
//! keep all of them at the member that it overruns.
//!
//! The cell of a TCP flow is **unproven** until a segment continues the sequence of its SYN
//! ([`SynNote`]): a forged SYN must not move a connection that it names.

use crate::{
    limit::Rate,
    map_type,
    ring::{ENTRIES_PER_WORD, MAX_MEMBERS, MemberIndex, NO_MEMBER, entry, with_entry},
    track::{Place, REPLACE_UNCONFIRMED_S},
    vip::MAX_VIPS,
};

/// Whether a member can take another flow.
pub mod room {
    /// It can.
    pub const FREE: u32 = 0;
    /// It has more than its factor allows.
    pub const OVER_FACTOR: u32 = 1;
    /// It has as many as its capacity allows.
    pub const OVER_CAPACITY: u32 = 2;
}

/// The first candidates of a flow besides the member of its slot: the members of the slots at multiples of
/// [`jump`] from there, so that members get spilled flows by their weights.
pub const BY_SLOT: u32 = 8;

/// The next ones, from [`Candidates`]: most slots may have one member, which is full.
pub const BY_MEMBER: u32 = 32;

/// Words of [`Candidates`].
pub const CANDIDATE_WORDS: usize = 32;

map_type! {
    /// The members of a VIP that get new flows, whatever their weights. Stored as entries of 16 bits, four
    /// to a word: the first is the number of places, a prime, so that any step reaches all of them; the
    /// others are the places, each with a member or [`NO_MEMBER`]. Written word by word.
    pub struct Candidates [256] {
        /// The entries.
        pub words: [u64; CANDIDATE_WORDS],
    }
}

impl Candidates {
    /// None.
    pub const NONE: Self = Self {
        words: [0; CANDIDATE_WORDS],
    };

    /// Places of the largest table, a prime: of more members, those from the first ones on.
    pub const MAX_PLACES: u32 = CANDIDATE_WORDS as u32 * ENTRIES_PER_WORD - 1;

    /// The table of these members.
    #[must_use]
    pub fn of(members: &[MemberIndex]) -> Self {
        let places = (members.len() as u32..Self::MAX_PLACES).find(|number| is_prime(*number));
        let places = places.unwrap_or(Self::MAX_PLACES);
        let mut table = Self::NONE;
        table.set(0, places as u16);
        for place in 0..places {
            let member = members.get(place as usize).copied();
            table.set(1 + place, member.unwrap_or(NO_MEMBER));
        }
        table
    }

    const fn set(&mut self, at: u32, value: u16) {
        let word = &mut self.words[(at / ENTRIES_PER_WORD) as usize];
        *word = with_entry(*word, at, value);
    }

    /// The number of places.
    #[must_use]
    pub const fn places(&self) -> u32 {
        entry(self.words[0], 0) as u32
    }

    /// The member of a place; [`NO_MEMBER`] if none.
    #[must_use]
    pub const fn member(&self, place: u32) -> MemberIndex {
        let at = 1 + place;
        entry(self.words[(at / ENTRIES_PER_WORD) as usize], at)
    }
}

const fn is_prime(number: u32) -> bool {
    let mut divisor = 2;
    while divisor * divisor <= number {
        if number.is_multiple_of(divisor) {
            return false;
        }
        divisor += 1;
    }
    number >= 2
}

/// Where a flow starts in a table of that many places, at least two, and the step to its next place.
#[inline(always)]
#[must_use]
pub const fn places_of(jump: u32, places: u32) -> (u32, u32) {
    (jump % places, 1 + jump / places % (places - 1))
}

/// A share of one, as a number.
pub const WHOLE_SHARE: u64 = 1 << SHARE_BITS;
const SHARE_BITS: u32 = 31;

/// One flow, as counted: halving a count must not lose single flows.
pub const ONE_FLOW: u64 = 1 << 8;
/// Counts stay below, so that their products fit into 64 bits: eight million flows on a CPU.
const MAX_COUNT: u64 = 1 << 31;

/// The tolerance before a member spills, in standard deviations: even traffic stays below.
const DEVIATIONS: u64 = 3;

/// Seconds of the counts are nanoseconds shifted right by this.
const SECOND_SHIFT: u32 = 30;

map_type! {
    /// What bounds a member. The controller writes it word by word.
    pub struct MemberBound [32] {
        /// The most that it may get of the VIP's new flows, its factor times its share, at most
        /// [`WHOLE_SHARE`]; 0: not bounded.
        pub most: u64,
        /// Its share; 0: it is to get no new flows, or its VIP has no bound.
        pub share: u64,
        /// The new flows that it can take. [`Rate::NONE`]: not bounded.
        pub capacity: Rate,
    }
}

impl MemberBound {
    /// No bound.
    pub const NONE: Self = Self {
        most: 0,
        share: 0,
        capacity: Rate::NONE,
    };

    /// Whether a member with this count has more than its bound allows of `all` new flows of its VIP, so
    /// that the next one must go elsewhere. Both counts are of one CPU; `all` has the flow already.
    ///
    /// While it spills, there is no tolerance: it is for noise.
    #[inline(always)]
    #[must_use]
    pub const fn is_exceeded(&self, count: u64, all: u64, spills: bool) -> bool {
        if self.most == 0 {
            return false;
        }
        let allowed = (all * self.most) >> SHARE_BITS;
        if count <= allowed {
            return false;
        }
        if spills {
            return true;
        }
        // The variance of a count is what is expected of it; one more keeps the first few flows.
        let variance = ((all * self.share) >> SHARE_BITS) + ONE_FLOW;
        let excess = count - allowed;
        excess * excess > DEVIATIONS * DEVIATIONS * variance * ONE_FLOW
    }
}

/// The second of a count.
#[inline(always)]
#[must_use]
pub const fn second(now_ns: u64) -> u32 {
    (now_ns >> SECOND_SHIFT) as u32
}

map_type! {
    /// A count that is halved each second.
    pub struct Recent [16] {
        /// In units of 1/[`ONE_FLOW`], as it was in that second.
        pub count: u64,
        /// When it was last changed ([`second`]).
        pub second: u32,
        /// Of a member: when it last spilled a flow, plus one; 0: never.
        pub spilled: u32,
    }
}

impl Recent {
    /// The count now.
    #[inline(always)]
    #[must_use]
    pub const fn now(&self, second: u32) -> u64 {
        // A clock that was set back is a moment ago.
        let age = second.wrapping_sub(self.second);
        if age > i32::MAX as u32 {
            self.count
        } else if age >= u64::BITS {
            0
        } else {
            self.count >> age
        }
    }

    /// Adds a flow.
    #[inline(always)]
    pub const fn add(&mut self, second: u32) {
        let count = self.now(second) + ONE_FLOW;
        self.count = if count < MAX_COUNT { count } else { MAX_COUNT };
        self.second = second;
    }

    /// Whether it spilled in this or the last second.
    #[inline(always)]
    #[must_use]
    pub const fn spills(&self, second: u32) -> bool {
        self.spilled != 0 && second.wrapping_sub(self.spilled - 1) <= 1
    }
}

map_type! {
    /// What a CPU knows of the new flows of a member.
    pub struct MemberLoad [32] {
        /// Its new flows.
        pub recent: Recent,
        /// Flows of its slots that were spilled; only increases.
        pub spilled: u64,
        /// Flows that were spilled to it; only increases.
        pub received: u64,
    }
}

map_type! {
    /// What a CPU knows of the new flows of a VIP.
    pub struct VipLoad [32] {
        /// Its new flows.
        pub recent: Recent,
        /// Flows that stayed with a full member because all candidates were full; only increases.
        pub all_full: u64,
        /// Flows that stayed with a full member because the tracking table had no room; only increases.
        pub no_room: u64,
    }
}

/// What a CPU knows of new flows.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct CpuLoads {
    /// By member index.
    pub members: [MemberLoad; MAX_MEMBERS as usize],
    /// By VIP index.
    pub vips: [VipLoad; MAX_VIPS as usize],
}

/// Slots from one candidate of a flow to the next. Their number is prime, so all can be reached.
#[inline(always)]
#[must_use]
pub const fn jump(flow_hash: u64, ring_size: u32) -> u32 {
    // The upper half has chosen the slot.
    let jump = ((flow_hash & 0xffff_ffff) * (ring_size as u64 - 1)) >> 32;
    1 + jump as u32
}

/// Notes of a table: 1 MiB.
pub const SYN_NOTES: u32 = 1 << 17;

/// The initial sequence number of a flow with an unproven cell: tag in bits 40–63, [`second`] in bits
/// 32–39, sequence number in bits 0–31. 0: free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct SynNote(pub u64);

impl SynNote {
    /// Where the note of a flow is. There is one place: without it, the flow is not spilled.
    #[inline(always)]
    #[must_use]
    pub const fn index(place: Place) -> u32 {
        place.bucket & (SYN_NOTES - 1)
    }

    /// The note of a SYN.
    #[inline(always)]
    #[must_use]
    pub const fn new(place: Place, sequence: u32, second: u32) -> Self {
        let tag = (place.tag >> 8) as u64;
        Self(tag << 40 | (second as u64 & 0xff) << 32 | sequence as u64)
    }

    /// Whether it is of this flow.
    #[inline(always)]
    #[must_use]
    pub const fn is_of(self, place: Place) -> bool {
        self.0 != 0 && (self.0 >> 40) as u32 == place.tag >> 8
    }

    /// Whether another flow may take its place: the connection was to be established by now.
    #[inline(always)]
    #[must_use]
    pub const fn is_over(self, second: u32) -> bool {
        let age = second.wrapping_sub((self.0 >> 32) as u32) & 0xff;
        // A note from another CPU may be ahead.
        self.0 == 0 || age >= REPLACE_UNCONFIRMED_S as u32 && age < 0xfe
    }

    /// Whether a SYN is the noted one, repeated.
    #[inline(always)]
    #[must_use]
    pub const fn is_repeated(self, sequence: u32) -> bool {
        self.0 as u32 == sequence
    }

    /// Whether a segment continues the sequence of the SYN. The first may have been lost on the way:
    /// others of the initial window will do, unless packets with other numbers were seen (`disputed`).
    #[inline(always)]
    #[must_use]
    pub const fn is_continued(self, sequence: u32, disputed: bool) -> bool {
        // Ten segments (RFC 6928).
        const INITIAL_WINDOW: u32 = 1 << 14;
        let ahead = sequence.wrapping_sub(self.0 as u32).wrapping_sub(1);
        ahead == 0 || !disputed && ahead < INITIAL_WINDOW
    }
}

/// Seconds without a packet of a spilled flow, after which its member has none any more.
pub const FORGET_SPILLED_AFTER_S: u64 = 2;

/// Whether the packets of a member's slots need no lookup any more: at most `idle_s` after their last
/// packet, its spilled flows have no cells, and it last spilled one, or had a packet of one, at `stamp_s`.
#[must_use]
pub const fn is_over(stamp_s: u64, now_s: u64, idle_s: u64) -> bool {
    now_s.saturating_sub(stamp_s) > idle_s + FORGET_SPILLED_AFTER_S
}

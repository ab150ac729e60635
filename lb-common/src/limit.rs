//! Rate limits: how much traffic a VIP and each of its sources may send.
//!
//! Every limit is a GCRA (the generic cell rate algorithm, ITU-T I.371): one number, the theoretical
//! arrival time, says how much of the burst is used up. A bucket that is full again is the same as no
//! entry at all, so the table of sources needs room only for those that are busy *now*, however many
//! have been seen: [`Line`] is a small cache of cells in which an idle cell is a free cell.
//!
//! Between CPUs, an admitted packet is one atomic addition (`BPF_ADD`, which every kernel has; the
//! exchanges of Linux 5.12 are not needed): two CPUs may both admit the packet that uses up the burst,
//! but both pay for it.

use crate::{
    Address, family,
    hash::{self, HashKey},
    map_type,
};

/// A time or a duration of [`UNIT_NS`], 44 bits: it wraps around after three days.
type Units = u64;

/// Nanoseconds of a unit.
pub const UNIT_NS: u64 = 1 << UNIT_SHIFT;
const UNIT_SHIFT: u32 = 4;
/// Bits of a cell that tell sources apart.
const TAG_BITS: u32 = 20;
const TIME_MASK: u64 = u64::MAX >> TAG_BITS;
/// The longest time in which a burst may be used up: no debt is longer, so that what seems to be is the
/// wrapped time of a cell that is long idle.
pub const LONGEST_BURST_NS: u64 = 3600 * 1_000_000_000;
const LONGEST_DEBT: Units = 2 * LONGEST_BURST_NS / UNIT_NS;

map_type! {
    /// A rate with its burst. `cost` 0: no limit.
    pub struct Rate [16] {
        /// How long a draw takes at this rate, in units.
        pub cost: u64,
        /// The debt up to which draws are admitted, in units: all draws of the burst but one.
        pub room: u64,
    }
}

impl Rate {
    /// No limit.
    pub const NONE: Self = Self { cost: 0, room: 0 };

    /// A limit of `per_s` draws per second, each of `chunk` packets, and of `burst` packets at once.
    /// Rounded so that less is admitted, not more.
    #[must_use]
    pub const fn new(per_s: u32, burst: u32, chunk: u32) -> Self {
        let (per_s, chunk) = (per_s as u64, chunk as u64);
        let cost = (chunk * 1_000_000_000).div_ceil(per_s * UNIT_NS);
        let draws = burst as u64 / chunk;
        Self {
            cost,
            room: cost * draws.saturating_sub(1),
        }
    }

    /// Whether there is a limit.
    #[inline(always)]
    #[must_use]
    pub const fn is_set(&self) -> bool {
        self.cost != 0
    }

    /// A longer debt than draws of all CPUs can make: it is of a cell that has been idle for days, until
    /// the time wrapped around, or of a rate that was slower.
    #[inline(always)]
    const fn is_stale(&self, debt: Units) -> bool {
        debt > self.room + 64 * self.cost
    }

    /// The debt of a cell of this rate.
    #[inline(always)]
    #[must_use]
    pub const fn debt(&self, cell: Cell, now: Units) -> Units {
        let debt = cell.debt(now);
        if self.is_stale(debt) { 0 } else { debt }
    }
}

/// The time of the data path: nanoseconds of the monotonic clock, in units.
#[inline(always)]
#[must_use]
pub const fn units(now_ns: u64) -> Units {
    now_ns >> UNIT_SHIFT & TIME_MASK
}

/// The state of one limit: theoretical arrival time in bits 20–63, tag in bits 0–19. 0: unused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Cell(pub u64);

impl Cell {
    /// How far the limit is used up, in units; 0: not at all, and the cell may as well be free.
    #[inline(always)]
    #[must_use]
    pub const fn debt(self, now: Units) -> Units {
        let ahead = (self.0 >> TAG_BITS).wrapping_sub(now) & TIME_MASK;
        if self.0 == 0 || ahead > LONGEST_DEBT {
            0
        } else {
            ahead
        }
    }

    /// Whether it is of the source with this tag.
    #[inline(always)]
    #[must_use]
    pub const fn is_of(self, tag: u64) -> bool {
        (self.0 ^ tag) & !(TIME_MASK << TAG_BITS) == 0
    }

    /// The cell of a source whose limit was unused, after a draw of `cost`.
    #[inline(always)]
    #[must_use]
    pub const fn begun(tag: u64, now: Units, cost: Units) -> Self {
        Self((now.wrapping_add(cost) & TIME_MASK) << TAG_BITS | tag & !(TIME_MASK << TAG_BITS))
    }

    /// What a draw of `cost` adds to the word of a cell that is in use.
    #[inline(always)]
    #[must_use]
    pub const fn addition(cost: Units) -> u64 {
        cost << TAG_BITS
    }
}

/// Cells of a line: one cache line.
pub const WAYS: usize = 8;
/// Cells in which a source may be.
pub type Line = [u64; WAYS];
/// Lines of the table, a power of two: 1 MiB.
pub const LINES: u32 = 1 << 14;

/// Returns the index of a source's line, and its tag. `hash` is keyed, so that nobody can choose sources
/// that share a line.
#[inline(always)]
#[must_use]
pub const fn place(hash: u64) -> (u32, u64) {
    (
        (hash >> 32) as u32 & (LINES - 1),
        hash & !(TIME_MASK << TAG_BITS),
    )
}

/// Result of a draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// Within the limit.
    Admitted,
    /// Admitted, because the line had no room for the source: another was forgotten, one that had used
    /// little of its limit.
    Evicted,
    /// Over the limit; nothing was changed.
    Over,
}

/// Draws one `cost` from the limit of the source with this tag, in its line: `load` reads a cell, `add`
/// adds to it atomically, `store` replaces it.
#[inline(always)]
pub fn draw(
    rate: &Rate,
    tag: u64,
    now: Units,
    load: impl Fn(usize) -> u64,
    add: impl FnOnce(usize, u64),
    store: impl FnOnce(usize, u64),
) -> Draw {
    let mut free = WAYS;
    for way in 0..WAYS {
        let cell = Cell(load(way));
        let debt = cell.debt(now);
        let is_own = cell.is_of(tag);
        if debt == 0 || is_own && rate.is_stale(debt) {
            if free == WAYS {
                free = way;
            }
        } else if is_own {
            if debt > rate.room {
                return Draw::Over;
            }
            add(way, Cell::addition(rate.cost));
            return Draw::Admitted;
        }
    }
    let begun = Cell::begun(tag, now, rate.cost).0;
    if free < WAYS {
        store(free, begun);
        return Draw::Admitted;
    }
    // Of two cells the one with less debt: the smallest of all would cost the verifier a path for each
    // order of eight.
    let one = now as usize & (WAYS - 1);
    let other = (one + 1 + (now as usize >> 3 & 3)) & (WAYS - 1);
    let other_is_less = Cell(load(other)).debt(now) < Cell(load(one)).debt(now);
    store(if other_is_less { other } else { one }, begun);
    Draw::Evicted
}

/// What is limited.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// New flows.
    Flows = 0,
    /// Packets.
    Packets = 1,
}

/// The hash of a source and what is limited, under the key of the VIP: [`Limit::source`] gives address and
/// port block.
#[inline(always)]
#[must_use]
pub const fn source_hash(
    key: &HashKey,
    family: u8,
    source: &Address,
    block: u16,
    kind: Kind,
) -> u64 {
    // As a flow from this port; the kind stands for the port that it is to.
    let what = hash::ports_word(block, kind as u16 + 1);
    if family == family::V4 {
        hash::flow_hash_v4(key, source[0] as u32, what)
    } else {
        hash::flow_hash_v6(key, source, what)
    }
}

/// What happens to packets over a limit.
pub mod excess {
    /// They are dropped.
    pub const DROP: u8 = 0;
    /// They are counted, and pass.
    pub const COUNT: u8 = 1;
    /// The first SYN of a flow is dropped, its retransmission passes. Other packets are dropped.
    pub const SECOND_SYN: u8 = 2;
}

map_type! {
    /// The limits of a VIP. While packets flow, single words change; between two of them a packet may
    /// meet a mixture, and be judged by it.
    pub struct Limit [128] {
        /// New flows of each source.
        pub source_flows: Rate,
        /// Packets of each source.
        pub source_packets: Rate,
        /// New flows of the VIP.
        pub vip_flows: Rate,
        /// Packets of the VIP, in draws of `chunk` packets.
        pub vip_packets: Rate,
        /// The bits of an IPv4 source that tell sources apart (packet order).
        pub mask_v4: Address,
        /// The same for IPv6.
        pub mask_v6: Address,
        /// The lists of exempt sources, a bit for each.
        pub exempt: u64,
        /// The lists of denied sources, a bit for each.
        pub deny: u64,
        /// Right shift of a source port that leaves the number of its block; 16: ports don't matter.
        pub port_shift: u8,
        /// [`excess`] of the limits for sources.
        pub source_excess: u8,
        /// [`excess`] of the limits for the VIP.
        pub vip_excess: u8,
        /// Padding.
        pub _pad: [u8; 3],
        /// Packets that a CPU draws at once.
        pub chunk: u16,
        /// Unused.
        pub _unused: u64,
    }
}

impl Limit {
    /// What tells the source apart: the masked address and the number of the port block.
    #[inline(always)]
    #[must_use]
    pub const fn source(&self, source: &Address, family: u8, port_be: u16) -> (Address, u16) {
        let mask = if family == family::V4 {
            &self.mask_v4
        } else {
            &self.mask_v6
        };
        let block = (u16::from_be(port_be) as u32).wrapping_shr(self.port_shift as u32);
        ([source[0] & mask[0], source[1] & mask[1]], block as u16)
    }
}

/// Number of lists of prefixes that VIPs can refer to.
pub const MAX_LISTS: u32 = 64;
/// Most prefixes of all lists.
pub const MAX_PREFIXES: u32 = 1 << 22;

/// What a key of the trie of prefixes says: the address family and the address (packet order); the key's
/// length counts the bits of the family too. The value has a bit for each list with a prefix that
/// contains this one, so that the longest match answers for all.
pub type ListKey = [u8; 24];
/// Bits of the family in a [`ListKey`].
pub const LIST_FAMILY_BITS: u32 = 8;
/// Bits of the key of a whole address; an IPv4 address is followed by zeros.
pub const LIST_KEY_BITS: u32 = LIST_FAMILY_BITS + 128;

/// The key of an address.
#[inline(always)]
#[must_use]
pub const fn list_key(address: &Address, family: u8) -> ListKey {
    let [a, b] = [address[0].to_ne_bytes(), address[1].to_ne_bytes()];
    [
        family, a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], b[0], b[1], b[2], b[3], b[4], b[5],
        b[6], b[7], 0, 0, 0, 0, 0, 0, 0,
    ]
}

/// Areas: sets of addresses of which one bit each says whether a denied prefix touches it, so that most
/// packets need no lookup in the trie. In the first half, the IPv4 /16s; in the second, IPv6 /32s by hash.
pub const AREAS: u32 = 1 << 17;
/// Words of the areas' bits.
pub const AREA_WORDS: u32 = AREAS / u64::BITS;

/// The area of an address.
#[inline(always)]
#[must_use]
pub const fn area_of(address: &Address, family: u8) -> u32 {
    let first = u32::from_be(u64::to_le(address[0]) as u32);
    if family == family::V4 {
        first >> 16
    } else {
        (AREAS / 2) | (first.wrapping_mul(0x9e37_79b1) >> 16)
    }
}

/// Bits of a block of the filters of first SYNs: one cache line, of which one word is the epoch.
pub const SYN_BLOCK_WORDS: usize = 8;
/// Blocks of a filter, a power of two: 4 MiB, and two of them.
pub const SYN_BLOCKS: u32 = 1 << 16;
/// Nanoseconds of an epoch are two to this: a first SYN is known for two to four seconds. The initial
/// retransmission time-out is one (RFC 6298).
pub const SYN_EPOCH_SHIFT: u32 = 31;

/// Where a flow is noted in a block: the words and bits, by the lower half of its hash. The upper half
/// chooses the block.
#[inline(always)]
#[must_use]
pub const fn syn_bits(hash: u64) -> [(usize, u64); 3] {
    [syn_bit(hash), syn_bit(hash >> 9), syn_bit(hash >> 18)]
}

#[inline(always)]
const fn syn_bit(hash: u64) -> (usize, u64) {
    // The first word is the epoch.
    const BITS: u64 = 64 * (SYN_BLOCK_WORDS as u64 - 1);
    let bit = (((hash & 0x1ff) * BITS) >> 9) + 64;
    (bit as usize / 64, 1 << (bit % 64))
}

/// Block of a flow.
#[inline(always)]
#[must_use]
pub const fn syn_block(hash: u64) -> u32 {
    (hash >> 32) as u32 & (SYN_BLOCKS - 1)
}

map_type! {
    /// What one CPU knows of a VIP's limits: counters, which only increase, and packets drawn ahead.
    /// Packets over a limit are counted whether they are dropped or not.
    pub struct LimitCounters [80] {
        /// New flows over the limit of their source.
        pub source_flows: u64,
        /// Packets over the limit of their source.
        pub source_packets: u64,
        /// New flows over the limit of the VIP.
        pub vip_flows: u64,
        /// Packets over the limit of the VIP.
        pub vip_packets: u64,
        /// Packets from denied sources.
        pub denied: u64,
        /// Packets over a limit, of exempt sources.
        pub exempted: u64,
        /// First SYNs that were dropped.
        pub first_syns: u64,
        /// Repeated SYNs that passed.
        pub second_syns: u64,
        /// Sources that were forgotten while they were busy: the table is too small.
        pub evicted: u64,
        /// Packets that this CPU may still admit of its last draw from the VIP's limit.
        pub drawn: u64,
    }
}

map_type! {
    /// A source over a limit.
    pub struct LimitedKey [32] {
        /// Its address, masked.
        pub source: Address,
        /// Index of the VIP.
        pub vip: u16,
        /// Number of its port block.
        pub block: u16,
        /// [`Kind`].
        pub kind: u8,
        /// Address family.
        pub family: u8,
        /// Whether the limit was that of the VIP.
        pub of_vip: u8,
        /// Padding.
        pub _pad: [u8; 9],
    }
}

/// Number of sources over a limit that are remembered, the most recent ones.
pub const MAX_LIMITED: u32 = 4096;
/// Packets over a limit that a CPU records per second, with their sources: each takes up to 1 µs.
pub const MAX_RECORDED_PER_S: u64 = 1024;

//! Decisions about the last packet, for `simulate --trace` and `explain`.

use crate::map_type;

map_type! {
    /// Written for every packet if [`crate::node::setting::TRACING`] is set.
    pub struct Trace [40] {
        /// Hash that selected the slot.
        pub slot_hash: u64,
        /// Hash of the whole flow.
        pub flow_hash: u64,
        /// Number of the [`crate::reason::Reason`].
        pub reason: u32,
        /// XDP action.
        pub verdict: u32,
        /// Index of the slot.
        pub slot: u32,
        /// VIP index, or [`NONE`].
        pub vip: u16,
        /// Member index, or [`NONE`].
        pub member: u16,
        /// How the member was found, see [`decision`].
        pub decision: u32,
        /// Padding.
        pub _pad: u32,
    }
}

impl Trace {
    /// State before the program runs.
    pub const EMPTY: Self = Self {
        slot_hash: 0,
        flow_hash: 0,
        reason: 0,
        verdict: 0,
        slot: 0,
        vip: NONE,
        member: NONE,
        decision: decision::NOT_MADE,
        _pad: 0,
    };
}

/// No VIP or no member.
pub const NONE: u16 = 0xffff;

/// How the member was found.
pub mod decision {
    /// No member was looked up.
    pub const NOT_MADE: u32 = 0;
    /// By the ring alone.
    pub const RING: u32 = 1;
    /// By a tracking cell.
    pub const TRACKED: u32 = 2;
    /// Slot in transition, new flow: the slot's member.
    pub const OPENED: u32 = 3;
    /// Slot in transition, untracked flow: the slot's previous member.
    pub const PREVIOUS: u32 = 4;
    /// Slot in transition, untracked flow, previous member not serving: the slot's member.
    pub const TAKEN_OVER: u32 = 5;
    /// By a NAT session.
    pub const SESSION: u32 = 6;
    /// Later fragment: the member of the first fragment.
    pub const FRAGMENT: u32 = 7;
    /// New flow, and the slot's member was full: the next candidate of the ring.
    pub const SPILLED: u32 = 8;
}

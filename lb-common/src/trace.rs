//! What the program decided about the last packet, for `simulate --trace` and `explain`.

use crate::map_type;

map_type! {
    /// Written for every packet when [`crate::node::NodeSettings::trace`] is set.
    pub struct Trace [40] {
        /// Hash that chose the slot.
        pub slot_hash: u64,
        /// Hash of the whole flow.
        pub flow_hash: u64,
        /// [`crate::reason::Reason`] as a number.
        pub reason: u32,
        /// Verdict, as XDP numbers it.
        pub verdict: u32,
        /// Slot.
        pub slot: u32,
        /// VIP index, or [`NONE`].
        pub vip: u16,
        /// Member index, or [`NONE`].
        pub member: u16,
        /// [`decision`].
        pub decision: u32,
        /// Unused.
        pub _pad: u32,
    }
}

impl Trace {
    /// What is there before the program runs.
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

/// No VIP, no member.
pub const NONE: u16 = 0xffff;

/// How the member was found.
pub mod decision {
    /// It was not.
    pub const NOT_MADE: u32 = 0;
    /// The ring alone.
    pub const RING: u32 = 1;
    /// A tracking cell.
    pub const TRACKED: u32 = 2;
    /// Slot in transition, packet opens a flow: the slot's member.
    pub const OPENED: u32 = 3;
    /// Slot in transition, flow not known: the slot's previous member.
    pub const PREVIOUS: u32 = 4;
    /// Slot in transition, flow not known, the previous member can't serve: the slot's member.
    pub const TAKEN_OVER: u32 = 5;
    /// A NAT session.
    pub const SESSION: u32 = 6;
    /// A later fragment, by the first.
    pub const FRAGMENT: u32 = 7;
}

//! Log messages of the balancer's program: `REASON SOURCE port …`. The reason is logged as its
//! number: the program has no strings for the names.

use crate::reason::Reason;

/// Whether dropping a packet for this reason is logged: the packet itself is valid.
#[must_use]
pub const fn is_logged(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::NoMember
            | Reason::NoNextHop
            | Reason::NatNoPort
            | Reason::NoRoom
            | Reason::Internal
    )
}

/// Kinds of messages: one per possible reason.
pub const KINDS: usize = 64;

/// Logarithm (base 2) of the seconds between two messages of one kind on one CPU.
pub const PAUSE_SHIFT: u32 = 6;

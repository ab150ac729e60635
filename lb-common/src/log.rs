//! Messages of the balancer's program: `REASON from PORT …`, the reason as its number, for a program has no names.

use crate::reason::Reason;

/// Whether a packet that is refused for this reason is worth a message: nothing is wrong with the packet.
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

/// Kinds of messages: as many as there may be reasons.
pub const KINDS: usize = 64;

/// Seconds from one message of a kind to the next, on a CPU: 2 to the power of this.
pub const PAUSE_SHIFT: u32 = 6;

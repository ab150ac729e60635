//! Bits of [`NatFlow::state`]. Only the entry for the backend's packets has them.

/// Embryonic sessions: the backend has replied.
pub const REPLIED: u32 = 1;
/// Embryonic sessions: the client has proved that it received the reply, but the tables had no
/// room yet.
pub const PROVEN: u32 = 2;
/// Established sessions: the backend has acknowledged the client's FIN.
pub const CLIENT_FIN: u32 = 1;
/// Established sessions: the backend has sent a FIN.
pub const BACKEND_FIN: u32 = 2;
/// The backend has reset the connection, or the client with the exact sequence number.
pub const RST: u32 = 4;
/// In a [`super::NatRecord`]: the session is UDP, not TCP.
pub const UDP: u32 = 8;

/// Whether the connection of an established session is over.
#[inline(always)]
#[must_use]
pub const fn is_over(state: u32) -> bool {
    const CLOSED: u32 = CLIENT_FIN | BACKEND_FIN;
    state & RST != 0 || state & CLOSED == CLOSED
}

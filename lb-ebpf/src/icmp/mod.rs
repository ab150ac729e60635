//! ICMP and ICMPv6.

mod checksum;
pub(crate) mod echo;
pub(crate) mod error;
pub(crate) mod generate;
pub(crate) mod receive;

/// Hop count of answers.
const TTL: u8 = 64;
/// Length of an ICMP header.
const LEN: usize = 8;

/// Message types of ICMP (RFC 792).
mod v4 {
    pub(super) const ECHO_REPLY: u8 = 0;
    pub(super) const ECHO_REQUEST: u8 = 8;

    /// Destination unreachable, time exceeded, parameter problem.
    pub(super) const fn is_error(kind: u8) -> bool {
        matches!(kind, 3 | 11 | 12)
    }
}

/// Message types of ICMPv6 (RFC 4443).
mod v6 {
    pub(super) const ECHO_REQUEST: u8 = 128;
    pub(super) const ECHO_REPLY: u8 = 129;

    /// Destination unreachable, packet too big, time exceeded, parameter problem.
    pub(super) const fn is_error(kind: u8) -> bool {
        matches!(kind, 1..=4)
    }
}

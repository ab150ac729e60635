//! ICMP and ICMPv6.

mod checksum;
pub(crate) mod echo;
pub(crate) mod error;
pub(crate) mod generate;
pub(crate) mod receive;

/// Hop count of answers.
const TTL: u8 = 64;

//! ICMP and ICMPv6: echo requests are answered, errors are forwarded or generated.

mod checksum;
pub(crate) mod echo;
pub(crate) mod error;
pub(crate) mod generate;
pub(crate) mod receive;
pub(crate) mod tunnel;

/// TTL of the messages that the node sends.
const TTL: u8 = 64;

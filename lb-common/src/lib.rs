//! Data shared by the data path (kernel) and the controller (userspace).
//!
//! Keys and values of the maps, the flow hash, the encoding of ring slots and tracking cells,
//! counters, and the reasons why packets are sent, passed or dropped are defined here once. The
//! crate is `no_std`, has no `unsafe`, and is tested on the host.
//!
//! Addresses and ports are in packet order (`_be`) on every machine, everything else is in host
//! order. Map types are `repr(C)` with explicit padding; their sizes are asserted at compile time.
#![no_std]
#![cfg_attr(not(test), warn(clippy::too_many_lines))]
#![warn(missing_docs)]

mod address;
pub mod bench;
pub mod bound;
pub mod capture;
pub mod checksum;
pub mod counters;
pub mod decap;
pub mod fragment;
pub mod hash;
pub mod limit;
pub mod log;
pub mod member;
pub mod nat;
pub mod node;
pub mod probe;
pub mod reason;
pub mod ring;
pub mod sample;
pub mod station;
pub mod tables;
pub mod trace;
pub mod track;
pub mod tunnel;
pub mod vip;

/// Version of everything in this crate that a pinned map holds. A controller adopts pinned maps
/// only of the same version.
pub const ABI_VERSION: u32 = 6;

/// An IPv4 or IPv6 address: the address bytes in packet order, in two words. An IPv4 address is in
/// the first four bytes; the others are zero.
pub type Address = [u64; 2];

pub use address::{address_of, family_of, ip_of};

/// Returns the [`Address`] of an IPv4 address, given its four bytes as read from memory.
#[inline(always)]
#[must_use]
pub const fn address_v4(word: u32) -> Address {
    [word as u64, 0]
}

/// Returns the [`Address`] of the octets of an IPv6 address.
#[must_use]
pub const fn address_v6(octets: [u8; 16]) -> Address {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
    [
        u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
    ]
}

/// Whether an address can belong to a single host (RFC 1122 §3.2.1.3, RFC 4291 §2.5): not
/// multicast, broadcast, reserved, loopback or unspecified.
#[inline(always)]
#[must_use]
pub const fn is_host(address: &Address, ip: u8) -> bool {
    let first = u64::from_le(address[0]) as u8;
    if ip == family::V4 {
        // Two comparisons instead of three: 0 wraps around to the end.
        return first.wrapping_sub(1) < 223 && first != 127;
    }
    let is_local = address[0] == 0 && address[1] & !1_u64.to_be() == 0;
    first != 0xff && !is_local
}

/// Address family of an [`Address`].
pub mod family {
    /// IPv4.
    pub const V4: u8 = 4;
    /// IPv6.
    pub const V6: u8 = 6;
}

/// IP protocol numbers.
pub mod proto {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP (RFC 2003).
    pub const IPIP: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP (RFC 2473, RFC 4213).
    pub const IPV6: u8 = 41;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// IP authentication header.
    pub const AUTH: u8 = 51;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options.
    pub const DEST_OPTIONS: u8 = 60;
}

/// Declares a map key or value: `repr(C)`, plain data, with its size in bytes asserted.
macro_rules! map_type {
    ($(#[$meta:meta])* pub struct $name:ident [$size:literal] { $($body:tt)* }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
        pub struct $name { $($body)* }
        const _: () = assert!(core::mem::size_of::<$name>() == $size);
    };
}
pub(crate) use map_type;

//! IPv6 extension headers.

use core::hint::black_box;

use aya_ebpf::bindings::xdp_md;
use lb_common::proto;

use crate::{packet::Packet, wire::extension};

/// Extension headers followed per packet. RFC 8200 defines six kinds; each occurs once, destination
/// options twice at most.
const MAX_EXTENSIONS: usize = 7;
/// Bytes of extension headers followed per packet.
const MAX_EXTENSION_BYTES: u32 = 512;

/// Result of following a chain of extension headers, as one word: offset of the next header in bits
/// 0–15, its protocol in bits 16–23, "more fragments" in bit 24, "later fragment" in bit 25, where
/// the fragment header is in bits 26–31 (see [`Headers::fragment_header`]), and the identification
/// of the datagram in bits 32–63. 0: the chain is malformed.
///
/// [`Headers::fragment_header`]: crate::headers::Headers::fragment_header
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Chain(u64);

impl Chain {
    pub(crate) const MALFORMED: Self = Self(0);
    /// More headers than are followed, or a routing header with segments left.
    pub(crate) const REFUSED: Self = Self(1);
    pub(crate) const MORE: u64 = 1 << 24;
    pub(crate) const LATER: u64 = 1 << 25;
    const HEADER_SHIFT: u64 = 26;

    /// Follows the chain that starts at `offset` with a header of type `protocol`.
    #[inline(always)]
    pub(crate) fn follow(ctx: *mut xdp_md, offset: u32, protocol: u8) -> Self {
        Self(black_box(follow_chain(ctx, offset, u32::from(protocol))))
    }

    /// Whether the end of the chain was not reached.
    #[inline(always)]
    pub(crate) fn is_broken(self) -> bool {
        self == Self::MALFORMED || self == Self::REFUSED
    }

    /// Returns the bits that a fragment header adds, which is at `distance` from the chain's start.
    #[inline(always)]
    fn fragment(distance: u32, bits: u16, id: u32) -> u64 {
        let more = if bits & extension::FRAGMENT_BITS != 0 {
            Self::MORE
        } else {
            0
        };
        let later = if bits & extension::OFFSET_BITS != 0 {
            Self::LATER
        } else {
            0
        };
        let unit = distance / 8;
        let header = if distance.is_multiple_of(8) && unit < 63 {
            u64::from(unit + 1) << Self::HEADER_SHIFT
        } else {
            0
        };
        more | later | header | u64::from(id) << 32
    }

    #[inline(always)]
    fn new(offset: u32, protocol: u8, fragment: u64) -> Self {
        Self(u64::from(offset) | u64::from(protocol) << 16 | fragment)
    }

    #[inline(always)]
    pub(crate) fn offset(self) -> usize {
        (self.0 & 0x7ff) as usize
    }

    #[inline(always)]
    pub(crate) fn protocol(self) -> u8 {
        (self.0 >> 16) as u8
    }

    #[inline(always)]
    pub(crate) fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }

    #[inline(always)]
    pub(crate) fn fragment_header(self) -> u8 {
        (self.0 >> Self::HEADER_SHIFT) as u8 & 0x3f
    }

    #[inline(always)]
    pub(crate) fn id(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Follows the chain; returns a [`Chain`] as a number.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn follow_chain(ctx: *mut xdp_md, start: u32, first: u32) -> u64 {
    let packet = Packet::of(ctx);
    let start = start & 0x3ff;
    let (mut offset, mut protocol) = (start, first as u8);
    let mut fragment = 0_u64;
    for _ in 0..MAX_EXTENSIONS {
        if !is_extension(protocol) || fragment & Chain::LATER != 0 {
            // The header of a later fragment is followed by the middle of the datagram.
            return Chain::new(offset, protocol, fragment).0;
        }
        let Some(header) = packet.view::<{ extension::MIN_LEN }>((offset & 0x7ff) as usize) else {
            return Chain::MALFORMED.0;
        };
        let units = u32::from(header.get::<u8>(extension::LENGTH));
        let length = match protocol {
            proto::FRAGMENT => {
                fragment = Chain::fragment(
                    offset - start,
                    header.get(extension::FRAGMENT_OFFSET),
                    header.get(extension::FRAGMENT_ID),
                );
                8
            }
            proto::AUTH => units * 4 + 8,
            proto::ROUTING if header.get::<u8>(extension::SEGMENTS_LEFT) != 0 => {
                return Chain::REFUSED.0;
            }
            _ => units * 8 + 8,
        };
        protocol = header.get(extension::NEXT_HEADER);
        offset += length;
        if offset > start + MAX_EXTENSION_BYTES {
            return Chain::REFUSED.0;
        }
    }
    if is_extension(protocol) {
        return Chain::REFUSED.0;
    }
    Chain::new(offset, protocol, fragment).0
}

/// The protocol numbers of extension headers, as a bit mask.
const EXTENSIONS: u64 = 1 << proto::HOP_BY_HOP
    | 1 << proto::ROUTING
    | 1 << proto::FRAGMENT
    | 1 << proto::AUTH
    | 1 << proto::DEST_OPTIONS;

#[inline(always)]
pub(crate) fn is_extension(protocol: u8) -> bool {
    protocol < 64 && EXTENSIONS >> protocol & 1 == 1
}

//! Checksums of ICMP and ICMPv6 messages.

use core::hint::black_box;

use aya_ebpf::bindings::xdp_md;
use lb_common::{checksum, proto};

use crate::{headers::Headers, packet::Packet};

/// Bytes summed by one helper call.
const CHUNK: usize = 64;
/// Longest echo request that is answered, in bytes: fits a jumbo frame.
pub(super) const MAX_ECHO: u32 = 9_216;
/// Result of [`sum_of`] if the frame is too short.
pub(super) const NO_SUM: u32 = u32::MAX;

/// Returns the folded sum of `room` bytes from `l4` on, at most [`MAX_ECHO`], or [`NO_SUM`] if the
/// frame ends before.
///
/// A function of its own because of its loops, as in `ipv4`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn sum_of(ctx: *mut xdp_md, l4: u32, room: u32) -> u32 {
    let l4 = (l4 & 0x3ff) as usize;
    let (mut sum, mut done) = (0, 0_u32);
    for _ in 0..MAX_ECHO / CHUNK as u32 {
        if done + CHUNK as u32 > room {
            break;
        }
        let Some(chunk) = Packet::of(ctx).view::<CHUNK>(l4 + (done & 0x3fff) as usize) else {
            return NO_SUM;
        };
        sum += chunk.sum();
        done += CHUNK as u32;
    }
    let rest = match black_box(sum_of_rest(ctx, l4 as u32 + done, room.wrapping_sub(done))) {
        NO_SUM => return NO_SUM,
        rest => rest,
    };
    sum += u64::from(rest);
    u32::from(checksum::fold(sum))
}

/// Returns the folded sum of `room` bytes from `at` on, fewer than [`CHUNK`], or [`NO_SUM`]. The
/// verifier would follow its loop once for every end of the one before.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sum_of_rest(ctx: *mut xdp_md, at: u32, room: u32) -> u32 {
    let at = (at & 0x3fff) as usize;
    let (mut sum, mut done) = (0, 0);
    for _ in 0..CHUNK / 2 {
        if done + 2 > room {
            break;
        }
        let Some(word) = Packet::of(ctx).view::<2>(at + done as usize) else {
            return NO_SUM;
        };
        sum += u64::from(word.get::<u16>(0));
        done += 2;
    }
    if done < room {
        // The last odd byte counts as the first of a word. It is read with the byte before it: a
        // bounds check of a single byte tells the verifier nothing.
        let Some(last) = Packet::of(ctx).view::<2>((at + done as usize - 1) & 0x3fff) else {
            return NO_SUM;
        };
        sum += u64::from(last.get_whole::<u16>(0).to_le_bytes()[1]);
    }
    u32::from(checksum::fold(sum))
}

/// Sum of the pseudo-header that the ICMPv6 checksum covers.
#[inline(always)]
pub(super) fn pseudo_header(headers: &Headers, length: u32) -> u64 {
    let mut sum = u64::from(length.to_be()) + u64::from(u32::from(proto::ICMPV6).to_be());
    for address in [headers.source, headers.dest] {
        for word in address {
            sum += (word & 0xffff_ffff) + (word >> 32);
        }
    }
    sum
}

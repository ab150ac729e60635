//! Log messages about packets that are dropped although they are valid.
//!
//! Counters tell how many packets there were, but not which. Each CPU writes at most one message
//! per kind and minute. The controller reads the messages; without a reader they are lost when the
//! buffer is full.

use aya_log_ebpf::warn;
use lb_common::{
    Address, family,
    log::{KINDS, PAUSE_SHIFT, is_logged},
    reason::Reason,
};

use crate::{
    clock,
    maps::LOGGED,
    scratch::scratch,
    verdict::{Stage, Verdict},
};

/// Drops or passes a packet whose headers are in the scratch, with a message if the packet is
/// valid.
#[inline(always)]
pub(crate) fn refuse(reason: Reason) -> Verdict {
    if is_logged(reason) {
        return Verdict::next(Stage::Refuse, 0, reason as u32);
    }
    Verdict::of(reason)
}

/// Returns the verdict, or that of the reason. The headers are in the scratch.
#[inline(always)]
pub(crate) fn into_verdict(result: Result<Verdict, Reason>) -> Verdict {
    match result {
        Ok(verdict) => verdict,
        Err(reason) => refuse(reason),
    }
}

/// Drops a packet and logs the reason.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn refuse_and_log(reason: u32) -> u32 {
    write_message(reason);
    Verdict::dropped(reason).0
}

/// Writes the message unless this CPU wrote one of this kind in this minute.
#[inline(always)]
fn write_message(reason: u32) -> Option<()> {
    let last = LOGGED.get_ptr_mut(reason % KINDS as u32)?;
    let headers = &scratch()?.headers;
    // Never 0: that means "no message yet".
    let minute = (clock::now_s() >> PAUSE_SHIFT) + 1;
    // SAFETY: this CPU's entry; nothing else uses it while the program runs.
    if unsafe { core::mem::replace(&mut *last, minute) } == minute {
        return None;
    }
    let (from, to) = (
        u16::from_be(headers.source_be),
        u16::from_be(headers.dest_be),
    );
    let protocol = headers.protocol;
    // The message encodes the length of an address, so each family has its own.
    macro_rules! message {
        ($form:expr) => {{
            let [source, dest] = [headers.source, headers.dest].map($form);
            // The first word is a number, see `lb_common::log`.
            warn!(
                (),
                "{} {:i} port {} to {:i} port {}, protocol {}",
                reason,
                source,
                from,
                dest,
                to,
                protocol
            );
        }};
    }
    if headers.family == family::V4 {
        message!(v4);
    } else {
        message!(v6);
    }
    Some(())
}

/// Returns an IPv4 address in host byte order.
#[inline(always)]
fn v4(address: Address) -> u32 {
    u32::from_be(address[0] as u32)
}

/// Returns the octets of an IPv6 address.
#[inline(always)]
fn v6(address: Address) -> [u8; 16] {
    // SAFETY: plain bytes of the same size.
    unsafe { core::mem::transmute(address) }
}

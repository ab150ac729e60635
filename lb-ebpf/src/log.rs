//! The program's log: which packet met what should not be.
//!
//! Counters say how often, and make no difference between one packet and another. Of each kind there is at most one
//! message a minute and CPU, however many packets there are. The controller reads them; without one they are
//! lost when the buffer is full.

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

/// Refuses a packet whose headers are in the scratch; with a message, if the node is to blame.
#[inline(always)]
pub(crate) fn refuse(reason: Reason) -> Verdict {
    if is_logged(reason) {
        return Verdict::next(Stage::Refuse, 0, reason as u32);
    }
    Verdict::of(reason)
}

/// The verdict of a stage that may have given up; the packet's headers are in the scratch.
#[inline(always)]
pub(crate) fn into_verdict(result: Result<Verdict, Reason>) -> Verdict {
    match result {
        Ok(verdict) => verdict,
        Err(reason) => refuse(reason),
    }
}

/// Drops a packet for a reason that is logged.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn refuse_and_log(reason: u32) -> u32 {
    write_message(reason);
    Verdict::dropped(reason).0
}

/// Writes the message, unless there was one of this kind already in this minute.
#[inline(always)]
fn write_message(reason: u32) -> Option<()> {
    let last = LOGGED.get_ptr_mut(reason % KINDS as u32)?;
    let headers = &scratch()?.headers;
    // Never 0, which means that there was none.
    let minute = (clock::now_s() >> PAUSE_SHIFT) + 1;
    // SAFETY: the entry of this CPU, which nothing else uses while the program runs.
    if unsafe { core::mem::replace(&mut *last, minute) } == minute {
        return None;
    }
    let (from, to) = (
        u16::from_be(headers.source_be),
        u16::from_be(headers.dest_be),
    );
    let protocol = headers.protocol;
    // The length of an address is part of the message, so each family has its own.
    macro_rules! message {
        ($form:expr) => {{
            let [source, dest] = [headers.source, headers.dest].map($form);
            // `lb_common::log` says what the first word is.
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

/// An IPv4 address, in host byte order.
#[inline(always)]
fn v4(address: Address) -> u32 {
    u32::from_be(address[0] as u32)
}

/// The bytes of an IPv6 address.
#[inline(always)]
fn v6(address: Address) -> [u8; 16] {
    // SAFETY: plain bytes of the same size.
    unsafe { core::mem::transmute(address) }
}

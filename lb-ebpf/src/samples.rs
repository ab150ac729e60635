//! Sampled flows.

use lb_common::sample::FlowSample;

use crate::{clock, headers::tcp, maps::SAMPLES, scratch::scratch};

/// Writes down a packet of a sampled flow. A table that is full forgets the oldest; a failure to
/// write changes nothing for the packet.
///
/// The headers are in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sample(vip: u32, member: u32, bytes: u32) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let headers = &scratch.headers;
    let (vip, member) = (vip as u16, member as u16);
    let key = headers.flow_key();
    let now_s = clock::now_s() as u32;
    let opens = u32::from(headers.opens());
    let resets = u32::from(headers.tcp_flags & tcp::RST != 0);
    if let Some(sample) = SAMPLES.get_ptr_mut(&key) {
        // SAFETY: an entry that was just found. Two CPUs may write it at once and lose a count: it is
        // a sample.
        let sample = unsafe { &mut *sample };
        sample.packets += 1;
        sample.bytes += u64::from(bytes);
        sample.last_s = now_s;
        sample.syns += opens;
        sample.resets += resets;
        sample.member = member;
        return 0;
    }
    let sample = FlowSample {
        packets: 1,
        bytes: u64::from(bytes),
        first_s: now_s,
        last_s: now_s,
        syns: opens,
        resets,
        member,
        vip,
        _pad: 0,
    };
    // The least recently used entry makes room; what fails beyond that is one sample less.
    let _lost = SAMPLES.insert(&key, &sample, 0);
    0
}

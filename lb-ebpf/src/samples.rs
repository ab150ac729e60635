//! Sampled flows.

use lb_common::{
    hash,
    sample::{FlowSample, MAX_BEGUN_PER_S},
    vip::Vip,
};

use crate::{
    budget, clock,
    headers::tcp,
    maps::{SAMPLE_BUDGET, SAMPLES},
    scratch::scratch,
};

/// Whether the flow with this hash is sampled.
#[inline(always)]
pub(crate) fn is_sampled(vip: &Vip, flow_hash: u64) -> bool {
    // SAFETY: a word of a mapped array that the controller replaces in one step.
    let mask = unsafe { (&raw const vip.sample_mask).read_volatile() };
    hash::is_sampled(flow_hash, mask as u32)
}

/// Writes down a packet of a sampled flow. A table that is full forgets the oldest; a failure to
/// write changes nothing for the packet.
///
/// What this CPU may add in a second is bounded. When that is used up, a packet that opens a flow is not even
/// looked up: so a flood of SYNs costs little until the controller samples fewer.
///
/// The headers are in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sample(vip: u32, member: u32, bytes: u64, hash: u32) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let headers = &scratch.headers;
    let (vip, member) = (vip as u16, member as u16);
    let key = headers.flow_key();
    let second = clock::now_s();
    if headers.opens() && budget::is_spent(&SAMPLE_BUDGET, second, MAX_BEGUN_PER_S) {
        return 0;
    }
    let now_s = second as u32;
    let opens = u32::from(headers.opens());
    let resets = u32::from(headers.tcp_flags & tcp::RST != 0);
    if let Some(sample) = SAMPLES.get_ptr_mut(&key) {
        // SAFETY: an entry that was just found. Two CPUs may write it at once and lose a count: it is
        // a sample.
        let sample = unsafe { &mut *sample };
        sample.packets += 1;
        sample.bytes += bytes;
        sample.last_s = now_s;
        sample.syns += opens;
        sample.resets += resets;
        sample.member = member;
        return 0;
    }
    if !budget::take(&SAMPLE_BUDGET, second, MAX_BEGUN_PER_S) {
        return 0;
    }
    let sample = FlowSample {
        packets: 1,
        bytes,
        first_s: now_s,
        last_s: now_s,
        syns: opens,
        resets,
        member,
        vip,
        hash,
    };
    // The least recently used entry makes room; what fails beyond that is one sample less.
    let _lost = SAMPLES.insert(&key, &sample, 0);
    0
}

//! Sampled flows.

use lb_common::{
    hash,
    sample::{FlowSample, MAX_ADDED_PER_S, is_wanted},
    vip::Vip,
};

use crate::{
    budget, clock,
    headers::tcp,
    maps::{SAMPLE_BUDGET, SAMPLES},
    scratch::scratch,
    tables,
};

/// Whether the flow with this hash is sampled.
#[inline(always)]
pub(crate) fn is_sampled(vip: &Vip, flow_hash: u64) -> bool {
    // SAFETY: a word of a mapped array, stored atomically by the controller.
    let mask = unsafe { (&raw const vip.sample_mask).read_volatile() };
    hash::is_sampled(flow_hash, mask as u32)
}

/// Records a packet of a sampled flow, whose headers are in the scratch. A full table evicts the
/// least recently used flow. A failure does not affect the packet.
///
/// Each CPU adds a bounded number of flows per second. Once that is used up, packets of new flows
/// are not even looked up, so a SYN flood costs little until the controller samples fewer flows.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sample(vip: u32, member: u32, bytes: u64, hash: u32) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let headers = &scratch.headers;
    let (vip, member) = (vip as u16, member as u16);
    let key = headers.flow_key();
    let second = clock::now_s();
    // Here and not in `is_sampled`: to read the clock would cost the other packets registers.
    if !is_wanted(hash, tables::heartbeat_s(), second) {
        return 0;
    }
    if headers.opens() && budget::is_spent(&SAMPLE_BUDGET, second, MAX_ADDED_PER_S) {
        return 0;
    }
    let now_s = second as u32;
    let opens = u32::from(headers.opens());
    let resets = u32::from(headers.tcp_flags & tcp::RST != 0);
    if let Some(sample) = SAMPLES.get_ptr_mut(&key) {
        // SAFETY: the entry was just found. Two CPUs may write it at the same time and lose a
        // count, which a sample tolerates.
        let sample = unsafe { &mut *sample };
        sample.packets += 1;
        sample.bytes += bytes;
        sample.last_s = now_s;
        sample.syns += opens;
        sample.resets += resets;
        sample.member = member;
        return 0;
    }
    if !budget::take(&SAMPLE_BUDGET, second, MAX_ADDED_PER_S) {
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
    // A failed insert only loses a sample.
    let _lost = SAMPLES.insert(&key, &sample, 0);
    0
}

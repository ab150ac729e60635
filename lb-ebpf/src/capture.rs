//! Packet capture: what `evenkeel_capture` does before and after a packet is processed.
//!
//! It is a program of its own, so `evenkeel_lb` contains nothing of this. The controller puts it
//! into the links while a capture runs. Its maps belong to the loaded program and get their sizes
//! when it is loaded; where it is not, they exist with the minimum sizes below.
//!
//! The parts are global functions, called by the entry point alone: like stages they have the stack
//! to themselves.

use aya_ebpf::{
    bindings::{BPF_RB_NO_WAKEUP, xdp_action, xdp_md},
    btf_maps::{Array, RingBuf},
    helpers::generated::bpf_ktime_get_ns,
    macros::btf_map,
};
use lb_common::{
    Address,
    capture::{CaptureCounts, Filter, HEADER_BYTES, MAX_SNAP, Record, condition, contains, side},
    family, proto,
    reason::Reason,
    trace::Trace,
};

use crate::{
    clock,
    counters::{block, cpu},
    maps::{MAPPED, below},
    packet::{self, Packet},
    wire::{ether, ethernet, ipv4, ipv6, ports},
};

#[btf_map]
pub(crate) static CAPTURE_FILTER: Array<Filter, 1, MAPPED> = Array::new();

/// The record that each CPU is building. This and the next are arrays with an element per CPU, and
/// not per-CPU arrays, whose elements would exist for all CPUs even where nothing is captured.
#[btf_map]
pub(crate) static CAPTURE_FRAMES: Array<Frames, 1> = Array::new();

#[btf_map]
pub(crate) static CAPTURE_COUNTS: Array<CaptureCounts, 1, MAPPED> = Array::new();

/// The records. The reader polls: to wake it takes several microseconds.
#[btf_map]
pub(crate) static CAPTURE_RECORDS: RingBuf<u64, 4096> = RingBuf::new();

/// A power of two above [`MAX_SNAP`]: masks keep offsets below it.
const SIDE: usize = 2 * MAX_SNAP as usize;

#[repr(C)]
pub(crate) struct Frames {
    record: Record,
    /// The frame as received, and behind its recorded bytes the one as transmitted. Reads and writes
    /// may exceed a side by some bytes.
    bytes: [u8; 2 * SIDE + 64],
}

/// Bytes that [`copy_frame`] copies at a time.
const CHUNK: usize = 8;

#[inline(always)]
fn frames() -> Option<&'static mut Frames> {
    let frames = CAPTURE_FRAMES.get_ptr_mut(cpu())?;
    // SAFETY: this CPU's entry; nothing else uses it while the program runs.
    Some(unsafe { &mut *frames })
}

/// Resets the trace and keeps the start of the frame, before the packet is processed.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn begin_capture(ctx: *mut xdp_md) -> u32 {
    let (Some(frames), Some(filter), Some(block)) = (frames(), CAPTURE_FILTER.get(0), block())
    else {
        return 0;
    };
    // SAFETY: the block of this CPU, which nothing else writes while the program runs.
    unsafe { (*block).trace = Trace::EMPTY };
    frames.record.in_len = 0;
    if clock::now_s() >= filter.until_s {
        return 0;
    }
    frames.record.ifindex = packet::ingress_ifindex(ctx);
    frames.record.in_bytes = copy_frame(ctx, 0, filter.snap);
    // Last: it stands for "kept".
    frames.record.in_len = Packet::of(ctx).len();
    0
}

/// Copies the start of the frame, at least what the filter reads, to `base`. Returns the number of
/// bytes to record, at most `snap`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn copy_frame(ctx: *mut xdp_md, base: u32, snap: u32) -> u32 {
    let Some(frames) = frames() else { return 0 };
    let packet = Packet::of(ctx);
    let to = (&raw mut frames.bytes)
        .cast::<u8>()
        .wrapping_add(below::<SIDE>(base as usize));
    let wanted = snap.max(HEADER_BYTES) as usize;
    let mut at = 0;
    while at < MAX_SNAP as usize {
        if at >= wanted {
            break;
        }
        let Some(chunk) = packet.view::<CHUNK>(at) else {
            break;
        };
        // SAFETY: `at` is less than a side.
        unsafe { to.add(at).cast::<u64>().write_unaligned(chunk.get(0)) };
        at += CHUNK;
    }
    // What is left of a frame that ends within a chunk.
    if let Some(rest) = packet.view::<4>(at) {
        // SAFETY: as above; there is room behind the sides.
        unsafe { to.add(at).cast::<u32>().write_unaligned(rest.get(0)) };
        at += 4;
    }
    if let Some(rest) = packet.view::<2>(at) {
        // SAFETY: as above.
        unsafe { to.add(at).cast::<u16>().write_unaligned(rest.get(0)) };
        at += 2;
    }
    if let Some(rest) = packet.view::<1>(at) {
        // SAFETY: as above.
        unsafe { to.add(at).write(rest.get(0)) };
        at += 1;
    }
    (at as u32).min(snap)
}

/// Writes the record of a processed packet if the filter selects it.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn end_capture(ctx: *mut xdp_md) -> u32 {
    let (Some(frames), Some(filter), Some(block)) = (frames(), CAPTURE_FILTER.get(0), block())
    else {
        return 0;
    };
    let record = &mut frames.record;
    if record.in_len == 0 {
        return 0;
    }
    // SAFETY: as in `begin_capture`.
    let trace = unsafe { &(*block).trace };
    let is_sent = trace.verdict == xdp_action::XDP_TX || trace.verdict == xdp_action::XDP_REDIRECT;
    let sides = if is_sent {
        filter.sides
    } else {
        filter.sides & side::IN
    };
    if sides == 0 || !decision_matches(filter, trace) {
        return 0;
    }
    let reads_headers = filter.conditions & condition::HEADERS != 0;
    // Before the transmitted frame overwrites what is kept for the filter only.
    let mut matches = !reads_headers || headers_match(0, record.in_len, 0) != 0;
    if sides & side::IN == 0 {
        record.in_bytes = 0;
    }
    record.out_len = 0;
    record.out_bytes = 0;
    if sides & side::OUT != 0 {
        record.out_len = Packet::of(ctx).len();
    }
    let is_reply = trace.reason == Reason::NatReply as u32;
    if sides & side::OUT != 0 || !matches && is_reply {
        record.out_bytes = copy_frame(ctx, record.in_bytes, filter.snap);
        if sides & side::OUT == 0 {
            record.out_bytes = 0;
        }
    }
    // The client's flow is in the translated reply, reversed.
    if !matches && is_reply {
        matches = headers_match(record.in_bytes, Packet::of(ctx).len(), 1) != 0;
    }
    if matches {
        record.trace = *trace;
        write_record(filter.per_s);
    }
    0
}

/// Whether the filter selects what was decided about the packet.
#[inline(always)]
fn decision_matches(filter: &Filter, trace: &Trace) -> bool {
    let by_vip = filter.conditions & condition::VIP != 0;
    let by_member = filter.conditions & condition::MEMBER != 0;
    filter.actions >> (trace.verdict & 31) & 1 != 0
        && filter.reasons >> (trace.reason & 63) & 1 != 0
        && (!by_vip || contains(&filter.vips, trace.vip))
        && (!by_member || contains(&filter.members, trace.member))
}

/// Writes this CPU's record, within the limit of records per second.
#[inline(always)]
fn write_record(per_s: u64) {
    let (Some(frames), Some(counts)) = (frames(), CAPTURE_COUNTS.get_ptr_mut(cpu())) else {
        return;
    };
    // SAFETY: this CPU's entry; nothing else writes it while the program runs.
    let counts = unsafe { &mut *counts };
    counts.matched += 1;
    let second = clock::now_s();
    if counts.second != second {
        counts.second = second;
        counts.used = 0;
    }
    if counts.used >= per_s {
        counts.over_limit += 1;
        return;
    }
    counts.used += 1;
    frames.record.cpu = cpu();
    // SAFETY: no arguments; reads the clock.
    frames.record.time_ns = unsafe { bpf_ktime_get_ns() };
    let bytes = below::<SIDE>(frames.record.in_bytes as usize)
        + below::<SIDE>(frames.record.out_bytes as usize);
    // SAFETY: both masks keep the length below that of the frames.
    let whole = unsafe {
        core::slice::from_raw_parts(
            (&raw const *frames).cast::<u8>(),
            size_of::<Record>() + bytes,
        )
    };
    let written = CAPTURE_RECORDS.output_untyped::<[u8]>(whole, BPF_RB_NO_WAKEUP.into());
    if written.is_ok() {
        counts.recorded += 1;
    } else {
        counts.no_space += 1;
    }
}

/// Headers of a kept frame.
struct Flow {
    source: Address,
    dest: Address,
    source_be: u16,
    dest_be: u16,
    protocol: u8,
    family: u8,
}

/// Whether the kept frame at `base`, of `len` bytes, has the addresses, ports, protocol and family
/// of the filter. `reversed`: it is a reply.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn headers_match(base: u32, len: u32, reversed: u32) -> u32 {
    let (Some(frames), Some(filter)) = (frames(), CAPTURE_FILTER.get(0)) else {
        return 0;
    };
    let base = (&raw const frames.bytes)
        .cast::<u8>()
        .wrapping_add(below::<SIDE>(base as usize));
    let Some(mut flow) = parse(base, len as usize) else {
        return 0;
    };
    if reversed != 0 {
        core::mem::swap(&mut flow.source, &mut flow.dest);
        core::mem::swap(&mut flow.source_be, &mut flow.dest_be);
    }
    let is = |found: &Address, mask: &Address, wanted: &Address| {
        (found[0] & mask[0] ^ wanted[0]) | (found[1] & mask[1] ^ wanted[1]) == 0
    };
    u32::from(
        is(&flow.source, &filter.source_mask, &filter.source)
            && is(&flow.dest, &filter.dest_mask, &filter.dest)
            && (filter.source_be == 0 || filter.source_be == flow.source_be)
            && (filter.dest_be == 0 || filter.dest_be == flow.dest_be)
            && (filter.protocol == 0 || filter.protocol == flow.protocol)
            && (filter.family == 0 || filter.family == flow.family),
    )
}

/// Reads a value of a kept frame.
#[inline(always)]
fn read<T: Copy>(base: *const u8, at: usize) -> T {
    let at = below::<{ HEADER_BYTES as usize }>(at);
    // SAFETY: the mask keeps the offset in bounds; there is room behind the sides.
    unsafe { base.add(at).cast::<T>().read_unaligned() }
}

/// Parses a kept frame. Ports are 0 in later fragments and behind IPv6 extension headers, which are
/// not followed.
#[inline(always)]
fn parse(base: *const u8, len: usize) -> Option<Flow> {
    let mut l3 = ethernet::LEN;
    let mut ether_type: u16 = read(base, ethernet::ETHER_TYPE);
    for _ in 0..2 {
        if ether::is_vlan(ether_type) {
            ether_type = read(base, l3 + 2);
            l3 += ether::TAG_LEN;
        }
    }
    let mut flow = Flow {
        source: [0; 2],
        dest: [0; 2],
        source_be: 0,
        dest_be: 0,
        protocol: 0,
        family: 0,
    };
    let l4;
    let mut has_ports = true;
    if ether_type == ether::IPV4 && len >= l3 + ipv4::LEN {
        flow.family = family::V4;
        flow.source[0] = read::<u32>(base, l3 + ipv4::SOURCE).into();
        flow.dest[0] = read::<u32>(base, l3 + ipv4::DEST).into();
        flow.protocol = read(base, l3 + ipv4::PROTOCOL);
        has_ports = read::<u16>(base, l3 + ipv4::FRAGMENT) & ipv4::OFFSET_BITS == 0;
        l4 = l3 + (read::<u8>(base, l3 + ipv4::VERSION_IHL) & 0xf) as usize * 4;
    } else if ether_type == ether::IPV6 && len >= l3 + ipv6::LEN {
        flow.family = family::V6;
        flow.source = [
            read(base, l3 + ipv6::SOURCE),
            read(base, l3 + ipv6::SOURCE + 8),
        ];
        flow.dest = [read(base, l3 + ipv6::DEST), read(base, l3 + ipv6::DEST + 8)];
        flow.protocol = read(base, l3 + ipv6::NEXT_HEADER);
        l4 = l3 + ipv6::LEN;
    } else {
        return None;
    }
    let is_known = flow.protocol == proto::TCP || flow.protocol == proto::UDP;
    if has_ports && is_known && len >= l4 + ports::LEN {
        flow.source_be = read(base, l4 + ports::SOURCE);
        flow.dest_be = read(base, l4 + ports::DEST);
    }
    Some(flow)
}

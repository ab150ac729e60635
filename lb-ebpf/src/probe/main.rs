//! `evenkeel_probe`: takes health checks the way that a VIP's traffic takes.
//!
//! The socket of a check is connected to the backend's own address, and its packets carry a mark that
//! names the member. On egress, `probe_out` gives such a packet the VIP as its destination and sends
//! it as the balancer would: to the MAC address in the member's entry, or in an outer header to the backend. The
//! backend answers straight to the node, from the VIP; on ingress, `probe_in` gives the answer the
//! address that the socket knows, before the kernel looks at it. So it does not matter whether the node
//! has a route to the VIP, or holds it itself.
//!
//! Checksums are changed by the helpers that know about offload: packets of a local socket usually
//! have only part of theirs.
#![no_std]
#![no_main]

use aya_ebpf::{
    EbpfContext as _,
    btf_maps::{Array, LruHashMap, PerCpuArray},
    macros::{btf_map, classifier},
    programs::TcContext,
};
use lb_common::{
    probe::{MAX_PROBE_FLOWS, ProbeCounters, ProbeFlow, ProbePath, ProbedBackend},
    ring::MAX_MEMBERS,
};

mod error;
mod frame;
mod ingress;
mod out;
mod outer;
#[path = "../table.rs"]
#[expect(
    dead_code,
    reason = "the balancer uses all of it, this program does not"
)]
mod table;
#[path = "../wire.rs"]
#[expect(
    dead_code,
    reason = "the balancer uses all of it, this program does not"
)]
mod wire;

/// Where probes of the members go.
#[btf_map]
static PROBE_PATHS: Array<ProbePath, { MAX_MEMBERS as usize }, 0> = Array::new();

/// Flows of probes, so that answers find the socket.
#[btf_map]
static PROBE_FLOWS: LruHashMap<ProbeFlow, ProbedBackend, { MAX_PROBE_FLOWS as usize }> =
    LruHashMap::new();

/// Counters.
#[btf_map]
static PROBE_COUNTS: PerCpuArray<ProbeCounters, 1> = PerCpuArray::new();

/// "Go on with whoever is next": what is not a probe is none of our business.
const NEXT: i32 = -1;
/// Drop the packet.
const DROP: i32 = 2;

/// Packets that leave.
#[classifier]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn probe_out(ctx: TcContext) -> i32 {
    out::send(ctx.as_ptr().cast())
}

/// Packets that come in.
#[classifier]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn probe_in(ctx: TcContext) -> i32 {
    ingress::receive(ctx.as_ptr().cast());
    NEXT
}

#[inline(always)]
fn count(change: impl FnOnce(&mut ProbeCounters)) {
    if let Some(counters) = PROBE_COUNTS.get_ptr_mut(0) {
        // SAFETY: the entry of this CPU, which nothing else uses while the program runs.
        change(unsafe { &mut *counters });
    }
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

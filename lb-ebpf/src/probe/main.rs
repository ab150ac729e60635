//! `evenkeel_probe`: sends health checks through a VIP.
//!
//! The socket of a check is connected to the backend's own address, and its packets carry a mark
//! with the member index. On egress, `probe_out` rewrites the destination to the VIP and sends the
//! packet as the balancer would: to the MAC address in the member's entry, or encapsulated to the
//! backend. The backend replies directly to the node, from the VIP. On ingress, `probe_in` rewrites
//! the source to the address that the socket expects, before the kernel processes the packet. So
//! the node needs no route to the VIP, and may hold it itself.
//!
//! Checksums are updated by helpers that support offload: packets of a local socket usually have
//! partial checksums.
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
#[path = "../tables.rs"]
#[expect(
    dead_code,
    reason = "the balancer uses all of it, this program does not"
)]
mod tables;
#[path = "../wire.rs"]
#[expect(
    dead_code,
    reason = "the balancer uses all of it, this program does not"
)]
mod wire;

/// Where the probes of each member are sent.
#[btf_map]
static PROBE_PATHS: Array<ProbePath, { MAX_MEMBERS as usize }, 0> = Array::new();

/// Flows of probes, by which replies are matched.
#[btf_map]
static PROBE_FLOWS: LruHashMap<ProbeFlow, ProbedBackend, { MAX_PROBE_FLOWS as usize }> =
    LruHashMap::new();

#[btf_map]
static PROBE_COUNTS: PerCpuArray<ProbeCounters, 1> = PerCpuArray::new();

/// `TC_ACT_UNSPEC`: continue with the next program.
const NEXT: i32 = -1;
/// `TC_ACT_SHOT`: drop the packet.
const DROP: i32 = 2;

#[classifier]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn probe_out(ctx: TcContext) -> i32 {
    out::send(ctx.as_ptr().cast())
}

#[classifier]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn probe_in(ctx: TcContext) -> i32 {
    ingress::receive(ctx.as_ptr().cast());
    NEXT
}

#[inline(always)]
fn count(change: impl FnOnce(&mut ProbeCounters)) {
    if let Some(counters) = PROBE_COUNTS.get_ptr_mut(0) {
        // SAFETY: this CPU's entry; nothing else uses it while the program runs.
        change(unsafe { &mut *counters });
    }
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

//! Dispatches TCP and UDP packets by what their destination is: a VIP or a NAT source.

use aya_ebpf::bindings::xdp_md;
use lb_common::reason::Reason;

use crate::{
    ethernet,
    forward::forward_fast_path,
    headers::Headers,
    maps::Tables,
    scratch,
    services::Service,
    trace,
    verdict::{Stage, Verdict},
};

/// Dispatches a packet that was fully validated. `service` is a VIP or a NAT source.
#[inline(always)]
pub(crate) fn dispatch(
    ctx: *mut xdp_md,
    tables: Tables,
    headers: &Headers,
    service: Service,
) -> Verdict {
    if service.is_vip() {
        return forward_fast_path(ctx, tables, headers, service.index());
    }
    scratch::save_headers(headers);
    Verdict::next(Stage::NatReply, 0, u32::from(service.index()))
}

/// Dispatches a packet from the slow path: checks what the fast path has checked already.
#[inline(always)]
pub(crate) fn dispatch_slow_path(
    ctx: *mut xdp_md,
    tables: Tables,
    headers: &Headers,
    service: Service,
) -> Verdict {
    // A router forwards neither broadcast or multicast frames, of which each router would send a
    // copy, nor packets from martian sources (RFC 1812 §5.3.4, §5.3.7).
    if ethernet::is_multicast(ctx) {
        return Verdict::of(Reason::LinkGroup);
    }
    if !service.is_vip() {
        return dispatch(ctx, tables, headers, service);
    }
    if !headers.has_valid_source() {
        trace::vip(service.index());
        return Verdict::of(Reason::MartianSource);
    }
    scratch::save_headers(headers);
    Verdict::next(Stage::Forward, 0, u32::from(service.index()))
}

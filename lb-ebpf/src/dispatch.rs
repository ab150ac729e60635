//! Hands packets to what they are for.

use aya_ebpf::bindings::xdp_md;
use lb_common::reason::Reason;

use crate::{
    ethernet,
    forward::forward_fast_path,
    fragments,
    headers::Headers,
    maps::Tables,
    scratch,
    services::Service,
    trace,
    verdict::{Stage, Verdict},
};

/// Hands a TCP or UDP packet to what it is for, which is one of ours.
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

/// Hands over a packet that took an uncommon way.
#[inline(always)]
pub(crate) fn dispatch_slow_path(
    ctx: *mut xdp_md,
    tables: Tables,
    headers: &Headers,
    service: Service,
) -> Verdict {
    // A router forwards neither frames to many, of which each would send a copy, nor packets of whom nobody can answer
    // (RFC 1812 §5.3.4, §5.3.7).
    if ethernet::is_multicast(ctx) {
        return fragments::pass(headers, Reason::LinkGroup);
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

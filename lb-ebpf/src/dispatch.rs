//! Dispatches TCP and UDP packets by what their destination is: a VIP or a NAT source.

use aya_ebpf::bindings::xdp_md;
use lb_common::{proto, reason::Reason};

use crate::{
    ethernet,
    forward::forward_fast_path,
    headers::Headers,
    limits, scratch,
    services::Service,
    tables, trace,
    verdict::{FastPath, Stage, Verdict},
};

/// Dispatches a packet that was fully validated. `service` is a VIP or a NAT source. `None` for another
/// protocol, which only NAT sources have entries for.
///
/// `headers` parses the headers; each branch has its own copy of it, and reads what it needs.
#[inline(always)]
pub(crate) fn dispatch_fast_path(
    ctx: *mut xdp_md,
    headers: impl Fn() -> Headers,
    service: Service,
) -> Option<FastPath> {
    if service.is_vip() {
        return Some(forward_fast_path(ctx, headers, service.index()));
    }
    let headers = headers();
    let is_known = headers.protocol == proto::TCP || headers.protocol == proto::UDP;
    is_known.then(|| reply(&headers, service).into())
}

/// Hands a packet to a NAT source to its stage.
#[inline(always)]
fn reply(headers: &Headers, service: Service) -> Verdict {
    scratch::save_headers(headers);
    Verdict::next(Stage::NatReply, 0, u32::from(service.index()))
}

/// Dispatches a packet from the slow path: checks what the fast path has checked already.
#[inline(always)]
pub(crate) fn dispatch_slow_path(ctx: *mut xdp_md, headers: &Headers, service: Service) -> Verdict {
    // A router forwards neither broadcast or multicast frames, of which each router would send a
    // copy, nor packets from martian sources (RFC 1812 §5.3.4, §5.3.7).
    if ethernet::is_multicast(ctx) {
        return Verdict::of(Reason::LinkGroup);
    }
    if !service.is_vip() {
        return reply(headers, service);
    }
    if !headers.has_valid_source() {
        trace::vip(service.index());
        return Verdict::of(Reason::MartianSource);
    }
    scratch::save_headers(headers);
    let vip_index = service.index();
    let stage = if limits::may_apply(tables::vip(vip_index), headers) {
        Stage::Limit
    } else {
        Stage::Forward
    };
    Verdict::next(stage, 0, u32::from(vip_index))
}

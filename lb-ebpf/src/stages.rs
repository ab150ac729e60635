//! The slow path: stages that run one after another.
//!
//! The fast path is one piece of inlined code. Everything else runs in stages: global functions
//! (Linux 5.6), which the verifier checks once instead of once per path that leads to them. A stage
//! takes the context and two small numbers; further data is in the [`scratch`](crate::scratch). It
//! returns the final verdict or the next stage. Only this module calls stages, never one another,
//! so only one is on the stack (512 bytes in total).

use aya_ebpf::bindings::xdp_md;
use lb_common::reason::Reason;

use crate::{
    bound, forward, fragments, icmp, ipv4, ipv6, later_fragment, limits, log, nat, receive,
    verdict::{Stage, Verdict},
};

/// The longest sequence has eleven: tagged, slow path, limit, forward, NAT request, session, limit, bound,
/// create, send, generate.
const MAX_STAGES: usize = 11;

/// Runs stages until a packet has its final verdict.
#[inline(always)]
pub(crate) fn run(ctx: *mut xdp_md, first: Verdict) -> Verdict {
    if first.is_last() {
        return first;
    }
    let mut verdict = first;
    for _ in 0..MAX_STAGES {
        let Some((stage, offset, number)) = verdict.next_stage() else {
            return verdict;
        };
        verdict = Verdict::from_stage(call(ctx, stage, offset, number));
    }
    if verdict.next_stage().is_some() {
        Verdict::of(Reason::Internal)
    } else {
        verdict
    }
}

#[inline(always)]
fn call(ctx: *mut xdp_md, stage: u32, offset: u32, number: u32) -> u32 {
    const TAGGED: u32 = Stage::Tagged as u32;
    const SLOW_PATH_V4: u32 = Stage::SlowPathV4 as u32;
    const SLOW_PATH_V6: u32 = Stage::SlowPathV6 as u32;
    const FORWARD: u32 = Stage::Forward as u32;
    const LIMIT: u32 = Stage::Limit as u32;
    const BOUND: u32 = Stage::Bound as u32;
    const FRAGMENT: u32 = Stage::Fragment as u32;
    const PASS_FIRST: u32 = Stage::PassFirst as u32;
    const NAT_REQUEST: u32 = Stage::NatRequest as u32;
    const NAT_SESSION: u32 = Stage::NatSession as u32;
    const NAT_CREATE: u32 = Stage::NatCreate as u32;
    const NAT_REFRESH: u32 = Stage::NatRefresh as u32;
    const NAT_SEND: u32 = Stage::NatSend as u32;
    const NAT_REPLY: u32 = Stage::NatReply as u32;
    const ICMP: u32 = Stage::Icmp as u32;
    const ECHO: u32 = Stage::Echo as u32;
    const ERROR_V4: u32 = Stage::ErrorV4 as u32;
    const ERROR_V6: u32 = Stage::ErrorV6 as u32;
    const NAT_ERROR: u32 = Stage::NatError as u32;
    const TUNNEL_V4: u32 = Stage::TunnelV4 as u32;
    const TUNNEL_V6: u32 = Stage::TunnelV6 as u32;
    const GENERATE_V4: u32 = Stage::GenerateV4 as u32;
    const GENERATE_V6: u32 = Stage::GenerateV6 as u32;
    const REFUSE: u32 = Stage::Refuse as u32;
    match stage {
        TAGGED => receive::receive_tagged(ctx, offset, number),
        SLOW_PATH_V4 => ipv4::slow_path_v4(ctx, offset),
        SLOW_PATH_V6 => ipv6::slow_path_v6(ctx, offset),
        FORWARD => forward::forward_slow_path(ctx, offset, number),
        LIMIT => limits::limit(offset, number),
        BOUND => bound::bound(ctx, offset, number),
        FRAGMENT => later_fragment::forward_later_fragment(ctx, offset),
        PASS_FIRST => fragments::pass_first(number),
        NAT_REQUEST => nat::request::nat_request(ctx, number),
        NAT_SESSION => nat::request::nat_session(ctx, number),
        NAT_CREATE => nat::request::nat_create(ctx, offset, number),
        NAT_REFRESH => nat::request::nat_refresh(ctx, number),
        NAT_SEND => nat::request::nat_send(ctx, number),
        NAT_REPLY => nat::reply::nat_reply(ctx, number),
        ICMP => icmp::receive::receive_icmp(ctx),
        ECHO => icmp::echo::answer_echo(ctx),
        ERROR_V4 => icmp::error::forward_error_v4(ctx),
        ERROR_V6 => icmp::error::forward_error_v6(ctx, offset, number),
        NAT_ERROR => nat::error::nat_error(ctx),
        TUNNEL_V4 => icmp::tunnel::tunnel_v4(ctx, offset, number),
        TUNNEL_V6 => icmp::tunnel::tunnel_v6(ctx, offset, number),
        GENERATE_V4 => icmp::generate::generate_v4(ctx, offset, number),
        GENERATE_V6 => icmp::generate::generate_v6(ctx, offset, number),
        REFUSE => log::refuse_and_log(number),
        _ => Verdict::of(Reason::Internal).0,
    }
}

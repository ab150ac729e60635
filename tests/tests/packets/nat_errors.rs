//! ICMP errors about `nat` sessions.

use std::net::IpAddr;

use lab::{
    bytecode::{Bench, Expect, Verdict, tables::MTU},
    packet::{Frame, Ip, OUTSIDE, OWN},
};
use lb_common::reason::Reason;

use crate::{
    icmp_errors::{chains, errors_about},
    nat::Session,
};

/// Errors about either direction go to the sender of the packet and quote it as it was sent.
pub(crate) fn errors(bench: &mut Bench, session: &Session, request: &Frame) {
    let index = session.service.index;
    let shortest = if session.client.is_ipv4() { 28 } else { 48 };
    for keep in [
        shortest,
        shortest + 8,
        shortest + 9,
        shortest + 10,
        shortest + 12,
        500,
    ] {
        // About a request on its way to the backend.
        let sent = session.request(request);
        for (error, as_sent) in errors_about(&sent, keep)
            .into_iter()
            .zip(errors_about(request, keep))
        {
            let mut out = as_sent.link(OUTSIDE, OWN);
            let hops_at = if session.client.is_ipv4() { 8 } else { 7 };
            out.payload[hops_at] = error.payload[hops_at];
            quote_sums(&mut out, &error);
            *out.ip.ttl_mut() -= 1;
            let expect = Expect::sent(Reason::IcmpErrorForwarded, &out)
                .plus(&format!("m{index}.icmp_errors"), 1)
                .plus(&format!("m{index}.reply_packets"), 1)
                .plus(&format!("m{index}.reply_bytes"), error.bytes().len());
            let name = format!("{:?} about a request, {keep} of it", error.transport);
            bench.check(&name, &error, &expect);
            // The backend's own errors get the VIP's address, as its packets do.
            let (own, out) = (
                from(error, session.service.backend()),
                from(out, session.service.address),
            );
            let expect = Expect::sent(Reason::IcmpErrorForwarded, &out)
                .plus(&format!("m{index}.icmp_errors"), 1)
                .plus(&format!("m{index}.reply_packets"), 1)
                .plus(&format!("m{index}.reply_bytes"), own.bytes().len());
            bench.check(&format!("{name}, by the backend"), &own, &expect);
        }
        // About a reply on its way to the client.
        let (reply, out_reply) = session.reply(request);
        for (error, as_sent) in errors_about(&out_reply, keep)
            .into_iter()
            .zip(errors_about(&reply, keep))
        {
            let mut out = as_sent.link(session.service.mac(), OWN);
            let hops_at = if session.client.is_ipv4() { 8 } else { 7 };
            out.payload[hops_at] = error.payload[hops_at];
            quote_sums(&mut out, &error);
            *out.ip.ttl_mut() -= 1;
            let expect = Expect::sent(Reason::IcmpErrorForwarded, &out)
                .plus(&format!("m{index}.icmp_errors"), 1);
            let name = format!("{:?} about a reply, {keep} of it", error.transport);
            bench.check(&name, &error, &expect);
            // The client's own errors, likewise.
            let (own, out) = (from(error, session.client), from(out, session.node));
            let expect = Expect::sent(Reason::IcmpErrorForwarded, &out)
                .plus(&format!("m{index}.icmp_errors"), 1);
            bench.check(&format!("{name}, by the client"), &own, &expect);
        }
    }
}

/// Returns the frame with another source.
fn from(mut frame: Frame, source: IpAddr) -> Frame {
    let dest = frame.ip.dest();
    frame.ip.set_addresses(source, dest);
    frame
}

/// Errors about packets with extension headers.
pub(crate) fn errors_behind_extensions(bench: &mut Bench, session: &Session, request: &Frame) {
    let index = session.service.index;
    for (chain, len) in chains() {
        let request = request.clone().with_ip(|ip| {
            if let Ip::V6(ip) = ip {
                ip.extensions = chain;
            }
        });
        let (reply, out_reply) = session.reply(&request);
        let ends = [
            (session.request(&request), request, (OUTSIDE, true)),
            (out_reply, reply, (session.service.mac(), false)),
        ];
        for (sent, original, (to, is_reply)) in ends {
            let errors = errors_about(&sent, 1200).into_iter();
            for (error, as_sent) in errors.zip(errors_about(&original, 1200)) {
                let mut out = as_sent.link(to, OWN);
                out.payload[7] = error.payload[7];
                *out.ip.ttl_mut() -= 1;
                let mut expect = Expect::sent(Reason::IcmpErrorForwarded, &out)
                    .plus(&format!("m{index}.icmp_errors"), 1);
                if is_reply {
                    expect = expect
                        .plus(&format!("m{index}.reply_packets"), 1)
                        .plus(&format!("m{index}.reply_bytes"), error.bytes().len());
                }
                let name = format!("{:?} behind {len} bytes", error.transport);
                bench.check(&name, &error, &expect);
            }
        }
    }
}

/// An error that exceeds the MTU to the backend is dropped: no error is sent about an error.
pub(crate) fn large_error(bench: &mut Bench, session: &Session, request: &Frame) {
    let (_, out_reply) = session.reply(request);
    for error in errors_about(&out_reply, 1600) {
        let room = MTU as usize - (error.packet().len() - error.payload.len());
        let mut fits = error.clone();
        fits.payload.resize(room, 0);
        let mut larger = fits.clone();
        larger.payload.push(0);
        let name = format!("{:?} of more bytes than fit", error.transport);
        bench.check(&name, &larger, &Expect::of(Reason::TooBig));
        let run = bench.dataplane.run(&fits.bytes()).unwrap();
        if run.verdict != Verdict::Tx as u32 {
            bench.fail(format!(
                "one byte less than {name}: verdict {}",
                run.verdict
            ));
        }
    }
}

/// Corrects the checksums of a quoted packet: that of the IPv4 header is for the TTL as quoted; that of TCP is
/// for the packet as it was sent, unless only part of it is quoted.
fn quote_sums(out: &mut Frame, error: &Frame) {
    let (l4, protocol) = if out.ip.source().is_ipv4() {
        (20, out.payload[9])
    } else {
        (40, out.payload[6])
    };
    if protocol == 6 && out.payload.len() == l4 + 17 {
        out.payload[l4 + 16] = error.payload[l4 + 16];
    }
    if out.ip.source().is_ipv4() {
        out.payload[10..12].fill(0);
        let sum = lab::packet::checksum(&[&out.payload[..20]]);
        out.payload[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

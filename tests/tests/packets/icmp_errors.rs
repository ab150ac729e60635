//! ICMP errors from routers: each goes to the member of the flow that it quotes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lab::{
    bytecode::{
        Bench, Expect,
        tables::{SERVICES, Service},
    },
    packet::{ACK, Extension, Fragment, Frame, Ip, Transport, icmp, icmp6},
};
use lb_common::{
    reason::Reason,
    vip::{forward, track},
};

use crate::{
    forwarding::direct,
    stage::{Client, flow_hash},
};

/// A router between balancer and client.
const ROUTER4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 1);

/// Returns the errors that a router sends about a packet.
pub(crate) fn errors_about(quoted: &Frame, keep: usize) -> Vec<Frame> {
    let mut packet = quoted.packet();
    packet.truncate(keep);
    let to = quoted.ip.source();
    let v4 = [
        icmp(3, 4, 1400),
        icmp(3, 1, 0),
        icmp(11, 0, 0),
        icmp(12, 0, 0),
    ];
    let v6 = [
        icmp6(2, 0, 1400),
        icmp6(1, 0, 0),
        icmp6(3, 0, 0),
        icmp6(4, 0, 0),
    ];
    let (from, transports): (IpAddr, _) = if to.is_ipv4() {
        (ROUTER4.into(), v4)
    } else {
        (ROUTER6.into(), v6)
    };
    let frame = |transport| Frame::new(Ip::new(from, to), transport).payload(packet.clone());
    transports.into_iter().map(frame).collect()
}

/// Returns a packet of the backend to the client under direct server return.
fn returned(frame: &Frame) -> Frame {
    let mut frame = frame.clone();
    let (from, to) = (frame.ip.source(), frame.ip.dest());
    frame.ip.set_addresses(to, from);
    match &mut frame.transport {
        Transport::Tcp { source, dest, .. } | Transport::Udp { source, dest, .. } => {
            std::mem::swap(source, dest);
        }
        _ => {}
    }
    frame
}

pub(crate) fn errors(bench: &mut Bench, client: Client, tags: &[(u16, u16)]) {
    for service in direct() {
        let flow = client.to(&service, 2000, ACK);
        let shortest = if service.address.is_ipv4() { 28 } else { 48 };
        for keep in [shortest, shortest + 13, 1000] {
            for error in errors_about(&returned(&flow), keep) {
                let error = error.tags(tags);
                let expect = forwarded(&service, &error, &flow);
                let name = format!("{:?} for {service:?}", error.transport);
                bench.check(&name, &error, &expect);
            }
        }
        in_fragments(bench, &service, &flow);
        behind_extensions(bench, &service, &flow);
        for error in errors_about(&returned(&flow), shortest - 1) {
            bench.check("a short quote", &error, &Expect::of(Reason::IcmpNoFlow));
            // Padding of the frame is not part of the quoted packet.
            let padded = error.padding(&[0; 64]);
            bench.check(
                "a short quote, padded",
                &padded,
                &Expect::of(Reason::IcmpNoFlow),
            );
        }
    }
}

/// Expects that an error goes to the member of the flow.
fn forwarded(service: &Service, error: &Frame, flow: &Frame) -> Expect {
    let out = if service.forward == forward::IPIP {
        service.encapsulated(error, flow_hash(flow))
    } else {
        service.delivered(error)
    };
    let expect = Expect::sent(Reason::IcmpErrorForwarded, &out)
        .plus(&format!("m{}.icmp_errors", service.index), 1);
    if service.track == track::ALWAYS {
        expect.plus(&format!("v{}.track_misses", service.index), 1)
    } else {
        expect
    }
}

/// Errors about a fragmented datagram: only the first fragment identifies the flow.
fn in_fragments(bench: &mut Bench, service: &Service, flow: &Frame) {
    for (offset, is_first) in [(0, true), (8, false)] {
        let mut part = returned(flow).payload(vec![9; 64]);
        let Ip::V6(ip) = &mut part.ip else { return };
        let fragment = Fragment {
            offset,
            len: 16,
            more: true,
        };
        ip.extensions.push(Extension::Fragment(fragment, 7));
        let mut quote = part.packet();
        quote.truncate(57);
        for error in errors_about(&returned(flow), 1000) {
            let error = error.payload(quote.clone());
            if !is_first {
                let refused = Expect::of(Reason::IcmpNoFlow);
                bench.check("about a later fragment", &error, &refused);
                continue;
            }
            let expect = forwarded(service, &error, flow);
            bench.check("about a first fragment", &error, &expect);
        }
    }
}

/// Chains of extension headers that the program parses, with their lengths.
pub(crate) fn chains() -> [(Vec<Extension>, usize); 3] {
    use Extension::{Auth, Options};
    [
        (vec![Options(60, 8)], 8),
        (vec![Options(0, 24), Options(60, 8), Auth(24)], 56),
        (vec![Options(0, 256), Options(60, 256)], 512),
    ]
}

/// Errors about packets with extension headers, with and without extension headers themselves.
fn behind_extensions(bench: &mut Bench, service: &Service, flow: &Frame) {
    let quoting = |chain: &[Extension]| {
        let mut quoted = returned(flow);
        let Ip::V6(ip) = &mut quoted.ip else {
            return None;
        };
        ip.extensions = chain.to_vec();
        Some(quoted)
    };
    for (chain, len) in chains() {
        let Some(quoted) = quoting(&chain) else {
            return;
        };
        let whole = 40 + len + 8;
        for keep in [whole, whole + 3, 1200] {
            for (outer, _) in [(Vec::new(), 0)].into_iter().chain(chains()) {
                for error in errors_about(&quoted, keep) {
                    let error = error.with_ip(|ip| {
                        let Ip::V6(ip) = ip else { unreachable!() };
                        ip.extensions = outer.clone();
                    });
                    let expect = forwarded(service, &error, flow);
                    let name = format!("about {chain:?}, {keep} of it, behind {outer:?}");
                    bench.check(&name, &error, &expect);
                }
            }
        }
        // Truncated before or inside the ports, or inside the extension headers.
        for keep in [whole - 1, whole - 8, 40 + len / 2, 41] {
            for error in errors_about(&quoted, keep) {
                let refused = Expect::of(Reason::IcmpNoFlow);
                let name = format!("about {chain:?}, only {keep} of it");
                bench.check(&name, &error, &refused);
                let padded = error.padding(&[0; 64]);
                bench.check(&format!("{name}, padded"), &padded, &refused);
            }
        }
    }
    for chain in [
        vec![Extension::Routing(1)],
        vec![Extension::Options(60, 8); 8],
    ] {
        for error in quoting(&chain).iter().flat_map(|it| errors_about(it, 1200)) {
            let name = format!("about {chain:?}");
            bench.check(&name, &error, &Expect::of(Reason::IcmpNoFlow));
        }
    }
}

pub(crate) fn odd_errors(bench: &mut Bench, client: Client) {
    for service in [SERVICES[0], SERVICES[9]] {
        let flow = returned(&client.to(&service, 2000, ACK));
        for error in errors_about(&flow, 100) {
            let late = error.clone().ttl(1);
            bench.check("TTL expired", &late, &Expect::of(Reason::HopLimit));
            let mut stranger = error.clone();
            let source = if flow.ip.source().is_ipv4() { 12 } else { 8 };
            stranger.payload[source..source + 4].copy_from_slice(&[9; 4]);
            bench.check(
                "of another sender",
                &stranger,
                &Expect::of(Reason::IcmpNoFlow),
            );
            let mut nothing = error.clone();
            nothing.payload[0] = 0x10;
            bench.check("about no IP", &nothing, &Expect::of(Reason::IcmpNoFlow));
        }
        let mut foreign = flow.clone();
        if let Transport::Tcp { source, .. } = &mut foreign.transport {
            *source = 9;
        }
        for error in errors_about(&foreign, 100) {
            bench.check("about no service", &error, &Expect::of(Reason::NoService));
        }
        other_protocols(bench, &flow);
    }
}

/// Errors about packets of the host, or of a host behind the node, with an address that is also a VIP: ESP, ping,
/// tunnels. They are passed like packets of these protocols, however little of the packet they quote.
fn other_protocols(bench: &mut Bench, flow: &Frame) {
    let header = if flow.ip.source().is_ipv4() { 20 } else { 40 };
    for protocol in [1, 4, 41, 47, 50, 58, 132] {
        let packet = flow.clone().with_transport(Transport::Raw { protocol });
        for keep in [header, header + 4, header + 8, 100] {
            for error in errors_about(&packet, keep) {
                let name = format!("about protocol {protocol}, {keep} bytes of it");
                bench.check(&name, &error, &Expect::of(Reason::NoService));
            }
        }
    }
}

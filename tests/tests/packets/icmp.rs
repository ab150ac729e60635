//! ICMP: echo answered, errors sent to the member that has the flow, senders told what does not fit.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lab::{
    bytecode::{
        Bench, Expect,
        tables::{MTU, NAT4, NAT6, SERVICES, Service, VIP4, VIP6},
    },
    packet::{ACK, Extension, Fragment, Frame, Ip, Transport, V4, icmp, icmp6},
};
use lb_common::{
    reason::Reason,
    vip::{forward, track},
};
use lb_dataplane::LoadOptions;

use crate::{
    forwarding::{TAGS, direct},
    stage::{Client, bench, dataplane, flow_hash, options},
};

#[test]
fn icmp_is_answered_and_errors_find_their_member() {
    let mut bench = bench();
    all(&mut bench, Client::new(1));
    bench.conclude();
}

pub(crate) fn all(bench: &mut Bench, client: Client) {
    echo_of_nothing(bench, client);
    for tags in [&[][..], TAGS[0], TAGS[3]] {
        echo(bench, client, tags);
        errors(bench, client, tags);
        expired(bench, client, tags);
        too_big(bench, client, tags);
    }
    too_big_with_options(bench, client);
    expired_with_options(bench, client);
    odd_errors(bench, client);
    to_the_host(bench, client);
}

/// A message of the node or of a router, in the family of an address.
fn message(from: IpAddr, to: IpAddr, v4: Transport, v6: Transport) -> Frame {
    let transport = if to.is_ipv4() { v4 } else { v6 };
    Frame::new(Ip::new(from, to), transport)
}

/// The sum over a reply without a bit in it is 0, so that its checksum is not what is left of the request's.
fn echo_of_nothing(bench: &mut Bench, client: Client) {
    for len in 0..4 {
        let from = client.like(VIP4.into());
        let request = Frame::new(Ip::new(from, VIP4.into()), icmp(8, 0, 0)).payload(vec![0; len]);
        let reply = Frame::new(Ip::new(VIP4.into(), from), icmp(0, 0, 0))
            .payload(vec![0; len])
            .link(request.from, request.to);
        let name = format!("echo of {len} zeros");
        bench.check(&name, &request, &Expect::sent(Reason::EchoAnswered, &reply));
    }
}

fn echo(bench: &mut Bench, client: Client, tags: &[(u16, u16)]) {
    for vip in [IpAddr::V4(VIP4), VIP6.into()] {
        for len in (0..140).chain([1000, 1001, 1400, 2999, 3000]) {
            let payload: Vec<u8> = (0..len).map(|byte| (byte * 7) as u8).collect();
            let from = client.like(vip);
            let request = message(
                from,
                vip,
                icmp(8, 0, 0x1234_0001),
                icmp6(128, 0, 0x1234_0001),
            )
            .payload(payload.clone())
            .tags(tags)
            .hops(3);
            let reply = message(
                vip,
                from,
                icmp(0, 0, 0x1234_0001),
                icmp6(129, 0, 0x1234_0001),
            )
            .payload(payload)
            .tags(tags)
            .link(request.from, request.to);
            let name = format!("echo of {len} bytes to {vip}, tags {tags:x?}");
            bench.check(&name, &request, &Expect::sent(Reason::EchoAnswered, &reply));
            let padding = [3; 11];
            let (padded, expect) = (request.clone().padding(&padding), reply.padding(&padding));
            bench.check(&name, &padded, &Expect::sent(Reason::EchoAnswered, &expect));
            let mut wrong = request.bytes();
            let last = wrong.len() - 1;
            wrong[last] ^= 0x10;
            bench.check_bytes(&name, &wrong, &Expect::of(Reason::BadTransport));
        }
    }
    let with_options = Frame::new(V4::new(client.v4, VIP4), icmp(8, 0, 5)).with_ip(|ip| {
        let Ip::V4(ip) = ip else { unreachable!() };
        ip.options = vec![1; 8];
    });
    let mut reply = with_options.clone().with_transport(icmp(0, 0, 5));
    reply.ip.set_addresses(VIP4.into(), client.v4.into());
    let reply = reply.link(with_options.from, with_options.to);
    bench.check(
        "echo with options",
        &with_options,
        &Expect::sent(Reason::EchoAnswered, &reply),
    );
}

/// A router between balancer and client.
const ROUTER4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 1);

/// Errors about packets, as routers send them.
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

/// A packet of the backend to the client, as the backend of a VIP with direct return sends it.
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

fn errors(bench: &mut Bench, client: Client, tags: &[(u16, u16)]) {
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
            // What follows the packet in the frame is no quote.
            let padded = error.padding(&[0; 64]);
            bench.check(
                "a short quote, padded",
                &padded,
                &Expect::of(Reason::IcmpNoFlow),
            );
        }
    }
}

/// An error about a flow that goes to the flow's member.
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

/// Errors about a datagram that its backend sent in fragments: the first one names the flow.
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

/// Chains of extension headers that are followed, and their lengths.
pub(crate) fn chains() -> [(Vec<Extension>, usize); 3] {
    use Extension::{Auth, Options};
    [
        (vec![Options(60, 8)], 8),
        (vec![Options(0, 24), Options(60, 8), Auth(24)], 56),
        (vec![Options(0, 256), Options(60, 256)], 512),
    ]
}

/// Errors about packets with extension headers, which may have some of their own.
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
        // Cut off before or inside the ports, or among the extension headers.
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

fn odd_errors(bench: &mut Bench, client: Client) {
    for service in [SERVICES[0], SERVICES[9]] {
        let flow = returned(&client.to(&service, 2000, ACK));
        for error in errors_about(&flow, 100) {
            let late = error.clone().hops(1);
            bench.check("no hop left", &late, &Expect::of(Reason::HopLimit));
            let mut stranger = error.clone();
            stranger.payload[12..16].copy_from_slice(&[9; 4]);
            stranger.payload[8..12].copy_from_slice(&[9; 4]);
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
    }
}

/// The node's own message about a frame: as much as it quotes.
fn answer(frame: &Frame, v4: Transport, v6: Transport) -> Frame {
    let mut quote = frame.packet();
    // 576 bytes in all (RFC 1812 §4.3.2.3), or 1280 (RFC 4443 §2.4).
    quote.truncate(if frame.ip.dest().is_ipv4() { 548 } else { 1232 });
    let mut answer = message(frame.ip.dest(), frame.ip.source(), v4, v6)
        .payload(quote)
        .tags(&frame.tags)
        .link(frame.from, frame.to);
    if let Ip::V4(ip) = &mut answer.ip {
        (ip.id, ip.whole) = (0, false);
    }
    answer
}

fn expired(bench: &mut Bench, client: Client, tags: &[(u16, u16)]) {
    for service in SERVICES {
        for hops in [0, 1] {
            for len in [
                0, 1, 30, 490, 507, 508, 520, 521, 1171, 1172, 1191, 1192, 1200,
            ] {
                let frame = client
                    .to(&service, 2100, ACK)
                    .payload(vec![9; len])
                    .tags(tags)
                    .hops(hops);
                let frame = frame.padding(&[1; 5]);
                let answer = answer(&frame, icmp(11, 0, 0), icmp6(3, 0, 0));
                let name = format!("hop count {hops}, {len} bytes, tags {tags:x?}, {service:?}");
                bench.check(&name, &frame, &Expect::sent(Reason::TimeExceeded, &answer));
            }
        }
    }
}

fn too_big(bench: &mut Bench, client: Client, tags: &[(u16, u16)]) {
    for service in SERVICES {
        if service.forward == forward::NAT {
            continue;
        }
        let room = MTU - overhead(&service);
        let headers = client.to(&service, 2200, ACK).payload([]).packet().len();
        for len in [room as usize + 1, 2000, 2500] {
            let frame = client
                .to(&service, 2200, ACK)
                .payload(vec![8; len - headers])
                .tags(tags);
            let answer = answer(&frame, icmp(3, 4, room), icmp6(2, 0, room));
            let reason = if service.address.is_ipv4() {
                Reason::FragmentationNeeded
            } else {
                Reason::PacketTooBig
            };
            let mut expect = Expect::sent(reason, &answer);
            if service.track == track::ALWAYS {
                let index = service.index;
                let again = len != room as usize + 1 || !tags.is_empty();
                expect = if again {
                    expect.plus(&format!("v{index}.track_hits"), 1)
                } else {
                    expect
                        .plus(&format!("v{index}.track_misses"), 1)
                        .plus(&format!("v{index}.track_inserts"), 1)
                };
            }
            bench.check(
                &format!("{len} bytes, tags {tags:x?}, {service:?}"),
                &frame,
                &expect,
            );
        }
    }
}

/// Options and extension headers do not keep a sender from learning what fits.
fn too_big_with_options(bench: &mut Bench, client: Client) {
    for service in SERVICES {
        if service.forward == forward::NAT || service.track == track::ALWAYS {
            continue;
        }
        let frame = client.to(&service, 2300, ACK).payload(vec![8; 2000]);
        let frame = with_options(frame);
        let room = MTU - overhead(&service);
        let answer = answer(&frame, icmp(3, 4, room), icmp6(2, 0, room));
        let reason = if service.address.is_ipv4() {
            Reason::FragmentationNeeded
        } else {
            Reason::PacketTooBig
        };
        bench.check(
            &format!("options, {service:?}"),
            &frame,
            &Expect::sent(reason, &answer),
        );
    }
}

fn with_options(frame: Frame) -> Frame {
    frame.with_ip(|ip| match ip {
        Ip::V4(ip) => ip.options = vec![1; 40],
        Ip::V6(ip) => ip.extensions = vec![Extension::Options(60, 16), Extension::Options(60, 256)],
    })
}

/// Nor from learning that the hop count was too small, with the ports in what is quoted.
fn expired_with_options(bench: &mut Bench, client: Client) {
    for service in SERVICES {
        for len in [0, 1, 400, 1300] {
            let frame = client.to(&service, 2310, ACK).payload(vec![8; len]);
            let frame = with_options(frame).hops(1);
            let answer = answer(&frame, icmp(11, 0, 0), icmp6(3, 0, 0));
            let name = format!("options, last hop, {len} bytes, {service:?}");
            bench.check(&name, &frame, &Expect::sent(Reason::TimeExceeded, &answer));
        }
    }
}

fn overhead(service: &Service) -> u32 {
    match (service.forward, service.backend_v6) {
        (forward::IPIP, false) => 20,
        (forward::IPIP, true) => 40,
        _ => 0,
    }
}

/// The node's own addresses are the host's, whatever `nat` does with them.
fn to_the_host(bench: &mut Bench, client: Client) {
    for address in [IpAddr::V4(NAT4), NAT6.into()] {
        let from = client.like(address);
        let ping = message(from, address, icmp(8, 0, 1), icmp6(128, 0, 1));
        bench.check("echo to the host", &ping, &Expect::of(Reason::IcmpOther));
        let own = message(address, from, icmp(8, 0, 1), icmp6(128, 0, 1));
        for error in errors_about(&own, 100) {
            bench.check(
                "about the host's ping",
                &error,
                &Expect::of(Reason::NatNoSession),
            );
            let last = error.clone().hops(1);
            bench.check(
                "the same, last hop",
                &last,
                &Expect::of(Reason::NatNoSession),
            );
            let short = error.payload([1; 9]);
            bench.check("a short error", &short, &Expect::of(Reason::NatNoSession));
        }
        let ssh = client.to_port(address, 6, 2300, 22, ACK);
        bench.check("ssh", &ssh, &Expect::of(Reason::NatNoSession));
        bench.check(
            "ssh, last hop",
            &ssh.clone().hops(1),
            &Expect::of(Reason::NatNoSession),
        );
        let mut wrong = ssh.bytes();
        wrong[if address.is_ipv4() { 46 } else { 66 }] ^= 0xf0;
        let reason = Expect::of(Reason::NatNoSession);
        bench.check_bytes("ssh, somehow wrong", &wrong, &reason);
        bench.check_bytes("ssh, cut off", &ssh.bytes()[..56], &reason);
    }
}

/// Rates are per CPU and second; the seconds of test runs stand still.
#[test]
fn answers_are_limited() {
    let options = LoadOptions {
        icmp_rate: 3,
        ..options()
    };
    let mut bench = Bench::new(dataplane(&options));
    let mut stay = nix::sched::CpuSet::new();
    stay.set(0).unwrap();
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &stay).unwrap();
    let frame = Client::new(1).to(&SERVICES[0], 1, ACK).hops(1);
    let sent = answer(&frame, icmp(11, 0, 0), icmp6(3, 0, 0));
    for _ in 0..3 {
        bench.check(
            "within the rate",
            &frame,
            &Expect::sent(Reason::TimeExceeded, &sent),
        );
    }
    for _ in 0..3 {
        bench.check("beyond it", &frame, &Expect::of(Reason::HopLimit));
    }
    let big = Client::new(1).to(&SERVICES[9], 1, ACK).payload([0; 1500]);
    bench.check("too big, beyond it", &big, &Expect::of(Reason::TooBig));
    bench.conclude();
}

/// Nobody is told about what nobody can be told about, and no forged packet makes the node speak to many.
#[test]
fn some_are_not_answered() {
    let mut bench = bench();
    for vip in [IpAddr::V4(VIP4), VIP6.into()] {
        for source in no_hosts(vip) {
            for (frame, reason) in to_be_told(source, vip, Reason::MartianSource) {
                bench.check(&format!("{source} to {vip}"), &frame, &Expect::of(reason));
            }
        }
    }
    for vip in [IpAddr::V4(VIP4), VIP6.into()] {
        let from = Client::new(1).like(vip);
        for group in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
            for (frame, reason) in to_be_told(from, vip, Reason::LinkGroup) {
                let sender = frame.from;
                let name = format!("{from} to {vip}, {group:?}");
                bench.check(&name, &frame.link(group, sender), &Expect::of(reason));
            }
        }
    }
    bench.conclude();
}

/// Addresses that no packet to a VIP can come from: those of no single host, and its own.
pub(crate) fn no_hosts(vip: IpAddr) -> Vec<IpAddr> {
    let v4 = "0.0.0.0 0.1.2.3 127.0.0.1 224.0.0.1 239.1.2.3 240.0.0.1 255.255.255.255";
    let v6 = ":: ::1 ff02::1 ff0e::1:2";
    let forged = if vip.is_ipv4() { v4 } else { v6 };
    let forged = forged.split(' ').map(|it| it.parse().unwrap());
    forged.chain([vip]).collect()
}

/// Frames that are answered when they come from a host to this node, and what becomes of them if they do not: the first for
/// this reason.
fn to_be_told(from: IpAddr, vip: IpAddr, refused: Reason) -> Vec<(Frame, Reason)> {
    let last_hop = Frame::new(Ip::new(from, vip), lab::packet::tcp(1, 80, ACK)).hops(1);
    let ping = message(from, vip, icmp(8, 0, 1), icmp6(128, 0, 1));
    let quoted = Frame::new(Ip::new(vip, from), lab::packet::tcp(80, 1, ACK));
    let errors = errors_about(&quoted, 1400).into_iter().map(|mut error| {
        error.ip.set_addresses(from, vip);
        (error, refused)
    });
    [(last_hop, refused), (ping, Reason::IcmpOther)]
        .into_iter()
        .chain(errors)
        .collect()
}

//! ICMP: echo replies and errors sent by the node.

use std::net::IpAddr;

use lab::{
    bytecode::{
        Bench, Expect,
        tables::{MTU, NAT4, NAT6, SERVICES, Service, VIP4, VIP6},
    },
    packet::{ACK, Extension, Frame, Ip, Transport, V4, icmp, icmp6},
};
use lb_common::{
    reason::Reason,
    vip::{forward, track},
};
use lb_dataplane::LoadOptions;

use crate::{
    forwarding::TAGS,
    icmp_errors::{errors, errors_about, odd_errors},
    stage::{Client, bench, dataplane, options},
};

#[test]
fn replies_to_icmp_and_forwards_errors() {
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

/// Returns a message in the family of `to`.
pub(crate) fn message(from: IpAddr, to: IpAddr, v4: Transport, v6: Transport) -> Frame {
    let transport = if to.is_ipv4() { v4 } else { v6 };
    Frame::new(Ip::new(from, to), transport)
}

/// The checksum of a reply without any set bit is 0xffff: it can't be derived from that of the request.
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
            .ttl(3);
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

/// Returns the node's own error about a frame.
pub(crate) fn own_error(frame: &Frame, v4: Transport, v6: Transport) -> Frame {
    let mut quote = frame.packet();
    // 576 bytes in all (RFC 1812 §4.3.2.3), or 1280 (RFC 4443 §2.4).
    quote.truncate(if frame.ip.dest().is_ipv4() { 548 } else { 1232 });
    let mut answer = message(frame.ip.dest(), frame.ip.source(), v4, v6)
        .payload(quote)
        .tags(&frame.tags)
        .link(frame.from, frame.to);
    if let Ip::V4(ip) = &mut answer.ip {
        (ip.id, ip.dont_fragment) = (0, false);
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
                    .ttl(hops);
                let frame = frame.padding(&[1; 5]);
                let answer = own_error(&frame, icmp(11, 0, 0), icmp6(3, 0, 0));
                let name = format!("TTL {hops}, {len} bytes, tags {tags:x?}, {service:?}");
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
            let answer = own_error(&frame, icmp(3, 4, room), icmp6(2, 0, room));
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

/// Packets with options and extension headers that are too big are reported too.
fn too_big_with_options(bench: &mut Bench, client: Client) {
    for service in SERVICES {
        if service.forward == forward::NAT || service.track == track::ALWAYS {
            continue;
        }
        let frame = client.to(&service, 2300, ACK).payload(vec![8; 2000]);
        let frame = with_options(frame);
        let room = MTU - overhead(&service);
        let answer = own_error(&frame, icmp(3, 4, room), icmp6(2, 0, room));
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

/// Expired packets with options and extension headers are reported, with the ports in the quoted packet.
fn expired_with_options(bench: &mut Bench, client: Client) {
    for service in SERVICES {
        for len in [0, 1, 400, 1300] {
            let frame = client.to(&service, 2310, ACK).payload(vec![8; len]);
            let frame = with_options(frame).ttl(1);
            let answer = own_error(&frame, icmp(11, 0, 0), icmp6(3, 0, 0));
            let name = format!("options, last hop, {len} bytes, {service:?}");
            bench.check(&name, &frame, &Expect::sent(Reason::TimeExceeded, &answer));
        }
    }
}

pub(crate) fn overhead(service: &Service) -> u32 {
    match (service.forward, service.backend_v6) {
        (forward::IPIP, false) => 20,
        (forward::IPIP, true) => 40,
        _ => 0,
    }
}

/// Packets to the node's own addresses pass to the host, also with `nat`.
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
            let last = error.clone().ttl(1);
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
            &ssh.clone().ttl(1),
            &Expect::of(Reason::NatNoSession),
        );
        let mut wrong = ssh.bytes();
        wrong[if address.is_ipv4() { 46 } else { 66 }] ^= 0xf0;
        let reason = Expect::of(Reason::NatNoSession);
        bench.check_bytes("ssh, somehow wrong", &wrong, &reason);
        bench.check_bytes("ssh, cut off", &ssh.bytes()[..56], &reason);
    }
}

/// The limit is per CPU and second, and the clock of test runs stands still.
#[test]
fn limits_the_rate_of_replies() {
    let options = LoadOptions {
        icmp_rate: 3,
        ..options()
    };
    let mut bench = Bench::new(dataplane(&options));
    let mut stay = nix::sched::CpuSet::new();
    stay.set(0).unwrap();
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &stay).unwrap();
    let frame = Client::new(1).to(&SERVICES[0], 1, ACK).ttl(1);
    let sent = own_error(&frame, icmp(11, 0, 0), icmp6(3, 0, 0));
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

/// The node sends no errors about errors, and none to broadcast, multicast or martian sources.
#[test]
fn does_not_reply_to_errors_and_martian_sources() {
    let mut bench = bench();
    for vip in [IpAddr::V4(VIP4), VIP6.into()] {
        for source in martian_sources(vip) {
            for (frame, reason) in frames_with_reply(source, vip, Reason::MartianSource) {
                bench.check(&format!("{source} to {vip}"), &frame, &Expect::of(reason));
            }
        }
    }
    for vip in [IpAddr::V4(VIP4), VIP6.into()] {
        let from = Client::new(1).like(vip);
        for group in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
            for (frame, reason) in frames_with_reply(from, vip, Reason::LinkGroup) {
                let sender = frame.from;
                let name = format!("{from} to {vip}, {group:?}");
                bench.check(&name, &frame.link(group, sender), &Expect::of(reason));
            }
        }
    }
    bench.conclude();
}

/// Returns martian sources of a packet to a VIP, and the VIP itself.
pub(crate) fn martian_sources(vip: IpAddr) -> Vec<IpAddr> {
    let v4 = "0.0.0.0 0.1.2.3 127.0.0.1 224.0.0.1 239.1.2.3 240.0.0.1 255.255.255.255";
    let v6 = ":: ::1 ff02::1 ff0e::1:2";
    let forged = if vip.is_ipv4() { v4 } else { v6 };
    let forged = forged.split(' ').map(|it| it.parse().unwrap());
    forged.chain([vip]).collect()
}

/// Returns frames that the node replies to if the source is valid, with the reason if it is not.
fn frames_with_reply(from: IpAddr, vip: IpAddr, refused: Reason) -> Vec<(Frame, Reason)> {
    let last_hop = Frame::new(Ip::new(from, vip), lab::packet::tcp(1, 80, ACK)).ttl(1);
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

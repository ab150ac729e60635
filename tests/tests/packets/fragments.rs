//! Fragments: later ones follow the first.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lab::{
    bytecode::{
        Bench, Expect,
        tables::{self, NAT4, NAT6, SERVICES, Service, VIP4, VIP6},
    },
    packet::{ACK, Extension, Fragment, Frame, Ip, SYN, Transport, V4, V6, icmp, icmp6, tcp},
};
use lb_common::{
    member::control,
    reason::Reason,
    vip::{VipKey, forward, target},
};

use crate::{
    forwarding::{TAGS, direct, expect, output},
    stage::{Client, bench},
};

#[test]
fn forwards_later_fragments_like_the_first() {
    let mut bench = bench();
    all(&mut bench, Client::new(1));
    bench.conclude();
}

pub(crate) fn all(bench: &mut Bench, client: Client) {
    for service in direct() {
        for (number, tags) in [&[][..], TAGS[0], TAGS[2]].into_iter().enumerate() {
            let id = 0x4000 + service.index * 16 + number as u16;
            datagram(bench, client, &service, id, tags);
        }
    }
    tiny(bench, client);
    foreign(bench, client);
    atomic(bench, client);
}

/// Returns a fragment of a frame's datagram.
pub(crate) fn part(frame: &Frame, id: u16, offset: u16, len: usize, more: bool) -> Frame {
    let fragment = Fragment { offset, len, more };
    frame.clone().with_ip(|ip| match ip {
        Ip::V4(ip) => (ip.fragment, ip.id, ip.dont_fragment) = (Some(fragment), id, false),
        Ip::V6(ip) => ip.extensions.push(Extension::Fragment(fragment, id.into())),
    })
}

/// Expectation for a later fragment: no new flow, no lookup in the tracking table.
fn follows(service: &Service, fragment: &Frame) -> Expect {
    Expect::forwarded(service.index, fragment, &output(service, fragment))
}

fn datagram(bench: &mut Bench, client: Client, service: &Service, id: u16, tags: &[(u16, u16)]) {
    let whole = client
        .to(service, id, ACK)
        .payload(vec![0xa5; 300])
        .tags(tags);
    let total = whole.payload.len() + if service.protocol == 6 { 20 } else { 8 };
    let first = part(&whole, id, 0, 120, true);
    let second = part(&whole, id, 120, 120, true);
    let last = part(&whole, id, 240, total - 240, false);
    let name = |what: &str| format!("{what}, tags {tags:x?}, for {service:?}");
    let orphan = Expect::of(Reason::FragmentOrphan);
    bench.check(&name("before the first"), &last, &orphan);
    bench.check(&name("first"), &first, &expect(service, &first, false));
    bench.check(&name("second"), &second, &follows(service, &second));
    bench.check(&name("last"), &last, &follows(service, &last));
    bench.check(&name("last again"), &last, &follows(service, &last));
    let from = last.from;
    let group = last.clone().link([0xff; 6], from);
    bench.check(
        &name("last, as a broadcast"),
        &group,
        &Expect::of(Reason::LinkGroup),
    );
    let group = first.clone().link([0x33, 0x33, 0, 0, 0, 1], from);
    bench.check(
        &name("first, as a multicast"),
        &group,
        &Expect::of(Reason::LinkGroup),
    );
    bench.check(&name("last after these"), &last, &follows(service, &last));
    let other = part(&whole, id + 0x1000, 240, total - 240, false);
    bench.check(&name("of another datagram"), &other, &orphan);
    bench.check(
        &name("no hop left"),
        &last.ttl(1),
        &Expect::of(Reason::HopLimit),
    );
}

fn tiny(bench: &mut Bench, client: Client) {
    for service in direct() {
        let whole = client.to(&service, 800, SYN).payload(vec![1; 64]);
        let lengths: &[usize] = if service.protocol == 6 {
            &[0, 8, 16]
        } else {
            &[0]
        };
        for &len in lengths {
            let first = part(&whole, 800 + service.index, 0, len, true);
            for first in [first.clone(), first.padding(&[0; 40])] {
                bench.check(
                    &format!("first with {len} bytes, for {service:?}"),
                    &first,
                    &Expect::of(Reason::FragmentTiny),
                );
            }
        }
        let again = part(&whole, 800 + service.index, 8, 32, false);
        bench.check("its second", &again, &Expect::of(Reason::FragmentOrphan));
    }
}

/// All fragments of a datagram that is for no service pass.
fn foreign(bench: &mut Bench, client: Client) {
    let others = [
        (IpAddr::V4(Ipv4Addr::new(203, 0, 113, 99)), Reason::NoVip),
        (VIP4.into(), Reason::NoService),
        (VIP6.into(), Reason::NoService),
        (NAT4.into(), Reason::NatNoSession),
        (NAT6.into(), Reason::NatNoSession),
    ];
    for (dest, reason) in others {
        for (protocol, id) in [(6, 900), (17, 901)] {
            let whole = client
                .to_port(dest, protocol, 900, 2049, ACK)
                .payload(vec![7; 200]);
            let first = part(&whole, id, 0, 96, true);
            let last = part(&whole, id, 96, 100, false);
            bench.check(&format!("first to {dest}"), &first, &Expect::of(reason));
            bench.check(&format!("last to {dest}"), &last, &Expect::of(reason));
        }
    }
    unknown(bench, client);
    hidden(bench, client);
    without_whole_headers(bench, client);
    let ping = Frame::new(V4::new(client.v4, VIP4), icmp(8, 0, 7)).payload(vec![7; 200]);
    let (first, last) = (
        part(&ping, 902, 0, 96, true),
        part(&ping, 902, 96, 100, false),
    );
    bench.check(
        "first of an echo request",
        &first,
        &Expect::of(Reason::IcmpOther),
    );
    bench.check(
        "last of an echo request",
        &last,
        &Expect::of(Reason::NoService),
    );
}

/// Fragments of protocols that no VIP can have: SCTP, ESP, GRE, IP in IP.
fn unknown(bench: &mut Bench, client: Client) {
    for dest in [IpAddr::V4(VIP4), VIP6.into(), NAT4.into(), NAT6.into()] {
        for protocol in [132, 50, 47, 4, 41] {
            let whole = Frame::new(
                Ip::new(client.like(dest), dest),
                Transport::Raw { protocol },
            );
            let whole = whole.payload(vec![0; 64]);
            let (first, last) = (
                part(&whole, 910, 0, 32, true),
                part(&whole, 910, 32, 32, false),
            );
            for fragment in [&last, &first, &last] {
                let name = format!("a fragment of protocol {protocol} to {dest}");
                bench.check(&name, fragment, &Expect::of(Reason::NoService));
            }
        }
    }
}

/// Fragments that begin with destination options: only the first contains the protocol behind them.
fn hidden(bench: &mut Bench, client: Client) {
    let service = &SERVICES[9];
    let of = |transport, id| {
        let whole = Frame::new(V6::new(client.v6, VIP6), transport).payload(vec![7; 200]);
        let Ip::V6(ip) = &whole.ip else {
            unreachable!()
        };
        let mut with_options = ip.clone();
        with_options.extensions = vec![Extension::Options(60, 16)];
        let inside = whole.clone().with_ip(|ip| *ip = with_options.into());
        let datagram = inside.packet()[40..].to_vec();
        let len = datagram.len() - 96;
        let whole = whole.with_transport(Transport::Raw { protocol: 60 });
        let whole = whole.payload(datagram);
        (
            part(&whole, id, 0, 96, true),
            part(&whole, id, 96, len, false),
        )
    };
    let orphan = Expect::of(Reason::FragmentOrphan);
    for (number, transport, reason) in [
        (0, icmp6(128, 0, 7), Reason::IcmpOther),
        (1, Transport::Raw { protocol: 132 }, Reason::NoService),
        (2, tcp(960, 22, ACK), Reason::NoService),
    ] {
        let (first, last) = of(transport.clone(), 960 + number);
        bench.check(&format!("before the first: {transport:?}"), &last, &orphan);
        bench.check(
            &format!("first: {transport:?}"),
            &first,
            &Expect::of(reason),
        );
        let passed = Expect::of(Reason::NoService);
        bench.check(&format!("last: {transport:?}"), &last, &passed);
    }
    let (first, last) = of(tcp(960, 80, ACK), 970);
    bench.check("before the first, for a VIP", &last, &orphan);
    bench.check("first, for a VIP", &first, &follows(service, &first));
    bench.check("last, for a VIP", &last, &follows(service, &last));
}

/// A first fragment for no service passes even if it has only the ports, and so do the later ones.
fn without_whole_headers(bench: &mut Bench, client: Client) {
    for (dest, id) in [(IpAddr::V4(VIP4), 980), (VIP6.into(), 990)] {
        for (protocol, reason) in [(6, Reason::NoService), (17, Reason::FragmentTiny)] {
            let whole = client
                .to_port(dest, protocol, 980, 2049, SYN)
                .payload(vec![1; 64]);
            let id = id + u16::from(protocol == 6);
            // A UDP header can't be split: offsets are multiples of 8, and 0 bytes have no ports.
            let first = part(&whole, id, 0, if protocol == 6 { 8 } else { 0 }, true);
            let last = part(&whole, id, 8, 32, false);
            let name = format!("tiny, protocol {protocol}, to {dest}");
            bench.check(&name, &first, &Expect::of(reason));
            let reason = match reason {
                Reason::FragmentTiny => Reason::FragmentOrphan,
                passed => passed,
            };
            bench.check(&format!("{name}, last"), &last, &Expect::of(reason));
        }
    }
}

/// All fragments of a protocol that no VIP of the address has pass, in any order.
#[test]
fn passes_fragments_of_a_protocol_without_a_service() {
    let mut bench = bench();
    let client = Client::new(1);
    let addresses = [
        IpAddr::V4(Ipv4Addr::new(203, 0, 113, 40)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x40)),
    ];
    let here = bench.dataplane.egress.find(1).unwrap().unwrap();
    for (address, like) in addresses.into_iter().zip([SERVICES[0], SERVICES[9]]) {
        for (served, other) in [(6, 17), (17, 6)] {
            let service = Service {
                index: 30,
                address,
                protocol: served,
                ..like
            };
            let dataplane = &mut bench.dataplane;
            tables::add(dataplane, &service, control::SERVING, here).unwrap();
            // The other service does not matter any more.
            let meaning = target::pack(target::ADDRESS, target::protocol_bit(served));
            let (key, family) = lb_common::address_of(address);
            dataplane
                .add_service(&VipKey::new(&key, family, 0, 0), meaning)
                .unwrap();
            for (protocol, reason) in [(served, Reason::FragmentOrphan), (other, Reason::NoService)]
            {
                let whole = client.to_port(address, protocol, 900, 2049, ACK);
                let whole = whole.payload(vec![7; 200]);
                let id = 1000 + u16::from(served) * 32 + u16::from(protocol);
                let name = format!("protocol {protocol} where {served} is served at {address}");
                let last = part(&whole, id, 96, 100, false);
                bench.check(&format!("{name}, last"), &last, &Expect::of(reason));
                let tiny = part(&whole, id, 0, 0, true);
                let reason = match reason {
                    Reason::FragmentOrphan => Reason::FragmentTiny,
                    passed => passed,
                };
                bench.check(&format!("{name}, tiny"), &tiny, &Expect::of(reason));
            }
        }
    }
    bench.conclude();
}

/// Atomic fragments (RFC 6946) are forwarded like whole datagrams.
fn atomic(bench: &mut Bench, client: Client) {
    let service = &SERVICES[9];
    assert_eq!(service.forward, forward::L2);
    let whole = Frame::new(V6::new(client.v6, VIP6), tcp(950, 80, SYN));
    let len = whole.payload.len() + 20;
    let atomic = part(&whole, 950, 0, len, false);
    bench.check(
        "an atomic fragment",
        &atomic,
        &expect(service, &atomic, false),
    );
}

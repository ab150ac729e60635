//! Fragments: the later ones follow the first.

use std::net::{IpAddr, Ipv4Addr};

use lab::{
    bytecode::{
        Bench, Expect,
        tables::{NAT4, NAT6, SERVICES, Service, VIP4, VIP6},
    },
    packet::{ACK, Extension, Fragment, Frame, Ip, SYN, V4, V6, icmp, tcp},
};
use lb_common::{reason::Reason, vip::forward};

use crate::{
    forwarding::{TAGS, direct, expect, output},
    stage::{Client, bench},
};

#[test]
fn later_fragments_go_where_the_first_one_went() {
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

/// A part of a frame's datagram.
pub(crate) fn part(frame: &Frame, id: u16, offset: u16, len: usize, more: bool) -> Frame {
    let fragment = Fragment { offset, len, more };
    frame.clone().with_ip(|ip| match ip {
        Ip::V4(ip) => (ip.fragment, ip.id, ip.whole) = (Some(fragment), id, false),
        Ip::V6(ip) => ip.extensions.push(Extension::Fragment(fragment, id.into())),
    })
}

/// What is expected of a fragment after the first: no new flow, no look at the tracking table.
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
    let other = part(&whole, id + 0x1000, 240, total - 240, false);
    bench.check(&name("of another datagram"), &other, &orphan);
    bench.check(
        &name("no hop left"),
        &last.hops(1),
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

/// What is not for a service of ours passes, all of it.
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

/// A fragment header on a whole datagram (RFC 6946) makes no difference.
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

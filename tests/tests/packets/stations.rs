//! Frames for other hosts, as on a promiscuous interface or from a flooding switch, are passed untouched.

use std::net::IpAddr;

use lab::{
    bytecode::{
        Bench, Expect,
        tables::{NAT4, NAT6, SERVICES},
    },
    packet::{ACK, Frame, Ip, Mac, OWN, SYN},
};
use lb_common::reason::Reason;

use crate::{
    forwarding::{TAGS, direct, expect},
    fragments::part,
    icmp::message,
    icmp_errors::errors_about,
    stage::{Client, PORT_MAC, bench},
};

/// Another host, and another interface of the node.
const OTHERS: [Mac; 2] = [[2, 0, 0, 0, 0, 0x99], PORT_MAC];
/// Of a macvlan interface above the ingress interface, as VRRP uses it.
const VIRTUAL: Mac = [0, 0, 0x5e, 0, 1, 7];

#[test]
fn only_frames_for_the_node_are_processed() {
    let mut bench = bench();
    all(&mut bench, Client::new(1));
    bench.conclude();
}

pub(crate) fn all(bench: &mut Bench, client: Client) {
    let passed = Expect::of(Reason::OtherHost);
    for frame in frames(client) {
        for tags in TAGS {
            for other in OTHERS {
                let from = frame.from;
                let frame = frame.clone().tags(tags).link(other, from);
                let name = format!("to {other:?}: {frame:?}");
                bench.check(&name, &frame, &passed);
                let mut bytes = frame.bytes();
                bytes.truncate(bytes.len() - 12);
                bench.check_bytes(&format!("{name}, truncated"), &bytes, &passed);
            }
        }
    }
    additional_addresses(bench, client);
}

/// Returns frames of every kind for the addresses of VIPs and NAT sources.
fn frames(client: Client) -> Vec<Frame> {
    let mut frames = Vec::new();
    for service in &SERVICES {
        let frame = client.to(service, 4600, SYN).payload([7; 60]);
        frames.push(frame.clone().ttl(1));
        frames.push(part(&frame, 4601, 0, 24, true));
        frames.push(part(&frame, 4601, 24, 32, false));
        frames.push(frame);
        let (from, vip) = (client.like(service.address), service.address);
        frames.push(message(
            from,
            vip,
            lab::packet::icmp(8, 0, 1),
            lab::packet::icmp6(128, 0, 1),
        ));
        let sent = Frame::new(Ip::new(vip, from), lab::packet::tcp(80, 1, ACK));
        frames.extend(errors_about(&sent, 1400));
    }
    for nat in [IpAddr::V4(NAT4), NAT6.into()] {
        frames.push(client.to_port(nat, 6, 80, 20_000, ACK).payload([7; 60]));
    }
    frames
}

/// The interface may have further addresses, which can come and go.
fn additional_addresses(bench: &mut Bench, client: Client) {
    for service in direct() {
        let usual = client.to(&service, 4602, ACK);
        let from = usual.from;
        let frame = usual.clone().link(VIRTUAL, from);
        let passed = Expect::of(Reason::OtherHost);
        bench.check("before", &frame, &passed);
        let both = [(1, OWN), (1, VIRTUAL)].into();
        bench.dataplane.stations.set(&both).unwrap();
        bench.check("additional", &frame, &expect(&service, &usual, false));
        bench.dataplane.stations.set(&[(1, OWN)].into()).unwrap();
        bench.check("afterwards", &frame, &passed);
    }
}

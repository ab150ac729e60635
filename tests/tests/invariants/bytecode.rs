//! 1. The first invariant with the 100,000 flows of the specification, run packet by packet without clients.

use etherparse::PacketBuilder;
use lb_common::{
    address_v4, family,
    member::{Member, NextHop, control},
    proto,
    vip::{Vip, VipKey, forward, target, track},
};
use lb_dataplane::{Dataplane, LoadOptions, RingName};
use lb_model::{
    config::hash_key,
    ring::{Identity, RingMember, RingSize, build},
    transition::RingState,
};

const FLOWS: u32 = 100_000;
const MEMBERS: u16 = 5;
const VIP: [u8; 4] = [192, 0, 2, 1];
const PORT: u16 = 443;
const BALANCER: [u8; 6] = [2, 0, 0, 0, 1, 0];
const XDP_TX: u32 = 3;
/// Ingress interface of test runs: the loopback.
const LOOPBACK: u32 = 1;

/// Loads a TCP VIP over `l2`, whose members differ in the last byte of their MAC address.
fn dataplane() -> Dataplane {
    let mut dataplane = Dataplane::load(&LoadOptions::default()).unwrap();
    let egress = dataplane.egress.assign(LOOPBACK, 1500, BALANCER);
    let egress = egress.unwrap();
    dataplane.stations.accept(LOOPBACK, BALANCER).unwrap();
    let mut members = Vec::new();
    for member in 0..MEMBERS {
        let next_hop = NextHop {
            mac: [2, 0, 0, 0, 0, member as u8],
            egress,
        };
        let entry = Member {
            control: control::pack(control::SERVING, family::V4, 1),
            next_hop: next_hop.pack(),
            ..bytemuck::Zeroable::zeroed()
        };
        dataplane.members.write(member, &entry).unwrap();
        members.push(RingMember {
            identity: Identity {
                address: std::net::Ipv4Addr::new(10, 0, 0, member as u8).into(),
                port: PORT,
            },
            weight: 100 + u32::from(member) * 50,
            member,
        });
    }
    let size = RingSize::new(RingSize::MAX).unwrap();
    let ring = RingState::new_clean(&build(&members, size));
    let image = dataplane.rings.stage(&ring.to_image()).unwrap();
    let vip = Vip {
        ring: 0,
        hash_key: hash_key([7; 16], VIP.into(), family::V4, proto::TCP, PORT),
        forward: forward::L2,
        track: track::ON_CHANGE,
        family: family::V4,
        port_be: PORT.to_be(),
        protocol: proto::TCP,
        ..bytemuck::Zeroable::zeroed()
    };
    dataplane.vips.write(0, &vip).unwrap();
    let ring = RingName {
        image,
        size: size.get(),
    };
    dataplane.vips.swap_ring(0, Some(ring)).unwrap();
    let address = address_v4(u32::from_ne_bytes(VIP));
    let key = VipKey::new(&address, family::V4, proto::TCP, PORT.to_be());
    dataplane
        .add_service(&key, target::pack(target::VIP, 0))
        .unwrap();
    dataplane
}

/// Returns a segment of the flow with this number.
fn segment(number: u32, syn: bool, payload: &[u8]) -> Vec<u8> {
    let from = (0xc612_0000 + number % 50_000).to_be_bytes();
    let port = 1024 + (number / 50_000) as u16 * 777;
    let packet = PacketBuilder::ethernet2([2, 9, 9, 9, 9, 9], BALANCER)
        .ipv4(from, VIP, 64)
        .tcp(port, PORT, number, 65_535);
    let packet = if syn { packet.syn() } else { packet.ack(1) };
    let mut frame = Vec::new();
    packet.write(&mut frame, payload).unwrap();
    frame
}

/// Returns the member that receives a segment.
fn member(dataplane: &Dataplane, frame: &[u8]) -> u8 {
    let run = dataplane.run(frame).unwrap();
    assert_eq!(run.verdict, XDP_TX, "{frame:02x?}");
    run.frame[5]
}

#[test]
fn does_not_track_100000_flows() {
    if !crate::site::can_run("a hundred thousand flows") {
        return;
    }
    let dataplane = dataplane();
    let opened: Vec<u8> = (0..FLOWS)
        .map(|flow| member(&dataplane, &segment(flow, true, &[])))
        .collect();
    for payload in [&b""[..], b"some data"] {
        for (flow, opened) in (0..).zip(&opened) {
            let now = member(&dataplane, &segment(flow, false, payload));
            assert_eq!(now, *opened, "flow {flow} moved");
        }
    }
    assert_eq!(dataplane.tracking.count(), 0);
    let counters = dataplane.counters.vip(0).unwrap();
    assert_eq!(counters.track_hits + counters.track_misses, 0);
    for index in 0..MEMBERS {
        let counters = dataplane.counters.member(index).unwrap();
        let flows = opened.iter().filter(|&&m| u16::from(m) == index).count() as u64;
        assert!(flows > 0, "member {index} has none");
        assert_eq!((counters.new_flows, counters.packets), (flows, 3 * flows));
    }
}

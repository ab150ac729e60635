//! What a packet takes on the fast path, counted in the object: the same on every machine, so that a
//! noisy one can't hide a regression.

use std::{
    mem::offset_of,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use lab::{
    bytecode::{
        path::{Machine, Path},
        tables::{KEY, RING_SIZE, SERVICES, Service, memory_of},
    },
    packet::{ACK, Frame, V4, V6, tcp, udp},
};
use lb_common::{
    address_of,
    counters::CpuBlock,
    hash::{flow_hash_v4, flow_hash_v6, ports_word},
    ring::{Image, MAX_MEMBERS},
    track::{Bucket, Cell, Place},
    vip::{Vip, forward, limited, track},
};
use lb_dataplane::OBJECT;
use lb_model::transition::RingState;

const CLIENT4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 7);
const PORT: u16 = 4711;
const XDP_TX: u64 = 3;

/// A packet of an established flow, and its hash.
fn packet(service: &Service) -> (Frame, u64) {
    let transport = if service.protocol == 6 {
        tcp(PORT, service.port, ACK)
    } else {
        udp(PORT, service.port)
    };
    let ports = ports_word(PORT.to_be(), service.port.to_be());
    match service.address {
        IpAddr::V4(vip) => (
            Frame::new(V4::new(CLIENT4, vip), transport),
            flow_hash_v4(&KEY, u32::from_ne_bytes(CLIENT4.octets()), ports),
        ),
        IpAddr::V6(vip) => (
            Frame::new(V6::new(CLIENT6, vip), transport),
            flow_hash_v6(&KEY, &address_of(CLIENT6.into()).0, ports),
        ),
    }
}

/// The path of that packet, with a full tracking cell for the flow. `limits`: which the VIP has.
fn path(service: &Service, limits: u8) -> Path {
    let (frame, flow_hash) = packet(service);
    let ring = RingState::new_clean(&[service.index; RING_SIZE as usize]);
    let image = bytemuck::cast_slice(&ring.to_image()).to_vec();
    assert_eq!(image.len(), size_of::<Image>());
    let place = Place::of(flow_hash);
    let cell = Cell {
        tag: place.tag,
        member: service.index,
        confirmed: true,
        closed: false,
        redundant: true,
        unproven: false,
        seen_s: 0,
    };
    let mut track = vec![0; size_of::<Bucket>()];
    track[8 * place.way(0)..][..8].copy_from_slice(&cell.pack().to_le_bytes());
    let mut memory = memory_of(service);
    let forward = usize::from(service.index) * size_of::<Vip>() + offset_of!(Vip, forward);
    let vips = memory.iter_mut().find(|(name, _)| *name == "VIPS");
    vips.unwrap().1[forward] |= limits;
    memory.push(("COUNTERS", vec![0; size_of::<CpuBlock>()]));
    memory.push(("RINGS", image));
    memory.push(("TRACK", track));
    memory.push(("SPILLED", vec![0; 8 * MAX_MEMBERS as usize]));
    let mut machine = Machine::new(OBJECT, memory).unwrap();
    let path = machine.run(&frame.bytes()).unwrap();
    assert_eq!(path.verdict, XDP_TX);
    let sent = match service.forward {
        forward::IPIP => service.encapsulated(&frame, flow_hash),
        _ => service.delivered(&frame),
    };
    assert_eq!(path.frame, sent.bytes(), "{service:?}");
    path
}

/// Instructions of a packet, and its accesses of the stack, at most. Of the instructions, ten ask
/// whether the frame is for this node, and six whether the packet is traced.
#[test]
fn an_established_packet_takes_few_instructions() {
    let with_limits = |index: usize, limits| {
        let path = path(&SERVICES[index], limits);
        (path.instructions, path.stack_accesses)
    };
    let counted = |index| with_limits(index, 0);
    let bounded = |index: usize| {
        let service = Service {
            track: track::ON_SPILL,
            ..SERVICES[index]
        };
        let path = path(&service, limited::BOUND);
        (path.instructions, path.stack_accesses)
    };
    let counts = [
        ("TCP over IPv4, ipip", counted(1), (333, 27)),
        (
            "TCP over IPv4, ipip, limits of new flows",
            with_limits(1, limited::FLOWS),
            (348, 29),
        ),
        ("TCP over IPv4, ipip, bounded load", bounded(1), (400, 40)),
        ("TCP over IPv4, l2", counted(0), (285, 23)),
        ("TCP over IPv6, ipip", counted(10), (339, 35)),
        ("TCP over IPv6, l2", counted(9), (301, 31)),
        ("UDP over IPv4, l2, never tracked", counted(2), (280, 23)),
        ("UDP over IPv4, ipip, always tracked", counted(3), (449, 51)),
    ];
    let mut more = Vec::new();
    for (what, (instructions, stack_accesses), most) in counts {
        println!("{what}: {instructions} instructions, {stack_accesses} accesses of the stack");
        if instructions > most.0 || stack_accesses > most.1 {
            more.push(format!(
                "{what}: {instructions}, {stack_accesses}; at most {most:?}"
            ));
        }
    }
    assert!(more.is_empty(), "{more:#?}");
}

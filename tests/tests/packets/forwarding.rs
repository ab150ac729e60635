//! Forwarding by `l2` and `ipip`: tags, options, extension headers, ports, sizes.

use std::net::IpAddr;

use lab::{
    bytecode::{
        Bench, Expect,
        tables::{
            ANY4, BROKEN4, DOWN, ELSEWHERE, EMPTY_RING, MTU, NO_NEXT_HOP, NO_RING, SERVICES,
            Service, VIP4, VIP6,
        },
    },
    packet::{ACK, Extension, FIN, Frame, Ip, RST, SYN, Transport, V4, V6, icmp, icmp6, tcp, udp},
};
use lb_common::{
    address_of,
    reason::Reason,
    vip::{VipKey, forward, target, track},
};

use crate::stage::{Client, PORT_MAC, bench, flow_hash};

#[test]
fn forwards_packets_to_the_member() {
    let mut bench = bench();
    all(&mut bench, Client::new(1));
    bench.conclude();
}

/// Runs the whole table with flows of one client.
pub(crate) fn all(bench: &mut Bench, client: Client) {
    every_service(bench, client);
    tagged(bench, client);
    ipv4_header(bench, client);
    extension_headers(bench, client);
    refused_extension_headers(bench, client);
    ports(bench, client);
    unable(bench, client);
    sizes(bench, client);
    foreign(bench, client);
}

/// Returns the frame as the member receives it.
pub(crate) fn output(service: &Service, frame: &Frame) -> Frame {
    if service.forward == forward::IPIP {
        service.encapsulated(frame, flow_hash(frame))
    } else {
        service.delivered(frame)
    }
}

/// Expects that a frame goes to the service's member. `known`: its flow has an entry if the VIP always tracks.
pub(crate) fn expect(service: &Service, frame: &Frame, known: bool) -> Expect {
    let index = service.index;
    let mut expect = Expect::forwarded(index, frame, &output(service, frame));
    let mut new = false;
    if let Transport::Tcp { flags, .. } = frame.transport {
        new = flags & (SYN | ACK) == SYN;
        if flags & RST != 0 {
            expect = expect.plus(&format!("m{index}.resets"), 1);
        }
    }
    if service.track == track::ALWAYS {
        if known {
            expect = expect.plus(&format!("v{index}.track_hits"), 1);
        } else {
            new |= service.protocol == 17;
            expect = expect
                .plus(&format!("v{index}.track_misses"), 1)
                .plus(&format!("v{index}.track_inserts"), 1);
        }
    }
    if new { expect.new_flow(index) } else { expect }
}

/// Returns the `l2` and `ipip` services whose packets leave on the ingress interface.
pub(crate) fn direct() -> impl Iterator<Item = Service> {
    let services = SERVICES.into_iter();
    services.filter(|service| service.forward != forward::NAT && service.index != ELSEWHERE.index)
}

fn every_service(bench: &mut Bench, client: Client) {
    for service in direct() {
        let tcp = service.protocol == 6;
        let first = client.to(&service, 1000, SYN);
        let name = |what: &str| format!("{what} for {service:?}");
        bench.check(
            &name("first packet"),
            &first,
            &expect(&service, &first, false),
        );
        for flags in [ACK, ACK | FIN, RST, SYN | ACK] {
            if tcp || flags == ACK {
                let next = client.to(&service, 1000, flags).payload(vec![flags; 333]);
                bench.check(&name("next packet"), &next, &expect(&service, &next, true));
            }
        }
        let classy = client
            .to(&service, 1000, ACK)
            .with_ip(|ip| *ip.class_mut() = 0xbb);
        bench.check(&name("a class"), &classy, &expect(&service, &classy, true));
        for payload in [0, 1] {
            let short = client.to(&service, 1000, ACK).payload(vec![0xee; payload]);
            bench.check(&name("short"), &short, &expect(&service, &short, true));
            let padded = short.padding(&[0xdd; 17]);
            bench.check(&name("padded"), &padded, &expect(&service, &padded, true));
        }
    }
    let frame = client.to(&ELSEWHERE, 1000, ACK);
    let mut out = ELSEWHERE.delivered(&frame);
    out.from = PORT_MAC;
    let expect = Expect::forwarded(ELSEWHERE.index, &frame, &out).redirected();
    bench.check("out of another interface", &frame, &expect);
}

/// VLAN tags of frames.
pub(crate) const TAGS: [&[(u16, u16)]; 4] = [
    &[(0x8100, 7)],
    &[(0x88a8, 0x2007)],
    &[(0x8100, 7), (0x8100, 8)],
    &[(0x88a8, 7), (0x8100, 0xe008)],
];

fn tagged(bench: &mut Bench, client: Client) {
    for service in direct() {
        for (number, tags) in TAGS.into_iter().enumerate() {
            let frame = client.to(&service, 1100 + number as u16, ACK).tags(tags);
            bench.check(
                &format!("tags {tags:x?} for {service:?}"),
                &frame,
                &expect(&service, &frame, false),
            );
        }
        let frame = client.to(&service, 1100, ACK);
        let three = frame.tags(&[(0x88a8, 1), (0x8100, 2), (0x8100, 3)]);
        bench.check("three tags", &three, &Expect::of(Reason::NotIp));
    }
}

fn ipv4_header(bench: &mut Bench, client: Client) {
    for service in direct().filter(|service| service.address.is_ipv4()) {
        for (number, len) in [4, 8, 20, 40].into_iter().enumerate() {
            for tags in [&[][..], TAGS[0], TAGS[3]] {
                let frame = client
                    .to(&service, 1200 + number as u16 * 8 + tags.len() as u16, ACK)
                    .tags(tags)
                    .with_ip(|ip| {
                        let Ip::V4(ip) = ip else { unreachable!() };
                        ip.options = vec![1; len];
                    });
                bench.check(
                    &format!("{len} bytes of options, tags {tags:x?}, for {service:?}"),
                    &frame,
                    &expect(&service, &frame, false),
                );
            }
        }
    }
    for ttl in 2..=255 {
        let frame = client.to(&SERVICES[0], 1000, ACK).ttl(ttl);
        bench.check(
            &format!("TTL {ttl}"),
            &frame,
            &expect(&SERVICES[0], &frame, true),
        );
    }
    for id in (0..=0xffff_u16).step_by(257) {
        let frame = client.to(&SERVICES[1], 1000, ACK).with_ip(|ip| {
            let Ip::V4(ip) = ip else { unreachable!() };
            (ip.id, ip.dont_fragment) = (id, id & 1 == 0);
        });
        bench.check(
            &format!("identification {id}"),
            &frame,
            &expect(&SERVICES[1], &frame, true),
        );
    }
}

fn with_extensions(frame: Frame, extensions: &[Extension]) -> Frame {
    frame.with_ip(|ip| {
        let Ip::V6(ip) = ip else { unreachable!() };
        ip.extensions = extensions.to_vec();
    })
}

fn extension_headers(bench: &mut Bench, client: Client) {
    use Extension::{Auth, Options, Routing};
    let chains: [&[Extension]; 10] = [
        &[Options(0, 8)],
        &[Options(60, 8)],
        &[Options(0, 64), Options(60, 8)],
        &[Routing(0)],
        &[Auth(24)],
        &[Auth(12)],
        &[
            Options(0, 8),
            Options(60, 16),
            Routing(0),
            Auth(24),
            Options(60, 8),
        ],
        &[const { Options(60, 8) }; 7],
        &[Options(60, 256)],
        &[Options(0, 200), Options(60, 256)],
    ];
    for service in direct().filter(|service| service.address.is_ipv6()) {
        for (number, chain) in chains.into_iter().enumerate() {
            for tags in [&[][..], TAGS[0], TAGS[3]] {
                let port = 1300 + number as u16 * 8 + tags.len() as u16;
                let frame = with_extensions(client.to(&service, port, SYN).tags(tags), chain);
                bench.check(
                    &format!("{chain:?}, tags {tags:x?}, for {service:?}"),
                    &frame,
                    &expect(&service, &frame, false),
                );
            }
        }
    }
}

fn refused_extension_headers(bench: &mut Bench, client: Client) {
    use Extension::{Options, Routing};
    let chains: [&[Extension]; 6] = [
        &[Routing(1)],
        &[Options(0, 8), Routing(255)],
        &[const { Options(60, 8) }; 8],
        &[const { Options(60, 8) }; 40],
        &[Options(60, 520)],
        &[const { Options(60, 2048 - 16) }; 1],
    ];
    for chain in chains {
        let frame = with_extensions(
            client.to(&SERVICES[9], 1000, ACK),
            &chain[..chain.len().min(40)],
        );
        bench.check(
            &format!("{chain:?}"),
            &frame,
            &Expect::of(Reason::ExtensionHeaders),
        );
        let other = with_extensions(
            client.to_port(IpAddr::V6("2001:db8::99".parse().unwrap()), 6, 1, 80, ACK),
            chain,
        );
        bench.check(
            &format!("{chain:?} to another host"),
            &other,
            &Expect::of(Reason::NoVip),
        );
    }
}

fn ports(bench: &mut Bench, client: Client) {
    let (any, exact) = (SERVICES[7], SERVICES[8]);
    for port in [1, 21, 23, 80, 443, 65_535] {
        let frame = client.to_port(ANY4.into(), 6, 1400, port, SYN);
        bench.check(
            &format!("any port: {port}"),
            &frame,
            &expect(&any, &frame, false),
        );
    }
    let frame = client.to_port(ANY4.into(), 6, 1400, 22, SYN);
    bench.check(
        "an exact port beats any",
        &frame,
        &expect(&exact, &frame, false),
    );
    let udp = client.to_port(ANY4.into(), 17, 1400, 22, 0);
    bench.check("another protocol", &udp, &Expect::of(Reason::NoService));
    // As left by a controller that did not record the protocols of an address.
    let (address, family) = address_of(ANY4.into());
    let key = VipKey::new(&address, family, 0, 0);
    let known = bench.dataplane.services.get(&key).unwrap().unwrap();
    let unknown = target::pack(target::ADDRESS, 0);
    bench.dataplane.add_service(&key, unknown).unwrap();
    let frame = client.to_port(ANY4.into(), 6, 1400, 21, SYN);
    bench.check(
        "no protocols recorded",
        &frame,
        &expect(&any, &frame, false),
    );
    bench.dataplane.add_service(&key, known).unwrap();
}

fn unable(bench: &mut Bench, client: Client) {
    let of = |service: &Service| client.to(service, 1500, ACK);
    bench.check(
        "no ring",
        &of(&NO_RING),
        &Expect::of(Reason::NoMember).plus("v20.no_member", 1),
    );
    let expect = Expect::of(Reason::NoMember).plus("v21.no_member", 1);
    bench.check("no member", &of(&EMPTY_RING), &expect);
    bench.check("down", &of(&DOWN), &Expect::of(Reason::MemberDown));
    bench.check(
        "no next hop",
        &of(&NO_NEXT_HOP),
        &Expect::of(Reason::NoNextHop),
    );
}

fn sizes(bench: &mut Bench, client: Client) {
    for service in direct() {
        let room = MTU as usize
            - match (service.forward, service.backend_v6) {
                (forward::IPIP, false) => 20,
                (forward::IPIP, true) => 40,
                _ => 0,
            };
        let headers = client.to(&service, 1600, ACK).payload([]).packet().len();
        let fits = client
            .to(&service, 1600, ACK)
            .payload(vec![0x5a; room - headers]);
        bench.check(
            &format!("just fits: {service:?}"),
            &fits,
            &expect(&service, &fits, false),
        );
    }
}

fn foreign(bench: &mut Bench, client: Client) {
    let (v4, v6) = (client.v4, client.v6);
    let other4 = "203.0.113.99".parse().unwrap();
    let other6 = "2001:db8::99".parse().unwrap();
    let frames = [
        (
            "TCP to another host",
            Frame::new(V4::new(v4, other4), tcp(1, 80, SYN)),
            Reason::NoVip,
        ),
        (
            "UDP to another host",
            Frame::new(V4::new(v4, other4), udp(1, 53)),
            Reason::NoVip,
        ),
        (
            "ICMP to another host",
            Frame::new(V4::new(v4, other4), icmp(8, 0, 1)),
            Reason::NoVip,
        ),
        (
            "TCP6 to another host",
            Frame::new(V6::new(v6, other6), tcp(1, 80, SYN)),
            Reason::NoVip,
        ),
        (
            "UDP6 to another host",
            Frame::new(V6::new(v6, other6), udp(1, 53)),
            Reason::NoVip,
        ),
        (
            "neighbour solicitation",
            Frame::new(
                V6::new(v6, "ff02::1:ff00:10".parse().unwrap()),
                icmp6(135, 0, 0),
            ),
            Reason::NoVip,
        ),
        (
            "neighbour solicitation to a VIP",
            Frame::new(V6::new(v6, VIP6), icmp6(135, 0, 0)),
            Reason::IcmpOther,
        ),
        (
            "IPv6 multicast",
            Frame::new(V6::new(v6, "ff02::fb".parse().unwrap()), udp(5353, 5353)),
            Reason::NoVip,
        ),
        (
            "IPv4 multicast",
            Frame::new(V4::new(v4, "224.0.0.251".parse().unwrap()), udp(5353, 5353)),
            Reason::NoVip,
        ),
        (
            "broadcast",
            Frame::new(V4::new(v4, "255.255.255.255".parse().unwrap()), udp(68, 67)),
            Reason::NoVip,
        ),
        (
            "another port",
            Frame::new(V4::new(v4, VIP4), tcp(1, 22, SYN)),
            Reason::NoService,
        ),
        (
            "another port, UDP",
            Frame::new(V4::new(v4, VIP4), udp(1, 80)),
            Reason::NoService,
        ),
        (
            "another port, IPv6",
            Frame::new(V6::new(v6, VIP6), tcp(1, 22, SYN)),
            Reason::NoService,
        ),
        (
            "another protocol",
            Frame::new(V4::new(v4, VIP4), Transport::Raw { protocol: 47 }),
            Reason::NoService,
        ),
        (
            "another protocol, IPv6",
            Frame::new(V6::new(v6, VIP6), Transport::Raw { protocol: 132 }),
            Reason::NoService,
        ),
        (
            "echo reply",
            Frame::new(V4::new(v4, BROKEN4), icmp(0, 0, 1)),
            Reason::IcmpOther,
        ),
    ];
    for (name, frame, reason) in frames {
        for tags in [&[][..], TAGS[0], TAGS[3]] {
            for padding in [&[][..], &[1; 9]] {
                let frame = frame.clone().tags(tags).padding(padding);
                bench.check(name, &frame, &Expect::of(reason));
            }
        }
    }
    for (name, ether_type) in [
        ("ARP", 0x0806_u16),
        ("LLDP", 0x88cc),
        ("802.3", 0x0026),
        ("MPLS", 0x8847),
    ] {
        let mut frame = client.to(&SERVICES[0], 1, ACK).bytes();
        frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
        bench.check_bytes(name, &frame, &Expect::of(Reason::NotIp));
    }
}

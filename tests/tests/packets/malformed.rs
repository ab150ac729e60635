//! Packets truncated at every byte, and inconsistent headers.

use lab::{
    bytecode::{Bench, Expect, Verdict, tables::SERVICES},
    packet::{ACK, Extension, Frame, Ip, SYN, Transport, V4, V6, check::findings, icmp, icmp6},
};
use lb_common::{reason::Reason, vip::forward};

use crate::{
    forwarding::{TAGS, direct, expect},
    fragments::part,
    icmp::martian_sources,
    icmp_errors::errors_about,
    nat,
    stage::{Client, bench},
};

#[test]
fn drops_or_passes_malformed_packets_unchanged() {
    let mut bench = bench();
    all(&mut bench, Client::new(1));
    bench.conclude();
}

pub(crate) fn all(bench: &mut Bench, client: Client) {
    ipv4_headers(bench, client);
    ipv6_lengths(bench, client);
    transports(bench, client);
    not_forwarded(bench, client);
    foreign(bench, client);
    cut_off(bench, client);
}

/// Returns frames of every kind that the data path parses.
pub(crate) fn kinds(client: Client) -> Vec<Frame> {
    let mut frames = Vec::new();
    for service in direct().chain(nat::services()) {
        for flags in [SYN, ACK] {
            frames.push(client.to(&service, 4000, flags));
        }
        let flow = client.to(&service, 4001, ACK);
        frames.push(part(&flow.clone().payload([1; 64]), 4000, 0, 40, true));
        frames.push(part(&flow.clone().payload([1; 64]), 4000, 40, 16, false));
        let mut returned = flow.clone();
        returned
            .ip
            .set_addresses(service.address, client.like(service.address));
        returned.ip.set_addresses(flow.ip.dest(), flow.ip.source());
        frames.extend(errors_about(&returned, 100));
        frames.push(flow.clone().ttl(1));
        frames.push(flow.with_ip(|ip| match ip {
            Ip::V4(ip) => ip.options = vec![1; 20],
            Ip::V6(ip) => {
                ip.extensions = vec![
                    Extension::Options(0, 16),
                    Extension::Routing(0),
                    Extension::Auth(24),
                ];
            }
        }));
    }
    let (vip4, vip6) = (SERVICES[0].address, SERVICES[9].address);
    frames.push(Frame::new(Ip::new(client.v4.into(), vip4), icmp(8, 0, 1)));
    frames.push(Frame::new(
        Ip::new(client.v6.into(), vip6),
        icmp6(128, 0, 1),
    ));
    frames.push(Frame::new(
        V4::new(client.v4, "192.0.2.7".parse().unwrap()),
        icmp(8, 0, 1),
    ));
    frames.push(Frame::new(
        V6::new(client.v6, "2001:db8::7".parse().unwrap()),
        icmp6(128, 0, 1),
    ));
    let tagged: Vec<Frame> = frames
        .iter()
        .step_by(3)
        .map(|frame| frame.clone().tags(TAGS[3]))
        .collect();
    frames.extend(tagged);
    frames
}

/// Runs any frame: it must be transmitted well-formed, or stay unchanged.
pub(crate) fn harmless(bench: &mut Bench, name: &str, input: &[u8]) {
    let run = match bench.dataplane.run(input) {
        Ok(run) => run,
        Err(error) => return bench.fail(format!("{name}: {error}")),
    };
    let sent = run.verdict >= Verdict::Tx as u32;
    let faults = findings(&run.frame).since(&findings(input));
    let bytes = || {
        input
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    if run.verdict == Verdict::Aborted as u32 {
        bench.fail(format!("{name}: aborted: {}", bytes()));
    } else if run.verdict == Verdict::Pass as u32 && run.frame != input {
        bench.fail(format!("{name}: passed, but not as it was: {}", bytes()));
    } else if sent && !faults.is_empty() {
        bench.fail(format!("{name}: sent with {faults:?}: {}", bytes()));
    }
}

fn cut_off(bench: &mut Bench, client: Client) {
    for (number, frame) in kinds(client).into_iter().enumerate() {
        let bytes = frame.bytes();
        for len in 14..=bytes.len() {
            harmless(
                bench,
                &format!("frame {number}, {len} bytes of it"),
                &bytes[..len],
            );
        }
    }
    for service in direct() {
        let frame = client.to(&service, 4100, ACK).bytes();
        let header = if service.address.is_ipv4() { 20 } else { 40 };
        for len in 14..frame.len() {
            let reason = if len < 14 + header {
                Reason::Truncated
            } else {
                Reason::BadHeader
            };
            bench.check_bytes(
                &format!("{len} of {} bytes for {service:?}", frame.len()),
                &frame[..len],
                &Expect::of(reason),
            );
        }
    }
    for len in 14..=17 {
        let frame = client.to(&SERVICES[0], 4100, ACK).tags(TAGS[0]).bytes();
        bench.check_bytes(
            "cut in a tag",
            &frame[..len],
            &Expect::of(Reason::Truncated),
        );
    }
}

/// Changes the IP header of a frame and corrects its checksum.
fn with_header(frame: &Frame, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = frame.bytes();
    change(&mut bytes[14..]);
    let header_len = (usize::from(bytes[14] & 0xf) * 4).max(20);
    bytes[24..26].fill(0);
    let sum = lab::packet::checksum(&[&bytes[14..14 + header_len]]);
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn ipv4_headers(bench: &mut Bench, client: Client) {
    for service in direct().filter(|service| service.address.is_ipv4()) {
        let frame = client.to(&service, 4200, ACK).payload([3; 60]);
        let len = frame.packet().len() as u16;
        let bad = Expect::of(Reason::BadHeader);
        for ihl in 0..5 {
            let bytes = with_header(&frame, |ip| ip[0] = 0x40 | ihl);
            bench.check_bytes(&format!("header of {ihl} words"), &bytes, &bad);
        }
        for version in [0, 5, 6, 15] {
            let bytes = with_header(&frame, |ip| ip[0] = version << 4 | 5);
            bench.check_bytes(&format!("version {version}"), &bytes, &bad);
        }
        for length in [0, 1, 19, len + 1, len + 14, 0xffff] {
            let bytes = with_header(&frame, |ip| ip[2..4].copy_from_slice(&length.to_be_bytes()));
            bench.check_bytes(&format!("length {length} of {len}"), &bytes, &bad);
        }
        for length in 20..28_u16 {
            let bytes = with_header(&frame, |ip| ip[2..4].copy_from_slice(&length.to_be_bytes()));
            let short = Expect::of(Reason::BadTransport);
            bench.check_bytes(&format!("length {length} of {len}"), &bytes, &short);
        }
        for bit in 0..16 {
            let mut bytes = frame.bytes();
            bytes[24 + bit / 8] ^= 1 << (bit % 8);
            let wrong = Expect::of(Reason::BadChecksum);
            bench.check_bytes("wrong checksum", &bytes, &wrong);
            let mut with_options = frame.clone().with_ip(|ip| {
                let Ip::V4(ip) = ip else { unreachable!() };
                ip.options = vec![1; 4];
            });
            with_options.payload = vec![0; 9];
            let mut bytes = with_options.bytes();
            bytes[24 + bit / 8] ^= 1 << (bit % 8);
            bench.check_bytes("wrong checksum, options", &bytes, &wrong);
        }
    }
}

fn ipv6_lengths(bench: &mut Bench, client: Client) {
    for service in direct().filter(|service| service.address.is_ipv6()) {
        let frame = client.to(&service, 4300, ACK).payload([3; 60]);
        let len = frame.packet().len() as u16 - 40;
        for length in [0, 1, 7, len + 1, len + 40, 0xffff] {
            let mut bytes = frame.bytes();
            bytes[18..20].copy_from_slice(&length.to_be_bytes());
            let name = format!("length {length} of {len} for {service:?}");
            // The length field is larger than the packet.
            let reason = if length < 8 {
                Reason::BadTransport
            } else {
                Reason::BadHeader
            };
            bench.check_bytes(&name, &bytes, &Expect::of(reason));
        }
        for version in [0, 4, 7] {
            let mut bytes = frame.bytes();
            bytes[14] = version << 4;
            bench.check_bytes("version", &bytes, &Expect::of(Reason::BadHeader));
        }
        // The padding looks like the header of a later fragment.
        let mut bytes = part(&frame, 4300, 40, 16, false).bytes();
        bytes[18..20].copy_from_slice(&[0, 0]);
        let name = format!("fragment header in the padding for {service:?}");
        bench.check_bytes(&name, &bytes, &Expect::of(Reason::BadHeader));
    }
}

/// Martian sources and broadcast or multicast frames, also with options and fragments.
fn not_forwarded(bench: &mut Bench, client: Client) {
    for service in SERVICES
        .iter()
        .filter(|service| service.forward != forward::NAT)
    {
        for tags in TAGS {
            for source in martian_sources(service.address) {
                let mut forged = client.to(service, 4500, ACK).tags(tags);
                forged.ip.set_addresses(source, service.address);
                let name = format!("from {source} for {service:?}");
                bench.check(&name, &forged, &Expect::of(Reason::MartianSource));
                let mut first = part(&forged, 4500, 0, 24, true);
                first.ip.set_addresses(source, service.address);
                bench.check(&name, &first, &Expect::of(Reason::MartianSource));
            }
        }
    }
    for service in &SERVICES {
        for (tags, group) in TAGS.iter().zip([
            [0xff; 6],
            [1, 0, 0x5e, 0, 0, 1],
            [0x33, 0x33, 0, 0, 0, 1],
            [3; 6],
        ]) {
            let frame = client.to(service, 4501, SYN).tags(tags).payload([7; 60]);
            let from = frame.from;
            let frame = frame.link(group, from);
            let name = format!("to {group:?} for {service:?}");
            let passed = Expect::of(Reason::LinkGroup);
            bench.check(&name, &frame, &passed);
            bench.check(&name, &part(&frame, 4502, 0, 24, true), &passed);
            let last = part(&frame, 4502, 24, 8, false);
            bench.check(&name, &last, &passed);
        }
    }
}

fn transports(bench: &mut Bench, client: Client) {
    let bad = Expect::of(Reason::BadTransport);
    for service in direct() {
        let frame = client.to(&service, 4400, ACK).payload([3; 12]);
        let l4 = 14 + if service.address.is_ipv4() { 20 } else { 40 };
        if service.protocol == 6 {
            for words in 0..16_u8 {
                let mut bytes = frame.bytes();
                bytes[l4 + 12] = words << 4;
                let name = format!("TCP header of {words} words for {service:?}");
                if (5..=8).contains(&words) {
                    harmless(bench, &name, &bytes);
                } else {
                    bench.check_bytes(&name, &bytes, &bad);
                }
            }
            let mut short = frame.clone().payload([3; 12]);
            short.transport = Transport::Raw { protocol: 6 };
            for padding in [0, 30] {
                let short = short.clone().padding(&vec![0; padding]);
                let mut bytes = short.bytes();
                bytes[l4..l4 + 4].copy_from_slice(&[
                    0,
                    9,
                    (service_port(&service) >> 8) as u8,
                    service_port(&service) as u8,
                ]);
                bench.check_bytes("12 bytes of TCP", &bytes, &bad);
            }
        } else {
            for length in [0, 7, 8 + 13, 0xffff_u16] {
                let mut bytes = frame.bytes();
                bytes[l4 + 4..l4 + 6].copy_from_slice(&length.to_be_bytes());
                bench.check_bytes(
                    &format!("UDP length {length} for {service:?}"),
                    &bytes,
                    &bad,
                );
            }
            // A UDP datagram shorter than its packet is valid.
            let mut bytes = frame.bytes();
            bytes[l4 + 4..l4 + 6].copy_from_slice(&12_u16.to_be_bytes());
            harmless(bench, "a shorter UDP datagram", &bytes);
        }
        let frame = client.to(&service, 4401, ACK);
        bench.check("a valid packet", &frame, &expect(&service, &frame, false));
    }
}

/// A malformed packet passes if it is for no service, also with options and extension headers, and is
/// dropped if it is for one.
fn foreign(bench: &mut Bench, client: Client) {
    for (service, other) in [
        (SERVICES[0], 22),
        (SERVICES[2], 9),
        (SERVICES[9], 22),
        (SERVICES[16], 9),
    ] {
        let v4 = service.address.is_ipv4();
        let l4 = 14 + if v4 { 24 } else { 56 };
        for (port, passed) in [(service.port, false), (other, true)] {
            let frame = client.to_port(service.address, service.protocol, 4500, port, ACK);
            let frame = frame.with_ip(|ip| match ip {
                Ip::V4(ip) => ip.options = vec![1; 4],
                Ip::V6(ip) => ip.extensions = vec![Extension::Options(60, 16)],
            });
            let mut wrongs = vec![("transport", Reason::BadTransport, frame.bytes())];
            let at = if service.protocol == 6 {
                l4 + 12
            } else {
                l4 + 5
            };
            wrongs[0].2[at] = if service.protocol == 6 { 0x40 } else { 7 };
            let longer = if v4 {
                with_header(&frame, |ip| ip[3] += 1)
            } else {
                let mut bytes = frame.bytes();
                bytes[19] += 1;
                bytes
            };
            wrongs.push(("length", Reason::BadHeader, longer));
            if v4 {
                let mut bytes = frame.bytes();
                bytes[24] ^= 1;
                wrongs.push(("checksum", Reason::BadChecksum, bytes));
            }
            for (what, reason, bytes) in wrongs {
                let reason = if passed { Reason::NoService } else { reason };
                let name = format!("wrong {what}, port {port}, like {service:?}");
                bench.check_bytes(&name, &bytes, &Expect::of(reason));
            }
        }
    }
    for vip in [SERVICES[0].address, SERVICES[9].address] {
        let raw = Transport::Raw { protocol: 47 };
        let gre = Frame::new(Ip::new(client.like(vip), vip), raw);
        let mut wrong = gre.bytes();
        wrong[if vip.is_ipv4() { 24 } else { 19 }] ^= 0x40;
        bench.check_bytes(
            "GRE with a wrong header",
            &wrong,
            &Expect::of(Reason::NoService),
        );
    }
}

const fn service_port(service: &lab::bytecode::tables::Service) -> u16 {
    if service.port == 0 {
        4000
    } else {
        service.port
    }
}

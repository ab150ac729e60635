//! Decapsulation: a table of packets for the bytecode, run with `BPF_PROG_TEST_RUN`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lab::packet::{Frame, Ip, Transport, V4, V6, checksum};
use lb_common::decap::{DecapCounters, decapsulated_ecn};
use lb_dataplane::Decapsulator;

const DROP: u32 = 1;
const PASS: u32 = 2;

const LOCAL_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const LOCAL_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

const ZERO: DecapCounters = DecapCounters {
    v4_in_v4: 0,
    v6_in_v4: 0,
    v4_in_v6: 0,
    v6_in_v6: 0,
    bytes: 0,
    passed: 0,
    declined: 0,
    malformed: 0,
    congested: 0,
    failed: 0,
};

/// The program with the addresses above.
struct Program(Decapsulator);

impl Program {
    fn new() -> Self {
        let mut decapsulator = Decapsulator::load().unwrap();
        let addresses = [LOCAL_V4.into(), LOCAL_V6.into()];
        assert_eq!(decapsulator.set_addresses(&addresses).unwrap(), 0);
        Self(decapsulator)
    }

    /// Runs a frame. Returns the verdict, the frame afterwards, and the changes of the counters.
    fn run(&mut self, frame: &[u8]) -> (u32, Vec<u8>, DecapCounters) {
        let before = self.0.counters().unwrap();
        let run = self.0.run(frame).unwrap();
        let after = self.0.counters().unwrap();
        let counted = DecapCounters {
            v4_in_v4: after.v4_in_v4 - before.v4_in_v4,
            v6_in_v4: after.v6_in_v4 - before.v6_in_v4,
            v4_in_v6: after.v4_in_v6 - before.v4_in_v6,
            v6_in_v6: after.v6_in_v6 - before.v6_in_v6,
            bytes: after.bytes - before.bytes,
            passed: after.passed - before.passed,
            declined: after.declined - before.declined,
            malformed: after.malformed - before.malformed,
            congested: after.congested - before.congested,
            failed: after.failed - before.failed,
        };
        (run.verdict, run.frame, counted)
    }

    fn assert_passed_unchanged(&mut self, what: &str, frame: &[u8], expected: DecapCounters) {
        let (verdict, after, counted) = self.run(frame);
        assert_eq!((verdict, counted), (PASS, expected), "{what}");
        assert_eq!(after, frame, "{what}");
    }

    fn assert_dropped(&mut self, what: &str, frame: &[u8], expected: DecapCounters) {
        let (verdict, _, counted) = self.run(frame);
        assert_eq!((verdict, counted), (DROP, expected), "{what}");
    }
}

const PASSED: DecapCounters = DecapCounters { passed: 1, ..ZERO };
const DECLINED: DecapCounters = DecapCounters {
    declined: 1,
    ..ZERO
};
const MALFORMED: DecapCounters = DecapCounters {
    malformed: 1,
    ..ZERO
};

fn decapsulated(outer: u8, inner: u8, frame: &[u8]) -> DecapCounters {
    let bytes = frame.len() as u64;
    match (outer, inner) {
        (4, 4) => DecapCounters {
            v4_in_v4: 1,
            bytes,
            ..ZERO
        },
        (4, _) => DecapCounters {
            v6_in_v4: 1,
            bytes,
            ..ZERO
        },
        (_, 4) => DecapCounters {
            v4_in_v6: 1,
            bytes,
            ..ZERO
        },
        _ => DecapCounters {
            v6_in_v6: 1,
            bytes,
            ..ZERO
        },
    }
}

/// Returns an Ethernet header with this many VLAN tags.
fn link(tags: usize, family: u8) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    let all_tags: &[&[u8]] = &[&[0x88, 0xa8, 0x20, 0x64], &[0x81, 0x00, 0x00, 0x65]];
    for tag in &all_tags[2 - tags..] {
        bytes.extend_from_slice(tag);
    }
    bytes.extend_from_slice(if family == 4 {
        &[0x08, 0x00]
    } else {
        &[0x86, 0xdd]
    });
    bytes
}

/// Writes the checksum of the IPv4 header of 20 bytes at `at`.
fn write_checksum(frame: &mut [u8], at: usize) {
    frame[at + 10..at + 12].fill(0);
    let sum = checksum(&[&frame[at..at + 20]]);
    frame[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
}

/// Returns an IP packet with a payload.
fn ip(dest: IpAddr, protocol: u8, class: u8, payload: &[u8]) -> Vec<u8> {
    let header: Ip = match dest {
        IpAddr::V4(dest) => V4 {
            id: 0x1234,
            class,
            ..V4::new(Ipv4Addr::new(192, 0, 2, 1), dest)
        }
        .into(),
        IpAddr::V6(dest) => V6 {
            flow_label: 0x3_4567,
            class,
            ..V6::new(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), dest)
        }
        .into(),
    };
    Frame::new(header, Transport::Raw { protocol })
        .payload(payload)
        .packet()
}

fn local(family: u8) -> IpAddr {
    if family == 4 {
        LOCAL_V4.into()
    } else {
        LOCAL_V6.into()
    }
}

fn vip(family: u8) -> IpAddr {
    if family == 4 {
        [198, 51, 100, 80].into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x80).into()
    }
}

const PAYLOAD: [u8; 12] = [0x30, 0x39, 0, 80, 0, 12, 0, 0, 0xde, 0xad, 0xbe, 0xef];

fn inner_packet(family: u8, class: u8) -> Vec<u8> {
    ip(vip(family), 17, class, &PAYLOAD)
}

const fn protocol(inner: u8) -> u8 {
    if inner == 4 { 4 } else { 41 }
}

/// Returns a frame with an encapsulated packet for this host.
fn encapsulated(tags: usize, outer: u8, inner: u8) -> Vec<u8> {
    let mut frame = link(tags, outer);
    frame.extend(ip(
        local(outer),
        protocol(inner),
        0,
        &inner_packet(inner, 0),
    ));
    frame
}

const COMBINATIONS: [(u8, u8); 4] = [(4, 4), (4, 6), (6, 4), (6, 6)];

fn header_len(family: u8) -> usize {
    if family == 4 { 20 } else { 40 }
}

#[test]
fn removes_the_outer_header_and_keeps_the_rest() {
    let mut program = Program::new();
    for (outer, inner) in COMBINATIONS {
        for tags in 0..=2 {
            for padding in [0, 1, 46] {
                let what = format!("{inner} in {outer}, {tags} tags, {padding} padding");
                let mut frame = encapsulated(tags, outer, inner);
                frame.extend(std::iter::repeat_n(0xaa, padding));
                let mut expected = link(tags, inner);
                expected.extend(inner_packet(inner, 0));
                let (verdict, after, counted) = program.run(&frame);
                assert_eq!(verdict, PASS, "{what}");
                assert_eq!(counted, decapsulated(outer, inner, &frame), "{what}");
                assert_eq!(after, expected, "{what}");
            }
        }
    }
}

#[test]
fn passes_foreign_packets_unchanged() {
    let mut program = Program::new();
    for (outer, inner) in COMBINATIONS {
        let at = 14;
        let mut other = encapsulated(0, outer, inner);
        other[at + header_len(outer) - 1] ^= 1;
        program.assert_passed_unchanged("destination of another host", &other, PASSED);
        let mut plain = encapsulated(0, outer, inner);
        plain[at + if outer == 4 { 9 } else { 6 }] = 17;
        program.assert_passed_unchanged("not encapsulated", &plain, PASSED);
        let mut other_type = encapsulated(0, outer, inner);
        other_type[12..14].copy_from_slice(&[0x08, 0x06]);
        program.assert_passed_unchanged("not IP", &other_type, PASSED);
    }
    // The first words of this address are those of LOCAL_V4.
    let alike = Ipv6Addr::new(0x0a00, 0x0002, 0, 0, 0, 0, 0, 0);
    let mut frame = link(0, 6);
    frame.extend(ip(alike.into(), 41, 0, &inner_packet(6, 0)));
    program.assert_passed_unchanged("an address of the other family", &frame, PASSED);
    let three_tags = [
        &link(2, 4)[..20],
        &[0x81, 0, 0, 1],
        &encapsulated(0, 4, 4)[12..],
    ]
    .concat();
    program.assert_passed_unchanged("three tags", &three_tags, PASSED);
}

#[test]
fn leaves_fragments_and_options_to_the_kernel() {
    let mut program = Program::new();
    for inner in [4, 6] {
        for (what, byte, value) in [
            ("options", 14, 0x46),
            ("more fragments", 20, 0x20),
            ("a later fragment", 21, 1),
            ("a fragment with a large offset", 20, 0x10),
        ] {
            let mut frame = encapsulated(0, 4, inner);
            frame[byte] = value;
            write_checksum(&mut frame, 14);
            program.assert_passed_unchanged(what, &frame, DECLINED);
        }
    }
}

/// Returns a frame changed at `at`, with a correct outer checksum.
fn broken(outer: u8, inner: u8, at: usize, value: &[u8]) -> Vec<u8> {
    let mut frame = encapsulated(0, outer, inner);
    frame[at..at + value.len()].copy_from_slice(value);
    if outer == 4 {
        write_checksum(&mut frame, 14);
    }
    frame
}

#[test]
fn drops_malformed_packets() {
    let mut program = Program::new();
    for (outer, inner) in COMBINATIONS {
        let inner_at = 14 + header_len(outer);
        let mut cases = vec![
            ("outer version", 14, vec![0x75]),
            ("inner version", inner_at, vec![0x55]),
            ("inner version 0", inner_at, vec![0]),
        ];
        if outer == 4 {
            cases.push(("outer header of 16 bytes", 14, vec![0x44]));
            cases.push(("outer length below its header", 16, vec![0, 19]));
            cases.push(("outer length without inner header", 16, vec![0, 20]));
            cases.push(("outer length past the frame", 16, vec![0x10, 0]));
        } else {
            cases.push(("outer length 0", 18, vec![0, 0]));
            cases.push(("outer length past the frame", 18, vec![0x10, 0]));
        }
        if inner == 4 {
            cases.push(("inner header of 16 bytes", inner_at, vec![0x44]));
            cases.push(("inner header past its length", inner_at, vec![0x4f]));
            cases.push(("inner length below its header", inner_at + 2, vec![0, 19]));
            cases.push(("inner length past the outer one", inner_at + 2, vec![0, 33]));
            cases.push(("the other family", inner_at, vec![0x60]));
        } else {
            cases.push(("inner length past the outer one", inner_at + 4, vec![0, 13]));
            cases.push((
                "inner length far past the outer one",
                inner_at + 4,
                vec![0xff, 0xff],
            ));
            cases.push(("the other family", inner_at, vec![0x45]));
        }
        for (what, at, value) in cases {
            let what = format!("{what}: {inner} in {outer}");
            let frame = broken(outer, inner, at, &value);
            program.assert_dropped(&what, &frame, MALFORMED);
        }
        if outer == 4 {
            let mut frame = encapsulated(0, 4, inner);
            frame[14 + 10] ^= 0x40;
            program.assert_dropped("outer checksum", &frame, MALFORMED);
        }
    }
}

#[test]
fn does_not_decapsulate_truncated_frames() {
    let mut program = Program::new();
    for (outer, inner) in COMBINATIONS {
        for tags in 0..=2 {
            let frame = encapsulated(tags, outer, inner);
            let whole_header = link(tags, outer).len() + header_len(outer);
            for end in 14..frame.len() {
                let what = format!("{inner} in {outer}, {tags} tags, {end} bytes");
                if end < whole_header {
                    program.assert_passed_unchanged(&what, &frame[..end], PASSED);
                } else {
                    program.assert_dropped(&what, &frame[..end], MALFORMED);
                }
            }
        }
    }
}

#[test]
fn does_not_decapsulate_packets_with_a_short_outer_length() {
    let mut program = Program::new();
    for (outer, inner) in COMBINATIONS {
        let whole = inner_packet(inner, 0).len();
        for payload in 0..=whole {
            let frame = if outer == 4 {
                let length = (20 + payload) as u16;
                broken(outer, inner, 16, &length.to_be_bytes())
            } else {
                broken(outer, inner, 18, &(payload as u16).to_be_bytes())
            };
            let (verdict, _, counted) = program.run(&frame);
            let expected = if payload == whole {
                (PASS, decapsulated(outer, inner, &frame))
            } else {
                (DROP, MALFORMED)
            };
            assert_eq!(
                (verdict, counted),
                expected,
                "{inner} in {outer}, {payload}"
            );
        }
    }
}

#[test]
fn carries_congestion_marks_over() {
    let mut program = Program::new();
    let congested = DecapCounters {
        congested: 1,
        ..ZERO
    };
    for (outer, inner) in COMBINATIONS {
        for (outer_mark, inner_mark) in (0..16).map(|marks| (marks / 4, marks % 4)) {
            let what = format!("{inner} in {outer}: {outer_mark} on {inner_mark}");
            // The DSCPs differ: that of the inner header stays.
            let class = 0xb8 | inner_mark;
            let packet = inner_packet(inner, class);
            let mut frame = link(1, outer);
            let outer_class = 0x28 | outer_mark;
            frame.extend(ip(local(outer), protocol(inner), outer_class, &packet));
            let Some(mark) = decapsulated_ecn(outer_mark, inner_mark) else {
                program.assert_dropped(&what, &frame, congested);
                continue;
            };
            let mut expected = link(1, inner);
            // Computed from scratch with the mark: the incrementally updated checksum must be the same.
            expected.extend(inner_packet(inner, 0xb8 | mark));
            let (verdict, after, counted) = program.run(&frame);
            assert_eq!(
                (verdict, counted),
                (PASS, decapsulated(outer, inner, &frame)),
                "{what}"
            );
            assert_eq!(after, expected, "{what}");
        }
    }
}

#[test]
fn follows_changes_of_the_addresses() {
    let mut program = Program::new();
    let frame = encapsulated(0, 4, 4);
    let others: Vec<IpAddr> = (0..3000_u32)
        .map(|number| Ipv4Addr::from(0x0b00_0000 + number).into())
        .collect();
    let left_out = program.0.set_addresses(&others).unwrap();
    assert_eq!(left_out, 3000 - 1024);
    program.assert_passed_unchanged("removed address", &frame, PASSED);
    let mut with_ours = vec![IpAddr::from(LOCAL_V4)];
    with_ours.extend(others.iter().rev());
    program.0.set_addresses(&with_ours).unwrap();
    assert_eq!(program.run(&frame).2, decapsulated(4, 4, &frame));
    program.0.set_addresses(&[]).unwrap();
    program.assert_passed_unchanged("no addresses", &frame, PASSED);
}

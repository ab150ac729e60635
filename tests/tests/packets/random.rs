//! Random, mutated and spliced packets: none is aborted, none is transmitted malformed, and passed ones are
//! unchanged.

use lab::{
    bytecode::{
        Bench,
        tables::{NAT4, NAT6, VIP4, VIP6},
    },
    random::Random,
};
use rand::RngExt as _;

use crate::{
    malformed::{harmless, kinds},
    nat,
    stage::{Client, bench},
};

/// Number of frames.
const FRAMES: usize = 40_000;

#[test]
fn never_aborts_and_never_transmits_malformed_frames() {
    let mut bench = bench();
    let client = Client::new(1);
    for service in nat::services() {
        nat::begin(
            &mut bench,
            &service,
            &client.to(&service, 4001, lab::packet::SYN),
        );
    }
    let kinds: Vec<Vec<u8>> = kinds(client)
        .iter()
        .map(lab::packet::Frame::bytes)
        .collect();
    let mut rng = lab::random::seeded("packets");
    for number in 0..FRAMES {
        let mut frame = kinds[rng.random_range(0..kinds.len())].clone();
        match number % 5 {
            0 => flip(&mut rng, &mut frame),
            1 => {
                flip(&mut rng, &mut frame);
                cut_or_grow(&mut rng, &mut frame);
            }
            2 => splice(&mut rng, &mut frame, &kinds),
            3 => noise(&mut rng, &mut frame),
            _ => {
                interesting(&mut rng, &mut frame);
                fix_checksum(&mut frame);
            }
        }
        if frame.len() >= 14 {
            harmless(&mut bench, &format!("frame {number}"), &frame);
            foreign(&mut bench, &frame);
        }
    }
    bench.conclude();
}

/// Checks that the same frame passes if its destination is a foreign address.
fn foreign(bench: &mut Bench, frame: &[u8]) {
    let mut l3 = 14;
    while l3 <= 18 && frame.len() > l3 && matches!(frame[l3 - 2..l3], [0x81, 0] | [0x88, 0xa8]) {
        l3 += 4;
    }
    let mut frame = frame.to_vec();
    let range = match frame.get(l3 - 2..l3) {
        Some([0x08, 0x00]) => l3 + 16..l3 + 20,
        Some([0x86, 0xdd]) => l3 + 24..l3 + 40,
        _ => l3..l3,
    };
    if let Some(dest) = frame.get_mut(range) {
        let ours = [
            &VIP4.octets()[..],
            &NAT4.octets(),
            &VIP6.octets(),
            &NAT6.octets(),
        ];
        if ours.contains(&&*dest) {
            dest.fill(0xb7);
            let run = bench.dataplane.run(&frame).unwrap();
            if run.verdict != 2 || run.frame != frame {
                bench.fail(format!(
                    "foreign destination, but verdict {}: {frame:02x?}",
                    run.verdict
                ));
            }
        }
    }
}

fn flip(rng: &mut Random, frame: &mut [u8]) {
    for _ in 0..=rng.random_range(0..4) {
        let at = rng.random_range(0..frame.len().min(120));
        frame[at] ^= 1 << rng.random_range(0..8);
    }
}

fn cut_or_grow(rng: &mut Random, frame: &mut Vec<u8>) {
    let len = if rng.random_range(0..3) == 0 {
        frame.len() + rng.random_range(0..1400)
    } else {
        rng.random_range(0..frame.len() + 1)
    };
    frame.resize(len, 0xa7);
}

/// Joins the head of one frame and the tail of another.
fn splice(rng: &mut Random, frame: &mut Vec<u8>, kinds: &[Vec<u8>]) {
    let other = &kinds[rng.random_range(0..kinds.len())];
    let (head, tail) = (
        rng.random_range(0..frame.len()),
        rng.random_range(0..other.len()),
    );
    frame.truncate(head);
    frame.extend(&other[tail..]);
    fix_checksum(frame);
}

fn noise(rng: &mut Random, frame: &mut [u8]) {
    let from = 14 + rng.random_range(0..60);
    if let Some(rest) = frame.get_mut(from..) {
        rng.fill(rest);
    }
    fix_checksum(frame);
}

/// Writes edge values where lengths, types and flags are.
fn interesting(rng: &mut Random, frame: &mut [u8]) {
    const EDGES: [u8; 12] = [0, 1, 4, 5, 6, 17, 41, 44, 58, 0x45, 0x4f, 0xff];
    for _ in 0..=rng.random_range(0..3) {
        let at = 12 + rng.random_range(0..frame.len().min(110) - 12);
        frame[at] = EDGES[rng.random_range(0..EDGES.len())];
    }
}

/// Corrects the checksum of an IPv4 header, so that the program parses the rest.
fn fix_checksum(frame: &mut [u8]) {
    for l3 in [14, 18, 22] {
        if frame.len() < l3 + 20 || frame[l3 - 2..l3] != [8, 0] {
            continue;
        }
        let header_len = usize::from(frame[l3] & 0xf) * 4;
        if header_len < 20 || frame.len() < l3 + header_len {
            continue;
        }
        frame[l3 + 10..l3 + 12].fill(0);
        let sum = lab::packet::checksum(&[&frame[l3..l3 + header_len]]);
        frame[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
    }
}

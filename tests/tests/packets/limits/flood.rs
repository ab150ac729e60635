//! Real clients of a VIP under a flood of forged SYNs.

use std::collections::VecDeque;

use lab::packet::checksum;

use super::*;

const XDP_DROP: u32 = 1;

/// Ten thousand real clients a second open a connection to a VIP, and repeat their SYN a second later, while
/// two million forged SYNs a second use up the limit of the VIP.
#[test]
fn clients_get_through_a_flood() {
    const FORGED_PER_MS: u32 = 2_000;
    const REAL_PER_MS: u32 = 10;
    const REPEATED_AFTER_MS: u32 = 1_000;
    let dataplane = dataplane(&options());
    let service = &SERVICES[0];
    let limit = Limit {
        vip_flows: Rate::new(20_000, 2_000, 1),
        vip_excess: excess::SECOND_SYN,
        ..none()
    };
    set(&dataplane, service, limited::FLOWS, &limit);
    let mut bytes = Client::new(1).to(service, 3000, SYN).bytes();
    let mut random = seeded("clients_get_through_a_flood");
    let mut passes = |source: u32, port: [u8; 2], sequence: u32| {
        bytes[26..30].copy_from_slice(&source.to_be_bytes());
        bytes[34..36].copy_from_slice(&port);
        bytes[38..42].copy_from_slice(&sequence.to_be_bytes());
        bytes[24..26].fill(0);
        let sum = checksum(&[&bytes[14..34]]);
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        dataplane.run(&bytes).unwrap().verdict != XDP_DROP
    };
    let (mut real, mut through, mut at_once) = (0, 0, 0);
    let (mut forged, mut forged_through) = (0, 0);
    // Each waits for its turn to repeat its SYN.
    let mut waiting = VecDeque::new();
    // Longer than the 2.1 s after which the two filters of first SYNs take turns.
    for ms in 3_800..6_100 {
        dataplane.set_clock(START_NS + u64::from(ms) * MS).unwrap();
        for _ in 0..FORGED_PER_MS {
            // No multicast addresses, and none of the real clients.
            let source = random.random_range(0x0b00_0000..0xdfff_ffff);
            forged += 1;
            forged_through += u32::from(passes(source, random.random(), random.random()));
        }
        while let Some((_, client)) = waiting.pop_front_if(|(due, _)| *due <= ms) {
            let (source, port, sequence) = client;
            through += u32::from(passes(source, port, sequence));
        }
        for number in 0..REAL_PER_MS {
            let source = 0x0a00_0000 | (ms * REAL_PER_MS + number);
            let (port, sequence) = (random.random(), random.random());
            real += 1;
            if passes(source, port, sequence) {
                (through, at_once) = (through + 1, at_once + 1);
            } else {
                waiting.push_back((ms + REPEATED_AFTER_MS, (source, port, sequence)));
            }
        }
    }
    let pending = waiting.len() as u32;
    let decided = real - pending;
    println!(
        "{through} of {decided} clients got through, {at_once} of them at once; \
         {forged_through} of {forged} forged SYNs"
    );
    assert!(
        f64::from(through) >= 0.99 * f64::from(decided),
        "{through} of {decided}"
    );
    assert!(
        at_once < real / 10,
        "the limit is used up: {at_once} of {real}"
    );
    assert!(forged_through < forged / 10, "{forged_through} of {forged}");
}

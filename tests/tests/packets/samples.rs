//! Which flows are sampled, and what is recorded.

use lab::bytecode::tables::{SERVICES, Service};
use lab::packet::{ACK, SYN};
use lb_common::sample::{COARSE_MASK, HEARTBEAT_AGE_S, MAX_ADDED_PER_S};
use lb_dataplane::LoadOptions;

use crate::stage::{Client, dataplane, flow_hash, options};

const XDP_TX: u32 = 3;

/// A service per forwarding mode.
const SOME: [Service; 4] = [SERVICES[0], SERVICES[1], SERVICES[5], SERVICES[9]];

#[test]
fn samples_exactly_the_flows_of_the_mask() {
    let dataplane = dataplane(&options());
    for (service, mask) in SOME.iter().zip([0, 3, 3, 15]) {
        dataplane.vips.set_sample_mask(service.index, mask).unwrap();
        let mut expected = Vec::new();
        for port in 1000..1100 {
            let open = Client::new(1).to(service, port, SYN);
            let goes_on = Client::new(1).to(service, port, ACK);
            for frame in [&open, &goes_on, &goes_on] {
                assert_eq!(dataplane.run(&frame.bytes()).unwrap().verdict, XDP_TX);
            }
            let hash = flow_hash(&open) as u32;
            if hash & mask == 0 {
                expected.push((port, hash, 3, 1));
            }
        }
        let read = dataplane.samples.read().unwrap();
        let of_vip = read.iter().filter(|(_, flow)| flow.vip == service.index);
        let mut sampled: Vec<_> = of_vip
            .map(|(key, flow)| {
                let port = u16::from_be(key.source_be);
                (port, flow.hash, flow.packets, flow.syns)
            })
            .collect();
        sampled.sort_unstable();
        assert_eq!(sampled, expected, "mask {mask}");
        assert!((1..=100).contains(&sampled.len()));
    }
}

/// Without a controller nobody makes the mask coarser when the traffic grows.
#[test]
fn samples_few_flows_without_a_controller() {
    let dataplane = dataplane(&LoadOptions {
        jiffies_shift: Some(8),
        ..options()
    });
    let service = &SERVICES[1];
    dataplane.vips.set_sample_mask(service.index, 1).unwrap();
    let now_s = dataplane.now_s().unwrap();
    let mut expected = 0;
    for (beat_s, mask, ports) in [
        (None, 1, 1000..1400),
        (Some(now_s), 1, 2000..2400),
        (Some(now_s - HEARTBEAT_AGE_S - 2), COARSE_MASK, 3000..3400),
        (Some(now_s), 1, 4000..4400),
    ] {
        if let Some(beat_s) = beat_s {
            dataplane.beat(beat_s).unwrap();
        }
        for port in ports {
            let frame = Client::new(1).to(service, port, ACK);
            assert_eq!(dataplane.run(&frame.bytes()).unwrap().verdict, XDP_TX);
            expected += usize::from(flow_hash(&frame) as u32 & mask == 0);
        }
        assert_eq!(
            dataplane.samples.read().unwrap().len(),
            expected,
            "{beat_s:?}"
        );
    }
}

/// The mask has another writer than the rest of the entry.
#[test]
fn keeps_the_mask_when_the_vip_is_written() {
    let dataplane = dataplane(&options());
    dataplane.vips.set_sample_mask(0, 255).unwrap();
    let vip = dataplane.vips.read(0).unwrap();
    assert_eq!(vip.sample_mask, 0, "it is not part of what was configured");
    dataplane.vips.write(0, &vip).unwrap();
    assert_eq!(dataplane.vips.sample_mask(0).unwrap(), 255);
}

/// Every flow is new and sampled, and the clock stands still.
#[test]
fn limits_the_samples_of_a_flood() {
    let dataplane = dataplane(&options());
    let cpus = std::thread::available_parallelism().unwrap().get() as u64;
    let flows = (cpus + 2) * MAX_ADDED_PER_S;
    for number in 0..flows {
        let client = Client::new((number / 50_000) as u8);
        let frame = client.to(&SERVICES[0], 1000 + (number % 50_000) as u16, SYN);
        assert_eq!(dataplane.run(&frame.bytes()).unwrap().verdict, XDP_TX);
    }
    let begun = dataplane.samples.read().unwrap().len() as u64;
    assert!(begun >= MAX_ADDED_PER_S / 2, "{begun}");
    assert!(begun <= cpus * MAX_ADDED_PER_S, "{begun} of {flows}");
    assert_eq!(dataplane.counters.member(0).unwrap().new_flows, flows);
}

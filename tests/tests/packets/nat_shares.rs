//! Shares of `nat`: of the ports, by client; of the table of sessions, by VIP.

use std::{thread, time::Duration};

use lab::{
    bytecode::tables::{self, NAT_PORTS, NAT4, NAT6, SERVICES, Service},
    packet::{ACK, Frame, SYN},
};
use lb_common::{
    address_of,
    member::control,
    nat::{NatSource, REUSE_DELAY_S},
    reason::REASONS,
};
use lb_dataplane::{Dataplane, LoadOptions};
use lb_model::nat_draws::nat_draws;

use crate::{
    nat::Session,
    stage::{Client, dataplane, options},
};

const FORWARDED: &str = "FORWARDED";
/// Until a freed cell is used again, in a data path whose second is a jiffy: one takes 10 ms at most.
const REUSED: Duration = Duration::from_millis(10 * (REUSE_DELAY_S as u64 + 1));

/// Returns the name of the reason of a packet, and the packet as it leaves.
fn run(dataplane: &Dataplane, frame: &Frame) -> (&'static str, Vec<u8>) {
    let (run, trace) = dataplane.run_traced(&frame.bytes()).unwrap();
    (REASONS[trace.reason as usize].name, run.frame)
}

/// Opens a session that the client confirms. Returns its port, or the reason of the SYN.
fn open(
    dataplane: &Dataplane,
    service: &Service,
    client: Client,
    port: u16,
) -> Result<u16, &'static str> {
    let syn = client.to(service, port, SYN);
    let (reason, sent) = run(dataplane, &syn);
    if reason != FORWARDED {
        return Err(reason);
    }
    let session = Session::of(*service, &syn, &sent);
    let ack = client.to(service, port, ACK).payload(vec![1; 9]);
    assert_eq!(run(dataplane, &session.reply(&syn).0).0, "NAT_REPLY");
    assert_eq!(run(dataplane, &ack).0, FORWARDED);
    Ok(session.node_port)
}

/// A client of the `net`-th IPv6 prefix.
fn client(net: u16, number: u8) -> Client {
    let mut client = Client::new(number);
    let mut segments = client.v6.segments();
    segments[3] = net;
    client.v6 = segments.into();
    client
}

/// However many sessions one client opens, others find ports; without a share they find none.
#[test]
fn a_client_alone_takes_no_more_than_its_share_of_the_ports() {
    const PORTS: u16 = 64;
    for (at, source) in [(5, 0), (13, 1)] {
        for draws in [nat_draws(0.5, PORTS), 0] {
            let dataplane = dataplane(&options());
            let entry = NatSource {
                address: [address_of(NAT4.into()).0, address_of(NAT6.into()).0][source],
                first_port: NAT_PORTS.start,
                ports: PORTS,
                draws,
            };
            dataplane.nat_sources.write(source as u32, &entry).unwrap();
            let service = SERVICES[at];
            // Of IPv6 also other addresses of its prefix.
            let taken: Vec<_> = (1..=4)
                .flat_map(|number| (0..PORTS).map(move |port| (number, 1000 + port)))
                .filter(|&(number, _)| number == 1 || service.address.is_ipv6())
                .filter_map(|(number, port)| {
                    open(&dataplane, &service, client(1, number), port).ok()
                })
                .collect();
            let others: Vec<_> = (10..20)
                .map(|number| open(&dataplane, &service, client(number.into(), number), 7))
                .collect();
            if draws == 0 {
                // 32 ports are tried, so that a session misses the last free one now and then.
                let free = usize::from(PORTS) - taken.len();
                assert!(free < 4, "{free}");
                let found = others.iter().filter(|other| other.is_ok()).count();
                assert!(found <= free, "{others:?}");
            } else {
                let deviation = f64::from(PORTS).sqrt() / 2.0;
                let share = f64::from(PORTS) / 2.0;
                let off = (taken.len() as f64 - share).abs();
                assert!(off < 5.0 * deviation, "it has {} ports", taken.len());
                assert!(others.iter().all(Result::is_ok), "{others:?}");
            }
        }
    }
}

/// Sessions of a VIP that fill the table, even if they are busier, displace none of a VIP that has few.
#[test]
fn a_vip_displaces_no_session_of_a_vip_that_has_fewer() {
    const FEW: u16 = 20;
    // A second of the data path takes a few milliseconds.
    let mut dataplane = dataplane(&LoadOptions {
        jiffies_shift: Some(0),
        ..options()
    });
    let many = SERVICES[6];
    // Index 0, which also a free cell seems to have.
    let few = Service {
        index: 0,
        port: 7000,
        ..SERVICES[5]
    };
    let here = dataplane.egress.find(1).unwrap().unwrap();
    tables::add(&mut dataplane, &few, control::SERVING, here).unwrap();
    let client = Client::new(1);
    let data = |port| {
        let request = client.to(&few, port, ACK).payload(vec![2; 9]);
        assert_eq!(run(&dataplane, &request).0, FORWARDED, "{port}");
    };
    let entries = || dataplane.sessions.count().unwrap().flows;
    let of_few = || {
        let established = dataplane.sessions.established();
        established.vips.get(&few.index).copied().unwrap_or(0)
    };
    for port in 0..FEW {
        open(&dataplane, &few, client, 1000 + port).unwrap();
    }
    let mut full = 0;
    for round in 0..6 {
        for port in 0..3000 {
            let client = Client::new(2 + round);
            open(&dataplane, &many, client, 1000 + port).unwrap();
        }
        // Until all are idle for long enough to be displaced.
        thread::sleep(Duration::from_millis(300));
        full = full.max(entries());
    }
    assert!(full > 2 * 1024, "the table was never full: {full}");
    assert_eq!(of_few(), u32::from(FEW));
    (0..FEW).for_each(|port| data(1000 + port));
    // The reverse: a VIP that has few sessions gets room for more, and each displaces one session per table at most.
    let before = entries();
    for port in FEW..2 * FEW {
        open(&dataplane, &few, client, 1000 + port).unwrap();
        // The reply's entry finds a cell, then the request's.
        for _ in 0..3 {
            (0..8).for_each(|_| data(1000 + port));
            thread::sleep(REUSED);
        }
    }
    assert_eq!(of_few(), u32::from(2 * FEW));
    let evicted = before + 2 * usize::from(FEW) - entries();
    assert!((1..=2 * usize::from(FEW)).contains(&evicted), "{evicted}");
}

//! Handshakes of `nat` during a flood of SYNs from forged sources.

use std::collections::VecDeque;

use lab::{
    bytecode::tables::{self, NAT_PORTS, NAT4, RING_SIZE, Service, VIP4},
    packet::{ACK, Frame, SYN},
    random::seeded,
};
use lb_common::{
    address_of,
    member::control,
    nat::{DEFAULT_EMBRYONIC, NatSource},
    ring::MemberIndex,
    vip::{forward, track},
};
use lb_dataplane::{Dataplane, LoadOptions};
use lb_model::{nat_draws::nat_draws, transition::RingState};
use rand::RngExt as _;

use crate::{
    nat::Session,
    stage::{Client, dataplane, options},
};

const MEMBERS: [MemberIndex; 4] = [30, 31, 32, 33];
/// The default of `node.nat_ports`.
const PORTS: u16 = 16_384;
/// SYNs until a client's acknowledgement arrives: 100,000 per second, and a client 300 ms away.
const BETWEEN: usize = 30_000;

fn service(index: MemberIndex) -> Service {
    Service {
        index,
        address: VIP4.into(),
        port: 7000 + index,
        protocol: 6,
        forward: forward::NAT,
        backend_v6: false,
        track: track::ALWAYS,
    }
}

/// Four backends, with the ports and the tables that a node has by default.
fn node() -> Dataplane {
    let mut dataplane = dataplane(&LoadOptions {
        nat_embryonic: DEFAULT_EMBRYONIC,
        // A data path's second is half of one: about as many SYNs as the flood has per second.
        jiffies_shift: Some(7),
        ..options()
    });
    let here = dataplane.egress.find(1).unwrap().unwrap();
    for index in MEMBERS {
        tables::add(&mut dataplane, &service(index), control::SERVING, here).unwrap();
    }
    let ring: Vec<_> = (0..RING_SIZE as usize)
        .map(|slot| MEMBERS[slot % MEMBERS.len()])
        .collect();
    let ring = RingState::new_clean(&ring);
    tables::set_state(&mut dataplane, MEMBERS[0], &ring).unwrap();
    let source = NatSource {
        address: address_of(NAT4.into()).0,
        first_port: NAT_PORTS.start,
        ports: PORTS,
        draws: nat_draws(0.5, PORTS),
    };
    dataplane.nat_sources.write(0, &source).unwrap();
    dataplane
}

/// Whether a packet is transmitted, and how it leaves.
fn send(dataplane: &Dataplane, frame: &Frame) -> Option<Vec<u8>> {
    let run = dataplane.run(&frame.bytes()).unwrap();
    (run.verdict == 3).then_some(run.frame)
}

/// A client's SYN, which a backend answers at once.
fn begin(dataplane: &Dataplane, syn: &Frame) -> Option<()> {
    let sent = send(dataplane, syn)?;
    let member = MEMBERS
        .into_iter()
        .find(|&member| sent[..6] == service(member).mac())?;
    let session = Session::of(service(member), syn, &sent);
    send(dataplane, &session.reply(syn).0).map(drop)
}

#[test]
fn clients_300_ms_away_get_through_100000_syns_per_second() {
    const CLIENTS: usize = 2000;
    const EVERY: usize = 50;
    let mut rng = seeded("handshakes in a flood");
    let dataplane = node();
    let service = service(MEMBERS[0]);
    // Until each port has been taken a few times.
    let warm_up = 3 * MEMBERS.len() * usize::from(PORTS);
    let mut waiting = VecDeque::new();
    let (mut begun, mut done) = (0, 0);
    for number in 0.. {
        let forged = Client {
            v4: (0x0b00_0000 | rng.random_range(1..0x00ff_ffff)).into(),
            ..Client::new(1)
        };
        send(&dataplane, &forged.to(&service, rng.random(), SYN));
        if number < warm_up {
            continue;
        }
        if number % EVERY == 0 && begun < CLIENTS {
            let client = Client::new(begun as u8);
            let port = 10_000 + (begun / 256) as u16;
            waiting.push_back((number + BETWEEN, client.to(&service, port, ACK)));
            begun += 1;
            let opened = begin(&dataplane, &client.to(&service, port, SYN));
            assert!(opened.is_some(), "a flood refuses no SYN");
        }
        let Some((_, ack)) = waiting.pop_front_if(|(at, _)| *at <= number) else {
            if waiting.is_empty() && begun == CLIENTS {
                break;
            }
            continue;
        };
        done += usize::from(send(&dataplane, &ack).is_some());
    }
    println!("{done} of {CLIENTS} clients got through");
    // It is 97 or 98 of 100, and chance makes a difference of one third of one.
    assert!(done * 100 >= CLIENTS * 95, "only {done} got through");
}

//! Sessions of `nat`: their members, ports and timeouts.

use std::net::IpAddr;

use lab::{
    bytecode::{
        Bench, Expect,
        tables::{self, KEY, NAT_PORTS, NAT4, NAT6, RING_SIZE, SERVICES, Service, VIP4, VIP6},
    },
    packet::{ACK, FIN, Frame, RST, SYN},
};
use lb_common::address_of;
use lb_common::{
    hash,
    member::control,
    nat::NatSource,
    reason::Reason,
    ring::MemberIndex,
    vip::{Vip, affinity, forward, track},
};
use lb_dataplane::{PortCounts, SessionLimits};
use lb_model::transition::RingState;

use crate::{
    nat::{Session, answer, begin, forwarded, replied},
    nat_forged::shifted,
    stage::{Client, bench},
};

const LIMITS: SessionLimits = SessionLimits {
    tcp_s: 1000,
    closed_s: 50,
    udp_s: 100,
    embryonic_s: 20,
};

/// Sets the number of ports of a `nat` address.
fn set_ports(bench: &Bench, index: u32, ports: u16) {
    let address = [IpAddr::from(NAT4), NAT6.into()][index as usize];
    let source = NatSource {
        address: address_of(address).0,
        first_port: NAT_PORTS.start,
        ports,
        draws: 0,
    };
    bench.dataplane.nat_sources.write(index, &source).unwrap();
}

/// Opens a session with replies in both directions.
pub(crate) fn establish(
    bench: &mut Bench,
    service: &Service,
    client: Client,
    port: u16,
) -> (Session, Frame) {
    let syn = client.to(service, port, SYN);
    let session = begin(bench, service, &syn);
    answer(bench, &session, &syn);
    let request = client.to(service, port, ACK).payload(vec![1; 9]);
    assert_translates(bench, &session, &request);
    (session, request)
}

/// Checks that the session translates both ways.
pub(crate) fn assert_translates(bench: &mut Bench, session: &Session, request: &Frame) {
    let (reply, out) = session.reply(request);
    bench.check("reply", &reply, &replied(session, &reply, &out));
    bench.check("request", request, &forwarded(session, request));
    bench.check("reply", &reply, &replied(session, &reply, &out));
}

/// Removes the entries that have expired after these seconds. Returns their number.
fn expire(bench: &mut Bench, after_s: u64) -> usize {
    let now_s = bench.dataplane.now_s().unwrap() + after_s;
    bench
        .dataplane
        .sessions
        .expire(now_s, LIMITS)
        .unwrap()
        .entries
}

/// Ports with established sessions with the member of a service.
fn ports(bench: &mut Bench, service: &Service) -> PortCounts {
    let now_s = bench.dataplane.now_s().unwrap();
    let expired = bench.dataplane.sessions.expire(now_s, LIMITS).unwrap();
    let counts = expired.established.ports.into_iter();
    let of_member = counts.filter(|(pool, _)| pool.member == service.index);
    of_member
        .map(|(_, counts)| counts)
        .next()
        .unwrap_or_default()
}

/// Checks that a session is removed.
fn assert_removed(bench: &mut Bench, session: &Session, request: &Frame) {
    let (reply, _) = session.reply(request);
    bench.check("late reply", &reply, &Expect::of(Reason::NatNoSession));
    bench.check("late request", request, &Expect::of(Reason::NatNoFlow));
}

#[test]
fn source_affinity_gives_a_client_one_member() {
    const MEMBERS: [MemberIndex; 4] = [30, 31, 32, 33];
    for address in [IpAddr::V4(VIP4), VIP6.into()] {
        let mut bench = bench();
        let here = bench.dataplane.egress.find(1).unwrap().unwrap();
        let service = |index| Service {
            index,
            address,
            port: 7000 + index,
            protocol: 6,
            forward: forward::NAT,
            backend_v6: address.is_ipv6(),
            track: track::ALWAYS,
        };
        for index in MEMBERS {
            tables::add(
                &mut bench.dataplane,
                &service(index),
                control::SERVING,
                here,
            )
            .unwrap();
        }
        let vip = bench.dataplane.vips.read(MEMBERS[0]).unwrap();
        let vip = Vip {
            affinity: affinity::SOURCE,
            ..vip
        };
        bench.dataplane.vips.write(MEMBERS[0], &vip).unwrap();
        let ring: Vec<_> = (0..RING_SIZE as usize)
            .map(|slot| MEMBERS[slot % 4])
            .collect();
        let state = RingState::new_clean(&ring);
        tables::set_state(&mut bench.dataplane, MEMBERS[0], &state).unwrap();
        let mut used = std::collections::BTreeSet::new();
        for number in 1..=12 {
            let client = Client::new(number);
            let (source, _) = lb_common::address_of(client.like(address));
            let hash = match address {
                IpAddr::V4(_) => hash::flow_hash_v4(&KEY, source[0] as u32, 0),
                IpAddr::V6(_) => hash::flow_hash_v6(&KEY, &source, 0),
            };
            let member = ring[hash::slot_of(hash, RING_SIZE) as usize];
            used.insert(member);
            for port in 100..120 {
                let frame = client.to(&service(MEMBERS[0]), port, SYN);
                let run = bench.dataplane.run(&frame.bytes()).unwrap();
                assert_eq!(run.verdict, 3);
                assert_eq!(run.frame[..6], service(member).mac(), "client {number}");
                let at = if address.is_ipv4() { 30..34 } else { 38..54 };
                let (backend, _) = lb_common::address_of(service(member).backend());
                assert!(bytemuck::bytes_of(&backend).starts_with(&run.frame[at]));
            }
        }
        assert!(used.len() > 1, "clients differ: {used:?}");
    }
}

/// Ports are reused when their sessions end, and not before. Other sessions are not affected.
#[test]
fn reuses_ports_of_ended_sessions() {
    const PORTS: u16 = 8;
    for (at, source) in [(5, 0), (6, 0), (13, 1), (14, 1)] {
        let mut bench = bench();
        set_ports(&bench, source, PORTS);
        let (service, client) = (SERVICES[at], Client::new(1));
        let open = |bench: &mut Bench, port| establish(bench, &service, client, port);
        let sessions: Vec<_> = (1..=PORTS).map(|port| open(&mut bench, port)).collect();
        let mut ports: Vec<u16> = sessions
            .iter()
            .map(|(session, _)| session.node_port)
            .collect();
        ports.sort_unstable();
        let all: Vec<u16> = (NAT_PORTS.start..).take(PORTS.into()).collect();
        assert_eq!(ports, all, "each port is used once");
        let counts = self::ports(&mut bench, &service);
        assert_eq!((counts.in_use, counts.over), (PORTS.into(), 0));

        let refused =
            Expect::of(Reason::NatNoPort).plus(&format!("v{}.nat_no_port", service.index), 1);
        let one_more = client.to(&service, 100, SYN);
        for _ in 0..3 {
            bench.check("no port is left", &one_more, &refused);
        }
        for (session, request) in &sessions {
            assert_translates(&mut bench, session, request);
        }
        assert_eq!(expire(&mut bench, 40), 0, "none is over");
        bench.check("still none", &one_more, &refused);

        let limit_s = if service.protocol == 6 { 1000 } else { 100 };
        assert_eq!(expire(&mut bench, limit_s - 1), 0);
        assert_eq!(expire(&mut bench, limit_s), 2 * usize::from(PORTS));
        let count = bench.dataplane.sessions.count().unwrap();
        assert_eq!((count.flows, count.embryonic), (0, 0));
        let again = begin(&mut bench, &service, &one_more);
        assert!(all.contains(&again.node_port));
        bench.conclude();
    }
}

/// The backend sees the consecutive connections of a client's port from one port of the node: it
/// knows from the client's timestamps that they are new (RFC 6191).
#[test]
fn a_reused_client_port_keeps_its_port() {
    for at in [5, 13] {
        for closing in [FIN | ACK, RST | ACK] {
            let mut bench = bench();
            let (service, client) = (SERVICES[at], Client::new(1));
            let (session, request) = establish(&mut bench, &service, client, 77);
            for _ in 0..100 {
                let close = client.to(&service, 77, closing);
                bench.dataplane.run(&close.bytes()).unwrap();
                let (reply, _) = session.reply(&close);
                bench.dataplane.run(&reply.bytes()).unwrap();
                let syn = client.to(&service, 77, SYN);
                let expect = forwarded(&session, &syn).new_flow(service.index);
                bench.check("the next connection", &syn, &expect);
                answer(&mut bench, &session, &syn);
                assert_translates(&mut bench, &session, &request);
                assert_eq!(expire(&mut bench, 999), 0, "the new connection is not over");
            }
            assert_eq!(bench.dataplane.sessions.count().unwrap().flows, 2);
            bench.conclude();
        }
    }
}

#[test]
fn ends_closed_and_idle_sessions() {
    for at in [5, 13] {
        let mut bench = bench();
        let (service, client) = (SERVICES[at], Client::new(1));
        let segment = |port, flags| client.to(&service, port, flags);
        // Embryonic; established; half closed; closed; reset by either side.
        let embryonic = begin(&mut bench, &service, &segment(1, SYN));
        let sessions: Vec<_> = (2..=6)
            .map(|port| establish(&mut bench, &service, client, port))
            .collect();
        let send = |at: usize, flags, from_client| {
            let (session, request) = &sessions[at];
            // After the nine bytes of the request.
            let frame = shifted(&segment(at as u16 + 2, flags), 9, 0);
            let frame = if from_client {
                frame
            } else {
                session.reply(&frame).0
            };
            assert_eq!(bench.dataplane.run(&frame.bytes()).unwrap().verdict, 3);
            let _ = request;
        };
        send(1, FIN | ACK, true);
        send(2, FIN | ACK, true);
        send(2, FIN | ACK, false);
        send(3, RST, true);
        send(4, RST, false);
        let counts = ports(&mut bench, &service);
        assert_eq!((counts.in_use, counts.over), (2, 3), "open and half closed");

        assert_eq!(expire(&mut bench, 19), 0);
        assert_eq!(expire(&mut bench, 20), 1, "the embryonic one");
        assert_removed(&mut bench, &embryonic, &segment(1, ACK));
        assert_eq!(expire(&mut bench, 49), 0);
        for (session, request) in &sessions[..2] {
            assert_translates(&mut bench, session, request);
        }
        assert_eq!(
            expire(&mut bench, 50),
            6,
            "closed, and both that were reset"
        );
        for (session, request) in &sessions[2..] {
            assert_removed(&mut bench, session, request);
        }
        for (session, request) in &sessions[..2] {
            assert_translates(&mut bench, session, request);
        }
        assert_eq!(expire(&mut bench, 999), 0);
        assert_eq!(expire(&mut bench, 1000), 4, "open and half closed");
        for (session, request) in &sessions[..2] {
            assert_removed(&mut bench, session, request);
        }
        bench.conclude();
    }
}

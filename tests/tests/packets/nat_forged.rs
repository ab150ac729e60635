//! Forged packets, and floods of them, do not change what other `nat` sessions depend on.

use std::time::Duration;

use lab::{
    bytecode::{
        Bench, Expect,
        tables::{self, NAT_PORTS, NAT4, SERVICES, Service},
    },
    packet::{ACK, FIN, Frame, RST, SYN, Transport},
};
use lb_common::{address_of, member::control, nat::NatSource, reason::Reason};
use lb_dataplane::{LoadOptions, SessionLimits};
use lb_model::transition::RingState;

use crate::{
    nat::{Session, answer, begin, begin_on, forwarded, replied},
    stage::{Client, bench, dataplane, options},
};

/// Services with `nat` and TCP, over IPv4 and IPv6.
const TCP: [usize; 2] = [5, 13];

fn counts(bench: &Bench) -> (usize, usize) {
    let counts = bench.dataplane.sessions.count().unwrap();
    (counts.flows, counts.embryonic)
}

/// Returns the frame with other numbers, relative to those of its connection.
pub(crate) fn shifted(frame: &Frame, seq_by: i32, ack_by: i32) -> Frame {
    let mut frame = frame.clone();
    if let Transport::Tcp { seq, ack, .. } = &mut frame.transport {
        *seq = seq.wrapping_add_signed(seq_by);
        *ack = ack.wrapping_add_signed(ack_by);
    }
    frame
}

fn with_timestamp(frame: &Frame, at: u32) -> Frame {
    let mut frame = frame.clone();
    if let Transport::Tcp { options, .. } = &mut frame.transport {
        *options = [[2, 4, 5, 180], [4, 2, 8, 10]].concat();
        options.extend(at.to_be_bytes());
        options.extend([0; 4]);
    }
    frame
}

fn establish(bench: &mut Bench, service: &Service, client: Client, port: u16) -> Session {
    let syn = client.to(service, port, SYN);
    let session = begin(bench, service, &syn);
    answer(bench, &session, &syn);
    let request = client.to(service, port, ACK);
    bench.check("request", &request, &forwarded(&session, &request));
    session
}

/// Closes a session from both sides.
fn close(bench: &mut Bench, session: &Session, fin: &Frame) {
    bench.check("FIN", fin, &forwarded(session, fin));
    let (reply, out) = session.reply(fin);
    bench.check(
        "FIN of the backend",
        &reply,
        &replied(session, &reply, &out),
    );
}

/// Checks that both directions are translated, and that the connection does not count as over.
fn assert_open(bench: &mut Bench, session: &Session, request: &Frame) {
    let (reply, out) = session.reply(request);
    bench.check("reply", &reply, &replied(session, &reply, &out));
    bench.check("request", request, &forwarded(session, request));
    let limits = SessionLimits {
        closed_s: 0,
        ..SessionLimits::default()
    };
    let now_s = bench.dataplane.now_s().unwrap();
    assert_eq!(
        bench
            .dataplane
            .sessions
            .expire(now_s, limits)
            .unwrap()
            .entries,
        0
    );
}

#[test]
fn only_an_acknowledgement_of_the_backends_syn_establishes_a_session() {
    for at in TCP {
        let mut bench = bench();
        let (service, client) = (SERVICES[at], Client::new(1));
        let syn = client.to(&service, 50, SYN);
        let session = begin(&mut bench, &service, &syn);
        let ack = client.to(&service, 50, ACK);
        bench.check("before the answer", &ack, &forwarded(&session, &ack));
        answer(&mut bench, &session, &syn);
        for by in [-1, i32::MIN, 1 << 20] {
            let forged = shifted(&ack, 0, by);
            bench.check("forged", &forged, &forwarded(&session, &forged));
        }
        for flags in [RST, FIN, 0] {
            let forged = client.to(&service, 50, flags);
            let forged = shifted(&forged, 5, 0);
            bench.dataplane.run(&forged.bytes()).unwrap();
        }
        assert_eq!(counts(&bench), (0, 1));
        bench.check("real", &ack, &forwarded(&session, &ack));
        assert_eq!(counts(&bench), (2, 0));
        bench.conclude();
    }
}

#[test]
fn a_handshake_that_is_reset_gives_back_everything_at_once() {
    for at in TCP {
        for by_client in [true, false] {
            let mut bench = bench();
            let (service, client) = (SERVICES[at], Client::new(1));
            let syn = client.to(&service, 51, SYN);
            let session = begin(&mut bench, &service, &syn);
            let flags = if by_client { RST } else { RST | ACK };
            let reset = client.to(&service, 51, flags).payload(Vec::new());
            let run = |bench: &mut Bench, by: i32| {
                let frame = if by_client {
                    shifted(&reset, by, 0)
                } else {
                    shifted(&session.reply(&reset).0, 0, by)
                };
                assert_eq!(bench.dataplane.run(&frame.bytes()).unwrap().verdict, 3);
            };
            for by in [-1, 1, 1000, i32::MIN] {
                run(&mut bench, by);
                assert_eq!(counts(&bench), (0, 1), "a forged reset, {by} off");
            }
            run(&mut bench, 0);
            assert_eq!(counts(&bench), (0, 0));
        }
    }
}

/// The backend ignores them, too (RFC 5961), and answers the SYN with a challenge.
#[test]
fn forged_resets_and_fins_do_not_end_a_connection() {
    for at in TCP {
        let mut bench = bench();
        let (service, client) = (SERVICES[at], Client::new(1));
        let session = establish(&mut bench, &service, client, 52);
        let request = client.to(&service, 52, ACK);
        // Another member takes the flow if the connection is over.
        let other = Service {
            index: 40,
            port: 8040,
            ..service
        };
        let here = bench.dataplane.egress.find(1).unwrap().unwrap();
        tables::add(&mut bench.dataplane, &other, control::SERVING, here).unwrap();
        let ring = RingState::new_clean(&[40; tables::RING_SIZE as usize]);
        tables::set_state(&mut bench.dataplane, service.index, &ring).unwrap();
        for flags in [RST, RST | ACK, FIN, FIN | ACK] {
            for by in [-1, 1, 1 << 16, i32::MIN] {
                let forged = shifted(&client.to(&service, 52, flags), by, 0);
                bench.dataplane.run(&forged.bytes()).unwrap();
                let syn = client.to(&service, 52, SYN);
                let expect = forwarded(&session, &syn).new_flow(service.index);
                bench.check("SYN", &syn, &expect);
                assert_open(&mut bench, &session, &request);
            }
        }
        // A real end: the next connection goes to the other member.
        close(&mut bench, &session, &client.to(&service, 52, FIN | ACK));
        let syn = client.to(&service, 52, SYN);
        let run = bench.dataplane.run(&syn.bytes()).unwrap();
        // Late packets of the backend still reach the client.
        let (late, out) = session.reply(&request);
        bench.check("late", &late, &replied(&session, &late, &out));
        bench.conclude();
        assert_eq!(run.frame[..6], other.mac(), "{service:?}");
    }
}

/// A port whose connections are over is used again when the backend accepts that: RFC 6191.
#[test]
fn reuses_a_port_in_time_wait_as_the_backend_accepts_it() {
    for (at, source) in [(5, 0), (13, 1)] {
        let mut bench = bench();
        let (service, client) = (SERVICES[at], Client::new(1));
        let address = bench.dataplane.nat_sources.read(source).unwrap().address;
        let only = NatSource {
            address,
            first_port: NAT_PORTS.start,
            ports: 1,
            draws: 0,
        };
        bench.dataplane.nat_sources.write(source, &only).unwrap();
        let session = establish(&mut bench, &service, client, 53);
        let other = with_timestamp(&Client::new(2).to(&service, 54, SYN), 1000);
        let refused =
            Expect::of(Reason::NatNoPort).plus(&format!("v{}.nat_no_port", service.index), 1);
        bench.check("the port is in use", &other, &refused);
        let fin = with_timestamp(&client.to(&service, 53, FIN | ACK), 2000);
        bench.check("FIN", &fin, &forwarded(&session, &fin));
        bench.check("half closed", &other, &refused);
        let (reply, out) = session.reply(&fin);
        bench.check(
            "FIN of the backend",
            &reply,
            &replied(&session, &reply, &out),
        );
        for at in [1000, 2000] {
            let early = with_timestamp(&Client::new(2).to(&service, 54, SYN), at);
            bench.check("not later than the last", &early, &refused);
        }
        bench.conclude();
        let later = with_timestamp(&Client::new(2).to(&service, 54, SYN), 2001);
        let again = begin_on(&mut bench, &service, &later, true);
        assert_eq!(again.node_port, session.node_port);
        let (stray, _) = session.reply(&client.to(&service, 53, ACK));
        let run = bench.dataplane.run(&stray.bytes()).unwrap();
        assert_eq!(run.verdict, 3, "the port is the new client's");
        assert_eq!(counts(&bench), (0, 1));
    }
}

/// Without timestamps the sequence number decides.
#[test]
fn reuses_a_port_by_sequence_number() {
    let mut bench = bench();
    let (service, client) = (SERVICES[5], Client::new(1));
    let only = NatSource {
        address: address_of(NAT4.into()).0,
        first_port: NAT_PORTS.start,
        ports: 1,
        draws: 0,
    };
    bench.dataplane.nat_sources.write(0, &only).unwrap();
    let session = establish(&mut bench, &service, client, 53);
    close(&mut bench, &session, &client.to(&service, 53, FIN | ACK));
    let syn = Client::new(2).to(&service, 54, SYN);
    let refused = Expect::of(Reason::NatNoPort).plus(&format!("v{}.nat_no_port", service.index), 1);
    bench.check("an earlier number", &syn, &refused);
    begin_on(&mut bench, &service, &shifted(&syn, 3, 0), true);
}

/// A flood of SYNs takes the oldest embryonic sessions' ports, never those of established ones.
#[test]
fn a_flood_of_syns_takes_only_the_oldest_embryonic_sessions() {
    const PORTS: u16 = 16;
    let mut bench = Bench::new(dataplane(&LoadOptions {
        jiffies_shift: Some(8),
        ..options()
    }));
    let (service, client) = (SERVICES[5], Client::new(1));
    let few = NatSource {
        address: address_of(NAT4.into()).0,
        first_port: NAT_PORTS.start,
        ports: PORTS,
        draws: 0,
    };
    bench.dataplane.nat_sources.write(0, &few).unwrap();
    let sessions: Vec<_> = (0..4)
        .map(|number| establish(&mut bench, &service, client, 100 + number))
        .collect();
    let (mut number, mut taken) = (1000, 0);
    lab::deadline::until("the flood takes ports", Duration::from_secs(20), || {
        let forged = client.to(&service, number, SYN);
        number += 1;
        taken += u16::from(bench.dataplane.run(&forged.bytes())?.verdict == 3);
        Ok(taken > 5 * PORTS)
    })
    .unwrap();
    for (number, session) in (100..).zip(&sessions) {
        let request = client.to(&service, number, ACK);
        assert_open(&mut bench, session, &request);
    }
    let (flows, embryonic) = counts(&bench);
    assert_eq!(flows, 8);
    assert!(
        embryonic <= usize::from(PORTS) - 4,
        "{embryonic} sessions share the other ports"
    );
}

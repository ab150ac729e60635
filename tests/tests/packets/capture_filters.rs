//! The filter of a packet capture.

use std::net::IpAddr;

use lab::{
    bytecode::tables::{self, NAT4, NO_RING, SERVICES},
    packet::{ACK, Frame, Ip, SYN, tcp},
};
use lb_common::{
    address_of,
    capture::{Filter, condition, insert, side},
    reason::Reason,
    trace::decision,
    vip::forward,
};

use crate::{capture::Stage, forwarding::output, nat::begin, stage::Client};

#[test]
fn filters_select_by_decision() {
    let mut stage = Stage::new();
    let client = Client::new(1);
    let (one, two) = (
        client.to(&SERVICES[0], 500, ACK),
        client.to(&SERVICES[1], 500, ACK),
    );
    let drop = client.to(&NO_RING, 500, SYN);
    let vip = |filter: &mut Filter| {
        filter.conditions = condition::VIP;
        insert(&mut filter.vips, SERVICES[1].index);
    };
    let member = |filter: &mut Filter| {
        filter.conditions = condition::MEMBER;
        insert(&mut filter.members, SERVICES[1].index);
    };
    for filter in [&vip as &dyn Fn(&mut Filter), &member] {
        assert!(!stage.is_recorded(filter, &one));
        assert!(stage.is_recorded(filter, &two));
        assert!(!stage.is_recorded(filter, &drop));
    }
    for (reasons, actions, found) in [
        (Some(Reason::NoMember), None, [false, true]),
        (Some(Reason::Forwarded), None, [true, false]),
        (None, Some(1), [false, true]),
        (None, Some(3), [true, false]),
        (Some(Reason::Forwarded), Some(1), [false, false]),
    ] {
        let change = |filter: &mut Filter| {
            filter.reasons = reasons.map_or(u64::MAX, |reason| 1 << reason as u64);
            filter.actions = actions.map_or(u32::MAX, |action| 1 << action);
        };
        let is = [&one, &drop].map(|frame| stage.is_recorded(change, frame));
        assert_eq!(is, found, "{reasons:?} {actions:?}");
    }
    stage.end();
}

#[test]
fn the_side_selects_frames() {
    let mut stage = Stage::new();
    let client = Client::new(1);
    let (sent, dropped) = (
        client.to(&SERVICES[1], 500, ACK),
        client.to(&NO_RING, 500, SYN),
    );
    let side = |sides| Filter {
        sides,
        ..Filter::ALL
    };
    stage.record(&side(side::IN));
    let record = stage.run(&sent).unwrap();
    assert_eq!(
        (record.received, record.transmitted.len()),
        (sent.bytes(), 0)
    );
    assert!(stage.run(&dropped).is_some());
    stage.record(&side(side::OUT));
    let record = stage.run(&sent).unwrap();
    let expected = output(&SERVICES[1], &sent).bytes();
    assert_eq!((record.received.len(), record.transmitted), (0, expected));
    assert!(stage.run(&dropped).is_none(), "nothing was transmitted");
    stage.end();
}

fn set_flow(filter: &mut Filter, source: Option<(IpAddr, u16)>, dest: Option<(IpAddr, u16)>) {
    filter.conditions = condition::HEADERS;
    if let Some((address, port)) = source {
        (filter.source, filter.family) = address_of(address);
        filter.source_mask = [u64::MAX; 2];
        filter.source_be = port.to_be();
    }
    if let Some((address, port)) = dest {
        (filter.dest, filter.family) = address_of(address);
        filter.dest_mask = [u64::MAX; 2];
        filter.dest_be = port.to_be();
    }
}

#[test]
fn filters_select_by_headers() {
    let mut stage = Stage::new();
    // What the filter reads must not depend on the snap length.
    stage.filter.snap = 14;
    let client = Client::new(1);
    for service in [SERVICES[0], SERVICES[9]] {
        let plain = client.to(&service, 500, ACK);
        let from = client.like(service.address);
        let (to, port) = (service.address, service.port);
        let tags: [&[(u16, u16)]; 3] = [&[], &[(0x8100, 7)], &[(0x8100, 7), (0x8100, 8)]];
        for (tags, uncommon) in tags
            .into_iter()
            .flat_map(|tags| [(tags, false), (tags, true)])
        {
            let mut frame = plain.clone();
            frame.tags = tags.to_vec();
            if uncommon && let Ip::V4(ip) = &mut frame.ip {
                ip.options = vec![1; 8];
            }
            let frame = &frame;
            let other: IpAddr = Client::new(2).like(to);
            let mut is =
                |source, dest| stage.is_recorded(|filter| set_flow(filter, source, dest), frame);
            assert!(is(Some((from, 500)), Some((to, port))), "{frame:?}");
            assert!(is(Some((from, 0)), None));
            assert!(is(None, Some((to, 0))));
            assert!(is(None, None));
            assert!(!is(Some((other, 500)), None));
            assert!(!is(None, Some((other, port))));
            assert!(!is(Some((from, 501)), None));
            assert!(!is(None, Some((to, port + 1))));
            assert!(!is(Some((to, 0)), Some((from, 0))), "not reversed");
            for (protocol, found) in [(6, true), (17, false)] {
                let change = |filter: &mut Filter| {
                    filter.conditions = condition::HEADERS;
                    filter.protocol = protocol;
                };
                assert_eq!(stage.is_recorded(change, frame), found);
            }
        }
    }
    stage.end();
}

#[test]
fn filters_select_by_prefix() {
    let mut stage = Stage::new();
    let mask = |bits: u32| u64::from((u32::MAX << (32 - bits)).to_be());
    let frame = Client::new(1).to(&SERVICES[0], 500, ACK);
    for (network, bits, found) in [
        ([198, 51, 100, 0], 24, true),
        ([198, 51, 100, 0], 31, true),
        ([198, 51, 100, 2], 31, false),
        ([198, 51, 101, 0], 24, false),
    ] {
        let change = |filter: &mut Filter| {
            filter.conditions = condition::HEADERS;
            filter.source = address_of(IpAddr::from(network)).0;
            filter.source_mask = [mask(bits), 0];
            filter.family = 4;
        };
        assert_eq!(
            stage.is_recorded(change, &frame),
            found,
            "{network:?}/{bits}"
        );
    }
    stage.end();
}

/// Both directions of a NAT session are found by the client's flow.
#[test]
fn a_nat_reply_is_found_by_the_clients_flow() {
    let mut stage = Stage::new();
    let client = Client::new(1);
    for service in SERVICES
        .into_iter()
        .filter(|service| service.forward == forward::NAT && service.protocol == 6)
    {
        stage.record(&Filter::ALL);
        let request = client.to(&service, 500, SYN);
        let port = begin(&mut stage.bench, &service, &request).node_port;
        stage.take();
        let node = match service.backend() {
            IpAddr::V4(_) => IpAddr::V4(NAT4),
            IpAddr::V6(_) => IpAddr::V6(tables::NAT6),
        };
        let reply = Frame::new(
            Ip::new(service.backend(), node),
            tcp(service.backend_port(), port, ACK),
        )
        .payload([]);
        let from = client.like(service.address);
        for (source, found) in [((from, 500), true), ((from, 501), false)] {
            let change = |filter: &mut Filter| {
                set_flow(filter, Some(source), Some((service.address, service.port)));
            };
            assert_eq!(stage.is_recorded(change, &request), found, "{service:?}");
            assert_eq!(stage.is_recorded(change, &reply), found, "{service:?}");
        }
        stage.record(&Filter::ALL);
        let record = stage.run(&reply).unwrap();
        assert_eq!(record.received, reply.bytes());
        assert_eq!(record.head.trace.reason, Reason::NatReply as u32);
        assert_eq!(record.head.trace.decision, decision::SESSION);
        assert_eq!(record.head.trace.member, service.index);
        // To the client, from the VIP.
        let ports = record.transmitted.len() - 20;
        assert_eq!(
            &record.transmitted[ports..ports + 4],
            &[service.port.to_be_bytes(), 500_u16.to_be_bytes(),].concat()
        );
    }
    stage.end();
}

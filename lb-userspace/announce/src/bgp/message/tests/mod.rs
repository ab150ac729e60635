//! Messages by hand, as the RFCs have them. `netgauze` compares with another codec.

mod netgauze;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::*;
use crate::{community::LargeCommunity, routes::Attributes};

fn context(internal: bool) -> PathContext {
    PathContext {
        local_as: 65001,
        internal,
        next_hops: NextHops {
            v4: Some(Ipv4Addr::new(10, 0, 0, 2)),
            v6: Some(Ipv6Addr::LOCALHOST),
        },
    }
}

fn raw(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff; 16];
    bytes.extend((HEADER as u16 + body.len() as u16).to_be_bytes());
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

/// Returns code and subcode of the NOTIFICATION that a message causes.
fn refused(bytes: &[u8]) -> (u8, u8) {
    let error = decode(bytes).unwrap_err();
    (error.code, error.subcode)
}

#[test]
fn an_ebgp_update_is_as_in_the_rfcs() {
    let attributes = Attributes {
        communities: vec!["no-export".parse().unwrap()],
        large_communities: vec![LargeCommunity {
            global: 64500,
            local: [1, 2],
        }],
        med: Some(7),
        local_pref: Some(200),
        prepend: 1,
    };
    let addresses = [IpAddr::from([192, 0, 2, 1])];
    let message = announce(
        Family::V4,
        &context(false),
        &attributes,
        &mut addresses.into_iter().peekable(),
    );
    let expected = [
        &[0, 0, 0, 62][..],
        &[0x40, 1, 1, 0],
        &[0x40, 2, 10, 2, 2, 0, 0, 0xfd, 0xe9, 0, 0, 0xfd, 0xe9],
        &[0x40, 3, 4, 10, 0, 0, 2],
        &[0x80, 4, 4, 0, 0, 0, 7],
        &[0xc0, 8, 4, 0xff, 0xff, 0xff, 1],
        &[0xc0, 32, 12, 0, 0, 0xfb, 0xf4, 0, 0, 0, 1, 0, 0, 0, 2],
        &[32, 192, 0, 2, 1],
    ];
    let expected = expected.concat();
    let attributes = expected.len() - 4 - 5;
    assert_eq!(message[HEADER..][..4], [0, 0, 0, attributes as u8]);
    assert_eq!(message[HEADER + 4..], expected[4..]);
}

#[test]
fn an_ibgp_update_has_an_empty_path_and_a_preference() {
    let addresses = [IpAddr::from([192, 0, 2, 1])];
    let message = announce(
        Family::V4,
        &context(true),
        &Attributes {
            prepend: 3,
            ..Attributes::default()
        },
        &mut addresses.into_iter().peekable(),
    );
    let expected = [
        &[0, 0, 0, 21][..],
        &[0x40, 1, 1, 0],
        &[0x40, 2, 0],
        &[0x40, 3, 4, 10, 0, 0, 2],
        &[0x40, 5, 4, 0, 0, 0, 100],
        &[32, 192, 0, 2, 1],
    ];
    assert_eq!(message[HEADER..], expected.concat());
}

#[test]
fn end_of_rib_is_an_empty_update() {
    assert_eq!(end_of_rib(Family::V4)[HEADER..], [0, 0, 0, 0]);
    let v6 = end_of_rib(Family::V6);
    assert_eq!(v6[HEADER..], [0, 0, 0, 7, 0x90, 15, 0, 3, 0, 2, 1]);
}

#[test]
fn updates_are_full_but_not_too_long() {
    let v4 = (0..2000u32).map(|it| IpAddr::from(Ipv4Addr::from_bits(it)));
    let v6 = (0..2000u128).map(|it| IpAddr::from(Ipv6Addr::from_bits(it)));
    for (family, addresses) in [
        (Family::V4, v4.collect::<Vec<_>>()),
        (Family::V6, v6.collect()),
    ] {
        let mut left = addresses.into_iter().peekable();
        let attributes = Attributes {
            communities: vec![crate::Community(1); 1000],
            prepend: 255,
            ..Attributes::default()
        };
        let prefix = if family == Family::V4 { 5 } else { 17 };
        let mut messages = Vec::new();
        while left.peek().is_some() {
            messages.push(announce(family, &context(false), &attributes, &mut left));
        }
        let (last, full) = messages.split_last().unwrap();
        assert!(last.len() <= LONGEST);
        for message in full {
            let free = LONGEST - message.len();
            assert!(free < prefix, "{free} bytes are free");
        }
    }
}

#[test]
fn incomplete_messages_are_not_decoded() {
    let whole = keepalive();
    for length in 0..whole.len() {
        assert_eq!(decode(&whole[..length]), Ok(None), "{length} bytes");
    }
    assert_eq!(decode(&whole), Ok(Some((Message::Keepalive, 19))));
}

#[test]
fn errors_have_the_codes_of_the_rfcs() {
    let mut marker = keepalive();
    marker[7] = 0;
    assert_eq!(refused(&marker), (1, 1), "marker");
    assert_eq!(refused(&raw(9, &[])), (1, 3), "type");
    assert_eq!(refused(&raw(KEEPALIVE, &[0])), (1, 2), "long KEEPALIVE");
    assert_eq!(refused(&raw(OPEN, &[4; 9])), (1, 2), "short OPEN");
    assert_eq!(refused(&raw(UPDATE, &[0; 3])), (1, 2), "short UPDATE");
    assert_eq!(
        refused(&raw(UPDATE, &[0; 5000])),
        (1, 2),
        "longer than 4096"
    );
    let open = |tail: &[u8]| raw(OPEN, &[&[4, 0, 1, 0, 90, 10, 0, 0, 1], tail].concat());
    assert_eq!(
        refused(&raw(OPEN, &[3, 0, 1, 0, 90, 10, 0, 0, 1, 0])),
        (2, 1)
    );
    assert_eq!(refused(&open(&[1])), (2, 0), "parameters cut");
    assert_eq!(refused(&open(&[2, 1, 0])), (2, 4), "authentication");
    assert_eq!(refused(&open(&[4, 2, 2, 1, 4])), (2, 0), "capability cut");
    let update = |body: &[u8]| refused(&raw(UPDATE, body));
    assert_eq!(
        update(&[0, 9, 0, 0]),
        (3, 1),
        "withdrawn longer than the rest"
    );
    assert_eq!(
        update(&[0, 0, 0, 9]),
        (3, 1),
        "attributes longer than the rest"
    );
    assert_eq!(update(&[0, 2, 33, 1, 0, 0]), (3, 10), "33 bits");
    assert_eq!(update(&[0, 0, 0, 0, 24, 1, 2]), (3, 10), "prefix cut");
    let mp = [0, 0, 0, 8, 0x80, 15, 5, 0, 2, 1, 129, 0];
    assert_eq!(update(&mp), (3, 9), "129 bits");
}

#[test]
fn errors_in_attributes_do_not_end_the_session() {
    // ORIGIN with a length beyond the attributes (RFC 7606, section 4).
    let bytes = raw(UPDATE, &[0, 0, 0, 4, 0x40, 1, 9, 0, 8, 10]);
    let Ok(Some((Message::Update(update), _))) = decode(&bytes) else {
        panic!("not an UPDATE");
    };
    assert!(update.malformed);
    assert_eq!(update.announced, 1);
}

#[test]
fn the_long_form_of_parameters_is_decoded() {
    let capabilities = [65, 4, 0, 1, 0, 0];
    let mut body = vec![4, 0x5b, 0xa0, 0, 90, 10, 0, 0, 1, 255, 255, 0, 9, 2, 0, 6];
    body.extend(capabilities);
    let Ok(Some((Message::Open(open), _))) = decode(&raw(OPEN, &body)) else {
        panic!("not an OPEN");
    };
    assert_eq!((open.asn, open.four_octet_as), (65536, true));
}

#[test]
fn notifications_have_words() {
    let shutdown = Notification::cease(Cease::AdministrativeShutdown, "maintenance");
    assert_eq!(
        shutdown.to_string(),
        "Cease: Administrative Shutdown (6/2) \"maintenance\""
    );
    let Ok(Some((Message::Notification(decoded), _))) = decode(&shutdown.encode()) else {
        panic!("not a NOTIFICATION");
    };
    assert_eq!(decoded, shutdown);
    let words = Notification::BAD_PEER_AS.to_string();
    assert_eq!(words, "OPEN Message Error: Bad Peer AS (2/2)");
    let unknown = Notification {
        code: 77,
        subcode: 5,
        data: vec![9],
    };
    assert_eq!(unknown.to_string(), "unknown code (77/5)");
    // The length of the text is wrong, so there is no text.
    let broken = Notification {
        data: vec![9, b'a'],
        ..shutdown
    };
    assert_eq!(broken.to_string(), "Cease: Administrative Shutdown (6/2)");
}

use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::{
    bgp::message::{Message, NextHops, ReceivedUpdate, decode},
    community::Community,
};

fn path() -> PathContext {
    PathContext {
        local_as: 65001,
        internal: false,
        next_hops: NextHops {
            v4: Some(Ipv4Addr::new(10, 0, 0, 2)),
            v6: Some(Ipv6Addr::LOCALHOST),
        },
    }
}

fn routes(v4: std::ops::Range<u32>, v6: std::ops::Range<u32>) -> Routes {
    let v4 = v4.map(|it| IpAddr::from(Ipv4Addr::from_bits(0xc000_0200 + it)));
    let v6 = v6.map(|it| IpAddr::from(Ipv6Addr::from_bits(u128::from(it) | 2 << 124)));
    v4.chain(v6).map(|it| (it, Attributes::default())).collect()
}

fn both() -> Vec<Family> {
    Family::ALL.to_vec()
}

/// Announced and withdrawn prefixes of each message.
fn drain(out: &mut AdjOut) -> Vec<(usize, usize)> {
    std::iter::from_fn(|| out.next())
        .map(|it| counts(&it))
        .collect()
}

fn counts(message: &[u8]) -> (usize, usize) {
    match decode(message) {
        Ok(Some((
            Message::Update(ReceivedUpdate {
                announced,
                withdrawn,
                ..
            }),
            _,
        ))) => (announced, withdrawn),
        other => panic!("not an UPDATE: {other:?}"),
    }
}

#[test]
fn sends_all_routes_and_then_end_of_rib() {
    let mut out = AdjOut::new(path(), both(), &routes(0..3, 0..2));
    assert_eq!(drain(&mut out), [(3, 0), (2, 0), (0, 0), (0, 0)]);
    assert!(out.is_empty());
    assert_eq!(out.sent(), 5);
}

#[test]
fn sends_only_differences() {
    let mut out = AdjOut::new(path(), both(), &routes(0..3, 0..2));
    drain(&mut out);
    out.set(&routes(0..3, 0..2));
    assert!(out.is_empty());
    out.set(&routes(1..5, 0..2));
    assert_eq!(drain(&mut out), [(0, 1), (2, 0)]);
    let mut changed = routes(1..5, 0..2);
    changed.values_mut().next().unwrap().communities = vec![Community::GRACEFUL_SHUTDOWN];
    out.set(&changed);
    assert_eq!(drain(&mut out), [(1, 0)]);
    out.set(&Routes::new());
    assert_eq!(drain(&mut out), [(0, 4), (0, 2)]);
    assert_eq!(out.sent(), 0);
}

#[test]
fn withdrawals_overtake_announcements() {
    let mut out = AdjOut::new(path(), both(), &routes(0..10_000, 0..0));
    let first = out.next().map(|it| counts(&it)).unwrap();
    assert!(first.0 > 700, "{first:?}");
    // Of 10,000 routes only those of the first message were sent. Their withdrawal is next, and the
    // others are not sent at all.
    out.set(&Routes::new());
    assert_eq!(out.next().map(|it| counts(&it)), Some((0, first.0)));
    assert_eq!(drain(&mut out), [(0, 0), (0, 0)]);
}

#[test]
fn a_route_that_was_not_sent_is_not_withdrawn() {
    let mut out = AdjOut::new(path(), both(), &routes(0..3, 0..0));
    out.set(&Routes::new());
    assert_eq!(drain(&mut out), [(0, 0), (0, 0)]);
}

#[test]
fn a_refresh_repeats_a_family() {
    let desired = routes(0..3, 0..2);
    let mut out = AdjOut::new(path(), both(), &desired);
    drain(&mut out);
    out.refresh(Family::V6, &desired);
    assert_eq!(drain(&mut out), [(2, 0)]);
    // A route that was to be repeated, and is then not desired any more, is still withdrawn.
    out.refresh(Family::V4, &desired);
    out.set(&routes(0..0, 0..2));
    assert_eq!(drain(&mut out), [(0, 3)]);
    out.set(&desired);
    assert_eq!(drain(&mut out), [(3, 0)]);
    assert!(out.stale.is_empty());
}

#[test]
fn other_families_are_not_sent() {
    let mut out = AdjOut::new(path(), vec![Family::V4], &routes(0..3, 0..2));
    assert_eq!(drain(&mut out), [(3, 0), (0, 0)]);
    out.set(&Routes::new());
    assert_eq!(drain(&mut out), [(0, 3)]);
}

//! Tests of planning, without a kernel.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    member::{NextHop, control},
    proto,
    vip::target,
};
use proptest::prelude::*;

use super::{
    entry::{Route, Routes},
    error::ReconcilerError,
    plan::Plan,
    rings::RingBuilds,
    state::{ServiceId, State},
    summary::Summary,
};
use lb_model::{
    config::{self, Config},
    ring::Identity,
};

const HEAD: &str =
    "[node]\ninterfaces = [\"eth0\"]\nhash_seed = \"000102030405060708090a0b0c0d0e0f\"\n";

fn parse(text: &str) -> Config {
    match config::parse("test.toml", &format!("{HEAD}{text}")) {
        Ok(config) => config,
        Err(errors) => panic!("{errors}"),
    }
}

/// VIPs by their last address byte, each with backends by theirs and their weights.
fn config_of(vips: &BTreeMap<u8, BTreeMap<u8, u32>>) -> Config {
    let mut text = String::new();
    for (vip, backends) in vips {
        text += &format!(
            "[[vip]]\nname = \"v{vip}\"\naddress = \"203.0.113.{vip}\"\nport = 80\n\
             protocol = \"tcp\"\nforward = \"ipip\"\nring_size = 251\n"
        );
        for (backend, weight) in backends {
            text += &format!(
                "[[vip.backend]]\nname = \"b{backend}\"\naddress = \"10.0.0.{backend}\"\n\
                 weight = {weight}\n"
            );
        }
    }
    parse(&text)
}

fn routes() -> Routes {
    let route = Route {
        next_hop: NextHop {
            mac: [2; 6],
            egress: 1,
        },
        on_link: true,
        replies_seen: true,
        source: Some([10, 0, 0, 254].into()),
    };
    (1..10)
        .map(|b| ([10, 0, 0, b].into(), Some(route)))
        .collect()
}

/// Plans as if the rings were staged.
fn next(state: &State, config: &Config) -> Result<(State, Summary), ReconcilerError> {
    let routes = routes();
    let (mut next, summary) = Plan::new(state, config, &routes)
        .configure()?
        .finish(1, &mut RingBuilds::default())?;
    for vip in next.vips.values_mut() {
        vip.dirty = false;
        vip.entry.ring = lb_common::vip::Vip::pack_ring(1, 251);
    }
    Ok((next, summary))
}

type Names = BTreeMap<(ServiceId, Identity), (u16, u32)>;

fn names(state: &State) -> Names {
    let name = |(index, member): (&u16, &super::state::MemberState)| {
        let vip = state.vips[&member.vip].service;
        let generation = control::generation(member.entry.control);
        ((vip, member.identity), (*index, generation))
    };
    state.members.iter().map(name).collect()
}

proptest! {
    /// A member keeps its index as long as its VIP exists; no index and generation is used twice.
    #[test]
    fn indexes_are_stable_and_never_shared(
        configs in prop::collection::vec(
            prop::collection::btree_map(1u8..4, prop::collection::btree_map(1u8..6, 1u32..200, 1..5), 1..4),
            1..12,
        ),
    ) {
        let mut state = State::default();
        let mut owners = BTreeMap::new();
        for vips in configs {
            let (after, _) = next(&state, &config_of(&vips)).unwrap();
            let (old, new) = (names(&state), names(&after));
            let live: BTreeSet<ServiceId> = after.vips.values().map(|vip| vip.service).collect();
            let stayed = state.vips.values().map(|vip| vip.service);
            let stayed: BTreeSet<_> = stayed.filter(|service| live.contains(service)).collect();
            for (name, index) in &old {
                if stayed.contains(&name.0) {
                    prop_assert_eq!(new.get(name), Some(index), "{:?} moved or went", name);
                }
            }
            for (name, index) in &new {
                if !old.contains_key(name) {
                    prop_assert!(owners.insert(*index, *name).is_none(), "{index:?} given twice");
                }
            }
            prop_assert_eq!(after.vips.len(), vips.len());
            let eligible = after.members.values().filter(|member| member.is_eligible(false)).count();
            prop_assert_eq!(eligible, vips.values().map(BTreeMap::len).sum::<usize>());
            let same = next(&after, &config_of(&vips)).unwrap();
            prop_assert_eq!(same.1, Summary::default());
            prop_assert_eq!(same.0.snapshot(), after.snapshot());
            state = after;
        }
    }
}

fn one(vip: &str) -> Config {
    parse(&format!(
        "[[vip]]\nname = \"v\"\naddress = \"203.0.113.1\"\nport = 80\nprotocol = \"tcp\"\n{vip}\n\
         [[vip.backend]]\nname = \"b\"\naddress = \"10.0.0.1\"\n"
    ))
}

#[test]
fn replaces_a_vip_whose_flows_would_all_move() {
    let (state, _) = next(&State::default(), &one("forward = \"l2\"")).unwrap();
    let mut other_seed = one("forward = \"l2\"");
    other_seed.node.hash_seed = config::HashSeed::new([1; 16]);
    for (config, why) in [
        (one("forward = \"ipip\""), "v (forward: l2 → ipip)"),
        (
            one("forward = \"l2\"\nring_size = 251"),
            "v (ring_size: 65537 → 251)",
        ),
        (
            one("forward = \"l2\"\naffinity = \"source\""),
            "v (affinity)",
        ),
        (other_seed, "v (hash_seed)"),
    ] {
        let (after, summary) = next(&state, &config).unwrap();
        assert_eq!(summary.vips_replaced, [why]);
        let vips = &after.vips;
        assert!(state.vips.keys().all(|index| !vips.contains_key(index)));
        let members = &after.members;
        assert!(
            state
                .members
                .keys()
                .all(|index| !members.contains_key(index))
        );
        let (before, after) = (state.snapshot().services, after.snapshot().services);
        assert!(
            before.keys().eq(after.keys()),
            "the services stay and refer to the new VIP"
        );
    }
}

/// A VIP with checks and these backends.
fn checked(backends: &[u8], with_checks: bool) -> Config {
    let health = if with_checks {
        "[vip.health]\nkind = \"tcp\"\n"
    } else {
        ""
    };
    let backends = backends.iter().map(|backend| {
        format!("[[vip.backend]]\nname = \"b{backend}\"\naddress = \"10.0.0.{backend}\"\n")
    });
    parse(&format!(
        "[[vip]]\nname = \"v\"\naddress = \"203.0.113.1\"\nport = 80\nprotocol = \"tcp\"\n\
         forward = \"ipip\"\nring_size = 251\n{health}{}",
        backends.collect::<String>()
    ))
}

fn set(state: &mut State, backend: u8, healthy: bool) {
    let address = std::net::IpAddr::from([10, 0, 0, backend]);
    let mut members = state.members.values_mut();
    let member = members.find(|member| member.identity.address == address);
    let member = member.unwrap();
    (member.healthy, member.proven) = (healthy, true);
}

/// The last address bytes of the backends that have slots.
fn serving(state: &State) -> Vec<u8> {
    let slots = state.vips.values().next().unwrap().ring.slots_per_member();
    let serving = slots.iter().filter(|(_, slots)| **slots > 0);
    serving
        .map(|(member, _)| match state.members[member].identity.address {
            std::net::IpAddr::V4(address) => address.octets()[3],
            std::net::IpAddr::V6(_) => 0,
        })
        .collect()
}

#[test]
fn a_backend_that_comes_back_is_down_until_its_checks_succeed() {
    let (mut state, _) = next(&State::default(), &checked(&[1, 2], true)).unwrap();
    for backend in [1, 2] {
        set(&mut state, backend, true);
    }
    let (state, _) = next(&state, &checked(&[1, 2], true)).unwrap();
    assert_eq!(serving(&state), [1, 2]);
    let (state, _) = next(&state, &checked(&[1], true)).unwrap();
    let leaving = state
        .members
        .values()
        .find(|member| member.leaving)
        .unwrap();
    let word = control::state(leaving.entry.control);
    assert_eq!(word, control::SERVING, "it keeps its flows");
    let (mut state, _) = next(&state, &checked(&[1, 2], true)).unwrap();
    assert_eq!(serving(&state), [1]);
    set(&mut state, 2, true);
    let (state, _) = next(&state, &checked(&[1, 2], true)).unwrap();
    assert_eq!(serving(&state), [1, 2]);
}

#[test]
fn a_newcomer_neither_ends_a_panic_nor_begins_one() {
    for (healthy, down, panic) in [
        (&[][..], &[1, 2, 3, 4][..], true),
        (&[1], &[2, 3, 4], true),
        (&[1, 2], &[3, 4], false),
    ] {
        let (mut state, _) = next(&State::default(), &checked(&[1, 2, 3, 4], true)).unwrap();
        for (backends, is_healthy) in [(healthy, true), (down, false)] {
            for backend in backends {
                set(&mut state, *backend, is_healthy);
            }
        }
        let (state, _) = next(&state, &checked(&[1, 2, 3, 4], true)).unwrap();
        let before = serving(&state);
        assert_eq!(before.len(), if panic { 4 } else { healthy.len() });
        let (mut state, summary) = next(&state, &checked(&[1, 2, 3, 4, 5], true)).unwrap();
        assert_eq!(serving(&state), before, "{healthy:?}");
        assert_eq!(
            (summary.panics_begun, summary.panics_ended),
            (vec![], vec![])
        );
        set(&mut state, 5, false);
        let (state, _) = next(&state, &checked(&[1, 2, 3, 4, 5], true)).unwrap();
        assert_eq!(
            serving(&state),
            [1, 2, 3, 4, 5],
            "less than half are healthy"
        );
    }
}

#[test]
fn checks_that_are_turned_on_find_a_vip_that_serves() {
    for forward in ["ipip", "nat"] {
        let (state, _) = next(&State::default(), &checked(&[1, 2], false)).unwrap();
        let mut config = checked(&[1, 2, 3], true);
        config.vips[0].forward = parse(&format!(
            "[[vip]]\nname = \"v\"\naddress = \"203.0.113.1\"\nport = 80\nprotocol = \"tcp\"\n\
             forward = \"{forward}\"\n[[vip.backend]]\nname = \"b\"\naddress = \"10.0.0.1\"\n"
        ))
        .vips[0]
            .forward;
        let (mut state, _) = next(&state, &config).unwrap();
        assert_eq!(serving(&state), [1, 2], "{forward}");
        let known: Vec<_> = state.members.values().map(|member| member.proven).collect();
        assert_eq!(known, [true, true, false], "{forward}");
        set(&mut state, 1, false);
        let (state, _) = next(&state, &config).unwrap();
        assert_eq!(serving(&state), [2], "{forward}");
    }
}

#[test]
fn keeps_the_health_of_the_backends_of_a_replaced_vip() {
    let checked = |vip: &str| {
        let mut config = one(vip);
        config.vips[0].health = parse(
            "[[vip]]\nname = \"v\"\naddress = \"203.0.113.1\"\nport = 80\nprotocol = \"tcp\"\n\
             forward = \"l2\"\n[vip.health]\nkind = \"tcp\"\n[[vip.backend]]\nname = \"b\"\n\
             address = \"10.0.0.1\"\n",
        )
        .vips[0]
            .health
            .clone();
        config
    };
    for healthy in [true, false] {
        let (mut state, _) = next(&State::default(), &checked("forward = \"l2\"")).unwrap();
        for member in state.members.values_mut() {
            (member.healthy, member.proven) = (healthy, true);
        }
        let (after, _) = next(&state, &checked("forward = \"ipip\"")).unwrap();
        let member = after.members.values().next().unwrap();
        assert_eq!((member.healthy, member.proven), (healthy, true));
    }
}

/// The data path looks up the protocols of an address for fragments, which have no ports.
#[test]
fn address_entries_list_the_protocols_of_their_services() {
    for protocols in [&["tcp"][..], &["udp"], &["tcp", "udp"]] {
        let vips = protocols.iter().map(|protocol| {
            format!(
                "[[vip]]\nname = \"{protocol}\"\naddress = \"203.0.113.1\"\nport = 80\n\
                 protocol = \"{protocol}\"\nforward = \"l2\"\nring_size = 251\n\
                 [[vip.backend]]\nname = \"b\"\naddress = \"10.0.0.1\"\n"
            )
        });
        let (state, _) = next(&State::default(), &parse(&vips.collect::<String>())).unwrap();
        let services = state.snapshot().services;
        let (_, &address) = services
            .iter()
            .find(|(key, _)| key.protocol() == 0)
            .unwrap();
        assert_eq!(target::kind(address), target::ADDRESS);
        for (name, number) in [("tcp", proto::TCP), ("udp", proto::UDP)] {
            let serves = protocols.contains(&name);
            assert_eq!(target::may_serve(address, number), serves, "{protocols:?}");
        }
    }
}

#[test]
fn does_not_use_a_vip_address_as_source() {
    let config = one("forward = \"nat\"");
    let mut routes = routes();
    for route in routes.values_mut().flatten() {
        route.source = Some([203, 0, 113, 1].into());
    }
    let (next, _) = Plan::new(&State::default(), &config, &routes)
        .configure()
        .unwrap()
        .finish(1, &mut RingBuilds::default())
        .unwrap();
    assert!(next.sources.is_empty());
    assert!(
        next.members
            .values()
            .all(|member| member.entry.next_hop == 0)
    );
}

/// A backend whose next hop is gone gets no new flows, at once and not after its checks, and keeps its
/// flows: the interruption may be short.
#[test]
fn a_backend_whose_next_hop_is_gone_has_no_slots() {
    let config = checked(&[1, 2, 3], false);
    let all = routes();
    let gone = |backends: &[u8]| {
        let mut routes = all.clone();
        for &backend in backends {
            routes.insert([10, 0, 0, backend].into(), None);
        }
        routes
    };
    let mut unknown = all.clone();
    unknown.remove(&[10, 0, 0, 2].into());
    let mut state = State::default();
    for (routes, expected) in [
        (all.clone(), vec![1, 2, 3]),
        (gone(&[2]), vec![1, 3]),
        (gone(&[1, 2]), vec![3]),
        // The node's own link is down.
        (gone(&[1, 2, 3]), vec![1, 2, 3]),
        (gone(&[1, 2]), vec![3]),
        // Not resolved yet.
        (unknown, vec![1, 2, 3]),
        (all.clone(), vec![1, 2, 3]),
    ] {
        let plan = Plan::new(&state, &config, &routes).configure().unwrap();
        state = plan.finish(1, &mut RingBuilds::default()).unwrap().0;
        assert_eq!(serving(&state), expected);
        for member in state.members.values() {
            assert_eq!(control::state(member.entry.control), control::SERVING);
        }
    }
}

#[test]
fn rejects_gateway_routes_for_l2() {
    let mut routes = routes();
    for route in routes.values_mut().flatten() {
        route.on_link = false;
    }
    for (forward, expected) in [("l2", false), ("ipip", true), ("nat", true)] {
        let config = one(&format!("forward = \"{forward}\""));
        let (next, _) = Plan::new(&State::default(), &config, &routes)
            .configure()
            .unwrap()
            .finish(1, &mut RingBuilds::default())
            .unwrap();
        let known = next.members.values().map(|m| m.entry.next_hop != 0);
        assert!(known.eq([expected]), "{forward}");
    }
}

#[test]
fn rejects_routes_whose_replies_are_unseen_for_nat() {
    let mut routes = routes();
    for route in routes.values_mut().flatten() {
        route.replies_seen = false;
    }
    for (forward, expected) in [("l2", true), ("ipip", true), ("nat", false)] {
        let config = one(&format!("forward = \"{forward}\""));
        let (next, _) = Plan::new(&State::default(), &config, &routes)
            .configure()
            .unwrap()
            .finish(1, &mut RingBuilds::default())
            .unwrap();
        let known = next.members.values().map(|m| m.entry.next_hop != 0);
        assert!(known.eq([expected]), "{forward}");
    }
}

#[test]
fn keeps_entries_while_a_route_is_unknown() {
    let config = one("forward = \"ipip\"");
    let (state, _) = next(&State::default(), &config).unwrap();
    let plan = |routes: &Routes| {
        let (next, _) = Plan::new(&state, &config, routes)
            .configure()
            .unwrap()
            .finish(1, &mut RingBuilds::default())
            .unwrap();
        next.members.values().next().unwrap().entry
    };
    let before = state.members.values().next().unwrap().entry;
    assert_eq!(plan(&Routes::new()), before);
    let none = Routes::from([([10, 0, 0, 1].into(), None)]);
    assert_eq!(
        plan(&none),
        lb_common::member::Member {
            next_hop: 0,
            ..before
        }
    );
}

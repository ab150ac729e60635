//! Sessions, routes and their changes.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use lab::announcer::PeerPlan;
use lab::deadline;

use crate::router::RouterPlan;
use crate::site::{
    LIMIT, ROUTER_V6, node_v4, vips, wait_established, wait_sent, wait_status, with_routers,
};

#[test]
fn routes_of_both_families_reach_the_kernel_of_the_router() {
    let plan = RouterPlan::default();
    with_routers("announce routes", &plan, |kind, site| {
        let announcer = site.announce(0, |_| {}).unwrap();
        announcer.announce(&vips(), &["no-export"]).unwrap();
        let status = wait_sent(&announcer, 2).unwrap();
        assert_eq!(status.hold_time, Some(Duration::from_secs(9)));
        assert_eq!(status.families, ["active", "active"]);
        site.wait_routed(&[0]).unwrap();
        let shown = site.router.show(&site.router_host, "192.0.2.1/32").unwrap();
        assert!(shown.contains("65001"), "{kind:?}: AS path in {shown}");
        let community = ["no-export", "65535,65281"];
        assert!(community.iter().any(|it| shown.contains(it)), "{shown}");

        announcer.announce(&[], &[]).unwrap();
        let took = site.wait_routed(&[]).unwrap();
        println!("{kind:?}: withdrawal by command reaches the kernel in {took:?}");
        assert_eq!(wait_established(&announcer).unwrap().flaps, 0);
    });
}

#[test]
fn a_session_over_ipv6_carries_both_families() {
    let plan = RouterPlan {
        over_v6: true,
        ..RouterPlan::default()
    };
    with_routers("announce over IPv6", &plan, |_, site| {
        let change = |peer: &mut PeerPlan| peer.address = ROUTER_V6.into();
        let announcer = site.announce(0, change).unwrap();
        announcer.announce(&vips(), &[]).unwrap();
        wait_established(&announcer).unwrap();
        site.wait_routed(&[0]).unwrap();
    });
}

#[test]
fn without_a_next_hop_a_family_is_not_sent() {
    with_routers("announce one family", &RouterPlan::default(), |_, site| {
        let announcer = site.announce(0, |peer| peer.next_hop_v6 = None).unwrap();
        announcer.announce(&vips(), &[]).unwrap();
        let status = wait_sent(&announcer, 1).unwrap();
        assert_eq!(status.families, ["active", "no next hop configured"]);
    });
}

#[test]
fn an_orderly_end_withdraws_first() {
    with_routers("stop an announcer", &RouterPlan::default(), |kind, site| {
        let announcer = site.announce(0, |_| {}).unwrap();
        announcer.announce(&vips(), &[]).unwrap();
        site.wait_routed(&[0]).unwrap();
        let start = Instant::now();
        assert!(announcer.stop().unwrap().success());
        println!("{kind:?}: withdraw_and_stop took {:?}", start.elapsed());
        site.wait_routed(&[]).unwrap();
    });
}

#[test]
fn two_nodes_are_an_ecmp_route_and_a_killed_one_leaves_it() {
    with_routers("ECMP", &RouterPlan::default(), |kind, site| {
        let first = site.announce(0, |_| {}).unwrap();
        let mut second = site.announce(1, |_| {}).unwrap();
        for announcer in [&first, &second] {
            announcer.announce(&vips(), &[]).unwrap();
        }
        site.wait_routed(&[0, 1]).unwrap();
        second.daemon().kill();
        let took = site.wait_routed(&[0]).unwrap();
        println!("{kind:?}: a killed announcer is out of the ECMP route in {took:?}");
    });
}

#[test]
fn a_thousand_addresses_are_added_without_a_flap() {
    with_routers("1,000 addresses", &RouterPlan::default(), |kind, site| {
        let announcer = site.announce(0, |_| {}).unwrap();
        announcer.announce(&vips(), &[]).unwrap();
        site.wait_routed(&[0]).unwrap();
        let more = (0..1000u32).map(|it| IpAddr::from(Ipv4Addr::from_bits(0xcb00_7000 + it)));
        let all: Vec<IpAddr> = more.chain(vips()).collect();
        let start = Instant::now();
        announcer.announce(&all, &[]).unwrap();
        let expected = [IpAddr::from(node_v4(0))].into();
        for address in [all[0], all[999]] {
            deadline::until("the last address is routed", LIMIT, || {
                Ok(site.next_hops(address)? == expected)
            })
            .unwrap();
        }
        println!(
            "{kind:?}: 1,000 addresses are routed in {:?}",
            start.elapsed()
        );
        let status = wait_sent(&announcer, 1002).unwrap();
        assert_eq!(status.flaps, 0);
        site.wait_routed(&[0]).unwrap();
    });
}

#[test]
fn a_route_refresh_gets_all_routes_again() {
    with_routers("route refresh", &RouterPlan::default(), |_, site| {
        let announcer = site.announce(0, |_| {}).unwrap();
        announcer.announce(&vips(), &[]).unwrap();
        site.wait_routed(&[0]).unwrap();
        let before = site.router.updates(&site.router_host).unwrap();
        site.router.refresh(&site.router_host).unwrap();
        deadline::until("routes of both families arrive again", LIMIT, || {
            Ok(site.router.updates(&site.router_host)? >= before + 2)
        })
        .unwrap();
        assert_eq!(wait_established(&announcer).unwrap().flaps, 0);
    });
}

#[test]
fn a_restarted_router_gets_the_routes_again() {
    with_routers("router restart", &RouterPlan::default(), |kind, site| {
        let announcer = site.announce(0, |_| {}).unwrap();
        announcer.announce(&vips(), &[]).unwrap();
        site.wait_routed(&[0]).unwrap();
        let start = Instant::now();
        site.router.restart(&site.router_host).unwrap();
        wait_status(&announcer, "session is back", |it| {
            it.state == "Established" && it.flaps == 1
        })
        .unwrap();
        println!(
            "{kind:?}: session is back {:?} after the restart began",
            start.elapsed()
        );
        site.wait_routed(&[0]).unwrap();
    });
}

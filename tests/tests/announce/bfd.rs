//! BFD with the routers.

use std::time::{Duration, Instant};

use lab::announcer::{Announcer, PeerPlan};
use nix::sys::signal::Signal;

use crate::router::RouterPlan;
use crate::site::{Site, vips, wait_status, with_routers};

fn plan() -> RouterPlan {
    RouterPlan {
        bfd: true,
        ..RouterPlan::default()
    }
}

fn start(site: &Site, node: usize) -> Announcer {
    let with_bfd = |peer: &mut PeerPlan| peer.bfd = Some((100, 3));
    let announcer = site.announce(node, with_bfd).unwrap();
    announcer.announce(&vips(), &[]).unwrap();
    wait_up(&announcer);
    announcer
}

fn wait_up(announcer: &Announcer) {
    wait_status(announcer, "BGP and BFD are up", |it| {
        it.state == "Established" && it.bfd.as_deref() == Some("Up")
    })
    .unwrap();
}

#[test]
fn a_silent_node_is_withdrawn_and_comes_back() {
    with_routers("BFD, silent node", &plan(), |kind, site| {
        let first = start(site, 0);
        let mut second = start(site, 1);
        site.wait_routed(&[0, 1]).unwrap();
        let flaps = || first.status().unwrap()["router"].flaps;
        // A busy machine may end the other session too, but not each time.
        let is_alone = (0..4).any(|_| {
            let before = flaps();
            second.daemon().signal(Signal::SIGSTOP).unwrap();
            let took = site.wait_routed(&[0]).unwrap();
            println!("{kind:?}: a stopped announcer is out of the route in {took:?}");
            // Far below the hold time of 9 s: this was BFD.
            assert!(took < Duration::from_secs(3), "{took:?}");
            second.daemon().signal(Signal::SIGCONT).unwrap();
            let start = Instant::now();
            site.wait_routed(&[0, 1]).unwrap();
            println!(
                "{kind:?}: it is back {:?} after it runs again",
                start.elapsed()
            );
            wait_up(&second);
            wait_up(&first);
            flaps() == before
        });
        assert!(is_alone, "{} sessions of the other node ended", flaps());
    });
}

#[test]
fn a_dead_path_ends_the_session_and_the_reason_is_named() {
    with_routers("BFD, dead path", &plan(), |kind, site| {
        let announcer = start(site, 0);
        site.wait_routed(&[0]).unwrap();
        // The bridge port drops frames of both directions; nobody sees a link that is down.
        lab::link::ip(&site.router_host.ns, &["link set node0 nomaster"]).unwrap();
        let start = Instant::now();
        let status = wait_status(&announcer, "BFD has ended the session", |it| it.flaps == 1);
        println!("{kind:?}: a dead path is detected in {:?}", start.elapsed());
        let error = status.unwrap().last_error.unwrap();
        assert!(
            error.contains("BFD session went down: no packet from the peer for 300ms"),
            "{error}"
        );
        lab::link::ip(&site.router_host.ns, &["link set node0 master br0"]).unwrap();
        wait_up(&announcer);
        site.wait_routed(&[0]).unwrap();
    });
}

#[test]
fn a_stalled_runtime_does_not_end_the_session() {
    with_routers("BFD, stalled runtime", &plan(), |_, site| {
        let announcer = start(site, 0);
        site.wait_routed(&[0]).unwrap();
        let flaps = || announcer.status().unwrap()["router"].flaps;
        // A busy machine may stop BFD's thread for 300 ms too, but not each time.
        let holds = (0..4).any(|_| {
            let before = flaps();
            // Ten times the detection time, and less than the hold time.
            announcer.stall(Duration::from_secs(3)).unwrap();
            site.wait_routed(&[0]).unwrap();
            wait_up(&announcer);
            flaps() == before
        });
        assert!(holds, "{} sessions ended", flaps());
    });
}

#[test]
fn a_router_without_bfd_gets_routes_as_well() {
    with_routers("BFD only here", &RouterPlan::default(), |_, site| {
        let with_bfd = |peer: &mut PeerPlan| peer.bfd = Some((100, 3));
        let announcer = site.announce(0, with_bfd).unwrap();
        announcer.announce(&vips(), &[]).unwrap();
        site.wait_routed(&[0]).unwrap();
        let status = wait_status(&announcer, "BFD is down", |it| {
            it.bfd.as_deref() == Some("Down")
        });
        assert_eq!(status.unwrap().flaps, 0);
    });
}

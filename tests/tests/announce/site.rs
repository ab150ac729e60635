//! A router and two nodes on one segment.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use lab::announcer::{Announcer, AnnouncerPlan, PeerPlan, Status};
use lab::deadline;
use lab::host::Host;
use lab::link::ip;

use crate::router::{Kind, Router, RouterPlan};

/// Generous: routers wait some seconds between attempts.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const ROUTER_AS: u32 = 65000;
pub(crate) const NODE_AS: u32 = 65001;
pub(crate) const ROUTER_V4: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
pub(crate) const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 1);
const PROGRAM: &str = env!("CARGO_BIN_EXE_announcer");

/// A router in a namespace and hosts for nodes. Dropping it removes all of them.
pub(crate) struct Site {
    pub(crate) router: Router,
    pub(crate) router_host: Host,
    pub(crate) nodes: Vec<Host>,
}

pub(crate) fn node_v4(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 88, 0, 2 + node as u8)
}

pub(crate) fn node_v6(node: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 2 + node as u16)
}

/// Returns a VIP of each family.
pub(crate) fn vips() -> [IpAddr; 2] {
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);
    [Ipv4Addr::new(192, 0, 2, 1).into(), v6.into()]
}

impl Site {
    pub(crate) fn new(plan: &RouterPlan) -> Result<Self> {
        let router_host = Host::new("router")?;
        for (key, value) in [
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
            ("net.ipv4.fib_multipath_hash_policy", "1"),
            ("net.ipv6.fib_multipath_hash_policy", "1"),
        ] {
            router_host.ns.set_sysctl(key, value)?;
        }
        ip(
            &router_host.ns,
            &[
                "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0".to_owned(),
                format!("addr add {ROUTER_V4}/24 dev br0"),
                format!("addr add {ROUTER_V6}/64 dev br0 nodad"),
                "link set br0 up".to_owned(),
            ],
        )?;
        let nodes: Result<Vec<Host>> = (0..2).map(|it| connect(&router_host, it)).collect();
        Ok(Self {
            nodes: nodes?,
            router: Router::start(&router_host, plan)?,
            router_host,
        })
    }

    /// Starts an announcer on a node, with the router as its peer, changed by `change`.
    pub(crate) fn announce(
        &self,
        node: usize,
        change: impl FnOnce(&mut PeerPlan),
    ) -> Result<Announcer> {
        let mut peer = peer(node);
        change(&mut peer);
        let plan = AnnouncerPlan {
            peers: vec![peer],
            kernel: None,
        };
        Announcer::start(&self.nodes[node], PROGRAM, &plan)
    }

    /// Returns the next hops of the router's kernel route to an address; empty without a route.
    pub(crate) fn next_hops(&self, address: IpAddr) -> Result<BTreeSet<IpAddr>> {
        lab::router::next_hops(&self.router_host, address)
    }

    /// Waits until the router's kernel routes both VIPs to exactly these nodes, and returns how long
    /// that took.
    pub(crate) fn wait_routed(&self, nodes: &[usize]) -> Result<Duration> {
        let start = Instant::now();
        for vip in vips() {
            let expected: BTreeSet<IpAddr> = nodes
                .iter()
                .map(|node| match vip {
                    IpAddr::V4(_) => node_v4(*node).into(),
                    IpAddr::V6(_) => node_v6(*node).into(),
                })
                .collect();
            let what = format!("{vip} is routed to {expected:?}");
            let waited = deadline::until(&what, LIMIT, || Ok(self.next_hops(vip)? == expected));
            waited.with_context(|| self.router.log())?;
        }
        Ok(start.elapsed())
    }
}

/// Returns the router as a node's peer, over IPv4.
pub(crate) fn peer(node: usize) -> PeerPlan {
    PeerPlan {
        name: "router".to_owned(),
        address: ROUTER_V4.into(),
        remote_as: ROUTER_AS,
        local_as: NODE_AS,
        router_id: node_v4(node),
        password: None,
        ttl_security: false,
        bfd: None,
        next_hop_v4: Some(node_v4(node)),
        next_hop_v6: Some(node_v6(node)),
    }
}

pub(crate) fn connect(router: &Host, node: usize) -> Result<Host> {
    let host = Host::new(&format!("node-{node}"))?;
    ip(
        &router.ns,
        &[
            format!(
                "link add node{node} type veth peer name eth0 netns {}",
                host.ns.name()
            ),
            format!("link set node{node} master br0"),
            format!("link set node{node} up"),
        ],
    )?;
    ip(
        &host.ns,
        &[
            format!("addr add {}/24 dev eth0", node_v4(node)),
            format!("addr add {}/64 dev eth0 nodad", node_v6(node)),
            "link set eth0 up".to_owned(),
        ],
    )?;
    Ok(host)
}

/// Waits until the status of the router as a peer is as wanted, and returns it.
pub(crate) fn wait_status(
    announcer: &Announcer,
    what: &str,
    wanted: impl Fn(&Status) -> bool,
) -> Result<Status> {
    let mut last = None;
    let waited = deadline::poll(what, LIMIT, || {
        let status = announcer.status()?.remove("router").context("no status")?;
        last = Some(status.clone());
        Ok(wanted(&status).then_some(status))
    });
    waited.with_context(|| format!("{last:#?}"))
}

pub(crate) fn wait_established(announcer: &Announcer) -> Result<Status> {
    wait_status(announcer, "session is established", |it| {
        it.state == "Established" && it.acknowledged
    })
}

/// Waits until the session is established and its routes are sent, which is a moment later.
pub(crate) fn wait_sent(announcer: &Announcer, routes: usize) -> Result<Status> {
    wait_status(announcer, &format!("{routes} routes are sent"), |it| {
        it.state == "Established" && it.acknowledged && it.routes_sent == routes
    })
}

/// Runs a test with both routers.
pub(crate) fn with_routers(test: &str, plan: &RouterPlan, run: impl Fn(Kind, &mut Site)) {
    for kind in [Kind::Bird, Kind::Frr] {
        if lab::skip::can_run(&format!("{test} with {kind:?}"), kind.tools()) {
            let plan = RouterPlan {
                kind,
                ..plan.clone()
            };
            run(kind, &mut Site::new(&plan).unwrap());
        }
    }
}

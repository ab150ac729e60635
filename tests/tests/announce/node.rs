//! `evenkeel announce` beside a real data path and a real router: announced by proof, withdrawn by its loss.

mod boots;
mod monitoring;
mod thousand;
mod unreadable;
mod via_kernel;
mod warm;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use lab::balancer::{Balancer, binary, start_announce};
use lab::configuration::node_tables;
use lab::deadline;
use lab::host::Host;
use lab::link::ip;
use lab::nginx::Nginx;
use lab::process::{Daemon, output};
use lab::traffic::datagrams::Datagrams;
use lab::traffic::echo::EchoServer;
use lab::traffic::flows::{FlowLoad, FlowPlan, Transport};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::router::RouterPlan;
use crate::site::{
    LIMIT, NODE_AS, ROUTER_AS, ROUTER_V4, Site, connect, node_v4, vips, with_routers,
};

/// A balancer with its announcer, behind a router.
struct Node<'site> {
    site: &'site Site,
    host: &'site Host,
    balancer: Balancer<'site>,
    announcer: Daemon,
    text: String,
}

fn vip() -> IpAddr {
    vips()[0]
}

/// Announces to the router by BGP.
fn by_bgp(own: Ipv4Addr) -> String {
    format!(
        "local_as = {NODE_AS}
router_id = \"{own}\"

[[announce.peer]]
name = \"router\"
address = \"{ROUTER_V4}\"
peer_as = {ROUTER_AS}
bfd = true
# A busy machine must not end sessions: the router's interval is 100 ms.
bfd_interval = \"1s\"
"
    )
}

/// A VIP with one backend.
fn web(backend: Ipv4Addr) -> String {
    let vip = vip();
    format!(
        "
[[vip]]
name = \"web\"
address = \"{vip}\"
port = 80
protocol = \"tcp\"
forward = \"l2\"

[[vip.backend]]
name = \"web-1\"
address = \"{backend}\"
"
    )
}

/// The same address for datagrams.
fn datagrams(backend: Ipv4Addr) -> String {
    let text = web(backend).replace("\"web", "\"datagrams");
    text.replace("protocol = \"tcp\"", "protocol = \"udp\"")
}

/// The configuration of a node. `announce`: what follows in `[announce]`.
fn configuration(host: &Host, announce: &str, vips: &str) -> String {
    let folder = host.directory().display().to_string();
    format!(
        "{node}
[change]
bake = \"0s\"

[announce]
socket = \"{folder}/announce.sock\"
settle = \"1s\"
{announce}{vips}",
        node = node_tables(host.directory(), "generic"),
    )
}

impl<'site> Node<'site> {
    /// Starts a node with one backend that announces by BGP.
    fn start(site: &'site Site, number: usize, backend: Ipv4Addr) -> Result<Self> {
        Self::with(site, number, &by_bgp(node_v4(number)), &web(backend))
    }

    fn with(site: &'site Site, number: usize, announce: &str, vips: &str) -> Result<Self> {
        let host = &site.nodes[number];
        let text = configuration(host, announce, vips);
        let balancer = Balancer::new(host, &binary()?)?;
        balancer.write_configuration(&text)?;
        let announcer = start_announce(host, &balancer)?;
        let mut node = Self {
            site,
            host,
            balancer,
            announcer,
            text,
        };
        node.run()?;
        Ok(node)
    }

    /// Starts the controller.
    fn run(&mut self) -> Result<()> {
        let host = self.host;
        self.balancer.start(&self.text, || {
            lab::link::xdp_mode(&host.ns, "eth0").map(|it| it.is_some())
        })
    }

    /// Runs `evenkeel` with these arguments and the announcer's socket.
    fn ask(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.balancer.command();
        let socket = self.host.directory().join("announce.sock");
        command.args(arguments).arg("--socket").arg(socket);
        output(&self.host.ns.entry(), command, "")
    }

    fn state(&self) -> Result<Value> {
        Ok(serde_json::from_str(
            &self.ask(&["announce", "status", "--json"])?,
        )?)
    }

    /// Waits until the address has this state, and returns how long that took.
    fn wait_state(&self, wanted: &str) -> Duration {
        let start = Instant::now();
        let mut last = Value::Null;
        let waited = deadline::until(&format!("the VIP is {wanted}"), LIMIT, || {
            last = self.state()?;
            Ok(last["addresses"][0]["state"] == wanted)
        });
        waited.unwrap_or_else(|error| panic!("{error:#}: {last:#}"));
        start.elapsed()
    }

    /// Waits until the router has a route to the VIP, or none, and returns how long that took.
    fn wait_route(&self, wanted: bool) -> Duration {
        let start = Instant::now();
        let what = if wanted {
            "a route to the VIP"
        } else {
            "no route to the VIP"
        };
        let waited = deadline::until(what, LIMIT, || {
            Ok(self.site.next_hops(vip())?.is_empty() != wanted)
        });
        waited.unwrap_or_else(|error| panic!("{error:#}: {:#?}", self.state()));
        start.elapsed()
    }

    /// Fetches a page of the VIP from the router.
    fn get(&self) -> Result<String> {
        self.get_within("5")
    }

    fn get_within(&self, seconds: &str) -> Result<String> {
        let mut curl = Command::new("curl");
        let url = format!("http://{}/1k", vip());
        curl.args(["--silent", "--show-error", "--max-time", seconds, &url]);
        output(&self.site.router_host.ns.entry(), curl, "")
    }

    fn unload(&self) {
        self.balancer.unload().unwrap();
    }
}

/// A web server on the second host, which has the VIP.
fn serve(site: &Site) -> Result<Nginx> {
    site.nodes[1].hold_vip(vip())?;
    Nginx::start(&site.nodes[1], &["0.0.0.0:80".parse()?])
}

fn plan() -> RouterPlan {
    RouterPlan {
        bfd: true,
        ..RouterPlan::default()
    }
}

#[test]
fn a_vip_is_announced_while_it_is_forwarded() {
    with_routers("announce by proof", &plan(), |kind, site| {
        let mut nginx = serve(site).unwrap();
        let mut node = Node::start(site, 0, node_v4(1)).unwrap();
        node.wait_route(true);
        deadline::until("a page through router and node", LIMIT, || {
            Ok(node.get().is_ok())
        })
        .unwrap();
        let why = node.ask(&["announce", "why", "web"]).unwrap();
        assert!(why.contains("announced: yes"), "{why}");
        println!("{}{why}", node.ask(&["announce", "status"]).unwrap());

        // No backend forwards: withdrawn at once, and the reason is told.
        let operator = node.balancer.operator();
        operator
            .run(&[
                "backend",
                "disable",
                "web-1",
                "--force",
                "nothing_left",
                "--force",
                "min_backends",
                "--no-wait",
            ])
            .unwrap()
            .assert_code(0);
        let took = node.wait_route(false);
        println!("{kind:?}: without a backend, the route is gone {took:?} after the command");
        let why = node.state().unwrap().to_string();
        assert!(why.contains("NO_MEMBER"), "{why}");
        operator
            .run(&["backend", "undrain", "web-1", "--no-wait"])
            .unwrap()
            .assert_code(0);
        node.wait_route(true);

        // A killed controller withdraws nothing, and traffic goes on.
        node.balancer.kill();
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(node.state().unwrap()["addresses"][0]["state"], "announced");
        node.get().unwrap();

        // The data path is removed.
        node.unload();
        let took = node.wait_route(false);
        println!("{kind:?}: data path removed: the route is gone after {took:?}");
        // Far below the hold time.
        assert!(took < Duration::from_secs(3), "{took:?}");
        node.run().unwrap();
        node.wait_route(true);
        let status = node.state().unwrap();
        assert_eq!(
            status["peers"][0]["flaps"], 0,
            "no session ended: {status:#}"
        );

        // The orderly end withdraws first.
        node.announcer.signal(Signal::SIGTERM).unwrap();
        node.wait_route(false);
        nginx.daemon().check_running().unwrap();
    });
}

#[test]
fn a_drained_node_loses_no_request_and_stays_drained() {
    with_routers("drain a node", &plan(), |kind, site| {
        let _nginx = serve(site).unwrap();
        let mut node = Node::start(site, 0, node_v4(1)).unwrap();
        node.wait_route(true);
        deadline::until("a page through router and node", LIMIT, || {
            Ok(node.get().is_ok())
        })
        .unwrap();
        let drain = node.ask(&["node", "drain"]).unwrap();
        assert!(drain.contains("being drained"), "{drain}");
        assert_eq!(node.state().unwrap()["addresses"][0]["state"], "worse");
        let shown = site.router.show(&site.router_host, "192.0.2.1/32").unwrap();
        println!("{}", node.ask(&["announce", "status"]).unwrap());
        assert!(
            shown.contains("graceful-shutdown") || shown.contains("(65535,0)"),
            "{kind:?}: {shown}"
        );
        while !site.next_hops(vip()).unwrap().is_empty() {
            if let Err(error) = node.get() {
                // The route may just have gone.
                assert!(site.next_hops(vip()).unwrap().is_empty(), "{error:#}");
            }
        }
        node.ask(&["node", "drain", "--wait"]).unwrap();
        // A restart does not bring it back.
        node.announcer.terminate(LIMIT).unwrap();
        node.announcer = start_announce(&site.nodes[0], &node.balancer).unwrap();
        node.wait_state("withheld");
        std::thread::sleep(Duration::from_secs(3));
        assert!(site.next_hops(vip()).unwrap().is_empty());
        node.ask(&["node", "undrain"]).unwrap();
        let took = node.wait_route(true);
        println!("{kind:?}: undrained: the route is back after {took:?}");
    });
}

/// Two nodes share a route; one is drained and comes back. No connection breaks, and no packet is lost.
#[test]
fn a_drained_node_breaks_no_connection() {
    const FLOWS: usize = 1000;
    with_routers("drain one of two nodes", &plan(), |kind, site| {
        let backend = connect(&site.router_host, 2).unwrap();
        backend.hold_vip(vip()).unwrap();
        let to = SocketAddr::new(vip(), 80);
        let _server = EchoServer::start(&backend, &[to]).unwrap();
        let nodes = [0, 1].map(|number| {
            let vips = web(node_v4(2)) + &datagrams(node_v4(2));
            Node::with(site, number, &by_bgp(node_v4(number)), &vips).unwrap()
        });
        let wait_nodes = |number: usize| {
            let what = format!("a route over {number} nodes");
            deadline::until(&what, LIMIT, || Ok(site.next_hops(vip())?.len() == number)).unwrap();
        };
        wait_nodes(2);
        let flows = FlowPlan {
            pause: Duration::from_millis(200),
            ..FlowPlan::new(Transport::Tcp, to, FLOWS)
        };
        let load = FlowLoad::start(&site.router_host, &flows).unwrap();
        load.wait_answers(1, LIMIT).unwrap();
        let packets = Datagrams::start(&site.router_host, to, 2000).unwrap();
        packets.wait_sent(1000, LIMIT).unwrap();
        for _ in 0..2 {
            nodes[1].ask(&["node", "drain", "--wait"]).unwrap();
            wait_nodes(1);
            load.wait_answers(3, LIMIT).unwrap();
            nodes[1].ask(&["node", "undrain"]).unwrap();
            wait_nodes(2);
            load.wait_answers(3, LIMIT).unwrap();
        }
        let packets = packets.stop();
        println!(
            "{kind:?}: {} of {} datagrams lost",
            packets.missing.len(),
            packets.sent
        );
        assert!(packets.sent > 10_000, "{}", packets.sent);
        assert_eq!((packets.missing, packets.errors), (vec![], vec![]));
        let report = load.stop();
        println!(
            "{kind:?}: {} answers of {FLOWS} connections",
            report.answers()
        );
        assert_eq!(report.broken().count(), 0, "{:?}", report.faults());
        let forwarded = nodes.each_ref().map(|node| {
            let status = node.balancer.operator().get("/v1/status").unwrap();
            status["vips"][0]["members"][0]["totals"]["packets"]
                .as_u64()
                .unwrap_or(0)
        });
        assert!(
            forwarded.iter().all(|packets| *packets > 100),
            "{forwarded:?}"
        );
    });
}

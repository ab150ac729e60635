//! VIPs whose backends come from DNS, SRV records or the API.

mod api;
mod changes;
mod dns;
mod failures;
mod names;
mod servers;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use lab::configuration::Forward;
use lab::dns::DnsServer;
use lab::service::{Kind, address};
use lab::topology::{Family, Lab};
use serde_json::Value;

use crate::site::{FORWARD, LIMIT, Site, build};

const VIP: &str = "sourced";

/// Returns whether the test can run here.
fn can_run(test: &str) -> bool {
    let tools = ["ip", "ethtool", "nginx", "curl", "dnsmasq"];
    lab::skip::can_run(&format!("controller sources {test}"), &tools)
}

/// A configuration with one VIP of the echo service over IPv4, and how its source is asked.
fn sourced(lab: &Lab, forward: Forward, source: &str, keys: &str) -> String {
    let at = address(lab, Kind::Echo, Family::V4);
    format!(
        "[sources]\ndns_servers = [\"{}\"]\ninterval_min = \"1s\"\ninterval_max = \"1s\"\ntimeout = \"500ms\"\n\n\
         [[vip]]\nname = \"{VIP}\"\naddress = \"{}\"\nport = {}\nprotocol = \"tcp\"\nforward = \"{}\"\n\
         backends_from = \"{source}\"\n{keys}",
        DnsServer::address(),
        at.ip(),
        at.port(),
        forward.name(),
    )
}

/// As [`sourced`], asked at several DNS servers.
fn sourced_of(lab: &Lab, servers: &[u8], forward: Forward, source: &str) -> String {
    let servers = servers.iter().map(|number| DnsServer::nth(*number));
    let servers: Vec<String> = servers.map(|server| format!("\"{server}\"")).collect();
    let one = format!("\"{}\"", DnsServer::address());
    sourced(lab, forward, source, "").replace(&one, &servers.join(", "))
}

/// Starts a site with this VIP only.
fn start<'lab>(lab: &'lab Lab, forward: Forward, source: &str, keys: &str) -> Site<'lab> {
    Site::start_with(lab, forward, |configuration| {
        configuration.vips.clear();
        configuration.more = sourced(lab, forward, source, keys);
    })
}

/// The IPv4 address of a backend.
fn backend(lab: &Lab, index: usize) -> IpAddr {
    lab.backends[index].address(Family::V4)
}

/// Records of one name with the addresses of these backends.
fn records<'a>(
    lab: &Lab,
    name: &'a str,
    backends: impl IntoIterator<Item = usize>,
) -> Vec<(&'a str, IpAddr)> {
    let backends = backends.into_iter();
    backends.map(|index| (name, backend(lab, index))).collect()
}

/// What a test reads about the VIP.
struct Observed(Value);

impl Observed {
    fn of(site: &Site<'_>) -> Self {
        Self(site.operator.get("/v1/status").unwrap())
    }

    fn source(&self) -> &Value {
        &self.0["sources"][0]
    }

    /// The addresses of members in a state, sorted.
    fn members(&self, state: &str) -> Vec<String> {
        self.members_of(0, state)
    }

    /// The same of another VIP.
    fn members_of(&self, vip: usize, state: &str) -> Vec<String> {
        let members = self.0["vips"][vip]["members"].as_array().unwrap().iter();
        let of_state = members.filter(|member| member["state"] == state);
        let mut all: Vec<String> = of_state
            .map(|member| member["address"].as_str().unwrap().to_owned())
            .collect();
        all.sort();
        all
    }

    /// The share of the ring of each member that is up.
    fn shares(&self) -> Vec<f64> {
        let members = self.0["vips"][0]["members"].as_array().unwrap().iter();
        let up = members.filter(|member| member["state"] == "up");
        up.map(|member| member["table_share"].as_f64().unwrap())
            .collect()
    }
}

/// Waits until something is so, and returns what was observed then.
#[track_caller]
fn wait(site: &Site<'_>, what: &str, is_so: impl Fn(&Observed) -> bool) -> Observed {
    let mut last = Observed::of(site);
    let waited = lab::deadline::until(what, LIMIT, || {
        last = Observed::of(site);
        Ok(is_so(&last))
    });
    waited.unwrap_or_else(|error| panic!("{error:#}: {:#}\n{}", last.0, site.node.balancer.log()));
    last
}

/// Waits until exactly these backends get new flows.
#[track_caller]
fn wait_up(site: &Site<'_>, backends: impl IntoIterator<Item = usize>) -> Observed {
    let backends = backends.into_iter();
    let mut wanted: Vec<String> = backends
        .map(|index| backend(site.lab, index).to_string())
        .collect();
    wanted.sort();
    let what = format!("{wanted:?} are up");
    wait(site, &what, |observed| observed.members("up") == wanted)
}

/// Checks for some time that exactly these backends get new flows.
#[track_caller]
fn assert_stay_up(site: &Site<'_>, backends: impl IntoIterator<Item = usize>, time: Duration) {
    let backends = backends.into_iter();
    let wanted: Vec<String> = backends
        .map(|index| backend(site.lab, index).to_string())
        .collect();
    let end = Instant::now() + time;
    while Instant::now() < end {
        let observed = Observed::of(site);
        assert_eq!(observed.members("up"), wanted, "{:#}", observed.0);
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The messages of events of a kind.
fn events(site: &Site<'_>, kind: &str) -> Vec<String> {
    let events = site.operator.get("/v1/events").unwrap();
    let events = events.as_array().unwrap().iter();
    let of_kind = events.filter(|event| event["kind"] == kind);
    of_kind
        .map(|event| event["message"].as_str().unwrap().to_owned())
        .collect()
}

//! 2. A drained backend becomes idle although clients reuse ports.
//!
//! A client with few ports opens a connection from a port whose previous one is still in the tracking table or
//! has a session. The previous one is closed, so the new one goes to the ring's member.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use lab::configuration::Forward;
use lab::deadline::until;
use lab::service::{Kind, address, vip_name};
use lab::topology::{Family, Layout};

use crate::site::{LIMIT, Site, WEIGHTS, build};

/// The client's ports: a few hundred, reused within a second.
const PORTS: &str = "20000 20199";
const DRAINED: &str = "backend-0";
/// Clients that make one request after the other.
const CLIENTS: usize = 4;
/// Requests before the drain, so that each port is used several times.
const BEFORE: u64 = 2_000;

/// Counts of successful and failed requests.
#[derive(Default)]
pub(crate) struct Requests {
    pub(crate) answered: AtomicU64,
    pub(crate) failed: AtomicU64,
    ended: AtomicBool,
}

impl Requests {
    pub(crate) fn run(&self, to: SocketAddr) {
        while !self.ended.load(Relaxed) {
            match request(to) {
                Ok(()) => self.answered.fetch_add(1, Relaxed),
                Err(error) => {
                    eprintln!("request failed: {error}");
                    self.failed.fetch_add(1, Relaxed)
                }
            };
        }
    }
}

/// Stops the requests, also when the test panics; otherwise the scope would wait for their threads.
pub(crate) struct Ending<'a>(pub(crate) &'a Requests);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Relaxed);
    }
}

/// Makes a request on a connection that the server closes, so that the client can reuse its port at once.
fn request(to: SocketAddr) -> std::io::Result<()> {
    let mut connection = TcpStream::connect_timeout(&to, LIMIT)?;
    connection.set_read_timeout(Some(LIMIT))?;
    connection.write_all(b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    if answer.starts_with(b"HTTP/1.1 200") {
        Ok(())
    } else {
        Err(std::io::ErrorKind::InvalidData.into())
    }
}

fn drains(layout: Layout, forward: Forward) {
    let lab = build(layout);
    let mut site = Site::start_kind(&lab, forward, Kind::Web);
    let client = &lab.clients[0];
    client
        .ns
        .set_sysctl("net.ipv4.ip_local_port_range", PORTS)
        .unwrap();
    client.ns.set_sysctl("net.ipv4.tcp_tw_reuse", "1").unwrap();
    let operator = site.node.operator();
    until("the controller answers", LIMIT, || {
        Ok(operator.controller().is_some())
    })
    .unwrap();
    let to = address(&lab, Kind::Web, Family::V4);
    let path = format!("{}/{DRAINED}", vip_name(Kind::Web, Family::V4));
    let requests = Requests::default();
    thread::scope(|scope| {
        let _ending = Ending(&requests);
        for _ in 0..CLIENTS {
            scope.spawn(|| client.ns.enter(|| requests.run(to)));
        }
        let at_least = |count| {
            let enough = || Ok(requests.answered.load(Relaxed) >= count);
            until("requests are answered", 2 * LIMIT, enough).unwrap();
        };
        at_least(BEFORE);
        let used = site.new_flows_of(Kind::Web, Family::V4);
        assert!(
            used.len() == WEIGHTS.len() && used.values().all(|&count| count > 100),
            "{used:?}"
        );
        let said = operator.drain(&path, "40s").unwrap();
        let meanwhile = site.new_flows_of(Kind::Web, Family::V4);
        println!(
            "{forward:?}: exit {} after {:?}, {} requests; new flows before {used:?}, then {meanwhile:?}",
            said.code,
            said.took,
            requests.answered.load(Relaxed),
        );
        said.assert_code(0);
        // Idle while the others had many requests, and stays idle.
        at_least(requests.answered.load(Relaxed) + BEFORE / 2);
        let later = site.new_flows_of(Kind::Web, Family::V4);
        assert_eq!(later[DRAINED], meanwhile[DRAINED], "{later:?}");
    });
    assert_eq!(requests.failed.load(Relaxed), 0);
    site.check_health();
}

fn can_run(test: &str) -> bool {
    let tools = ["ip", "ethtool", "nginx"];
    lab::skip::can_run(&format!("invariants {test}"), &tools)
}

#[test]
fn a_drain_of_l2_ends_although_ports_are_reused() {
    if can_run("drain of l2") {
        drains(Layout::OneArm, Forward::L2);
    }
}

#[test]
fn a_drain_of_ipip_ends_although_ports_are_reused() {
    if can_run("drain of ipip") {
        drains(Layout::TwoArm, Forward::Ipip);
    }
}

#[test]
fn a_drain_of_nat_ends_although_ports_are_reused() {
    if can_run("drain of nat") {
        drains(Layout::TwoArm, Forward::Nat);
    }
}

//! Routes for the routing daemon of the same host.

use std::net::IpAddr;
use std::time::Instant;

use lab::announcer::{Announcer, AnnouncerPlan};
use lab::deadline;
use lab::host::Host;
use lab::link::{ip, ip_output};
use lab::router::bird::{Bird, general};

use crate::site::{LIMIT, node_v4, vips};

const TABLE: u32 = 1088;
const DEVICE: &str = "evenkeel-vip";

fn start(host: &Host) -> Announcer {
    let plan = AnnouncerPlan {
        peers: Vec::new(),
        kernel: Some((DEVICE.to_owned(), TABLE)),
    };
    Announcer::start(host, env!("CARGO_BIN_EXE_announcer"), &plan).unwrap()
}

/// Returns the destinations in the table.
fn table(host: &Host) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for family in ["-4", "-6"] {
        let arguments = format!("{family} -json route show table {TABLE}");
        // A table without routes does not exist.
        let Ok(text) = ip_output(&host.ns, &arguments) else {
            continue;
        };
        let routes: serde_json::Value = serde_json::from_str(&text).unwrap();
        let routes = routes.as_array().unwrap().iter();
        found.extend(routes.filter_map(|it| it["dst"].as_str()?.parse::<IpAddr>().ok()));
    }
    found
}

fn wait_table(host: &Host, expected: &[IpAddr]) {
    let what = format!("table {TABLE} has {expected:?}");
    deadline::until(&what, LIMIT, || Ok(table(host) == expected)).unwrap();
}

#[test]
fn bird_learns_the_routes_and_loses_them_with_the_process() {
    if !lab::skip::can_run("routes for BIRD", &["ip", "bird", "birdc"]) {
        return;
    }
    let host = Host::new("node").unwrap();
    let mut text = general(&host, node_v4(0));
    for family in ["ipv4", "ipv6"] {
        text += &format!(
            "{family} table vips_{family};
             protocol kernel kernel_{family} {{ kernel table {TABLE}; learn; scan time 1;
               {family} {{ table vips_{family}; import all; export none; }}; }}\n"
        );
    }
    let bird = Bird::start(&host, &text).unwrap();
    let knows = |vip: IpAddr| -> anyhow::Result<bool> {
        let family = if vip.is_ipv4() { "ipv4" } else { "ipv6" };
        let shown = bird.command(&host, &format!("show route table vips_{family}"))?;
        Ok(shown.contains(&vip.to_string()))
    };
    let wait = |expected: bool| {
        let start = Instant::now();
        for vip in vips() {
            let what = format!("BIRD knows {vip}: {expected}");
            deadline::until(&what, LIMIT, || Ok(knows(vip)? == expected)).unwrap();
        }
        start.elapsed()
    };
    let mut announcer = start(&host);
    announcer.announce(&vips(), &[]).unwrap();
    println!("BIRD has learnt the routes in {:?}", wait(true));
    announcer.announce(&[], &[]).unwrap();
    println!("BIRD has lost withdrawn routes in {:?}", wait(false));
    announcer.announce(&vips(), &[]).unwrap();
    wait(true);
    announcer.daemon().kill();
    println!(
        "BIRD has lost the routes of a killed process in {:?}",
        wait(false)
    );
    assert!(ip_output(&host.ns, &format!("link show {DEVICE}")).is_err());
}

#[test]
fn the_table_is_repaired_and_other_routes_are_left_alone() {
    if !lab::skip::can_run("repair of the table", &["ip"]) {
        return;
    }
    let host = Host::new("node").unwrap();
    let announcer = start(&host);
    announcer.announce(&vips(), &[]).unwrap();
    wait_table(&host, &vips());
    let other: IpAddr = "198.51.100.7".parse().unwrap();
    ip(
        &host.ns,
        &[
            format!("route add {other} dev lo table {TABLE}"),
            format!("route add 198.51.100.8 dev {DEVICE} table {TABLE}"),
            format!("route del {} dev {DEVICE} table {TABLE}", vips()[0]),
        ],
    )
    .unwrap();
    wait_table(&host, &[vips()[0], other, vips()[1]]);
    // When the device goes down, the kernel removes its routes.
    ip(&host.ns, &[format!("link set {DEVICE} down")]).unwrap();
    wait_table(&host, &[vips()[0], other, vips()[1]]);
    assert!(announcer.stop().unwrap().success());
    wait_table(&host, &[other]);
}

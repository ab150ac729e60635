//! Whatever fails, the members stay.

use std::time::{Duration, Instant};

use lab::dns::DnsServer;

use super::*;

/// Longer than two answers need to count.
const LONG: Duration = Duration::from_secs(5);

#[track_caller]
fn assert_fails(site: &Site<'_>, has: &str) {
    let failing = wait(site, has, |observed| {
        let error = observed.source()["error"].as_str().unwrap_or_default();
        error.contains(has)
    });
    let failures = failing.source()["failures"].as_u64().unwrap();
    assert!(failures >= 1, "{:#}", failing.0);
    assert_stay_up(site, 0..3, LONG);
}

#[test]
fn failures_of_any_kind_keep_the_members() {
    if !can_run("failures") {
        return;
    }
    let lab = build();
    let mut dns = DnsServer::start(&lab.balancers[0], &records(&lab, "echo", 0..3)).unwrap();
    let mut site = start(&lab, FORWARD, "dns:echo.lab", "");
    wait_up(&site, 0..3);
    let all = records(&lab, "echo", 0..3);

    dns.set(&[]).unwrap();
    assert_fails(&site, "echo.lab: no such name (NXDOMAIN)");
    let status = site.operator.run(&["status"]).unwrap().assert_code(0).out;
    assert!(status.contains("no such name"), "{status}");
    wait(&site, "an alert fires", |observed| {
        let alerts = observed.0["alerts"].as_array().unwrap().iter();
        alerts
            .clone()
            .any(|alert| alert["kind"] == "source_failing")
    });

    dns.set(&[("echo", lab.backends[0].address(Family::V6))])
        .unwrap();
    assert_fails(&site, "echo.lab: no IPv4 addresses (no data)");

    dns.refuse().unwrap();
    assert_fails(&site, "127.0.0.1:5300: REFUSED");

    dns.set(&all).unwrap();
    dns.restart(&[]).unwrap();
    wait(&site, "it answers again", |observed| {
        observed.source()["error"].is_null()
    });
    dns.freeze().unwrap();
    assert_fails(&site, "127.0.0.1:5300: no reply within 500ms");
    dns.thaw().unwrap();
    wait(&site, "it answers again", |observed| {
        observed.source()["error"].is_null()
    });

    dns.stop();
    assert_fails(&site, "echo.lab: ");

    // The controller starts while no DNS server is there.
    site.node.stop().unwrap();
    site.node.restart().unwrap();
    assert_stay_up(&site, 0..3, LONG);
    // And after a reboot, where only files remain.
    site.node.kill();
    site.node.balancer.unload().unwrap();
    site.node.restart().unwrap();
    assert_stay_up(&site, 0..3, LONG);
    assert_eq!(site.revisions().len(), 1, "no revision is made");
    site.check_health();
}

#[test]
fn a_node_starts_without_dns_and_takes_the_first_answer() {
    if !can_run("start without DNS") {
        return;
    }
    let lab = build();
    let mut dns = DnsServer::start(&lab.balancers[0], &records(&lab, "echo", 0..3)).unwrap();
    dns.freeze().unwrap();
    let begun = Instant::now();
    let site = start(&lab, FORWARD, "dns:echo.lab", "");
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    let without = Observed::of(&site);
    assert_eq!(without.0["vips"][0]["members"].as_array().unwrap().len(), 0);
    wait(&site, "alerts fire", |observed| {
        let alerts = observed.0["alerts"].as_array().unwrap().iter();
        alerts.filter(|alert| alert["vip"] == VIP).count() > 0
    });
    dns.thaw().unwrap();
    wait_up(&site, 0..3);
    let flows = site.open_ipv4(50);
    flows.assert_alive("after the first answer");
    drop(flows);
    dns.stop();
}

#[test]
fn an_answer_with_an_impossible_member_is_refused() {
    if !can_run("impossible members") {
        return;
    }
    let lab = build();
    let mut dns = DnsServer::start(&lab.balancers[0], &records(&lab, "echo", 0..3)).unwrap();
    let site = start(&lab, FORWARD, "dns:echo.lab", "");
    wait_up(&site, 0..3);
    let vip = address(&lab, Kind::Echo, Family::V4).ip();
    for (address, has) in [
        (vip, "the address is that of a VIP"),
        ("127.0.0.1".parse().unwrap(), "a loopback address"),
    ] {
        let mut with = records(&lab, "echo", 0..4);
        with.push(("echo", address));
        dns.set(&with).unwrap();
        let refused = wait(&site, has, |observed| {
            let error = observed.source()["error"].as_str().unwrap_or_default();
            error.contains(has) && error.contains(&address.to_string())
        });
        assert_eq!(refused.members("up").len(), 3);
    }
}

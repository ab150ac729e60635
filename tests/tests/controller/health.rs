//! Backends fail, recover, are drained and restarted under continuous requests.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use lab::configuration::{Configuration, Health};
use lab::deadline::until;
use lab::link::ip;
use lab::service::{Kind, vip_name};
use lab::topology::Family;
use lab::traffic::flows::Fault;
use lab::traffic::http::HttpReport;

use crate::site::{BACKENDS, Flows, LIMIT, Site, browse, build, can_run, pages};

fn web() -> String {
    vip_name(Kind::Web, Family::V4)
}

fn checked(via: &'static str) -> impl FnOnce(&mut Configuration) {
    move |configuration| configuration.vip(&web()).health = Some(Health::new("http", via))
}

fn share(site: &Site<'_>, backend: usize) -> f64 {
    site.node.shares(&web()).unwrap()[backend].table
}

/// Waits until a backend has slots, or has none.
fn wait_share(site: &Site<'_>, backend: usize, serves: bool) {
    let what = format!("backend {backend} has slots: {serves}");
    let waited = until(&what, LIMIT, || Ok((share(site, backend) > 0.0) == serves));
    waited.unwrap_or_else(|error| panic!("{error:#}\n{}", site.node.balancer.log()));
}

/// Waits until every backend is healthy.
fn wait_healthy(site: &Site<'_>) {
    until("all backends are well", LIMIT, || {
        let vip = site.operator.get(&format!("/v1/vips/{}", web()))?;
        let members = vip["members"].as_array().unwrap();
        let mut found = members.iter().map(|member| &member["health"]["healthy"]);
        Ok(found.all(|healthy| healthy == true))
    })
    .unwrap();
    for backend in 0..BACKENDS {
        wait_share(site, backend, true);
    }
}

fn assert_none_failed(when: &str, report: &HttpReport) {
    assert_eq!(report.failed, 0, "{when}: {report:?}");
    assert!(report.requests > 0, "{when}");
}

fn fail_and_revive(via: &'static str) {
    let lab = build();
    let mut site = Site::start(&lab, checked(via));
    wait_healthy(&site);
    let client = &lab.clients[0];
    let report = pages(client, &lab, 400);
    assert_none_failed("all are well", &report);
    assert_eq!(report.per_backend.len(), BACKENDS, "{report:?}");
    let flows = site.open(50);

    site.servers.kill_nginx(1);
    wait_share(&site, 1, false);
    let report = pages(client, &lab, 400);
    assert_none_failed("one is down", &report);
    assert_eq!(report.per_backend.get("backend-1"), None, "{report:?}");
    assert_eq!(report.per_backend.len(), BACKENDS - 1, "{report:?}");
    flows.assert_alive("one is down");

    site.servers.restart_nginx(&lab, 1).unwrap();
    wait_share(&site, 1, true);
    let report = pages(client, &lab, 400);
    assert_none_failed("it is back", &report);
    assert!(report.per_backend["backend-1"] > 0, "{report:?}");
    flows.assert_alive("it is back");
    drop(flows);
    if via == "vip" {
        lose_the_address(&site);
    }
    // Events report what happened.
    let events = site
        .operator
        .run(&["events", "--json"])
        .unwrap()
        .assert_code(0);
    for word in ["backend-1 is down", "backend-1 is up"] {
        assert!(events.out.contains(word), "{word}: {}", events.out);
    }
    site.check_health();
}

/// A backend without the VIP on its loopback is healthy at its own address but useless. Only a check through
/// the VIP finds that.
fn lose_the_address(site: &Site<'_>) {
    let log = site.node.balancer.log();
    assert!(
        !log.contains("can't send health checks through the VIP"),
        "{log}"
    );
    let host = &site.lab.backends[2];
    let vip = site.lab.vip(Family::V4, 1);
    ip(&host.ns, &[format!("addr del {vip}/32 dev lo")]).unwrap();
    wait_share(site, 2, false);
    until("the difference is named", LIMIT, || {
        let vip = site.operator.get(&format!("/v1/vips/{}", web()))?;
        let error = vip["members"][2]["health"]["last_error"].as_str();
        Ok(error.is_some_and(|error| error.contains("it answers directly")))
    })
    .unwrap();
    let report = pages(&site.lab.clients[0], site.lab, 200);
    assert_none_failed("one lacks the address", &report);
    host.hold_vip(vip).unwrap();
    wait_share(site, 2, true);
}

/// Waits until all flows of a backend were reset by others, and asserts that no other flow was.
fn wait_lost(flows: &Flows, backend: &str) {
    let what = format!("the flows of {backend} end");
    until(&what, LIMIT, || {
        let mut all = flows.0.iter().flat_map(|load| load.snapshot().flows);
        Ok(all.all(|flow| flow.backend.as_deref() != Some(backend) || flow.fault.is_some()))
    })
    .unwrap();
    for flow in flows.0.iter().flat_map(|load| load.snapshot().flows) {
        let expected = flow.backend.as_deref() == Some(backend);
        let is_reset = matches!(flow.fault, Some(Fault::Reset(_)));
        assert_eq!(
            (flow.fault.is_some(), is_reset),
            (expected, expected),
            "{flow:?}"
        );
    }
}

/// Without checks, its flows would stay with it until they end: a UDP flow never does.
#[test]
fn a_removed_backend_that_dies_loses_its_flows() {
    if !can_run("removed backend dies") {
        return;
    }
    let lab = build();
    let name = vip_name(Kind::Echo, Family::V4);
    let mut site = Site::start(&lab, |configuration| {
        configuration.vip(&name).health = Some(Health::new("tcp", "direct"));
    });
    until("all backends are well", LIMIT, || {
        let shares = site.node.shares(&name)?;
        Ok(shares.iter().all(|share| share.table > 0.0))
    })
    .unwrap();
    let mut flows = site.open(50);
    // Those over IPv6 have no checks.
    flows.0.truncate(1);
    assert_eq!(flows.backends().len(), BACKENDS);
    site.node
        .reload(|c| c.vip(&name).backends.retain(|b| b.name != "backend-1"))
        .unwrap();
    flows.assert_alive("a backend was removed");
    let host = &lab.backends[1];
    let interface = &host.ports[0].interface;
    ip(&host.ns, &[format!("link set {interface} down")]).unwrap();
    wait_lost(&flows, "backend-1");
}

/// A backend that was removed too early is cut off by its name.
#[test]
fn a_removed_backend_can_be_disabled() {
    if !can_run("removed backend is disabled") {
        return;
    }
    let lab = build();
    let name = vip_name(Kind::Echo, Family::V4);
    let mut site = Site::start(&lab, |_| {});
    let mut flows = site.open(50);
    flows.0.truncate(1);
    site.node
        .reload(|c| c.vip(&name).backends.retain(|b| b.name != "backend-1"))
        .unwrap();
    flows.assert_alive("a backend was removed");
    let path = format!("{name}/backend-1");
    let disable = ["backend", "disable", &path, "--bake", "0s"];
    site.operator.run(&disable).unwrap().assert_code(0);
    wait_lost(&flows, "backend-1");
    let remove = ["backend", "remove", &path, "--bake", "0s"];
    site.operator.run(&remove).unwrap().assert_code(0);
    let vip = site.operator.get(&format!("/v1/vips/{name}")).unwrap();
    let states: Vec<_> = vip["members"].as_array().unwrap().iter().collect();
    assert!(
        states
            .iter()
            .all(|member| member["backend"] != "backend-1" || member["state"] == "leaving"),
        "{states:?}"
    );
}

#[test]
fn checks_through_the_vip_exclude_a_dead_backend() {
    if can_run("health via the VIP") {
        fail_and_revive("vip");
    }
}

#[test]
fn direct_checks_exclude_a_dead_backend() {
    if can_run("health direct") {
        fail_and_revive("direct");
    }
}

#[test]
fn restarting_all_backends_fails_no_request() {
    if !can_run("rolling restart") {
        return;
    }
    let lab = build();
    let mut site = Site::start(&lab, checked("vip"));
    wait_healthy(&site);
    let flows = site.open(50);
    let stop = AtomicBool::new(false);
    let report = std::thread::scope(|scope| {
        let browsing = scope.spawn(|| browse(&lab, &stop));
        // Stopped also when a step panics; otherwise the scope would wait for ever.
        let _ending = OnDrop(|| stop.store(true, Ordering::Relaxed));
        for index in 0..BACKENDS {
            let path = format!("{}/backend-{index}", web());
            let said = site.operator.drain(&path, "60s").unwrap().assert_code(0);
            println!("backend-{index} was idle after {:?}", said.took);
            assert_eq!(share(&site, index), 0.0);
            site.servers.kill_nginx(index);
            site.servers.restart_nginx(&lab, index).unwrap();
            let undrain = ["backend", "undrain", &path];
            site.operator.run(&undrain).unwrap().assert_code(0);
            wait_healthy(&site);
        }
        stop.store(true, Ordering::Relaxed);
        browsing.join().unwrap()
    });
    println!("rolling restart: {report:?}");
    assert_none_failed("rolling restart", &report);
    assert_eq!(report.per_backend.len(), BACKENDS, "{report:?}");
    flows.assert_alive("all were restarted");
    assert_eq!(site.assert_settled("at the end"), 1 + 2 * BACKENDS as u64);
    drop(flows);
    site.check_health();
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}

/// A drain whose flows do not end times out and breaks none of them.
#[test]
fn a_drain_waits_for_existing_flows() {
    if !can_run("drain") {
        return;
    }
    let lab = build();
    let mut site = Site::start(&lab, |_| {});
    let flows = site.open(100);
    let said = site
        .operator
        .drain("backend-0", "6s")
        .unwrap()
        .assert_code(1);
    assert!(said.err.contains("not idle"), "{said:?}");
    flows.assert_alive("drained");
    // New flows go to other backends.
    let later = site.open(100);
    assert!(
        !later.backends().contains("backend-0"),
        "{:?}",
        later.backends()
    );
    assert!(flows.backends().contains("backend-0"));
    drop(flows);
    let said = site
        .operator
        .drain("backend-0", "60s")
        .unwrap()
        .assert_code(0);
    assert!(said.out.contains("backend-0 is idle"), "{said:?}");
    later.assert_alive("idle");
    site.assert_settled("at the end");
    drop(later);
    site.check_health();
}

/// Measures the time from a failed probe to the ring without the member.
#[test]
fn a_failed_probe_swaps_the_ring() {
    if !can_run("latency of health") {
        return;
    }
    let lab = build();
    let mut site = Site::start(&lab, checked("vip"));
    wait_healthy(&site);
    for round in 0..3 {
        let killed_at = SystemTime::now();
        site.servers.kill_nginx(2);
        let begun = Instant::now();
        while share(&site, 2) > 0.0 {
            assert!(begun.elapsed() < LIMIT, "{}", site.node.balancer.log());
            std::thread::sleep(Duration::from_millis(1));
        }
        let swapped_at = SystemTime::now();
        let mut told = None;
        until("it is told", LIMIT, || {
            told = last_down(&site.node.balancer.log(), round);
            Ok(told.is_some())
        })
        .unwrap();
        let (logged_at, took_ms) = told.unwrap();
        let failed_at = logged_at - Duration::from_secs_f64(took_ms / 1e3);
        println!(
            "round {round}: {:?} after it died the last probe failed; {took_ms:.1} ms later the ring \
             was swapped; seen {:?} after that probe",
            failed_at.duration_since(killed_at),
            swapped_at.duration_since(failed_at),
        );
        assert!(killed_at < failed_at, "a probe that failed before it died");
        assert!(failed_at < swapped_at, "swapped before the probe failed");
        site.servers.restart_nginx(&lab, 2).unwrap();
        wait_healthy(&site);
    }
    site.check_health();
}

/// Returns when the controller logged that the backend went down for the `n`-th time, and how many
/// milliseconds after the probe.
fn last_down(log: &str, n: usize) -> Option<(SystemTime, f64)> {
    let mut lines = log.lines().filter(|line| line.contains("backend is down"));
    let line = lines.nth(n)?;
    let took = line.split("took_ms=").nth(1)?.split(' ').next()?;
    let time: jiff::Timestamp = line.split_whitespace().next()?.parse().ok()?;
    Some((time.into(), took.parse().ok()?))
}

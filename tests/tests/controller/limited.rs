//! Traffic under limits: clients get through floods that the limits catch, and the operator learns of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lab::configuration::Configuration;
use lab::deadline::until;
use lab::prometheus::scrape;
use lab::service::{Kind, address, vip_name};
use lab::topology::Family;
use lab::traffic::flood::{Forged, flood};
use lab::traffic::http::{HttpLoad, HttpPlan, HttpReport};
use serde_json::Value;

use crate::site::{LIMIT, Site, build, can_run};

/// What sends [`Forged::OneSource`].
const ATTACKER: &str = "198.18.0.1";
/// A packet of it.
const FLOW: &str = "tcp 198.18.0.1:4000 > 192.0.2.1:80";
/// Length of a flood.
const FLOOD: Duration = Duration::from_secs(6);
const EVERY: Duration = Duration::from_millis(100);
/// Segments of a request and its reply that a backend receives, at most.
const SEGMENTS: u64 = 20;

fn web() -> String {
    vip_name(Kind::Web, Family::V4)
}

/// Applies a configuration with these limits.
fn set(site: &Site<'_>, name: &str, limit: &str) {
    let configuration = site.changed(|configuration: &mut Configuration| {
        configuration.vip(&web()).limit = limit.to_owned();
    });
    let file = site.write(&format!("{name}.toml"), &configuration);
    let applied = site.operator.run(&["apply", file.to_str().unwrap()]);
    applied.unwrap().assert_code(0);
}

/// Floods the web service with SYNs until `stop`: as many as possible at once, then a pause. Returns how many.
fn attack(
    site: &Site<'_>,
    forged: Forged,
    (at_once, pause): (u64, Duration),
    stop: &AtomicBool,
) -> u64 {
    let lab = site.lab;
    let (client, gateway) = (&lab.clients[0], &lab.balancers[0].ports[0]);
    let to = (address(lab, Kind::Web, Family::V4), forged);
    let mut sent = 0;
    for seed in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        sent += flood(client, gateway, to, seed, at_once, FLOOD)
            .unwrap()
            .sent;
        std::thread::sleep(pause);
    }
    sent
}

/// Ten new clients per second until the deadline.
fn visit(site: &Site<'_>, duration: Duration) -> HttpReport {
    let url = format!("http://{}/", address(site.lab, Kind::Web, Family::V4));
    let mut plan = HttpPlan::new(url, 1);
    plan.limit = Duration::from_secs(20);
    let begun = Instant::now();
    let mut visits = Vec::new();
    while begun.elapsed() < duration {
        visits.push(HttpLoad::start(&site.lab.clients[0], &plan).unwrap());
        std::thread::sleep(EVERY);
    }
    let mut all = HttpReport::default();
    for visit in visits {
        all.add(&visit.finish().unwrap());
    }
    all
}

/// TCP segments that the backends received.
fn segments(site: &Site<'_>) -> u64 {
    let received = site.lab.backends.iter().map(|backend| {
        let text = backend.ns.read_proc_net("snmp").unwrap();
        let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let mut columns = names.split(' ').zip(values.split(' '));
        let found = columns.find(|(name, _)| *name == "InSegs");
        found.unwrap().1.parse::<u64>().unwrap()
    });
    received.sum()
}

/// A metric of the web service.
fn metric(site: &Site<'_>, name: &str, limit: Option<&str>) -> Option<f64> {
    let limit = limit.map_or_else(String::new, |limit| format!("limit={limit:?},"));
    let series = format!("evenkeel_vip_{name}{{{limit}vip={:?}}} ", web());
    let page = scrape(&site.lab.balancers[0]).ok()?;
    let mut values = page.lines().filter_map(|line| line.strip_prefix(&series));
    values.next()?.parse().ok()
}

fn alert(site: &Site<'_>) -> Option<Value> {
    let alerts = site.operator.get("/v1/alerts").unwrap();
    let mut alerts = alerts.as_array().unwrap().iter();
    alerts.find(|alert| alert["kind"] == "limit").cloned()
}

fn wait_alert(site: &Site<'_>, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    until(what, LIMIT, || {
        Ok(alert(site).is_some_and(|alert| is(&alert)))
    })
    .unwrap_or_else(|error| panic!("{error:#}: {:?}", alert(site)));
    alert(site).unwrap()
}

/// Runs `during` while an attack goes on. Returns the number of SYNs.
fn attacked(site: &Site<'_>, forged: Forged, pace: (u64, Duration), during: impl FnOnce()) -> u64 {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let attack = scope.spawn(|| attack(site, forged, pace, &stop));
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(during));
        stop.store(true, Ordering::Relaxed);
        let sent = attack.join().unwrap();
        caught.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        sent
    })
}

/// As fast as it can.
const FAST: (u64, Duration) = (200_000, Duration::ZERO);
/// What the filter of first SYNs is made for: fewer than 200,000 SYNs per second.
const FILTERED: (u64, Duration) = (20_000, Duration::from_millis(100));
/// What the backends can bear.
const SLOW: (u64, Duration) = (200, Duration::from_millis(200));

#[test]
fn clients_get_through_floods_that_limits_catch() {
    if !can_run("limited floods") {
        return;
    }
    let lab = build();
    let mut site = Site::start(&lab, |_| {});
    counts(&site);
    drops_a_source(&site);
    drops_first_syns(&site);
    let firing = wait_alert(&site, "the alert is clearing", |alert| {
        !alert["resolves_at"].is_null()
    });
    assert_eq!(firing["severity"], "warning", "{firing}");
    keeps_counters(&mut site);
    site.servers.check_running().unwrap();
}

/// Nothing is dropped, and the operator learns whom the limit would hit.
fn counts(site: &Site<'_>) {
    let limit = "source = { new_flows = 50, on_excess = \"count\" }";
    set(site, "count", limit);
    let before = segments(site);
    let sent = attacked(site, Forged::OneSource, SLOW, || {
        let alert = wait_alert(site, "an alert", |_| true);
        assert_eq!(alert["severity"], "info", "{alert}");
        let text = alert.to_string();
        assert!(
            text.contains(ATTACKER) && text.contains("only counted"),
            "{text}"
        );
    });
    let arrived = segments(site) - before;
    assert!(arrived >= sent, "{arrived} of {sent} arrived");
    let reasons = site.node.reasons().unwrap();
    assert!(!reasons.contains_key("SOURCE_FLOW_LIMIT"), "{reasons:?}");
}

/// One source that sends SYNs as fast as it can.
fn drops_a_source(site: &Site<'_>) {
    set(site, "drop", "source = { new_flows = 50 }");
    let before = segments(site);
    let begun = Instant::now();
    let mut visits = HttpReport::default();
    let sent = attacked(site, Forged::OneSource, FAST, || {
        visits = visit(site, FLOOD);
        let alert = wait_alert(site, "a warning", |alert| alert["severity"] == "warning");
        let text = alert.to_string();
        assert!(
            text.contains(ATTACKER) && text.contains("are dropped"),
            "{text}"
        );
        let status = site.operator.run(&["status"]).unwrap().assert_code(0).out;
        let status = status.split_whitespace().collect::<Vec<_>>().join(" ");
        // Whenever the flood pauses, the source has a new flow to its credit.
        until("explain names the limit", LIMIT, || {
            let explained = site.operator.run(&["explain", "--syn", FLOW])?;
            let explained = explained.assert_code(0).out;
            Ok(explained.contains("over the limit of its source"))
        })
        .unwrap();
        assert!(
            status.contains("new flows/s over the limit of sources (drop)")
                && status.contains(ATTACKER),
            "{status}"
        );
    });
    let (arrived, seconds) = (segments(site) - before, begun.elapsed().as_secs());
    println!("one source: {sent} SYNs in {seconds} s, {arrived} segments arrived, {visits:?}");
    assert!(visits.failed * 100 <= visits.requests, "{visits:?}");
    let admitted = 50 * (seconds + 2);
    assert!(
        arrived <= admitted + SEGMENTS * visits.requests,
        "{arrived} of {sent} arrived"
    );
    assert!(sent > 100 * admitted, "{sent} SYNs: the test shows nothing");
    // The metrics are updated every second.
    until("the metrics are those of the kernel", LIMIT, || {
        let reasons = site.node.reasons()?;
        let counted = metric(site, "limited_packets_total", Some("source_new_flows"));
        // Those that were only counted have no reason.
        Ok(counted >= Some(reasons["SOURCE_FLOW_LIMIT"] as f64))
    })
    .unwrap();
}

/// Forged sources, each of which sends one SYN.
fn drops_first_syns(site: &Site<'_>) {
    set(
        site,
        "second-syn",
        "new_flows = 100, on_excess = \"second_syn\"",
    );
    let before = segments(site);
    let begun = Instant::now();
    let mut visits = HttpReport::default();
    let sent = attacked(site, Forged::Syn, FILTERED, || visits = visit(site, FLOOD));
    let (arrived, seconds) = (segments(site) - before, begun.elapsed().as_secs());
    let passed = metric(site, "second_syns_total", None);
    println!(
        "forged sources: {sent} SYNs in {seconds} s, {arrived} segments arrived, {visits:?}, {passed:?} second SYNs"
    );
    assert!(visits.failed * 100 <= visits.requests, "{visits:?}");
    // The filter takes fewer than one in a thousand for a retransmission, at this rate.
    let admitted = 100 * (seconds + 2) + sent / 1000;
    assert!(
        arrived <= admitted + SEGMENTS * visits.requests,
        "{arrived} of {sent} arrived"
    );
    assert!(sent > 20 * admitted, "{sent} SYNs: the test shows nothing");
}

/// Counters continue after a restart, also with another name of the VIP.
fn keeps_counters(site: &mut Site<'_>) {
    let all = |site: &Site<'_>| {
        let names = ["source_new_flows", "new_flows"];
        let mut values = names
            .map(|limit| metric(site, "limited_packets_total", Some(limit)))
            .to_vec();
        values.extend(
            ["first_syns_dropped_total", "second_syns_total"].map(|name| metric(site, name, None)),
        );
        values
    };
    let before = all(site);
    assert!(before.iter().all(|value| *value > Some(0.0)), "{before:?}");
    site.node.kill();
    site.node.restart().unwrap();
    until("the counters are there", LIMIT, || {
        Ok(all(site)[0].is_some())
    })
    .unwrap();
    assert_eq!(all(site), before);
}

//! Traffic over a bound: a heavy source spills, nobody fails, and the operator learns of it.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use lab::deadline::until;
use lab::prometheus::scrape;
use lab::service::{Kind, vip_name};
use lab::topology::{Family, Lab, Layout, Plan};
use lab::traffic::http::HttpReport;
use serde_json::Value;

use crate::{
    metrics::apply,
    site::{BACKENDS, LIMIT, Site, can_run, pages},
};

/// The first client opens most connections.
const CLIENTS: u8 = 9;
const HEAVY: &str = "10.77.0.10";

fn web() -> String {
    vip_name(Kind::Web, Family::V4)
}

/// Requests of the heavy client, and of the others, until `stop`.
fn load(lab: &Lab, stop: &AtomicBool) -> HttpReport {
    let until_stopped = |each: &dyn Fn(&mut HttpReport)| {
        let mut report = HttpReport::default();
        while !stop.load(Ordering::Relaxed) {
            each(&mut report);
            std::thread::sleep(Duration::from_millis(50));
        }
        report
    };
    std::thread::scope(|scope| {
        let heavy =
            scope.spawn(|| until_stopped(&|report| report.add(&pages(&lab.clients[0], lab, 40))));
        let mut others = until_stopped(&|report| {
            for client in &lab.clients[1..] {
                report.add(&pages(client, lab, 2));
            }
        });
        others.add(&heavy.join().unwrap());
        others
    })
}

/// Sum of a counter of the web service.
fn counter(site: &Site<'_>, name: &str) -> Option<f64> {
    let page = scrape(&site.lab.balancers[0]).ok()?;
    let vip = format!("vip={:?}}} ", web());
    let samples = page.lines().filter(|line| line.starts_with(name));
    let values = samples.filter_map(|line| Some(line.split_once(&vip)?.1));
    let values: Option<Vec<f64>> = values.map(|value| value.parse().ok()).collect();
    values
        .filter(|values| !values.is_empty())
        .map(|values| values.iter().sum())
}

fn alerts(site: &Site<'_>) -> Vec<Value> {
    let alerts = site.operator.get("/v1/alerts").unwrap();
    alerts.as_array().unwrap().clone()
}

fn wait_alert(site: &Site<'_>, kind: &str) -> Value {
    let find = || alerts(site).into_iter().find(|alert| alert["kind"] == kind);
    until(&format!("an alert {kind}"), LIMIT, || Ok(find().is_some()))
        .unwrap_or_else(|error| panic!("{error:#}: {:?}", alerts(site)));
    find().unwrap()
}

#[test]
fn a_heavy_source_spills_and_is_named() {
    if !can_run("bounded load") {
        return;
    }
    let lab = Lab::build(Plan {
        backends: BACKENDS as u8,
        clients: CLIENTS,
        ..Plan::new(Layout::OneArm)
    })
    .unwrap();
    let mut site = Site::start(&lab, |_| {});
    // The share monitor learns faster what is usual.
    let bounded = "protocol = \"tcp\"\naffinity = \"source\"\nbound = { factor = 1.25 }\n\
                   skew = { short = \"3s\", long = \"30s\" }";
    apply(&site, &[("protocol = \"tcp\"", bounded)]);
    let stop = AtomicBool::new(false);
    let report = std::thread::scope(|scope| {
        let load = scope.spawn(|| load(&lab, &stop));
        let caught = catch_unwind(AssertUnwindSafe(|| observe(&site)));
        stop.store(true, Ordering::Relaxed);
        let report = load.join().unwrap();
        caught.unwrap_or_else(|panic| resume_unwind(panic));
        report
    });
    println!("{report:?}");
    assert_eq!(report.failed, 0, "{report:?}");
    keeps_counters(&mut site);
    site.check_health();
}

/// What the operator sees while the load runs.
fn observe(site: &Site<'_>) {
    let spilling = wait_alert(site, "bound");
    println!("{spilling:#}");
    assert_eq!(spilling["severity"], "warning", "{spilling}");
    let cause = spilling["cause"].as_str().unwrap();
    assert!(cause.starts_with(HEAVY), "{spilling}");
    let [full] = &spilling["backends"].as_array().unwrap()[..] else {
        panic!("{spilling}")
    };
    let full = full.as_str().unwrap();
    // The clients are skewed, and that is what the share monitor says of the backend of the ring.
    let skewed = wait_alert(site, "share_skew");
    println!("{skewed:#}");
    assert_eq!(skewed["backends"], serde_json::json!([full]), "{skewed}");
    assert!(
        skewed["cause"].as_str().unwrap().contains(HEAVY),
        "{skewed}"
    );
    let status = site.operator.get("/v1/status").unwrap();
    let vips = status["vips"].as_array().unwrap();
    let vip = vips.iter().find(|vip| vip["name"] == web()).unwrap();
    let bound = &vip["bound"];
    println!("{bound:#}");
    assert_eq!(
        (&bound["factor"], &bound["capacity"]),
        (&1.25.into(), &false.into())
    );
    assert!(bound["spilled"].as_f64() > Some(0.1), "{bound}");
    assert_eq!(bound["spilling"][0]["backend"], full, "{bound}");
    assert_eq!(bound["spilling"][0]["source"]["source"], HEAVY, "{bound}");
    for member in vip["members"].as_array().unwrap() {
        let observed = member["observed_share"].as_f64().unwrap();
        assert!(observed < 1.5 / BACKENDS as f64, "{member}");
    }
    let text = site.operator.run(&["status"]).unwrap().assert_code(0).out;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = format!("% of new flows spilled, from {full}");
    assert!(
        text.contains("bound: factor 1.25; ") && text.contains(&line),
        "{text}"
    );
    // Nobody else is to blame.
    let blamed: BTreeSet<String> = alerts(site)
        .iter()
        .map(|alert| format!("{} {} {}", alert["kind"], alert["vip"], alert["backends"]))
        .collect();
    let expected = ["bound", "share_skew"].map(|kind| format!("{kind:?} {:?} [{full:?}]", web()));
    assert_eq!(blamed, expected.into());
}

/// The metrics continue after a restart.
fn keeps_counters(site: &mut Site<'_>) {
    let names = ["spilled", "received"].map(|what| format!("evenkeel_member_{what}_flows_total"));
    let both = |site: &Site<'_>| names.each_ref().map(|name| counter(site, name));
    let mut before = both(site);
    until("all flows are counted", LIMIT, || {
        std::thread::sleep(Duration::from_secs(2));
        let last = std::mem::replace(&mut before, both(site));
        Ok(last == before && before[0] == before[1] && before[0] > Some(100.0))
    })
    .unwrap_or_else(|error| panic!("{error:#}: {:?}", both(site)));
    assert_eq!(counter(site, "evenkeel_vip_bound_factor"), Some(1.25));
    let unplaced = counter(site, "evenkeel_vip_bound_unplaced_flows_total");
    assert_eq!(unplaced, Some(0.0));
    site.node.kill();
    site.node.restart().unwrap();
    until("the counters are there", LIMIT, || {
        Ok(both(site)[0].is_some())
    })
    .unwrap();
    assert_eq!(both(site), before);
}

//! Metrics of a live node: counters never decrease, and the documented queries and rules work in Prometheus.

use std::collections::BTreeMap;

use lab::balancer::binary;
use lab::configuration::{Configuration, Forward};
use lab::deadline::until;
use lab::prometheus::{Prometheus, scrape};
use lab::service::{Kind, vip_name};
use lab::topology::{Family, Lab};
use serde_json::Value;

use crate::site::{BACKENDS, LIMIT, Site, build, can_run, pages};

fn web() -> String {
    vip_name(Kind::Web, Family::V4)
}

/// Counters of the controller's own work, which restart with it.
const OF_THE_PROCESS: [&str; 6] = [
    "process_cpu_seconds_total",
    "evenkeel_changes_total",
    "evenkeel_ring_builds_total",
    "evenkeel_ring_build_seconds_total",
    "evenkeel_alert_notifications_total",
    "evenkeel_alert_notifications_superseded_total",
];

/// Returns all counters by series.
fn counters(lab: &Lab) -> BTreeMap<String, f64> {
    // There are no metrics while the controller starts.
    let page = scrape(&lab.balancers[0]).unwrap_or_default();
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    let pairs = samples.filter_map(|line| line.rsplit_once(' '));
    let counters =
        pairs.filter(|(series, _)| series.split('{').next().unwrap().ends_with("_total"));
    counters
        .map(|(series, value)| (series.to_owned(), value.parse().unwrap()))
        .collect()
}

/// Panics if a counter is less than before, or missing although it was not zero.
#[track_caller]
fn assert_grew(
    when: &str,
    before: &BTreeMap<String, f64>,
    now: &BTreeMap<String, f64>,
    restarted: bool,
) {
    for (series, was) in before {
        let name = series.split('{').next().unwrap_or_default();
        let of_the_process = OF_THE_PROCESS.contains(&name);
        if restarted && of_the_process {
            continue;
        }
        let is = now.get(series).copied().unwrap_or(0.0);
        assert!(is >= *was, "{when}: {series} went from {was} to {is}");
    }
}

#[test]
fn counters_never_decrease() {
    if !can_run("counters_never_decrease") {
        return;
    }
    let lab = build();
    let mut site = Site::start(&lab, |_| {});
    let requests = || assert_eq!(pages(&lab.clients[0], &lab, 40).failed, 0);
    let flows = format!("evenkeel_vip_new_flows_total{{vip={:?}}}", web());
    let mut before = BTreeMap::new();
    // Everything that could reset a counter, with traffic between.
    let mut check = |when: &str, restarted: bool| {
        let had = before.get(&flows).copied().unwrap_or(0.0);
        requests();
        // The metrics are updated every second.
        until("the page has the new flows", LIMIT, || {
            Ok(counters(&lab)
                .get(&flows)
                .is_some_and(|is| *is >= had + 40.0))
        })
        .unwrap();
        let now = counters(&lab);
        assert_grew(when, &before, &now, restarted);
        before = now;
    };
    check("at first", false);
    let do_it = |site: &Site<'_>, arguments: &[&str]| {
        site.operator.run(arguments).unwrap().assert_code(0);
    };
    do_it(&site, &["backend", "drain", "backend-0"]);
    check("the ring was swapped", false);
    do_it(&site, &["backend", "undrain", "backend-0"]);
    check("the ring was swapped back", false);
    let address = lab.backends[1].address(Family::V4).to_string();
    let member = format!("{}/backend-1", web());
    do_it(&site, &["backend", "remove", &member]);
    check("a member left", false);
    do_it(&site, &["backend", "add", &member, &address]);
    check("it returned", false);
    site.node.stop().unwrap();
    requests();
    site.node.restart().unwrap();
    check("the controller was restarted", true);
    site.node.kill();
    requests();
    site.node.restart().unwrap();
    check("the controller was killed", true);
    let new_binary = lab.balancers[0].directory().join("evenkeel-new");
    std::fs::copy(binary().unwrap(), &new_binary).unwrap();
    site.node.stop().unwrap();
    site.node.balancer.set_binary(&new_binary);
    site.node.restart().unwrap();
    check("it was upgraded", true);
    site.check_health();
}

/// Applies the present configuration with replacements.
pub(crate) fn apply(site: &Site<'_>, changes: &[(&str, &str)]) {
    let folder = lab_folder(site);
    let mut text = Configuration::to_toml(site.node.configuration(), folder);
    for (old, new) in changes {
        assert!(text.contains(old), "{old} is not in\n{text}");
        text = text.replace(old, new);
    }
    let file = folder.join("changed.toml");
    std::fs::write(&file, text).unwrap();
    site.operator
        .run(&["apply", file.to_str().unwrap()])
        .unwrap()
        .assert_code(0);
}

fn lab_folder<'lab>(site: &Site<'lab>) -> &'lab std::path::Path {
    site.lab.balancers[0].directory()
}

/// Parts of dashboard queries that are empty on a healthy node.
const EMPTY_IF_HEALTHY: [&str; 5] = [
    "member_healthy",
    "member_damped",
    "next_hop_known",
    "fate!=\"sent\"",
    "unplaced_flows",
];

/// Returns all queries of the dashboard, for any node and VIP.
fn dashboard() -> Vec<String> {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../deploy/grafana/evenkeel.json"
    );
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels
        .filter_map(|panel| panel["targets"].as_array())
        .flatten();
    let query = |target: &Value| {
        let query = target["expr"].as_str().unwrap();
        let query = query.replace("$__rate_interval", "10s");
        query.replace("$instance", ".*").replace("$vip", ".*")
    };
    targets.map(query).collect()
}

/// Returns the query for autoscalers of `docs/monitoring.md`, for this VIP.
fn scaling_query(vip: &str) -> String {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/monitoring.md");
    let page = std::fs::read_to_string(file).unwrap();
    let (_, rest) = page.split_once("```promql\n").unwrap();
    let (query, _) = rest.split_once("```").unwrap();
    query.replace("\"api\"", &format!("{vip:?}"))
}

#[test]
fn documented_queries_and_rules_work_in_prometheus() {
    if !can_run("prometheus") || !lab::skip::can_run("controller prometheus", &["prometheus"]) {
        return;
    }
    let lab = build();
    let mut site = Site::start(&lab, |_| {});
    // Flows from one source that exceed the capacity of four backends with 5 per second each, a limit, and a
    // bound.
    apply(
        &site,
        &[
            ("weight = 100", "weight = 100\ncapacity = 5"),
            (
                "protocol = \"tcp\"",
                "protocol = \"tcp\"\naffinity = \"source\"\n\
                 limit = { source = { new_flows = 1, on_excess = \"count\" } }\n\
                 bound = { factor = 1.05 }",
            ),
        ],
    );
    let prometheus = Prometheus::start(&lab.balancers[0]).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let browsing = scope.spawn(|| crate::site::browse(&lab, &stop));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            check_queries(&prometheus);
        }));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        browsing.join().unwrap();
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    site.check_health();
}

fn check_queries(prometheus: &Prometheus<'_>) {
    let fires = |alert: &str| {
        until(&format!("{alert} fires"), LIMIT, || {
            Ok(prometheus.firing()?.iter().any(|name| name == alert))
        })
        .unwrap_or_else(|error| panic!("{error:#}: {:?}", prometheus.firing()));
    };
    fires("EvenkeelShareOffTable");
    fires("EvenkeelNoHeadroom");
    fires("EvenkeelWantsBackends");
    let quiet: Vec<String> = dashboard()
        .into_iter()
        .filter(|query| !EMPTY_IF_HEALTHY.iter().any(|word| query.contains(word)))
        .filter(|query| prometheus.query(query).unwrap().is_empty())
        .collect();
    // Without health checks there are no durations, and without `[announce]` nothing is announced.
    let of_others = ["check_duration", "evenkeel_announce"];
    assert!(
        quiet
            .iter()
            .all(|query| of_others.iter().any(|word| query.contains(word))),
        "queries of the dashboard without a result: {quiet:#?}"
    );
    let value = |query: &str| prometheus.value(query).unwrap();
    let vip = web();
    let wanted = value(&scaling_query(&vip)).unwrap();
    let recorded = value(&format!("vip:evenkeel_wanted_backends:max{{vip={vip:?}}}")).unwrap();
    for wanted in [wanted, recorded] {
        assert!(wanted > 4.0, "{wanted} backends are wanted");
    }
    let own = value(&format!("evenkeel_vip_wanted_backends{{vip={vip:?}}}")).unwrap();
    assert!(own > 4.0, "the node wants {own}");
}

#[test]
fn reports_the_ports_of_nat_in_use() {
    if !can_run("reports_the_ports_of_nat_in_use") {
        return;
    }
    let lab = build();
    let site = Site::start_with(&lab, Forward::Nat, |_| {});
    let sums = || -> anyhow::Result<[u64; 3]> {
        let status = site.operator.get("/v1/status")?;
        let vips = status["vips"].as_array().into_iter().flatten();
        let members = vips.flat_map(|vip| vip["members"].as_array().into_iter().flatten());
        let ports: Vec<&Value> = members.map(|member| &member["nat_ports"]).collect();
        Ok(["in_use", "over", "total"].map(|key| {
            let numbers = ports.iter().filter_map(|ports| ports[key].as_u64());
            numbers.sum()
        }))
    };
    let total = 3 * BACKENDS as u64 * 16_384;
    let wait = |expected: [u64; 3]| {
        let waited = until("ports are counted", LIMIT, || Ok(sums()? == expected));
        waited.unwrap_or_else(|error| panic!("{error:#}: {:?}", sums()));
    };
    wait([0, 0, total]);
    let flows = site.open(20);
    wait([40, 0, total]);
    let page = scrape(&lab.balancers[0]).unwrap();
    let samples = page
        .lines()
        .filter(|line| line.starts_with("evenkeel_member_nat_ports_in_use{"));
    let in_use = samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
    assert_eq!(in_use.sum::<u64>(), 40);
    flows.0.into_iter().for_each(|load| drop(load.stop()));
    wait([0, 40, total]);
}

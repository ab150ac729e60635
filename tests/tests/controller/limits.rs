//! Limits that traffic suggests, and what a plan says that limits and bounds would have done.

use std::sync::atomic::{AtomicBool, Ordering};

use lab::deadline::until;
use lab::service::{Kind, vip_name};
use lab::topology::Family;
use serde_json::Value;

use crate::site::{LIMIT, Site, browse, build, can_run};

#[test]
fn limits_follow_from_traffic() {
    if !can_run("limits") {
        return;
    }
    let lab = build();
    let mut site = Site::start(&lab, |_| {});
    let web = vip_name(Kind::Web, Family::V4);
    let suggestion = || {
        let path = format!("/v1/limits/suggest?vip={web}");
        Ok::<Value, anyhow::Error>(site.operator.get(&path)?[0].clone())
    };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let browsing = scope.spawn(|| browse(&lab, &stop));
        let seen = until("a window with traffic has ended", LIMIT, || {
            Ok(suggestion()?["seen"]["peak_new_flows_per_s"].as_f64() > Some(10.0))
        });
        stop.store(true, Ordering::Relaxed);
        seen.unwrap();
        browsing.join().unwrap();
    });
    let suggested = suggestion().unwrap();
    let seen = &suggested["seen"];
    assert_eq!(seen["sources"], 1, "{suggested}");
    let busiest = &seen["busiest_by_new_flows"];
    assert_eq!(busiest["source"], "10.77.0.10", "{suggested}");
    let rates = [&seen["peak_new_flows_per_s"], &busiest["new_flows_per_s"]];
    let [all, own] = rates.map(|rate| rate.as_f64().unwrap());
    assert!(own > 0.5 * all && own < 1.5 * all, "{suggested}");

    // The VIP is the last one of the file.
    let text = site
        .node
        .configuration()
        .to_toml(lab.balancers[0].directory());
    let plan = |limits: &str| {
        let file = lab.balancers[0].directory().join("limits.toml");
        std::fs::write(&file, format!("{text}\n{limits}")).unwrap();
        let arguments = ["plan", file.to_str().unwrap()];
        let text = site.operator.run(&arguments).unwrap().assert_code(2).out;
        // Without the line breaks.
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let text = plan(suggested["toml"].as_str().unwrap());
    assert!(
        text.contains("would have limited nobody (1 source seen)"),
        "{text}"
    );
    let text = plan("[vip.limit.source]\nnew_flows = 1");
    assert!(text.contains("would have limited 1 of 1 source:"), "{text}");
    assert!(text.contains("10.77.0.10 (new flows: "), "{text}");
    // One client with many flows is no skew.
    let text = plan("[vip.bound]\nfactor = 2");
    let none = "bound: none of the new flows of the last minute would have spilled";
    assert!(text.contains(none), "{text}");
    // The keys of the last backend end the file.
    let text = plan("capacity = 1\n[vip.bound]\ncapacity = true");
    assert!(text.contains("would have spilled, all from "), "{text}");
    assert!(text.contains("/s, capacity 1/s)"), "{text}");
    site.check_health();
}

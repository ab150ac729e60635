//! Conditions, recorded changes, and the cost of one second.

use std::{sync::Arc, time::Instant};

mod fleet;
mod flows;
pub(in crate::engine) mod samples;
mod sources;

use super::{
    conditions::{Conditions, changed_lines},
    *,
};
use lb_skew::{Affected, Finding, Kind};

fn finding(cause: Cause, raised_s: f64) -> Finding {
    Finding {
        kind: Kind::Concentration,
        severity: lb_skew::Severity::Critical,
        members: vec![Affected {
            name: "b0".into(),
            ratio: 3.9,
            observed_share: 0.97,
            expected_share: 0.25,
            z: 40.0,
        }],
        since_s: 10.0,
        raised_s,
        cause,
        evidence: vec!["numbers".to_owned()],
        bounded: false,
    }
}

#[test]
fn an_explained_finding_stays_explained() {
    let mut conditions = Conditions::default();
    let known = finding(Cause::Revision { number: 2 }, 13.0);
    let reported = conditions.update(13.0, &[("api", &known)], |_, _| None);
    assert_eq!(reported[0].key, "skew:api:revision:2");
    assert_eq!(reported[0].revision, Some(2));
    // After a rollback nothing explains it any more, and it takes a while to end.
    let unknown = finding(Cause::Unknown, 13.0);
    for second in 0..5 {
        let again = conditions.update(20.0 + f64::from(second), &[("api", &unknown)], |_, _| None);
        assert_eq!(again, reported);
    }
    assert!(conditions.update(30.0, &[], |_, _| None).is_empty());
}

#[test]
fn moved_shares_are_known_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let side = |share: f64| {
        serde_json::json!({
            "weight": 100, "state": "up", "eligible": true, "intended_share": share, "table_share": share,
        })
    };
    let member = |backend: &str, before: f64, after: f64| {
        serde_json::json!({
            "backend": backend, "address": "10.0.0.1", "before": side(before), "after": side(after),
            "predicted_new_flows_per_s": 0.0, "capacity": null,
        })
    };
    let vip = serde_json::json!({
        "vip": "api", "action": "changed", "ring_size": 65537, "slots_moved": 47186, "new_flows_per_s": 0.0,
        "peak_new_flows_per_s": 0.0, "settings": [], "guards": [],
        "members": [member("b0", 0.25, 0.97), member("b1", 0.25, 0.01)],
    });
    let plan = serde_json::json!({
        "base": 6, "verdict": "allowed", "vips": [vip], "other": [],
    });
    let plan: Plan = serde_json::from_value(plan).unwrap();
    let mut monitor = ShareMonitor::new(folder.path(), Histories::default());
    monitor.changed(7, &plan);
    let before = monitor.changes.newest("api", 100.0).unwrap();
    drop(monitor);
    let next = ShareMonitor::new(folder.path(), Histories::default());
    let after = next.changes.newest("api", 100.0).unwrap();
    assert_eq!((after.revision, &after.moved), (7, &before.moved));
    assert!((after.at_s - before.at_s).abs() < 5.0);
    assert_eq!(next.changes.before("api", 7, "b0"), Some(0.25));
    // Undone, it explains nothing, for the next controller neither.
    let mut next = next;
    next.changes.forget(7);
    assert_eq!(
        ShareMonitor::new(folder.path(), Histories::default())
            .changes
            .newest("api", 100.0),
        None
    );
    // A damaged file only makes causes less certain.
    std::fs::write(folder.path().join("changes.json"), "{").unwrap();
    assert_eq!(
        ShareMonitor::new(folder.path(), Histories::default())
            .changes
            .newest("api", 100.0),
        None
    );
}

#[test]
fn an_unexplained_finding_waits_for_an_explanation() {
    let mut conditions = Conditions::default();
    let unknown = finding(Cause::Unknown, 13.0);
    assert!(
        conditions
            .update(14.0, &[("api", &unknown)], |_, _| None)
            .is_empty()
    );
    let reported = conditions.update(16.0, &[("api", &unknown)], |_, _| None);
    assert_eq!(reported[0].key, "skew:api:unknown");
}

#[test]
fn a_cause_quotes_the_changed_lines_of_its_vip() {
    let text = |sample: u32, a: u32, b: u32| {
        let vip = |name: &str, weight: u32| {
            format!(
                "[[vip]]\naddress = \"192.0.2.1\"\nname = \"{name}\"\n[vip.guard]\nmax_moved = 1\n\
                 [[vip.backend]]\nname = \"other\"\nweight = {weight}\n"
            )
        };
        format!(
            "[node]\nsample = {sample}\n{}{}",
            vip("api", a),
            vip("web", b)
        )
    };
    let changed = |new: &str, vip: &str| changed_lines(&text(1, 100, 100), new, vip);
    let both = text(2, 10_000, 5);
    let node = "`-sample = 1` `+sample = 2`";
    assert_eq!(
        changed(&both, "api"),
        format!("{node} `-weight = 100` `+weight = 10000`")
    );
    assert_eq!(
        changed(&both, "web"),
        format!("{node} `-weight = 100` `+weight = 5`")
    );
    assert_eq!(changed(&text(1, 100, 7), "api"), "");
}

#[test]
fn an_older_revision_does_not_take_over_the_blame() {
    let mut conditions = Conditions::default();
    let by = |number| finding(Cause::Revision { number }, 13.0);
    let reported = conditions.update(13.0, &[("api", &by(3))], |_, _| None);
    assert_eq!(reported[0].revision, Some(3));
    // It was rolled back: the newest change is an older one.
    for second in 14..60 {
        let again = conditions.update(f64::from(second), &[("api", &by(2))], |_, _| None);
        assert_eq!(again, reported);
    }
    // A newer one may be worse.
    let newer = conditions.update(61.0, &[("api", &by(4))], |_, _| None);
    assert_eq!(newer[0].revision, Some(4));
}

#[test]
fn a_second_of_4096_members_costs_little() {
    let mut detector = Detector::new(
        Thresholds::default(),
        Facts {
            tcp: true,
            independent: true,
        },
    );
    let count = 4096;
    let mut members: Vec<Member> = (0..count)
        .map(|number| Member {
            name: Arc::from(format!("b{number}")),
            table_share: 1.0 / f64::from(count),
            intended_share: 1.0 / f64::from(count),
            capacity: None,
            phase: Phase::Serving,
            new_flows: 0,
            ring_flows: None,
            packets: 0,
            bytes: 0,
        })
        .collect();
    let start = Instant::now();
    for second in 1..=60 {
        for member in &mut members {
            member.new_flows += 20;
            member.packets += 120;
            member.bytes += 12_000;
        }
        detector.observe(&Observation {
            at_s: f64::from(second),
            members: &members,
            ring_size: 65_537,
            in_transition: false,
            change: None,
            samples: None,
            bounded: false,
        });
    }
    let each = start.elapsed() / 60;
    println!("{each:?} a second for 4,096 members");
    assert!(detector.findings().is_empty());
}

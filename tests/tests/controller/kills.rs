//! The controller is killed repeatedly at random moments of changes.

use std::time::{Duration, Instant};

use lab::random::{Random, seeded};
use lab::service::{FAMILIES, Kind, vip_name};
use rand::RngExt as _;
use serde_json::{Value, json};

use crate::site::{BACKENDS, Site, build, can_run};

const KILLS: u32 = 100;
const FLOWS: usize = 100;

/// Returns a change of both VIPs: a weight, or the state of a backend.
fn change(rng: &mut Random) -> Value {
    let backend = format!("backend-{}", rng.random_range(0..BACKENDS));
    let weight = 1 + rng.random_range(0..200);
    let state = if rng.random_range(0..3) == 0 {
        "drain"
    } else {
        "up"
    };
    let mut edits = vec![json!({"edit": "set_state", "backend": backend, "state": state})];
    edits.extend(FAMILIES.map(|family| {
        let vip = vip_name(Kind::Echo, family);
        json!({"edit": "set_weight", "vip": vip, "backend": backend, "weight": weight})
    }));
    // With few backends left, a random weight may be more than half of the ring.
    json!({
        "change": {"kind": "edits", "edits": edits},
        "force": ["nothing_left", "max_share"],
    })
}

/// Returns the median time of an apply without a kill. Each is the first of its controller, as in the test:
/// later ones are faster because images are allocated already. Applies without a change do not count.
fn measure(site: &mut Site<'_>, rng: &mut Random) -> Duration {
    const TIMES: usize = 5;
    let mut all = Vec::new();
    while all.len() < TIMES {
        site.node.kill();
        site.node.restart().unwrap();
        let start = Instant::now();
        let (status, answer) = site
            .operator
            .request("POST", "/v1/apply", &change(rng))
            .unwrap();
        let took = start.elapsed();
        assert_eq!(status, 200, "{answer}");
        if !answer["revision"].is_null() {
            all.push(took);
        }
    }
    all.sort_unstable();
    all[TIMES / 2]
}

/// Results of the changes.
#[derive(Debug, Default)]
struct Outcomes {
    /// No revision was written.
    not_written: u32,
    /// The revision was written, and the next start rolled it back.
    rolled_back: u32,
    /// Applied, with or without a reply.
    applied: u32,
    answered: u32,
}

#[test]
fn survives_kills_at_random_moments_of_changes() {
    if !can_run("kills") {
        return;
    }
    let mut rng = seeded("controller kills");
    let lab = build();
    let mut site = Site::start(&lab, |_| {});
    let flows = site.open(FLOWS);
    let apply = measure(&mut site, &mut rng);
    let mut outcomes = Outcomes::default();
    let mut starts = Duration::ZERO;
    for kill in 0..KILLS {
        let when = format!("kill {kill}");
        let before = site.revisions().len();
        let request = change(&mut rng);
        let delay = rng.random_range(Duration::ZERO..=apply.mul_f64(1.5));
        let operator = site.operator.clone();
        let answered = std::thread::scope(|scope| {
            let asking =
                scope.spawn(move || operator.request("POST", "/v1/apply", &request).is_ok());
            std::thread::sleep(delay);
            site.node.kill();
            asking.join().unwrap()
        });
        flows.assert_intact(&when);
        let start = Instant::now();
        site.node.restart().unwrap();
        starts += start.elapsed();
        let revisions = site.revisions();
        crate::site::assert_linear(&when, &revisions);
        let last = revisions.last().unwrap();
        match last["state"].as_str().unwrap() {
            _ if revisions.len() == before => outcomes.not_written += 1,
            "applied" => outcomes.applied += 1,
            "failed" => outcomes.rolled_back += 1,
            _ => panic!("{when}: {last}"),
        }
        outcomes.answered += u32::from(answered);
        // A confirmed change is kept. (A reply without a revision: there was no change.)
        let is_new = revisions.len() > before;
        assert!(
            !answered || !is_new || last["state"] == "applied",
            "{when}: {last}"
        );
        site.assert_settled(&when);
        if kill % 20 == 0 {
            flows.assert_alive(&when);
        }
    }
    println!(
        "{KILLS} kills during changes of {apply:?}: {outcomes:?}; a start takes {:?}",
        starts / KILLS
    );
    assert!(
        outcomes.rolled_back > 0 && outcomes.applied > 0,
        "{outcomes:?}"
    );
    flows.assert_alive("at the end");
    let later = site.open(FLOWS);
    later.assert_alive("opened at the end");
    site.assert_settled("at the end");
    drop((flows, later));
    site.check_health();
}

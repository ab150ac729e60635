//! Concurrent clients with conflicting changes.

use std::collections::BTreeMap;

use lab::operator::Operator;
use lab::random::{Random, seeded};
use lab::service::{FAMILIES, Kind, vip_name};
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::site::{BACKENDS, Site, build, can_run};

const CLIENTS: u64 = 10;
const REQUESTS: u32 = 15;

/// A request: method, path, body.
type Request = (&'static str, &'static str, Value);

fn make(rng: &mut Random, texts: &[String]) -> Request {
    let backend = format!("backend-{}", rng.random_range(0..BACKENDS));
    let vip = vip_name(Kind::Echo, FAMILIES[rng.random_range(0..2)]);
    // Not "disabled": that cuts flows off, and the test watches that none is lost.
    let state = ["up", "drain"][rng.random_range(0..2)];
    let edit = match rng.random_range(0..2) {
        0 => {
            json!({"edit": "set_weight", "vip": vip, "backend": backend, "weight": rng.random_range(0..200)})
        }
        _ => json!({"edit": "set_state", "backend": backend, "state": state}),
    };
    let edits = json!({"kind": "edits", "edits": [edit]});
    let text = &texts[rng.random_range(0..texts.len())];
    let whole = json!({"kind": "config", "file": "/etc/evenkeel/evenkeel.toml", "text": text});
    match rng.random_range(0..10) {
        0 => ("POST", "/v1/plan", json!({"change": edits})),
        1 => ("POST", "/v1/rollback", json!({})),
        2 => (
            "POST",
            "/v1/rollback",
            json!({"revision": 1 + rng.random_range(0..6)}),
        ),
        3 => ("POST", "/v1/apply", json!({"change": whole})),
        4 => (
            "POST",
            "/v1/apply",
            json!({"change": edits, "base": 1 + rng.random_range(0..9)}),
        ),
        5 => (
            "POST",
            "/v1/apply",
            json!({"change": edits, "confirm_s": 60}),
        ),
        6 => ("POST", "/v1/confirm", json!({})),
        7 => ("GET", "/v1/revisions", Value::Null),
        _ => (
            "POST",
            "/v1/apply",
            json!({"change": edits, "why": "one of many"}),
        ),
    }
}

/// Number of replies by path, status and code.
type Answers = BTreeMap<(String, u16, String), u32>;

fn work(operator: &Operator, mut rng: Random, texts: &[String], document: &Value) -> Answers {
    let mut answers = Answers::new();
    for _ in 0..REQUESTS {
        let (method, path, body) = make(&mut rng, texts);
        let (status, answer) = operator.request(method, path, &body).unwrap();
        let known = &document["paths"][path][method.to_lowercase()]["responses"];
        assert!(
            known.get(status.to_string()).is_some(),
            "{method} {path} {body}: status {status} is not in the OpenAPI document: {answer}"
        );
        assert!(status < 500, "{method} {path} {body}: {status} {answer}");
        let code = answer["code"].as_str().unwrap_or("done").to_owned();
        if status != 200 {
            let says = answer["message"].as_str().unwrap();
            assert!(!says.is_empty(), "{answer}");
        }
        *answers.entry((path.to_owned(), status, code)).or_default() += 1;
    }
    answers
}

#[test]
fn concurrent_clients_make_a_linear_history() {
    if !can_run("clients") {
        return;
    }
    let mut rng = seeded("controller clients");
    let lab = build();
    let mut site = Site::start(&lab, |_| {});
    let flows = site.open(100);
    let document = site.operator.get("/v1/openapi.json").unwrap();
    let folder = lab.balancers[0].directory();
    let texts = [20, 70, 100, 5000].map(|weight| {
        let other = site.changed(|c| c.change_backend("backend-3", |b| b.weight = weight));
        other.to_toml(folder)
    });
    let mut answers = Answers::new();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (rng, operator) = (Random::from_rng(&mut rng), &site.operator);
                let (texts, document) = (&texts, &document);
                scope.spawn(move || work(operator, rng, texts, document))
            })
            .collect();
        for client in clients {
            for (answer, count) in client.join().unwrap() {
                *answers.entry(answer).or_default() += count;
            }
        }
    });
    for ((path, status, code), count) in &answers {
        println!("{path}: {count} times {status} {code}");
    }
    let had = |path: &str, status: u16| answers.keys().any(|(p, s, _)| p == path && *s == status);
    assert!(had("/v1/apply", 200), "some changes succeed");
    assert!(had("/v1/apply", 409), "some changes conflict");
    // A change may still wait for confirmation.
    let (status, _) = site
        .operator
        .request("POST", "/v1/confirm", &json!({}))
        .unwrap();
    assert!(status == 200 || status == 409, "{status}");
    let number = site.assert_settled("at the end");
    println!("{} revisions; {number} is active", site.revisions().len());
    flows.assert_alive("at the end");
    drop(flows);
    site.check_health();
}

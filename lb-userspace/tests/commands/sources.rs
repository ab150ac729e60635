//! `evenkeel source`.

use std::fs;

use serde_json::{Value, json};

use crate::{
    controller::{Controller, error, ok},
    err, out,
};

fn source() -> Value {
    json!({
        "source": "api:web", "families": "both", "vips": ["web"],
        "members": [
            { "name": "10.0.0.7", "address": "10.0.0.7", "weight": 100, "state": "up" },
            { "name": "old", "address": "10.0.0.8", "port": 8080, "weight": 5, "state": "up", "leaving": true },
        ],
        "failures": 0, "failing": false,
        "held": "1 of 2 missing, waiting for a second answer",
    })
}

#[test]
fn shows_sources_and_their_backends() {
    let unknown = error(
        "not_found",
        "there is no source \"wep\"; did you mean \"api:web\"?",
    );
    let controller = Controller::start(&[
        ("GET /v1/sources", &[ok(&json!([source()]))]),
        (
            "GET /v1/sources/dns%3Aweb.example%3A80",
            &[ok(&json!([source()]))],
        ),
        ("GET /v1/sources/wep", &[Some((404, unknown))]),
    ]);
    let output = controller.run(&["source", "list"]);
    let expected = "SOURCE   BACKENDS  VIPS  ANSWERED\n\
                    api:web         1  web   never set\n     \
                    1 of 2 missing, waiting for a second answer\n";
    assert_eq!(out(&output), expected);
    let output = controller.run(&["source", "show", "dns:web.example:80"]);
    let expected = "api:web  VIPs: web\n  \
                    1 backend, 1 leaving; never set; 1 of 2 missing, waiting for a second answer\n  \
                    BACKEND   ADDRESS        WEIGHT  STATE\n  \
                    10.0.0.7  10.0.0.7          100  up\n  \
                    old       10.0.0.8:8080       5  leaving\n";
    assert_eq!(out(&output), expected);
    let output = controller.run(&["source", "show", "wep"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("did you mean"), "{output:?}");
}

#[test]
fn sets_the_members_of_a_file() {
    let controller = Controller::start(&[("PUT /v1/sources/web", &[ok(&source())])]);
    let file = controller.folder.path().join("members.json");
    fs::write(&file, r#"[{ "address": "10.0.0.7", "weight": 5 }]"#).unwrap();
    let path = file.to_str().unwrap();
    let output = controller.run(&["source", "set", "web", path]);
    assert!(output.status.success(), "{output:?}");
    let member = json!({ "address": "10.0.0.7", "weight": 5, "state": "up" });
    let expected = json!({ "members": [member], "allow_empty": false });
    assert_eq!(controller.requests()[0].1, expected);
    fs::write(&file, r#"[{ "adress": "10.0.0.7" }]"#).unwrap();
    let output = controller.run(&["source", "set", "web", path]);
    assert!(
        err(&output).contains("unknown field `adress`"),
        "{output:?}"
    );
    assert_eq!(controller.requests().len(), 1);
}

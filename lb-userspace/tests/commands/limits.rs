//! `evenkeel limits suggest`.

use serde_json::{Value, json};

use crate::{
    controller::{Controller, error, ok},
    err, out,
};

fn suggestion(vip: &str) -> Value {
    let rates = json!({
        "new_flows": 120, "new_flows_burst": 240, "packets": null, "packets_burst": null
    });
    let busiest = json!({
        "source": "198.51.100.7", "new_flows_per_s": 60.0, "packets_per_s": 360.0,
        "share_of_new_flows": 0.25, "share_of_packets": 0.25
    });
    json!({
        "vip": vip,
        "seen": {
            "minutes": 30, "new_flows": 5990, "packets": 35940, "peak_new_flows_per_s": 62.0,
            "peak_packets_per_s": 372.0, "sources": 2, "busiest_only": false,
            "busiest_by_new_flows": busiest, "busiest_by_packets": null
        },
        "limit": rates, "source": rates, "warnings": [],
        "toml": "# seen in 30 minutes\n[vip.limit]\nnew_flows = 120\n"
    })
}

#[test]
fn prints_toml_or_one_object_per_vip() {
    let both = json!([suggestion("api"), suggestion("web")]);
    let one = json!([suggestion("api")]);
    let unknown = error(
        "not_found",
        "there is no VIP \"apo\"; did you mean \"api\"?",
    );
    let controller = Controller::start(&[
        ("GET /v1/limits/suggest", &[ok(&both)]),
        ("GET /v1/limits/suggest?vip=api", &[ok(&one)]),
        ("GET /v1/limits/suggest?vip=apo", &[Some((404, unknown))]),
    ]);
    let toml = "# seen in 30 minutes\n[vip.limit]\nnew_flows = 120\n";
    let output = controller.run(&["limits", "suggest"]);
    assert_eq!(
        out(&output),
        format!("# VIP api\n{toml}\n# VIP web\n{toml}")
    );
    let output = controller.run(&["limits", "suggest", "api"]);
    assert_eq!(out(&output), format!("# VIP api\n{toml}"));
    let output = controller.run(&["limits", "suggest", "--json"]);
    let lines: Vec<Value> = out(&output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(Value::from(lines), both);
    let output = controller.run(&["limits", "suggest", "apo"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("did you mean"), "{output:?}");
}

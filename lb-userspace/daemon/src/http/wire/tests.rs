//! Every type of the API is the domain type that it is made from, field by field.

use jiff::Timestamp;
use serde_json::{Value, json, to_value};

use super::*;
use crate::{events::Event, metrics::example::example};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn revision_states_have_one_form_on_disk_and_in_the_api() {
    let until = at("2026-11-30T12:00:00Z");
    let why = "api-1 went down".to_owned();
    let on_disk = [
        (RevisionState::Applying, json!({"state": "applying"})),
        (
            RevisionState::Baking { until },
            json!({"state": "baking", "until": "2026-11-30T12:00:00Z"}),
        ),
        (
            RevisionState::AwaitingConfirm { until },
            json!({"state": "awaiting_confirm", "until": "2026-11-30T12:00:00Z"}),
        ),
        (RevisionState::Applied, json!({"state": "applied"})),
        (
            RevisionState::RolledBack {
                why: why.clone(),
                at: until,
            },
            json!({
                "state": "rolled_back", "reason": "api-1 went down",
                "undone_at": "2026-11-30T12:00:00Z",
            }),
        ),
        (
            RevisionState::Failed { why },
            json!({"state": "failed", "reason": "api-1 went down"}),
        ),
    ];
    for (state, json) in on_disk {
        assert_eq!(to_value(&state).unwrap(), json);
        let read: RevisionState = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(read, state);
        assert_eq!(to_value(lb_api::RevisionState::from(state)).unwrap(), json);
    }
}

#[test]
fn events_have_one_form_on_disk_and_in_the_api() {
    let line = r#"{"id":7,"at":"2026-11-30T12:00:00Z","kind":"health","vip":"api","backend":null,"message":"b1 is up"}"#;
    let event: Event = serde_json::from_str(line).unwrap();
    assert_eq!(serde_json::to_string(&event).unwrap(), line);
    let sent = lb_api::Event::from(event);
    assert_eq!(serde_json::to_string(&sent).unwrap(), line);
}

#[test]
fn alerts_have_one_form_in_webhooks_and_in_the_api() {
    let alert = Alert {
        id: "backends:api".to_owned(),
        kind: "backend_down".to_owned(),
        severity: Severity::Critical,
        vip: Some("api".to_owned()),
        vips: Vec::new(),
        backends: vec!["b1".to_owned()],
        summary: "backend b1 of api is down".to_owned(),
        cause: None,
        revision: Some(3),
        since: at("2026-11-30T12:00:00Z"),
        acknowledged_by: Some("ann".to_owned()),
        silenced_until: None,
        resolves_at: None,
    };
    let sent = lb_api::Alert::from(&alert);
    assert_eq!(
        serde_json::to_string(&sent).unwrap(),
        serde_json::to_string(&alert).unwrap()
    );
}

#[test]
fn a_state_becomes_the_status_of_the_api() {
    let mut state = example(1, 1).state;
    state.reasons = [("NO_VIP", 7)].into();
    let status = to_value(lb_api::Status::from(&state)).unwrap();
    let vip = &status["vips"][0];
    assert_eq!(status["reasons"], json!({"NO_VIP": 7}));
    assert_eq!(status["revision"]["state"], "applied");
    assert_eq!(
        status["node"]["interfaces"],
        json!([{"name": "eth0", "mode": "native", "program_id": 42}])
    );
    assert_eq!(
        [&vip["protocol"], &vip["forward"], &vip["ring"]],
        [
            &json!("tcp"),
            &json!("l2"),
            &json!({"slots": 65_537, "in_transition": 0, "settling": 0})
        ]
    );
    assert_eq!(vip["capacity"]["target_utilisation"], json!(0.7));
    let member = &vip["members"][0];
    assert_eq!(
        [
            &member["state"],
            &member["next_hop"],
            &member["health"]["healthy"]
        ],
        [&json!("up"), &Value::Null, &json!(true)]
    );
}

//! Alerts across time, restarts and receiver failures.

mod conditions;
mod real_alertmanager;
mod receivers;

use jiff::SignedDuration;

use super::*;

/// A time; seconds.
fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn down(backends: &[&str]) -> Condition {
    let summary = format!("{} backends are down", backends.len());
    Condition::new("backends:api", "backend_down", Severity::Warning, summary)
        .vip("api")
        .backends(backends.iter().copied())
}

/// Alerts that have been running for a while.
fn seasoned() -> Alerts {
    let alerts = Alerts::in_memory();
    *lock(&alerts.shared.escalate_after) = Some(Duration::from_secs(600));
    alerts.update(at(-100), &[]);
    alerts.update(at(-1), &[]);
    alerts
}

/// Updates each second of a range.
fn during(alerts: &Alerts, seconds: std::ops::Range<i64>, conditions: &[Condition]) {
    for second in seconds {
        alerts.update(at(second), conditions);
    }
}

fn messages(alerts: &Alerts) -> Vec<String> {
    let events = alerts.shared.journal.since(0, 1000);
    events.into_iter().map(|event| event.message).collect()
}

#[test]
fn alerts_are_raised_and_resolved_after_a_delay() {
    let alerts = seasoned();
    during(&alerts, 0..2, &[down(&["a"])]);
    during(&alerts, 2..3, &[]);
    during(&alerts, 3..6, &[down(&["a"])]);
    assert_eq!(alerts.list(), []);
    during(&alerts, 6..8, &[down(&["a"])]);
    let list = alerts.list();
    assert_eq!((list.len(), &*list[0].id), (1, "backends:api"));
    assert_eq!(list[0].since, at(3));
    // Gone for ten seconds, and back: still the same alert.
    during(&alerts, 8..18, &[]);
    during(&alerts, 18..20, &[down(&["a"])]);
    assert_eq!(alerts.list()[0].since, at(3));
    during(&alerts, 20..36, &[]);
    assert_eq!(alerts.list(), []);
    assert_eq!(
        messages(&alerts),
        [
            "raised: 1 backends are down",
            "resolved: 1 backends are down"
        ]
    );
}

#[test]
fn an_alert_whose_condition_has_ended_is_clearing() {
    let alerts = seasoned();
    for round in 0..6 {
        let start = round * 100;
        during(&alerts, start..start + 10, &[down(&["a"])]);
        assert_eq!(alerts.list()[0].resolves_at, None, "{round}");
        during(&alerts, start + 10..start + 11, &[]);
        // It waits longer each time that it came back.
        let resolves_at = at(start + 9 + (15 << round));
        if resolves_at < at(start + 100) {
            assert_eq!(alerts.list()[0].resolves_at, Some(resolves_at), "{round}");
            during(&alerts, start + 11..start + 100, &[]);
            assert_eq!(alerts.list(), []);
        }
    }
    // It returned before: the same alert, firing again.
    assert!(alerts.list()[0].resolves_at.is_some());
    during(&alerts, 600..601, &[down(&["a"])]);
    assert_eq!(alerts.list()[0].resolves_at, None);
}

#[test]
fn an_alert_raised_soon_after_the_start_is_resolved_like_any_other() {
    let alerts = Alerts::in_memory();
    during(&alerts, 0..8, &[down(&["a"])]);
    assert_eq!(alerts.list().len(), 1);
    during(&alerts, 8..22, &[]);
    assert_eq!(alerts.list().len(), 1);
    during(&alerts, 22..24, &[]);
    assert_eq!(alerts.list(), []);
}

#[test]
fn an_alert_of_the_last_process_waits_for_its_condition() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Alerts::open(folder.path(), "lb-1", Journal::in_memory());
    let alerts = open();
    during(&alerts, 0..8, &[down(&["a"])]);
    alerts.finish().unwrap();
    let alerts = open();
    // No check has a result yet.
    during(&alerts, 10..44, &[]);
    assert_eq!(alerts.list().len(), 1);
    during(&alerts, 44..57, &[]);
    assert_eq!(alerts.list(), []);
}

#[test]
fn versions_of_an_id_grow_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Alerts::open(folder.path(), "lb-1", Journal::in_memory());
    let version = |alerts: &Alerts| lock(&alerts.shared.book).entries["backends:api"].version;
    let mut last = 0;
    // Soon after, long after it was forgotten, and in another process.
    for start in [0, 200, 100_000, 200_000] {
        let alerts = open();
        during(&alerts, start..start + 40, &[]);
        during(&alerts, start + 40..start + 45, &[down(&["a"])]);
        assert_eq!(version(&alerts), last + 1);
        during(&alerts, start + 45..start + 100, &[]);
        last = version(&alerts);
        assert_eq!(alerts.list(), []);
        alerts.finish().unwrap();
    }
}

#[test]
fn a_resolved_alert_waits_for_the_end_of_its_silence() {
    let alerts = seasoned();
    let day = 24 * 3600;
    let due = |alerts: &Alerts| lock(&alerts.shared.book).due("hook");
    let forget = |now| lock(&alerts.shared.book).forget(at(now), &["hook".to_owned()]);
    during(&alerts, 0..5, &[down(&["a"])]);
    lock(&alerts.shared.book).confirm("hook", "backends:api", 1);
    lock(&alerts.shared.book).silence(at(5), "backends:api", at(3 * day));
    during(&alerts, 5..60, &[]);
    assert_eq!(alerts.list(), []);
    let update = |now| lock(&alerts.shared.book).update(at(now), &[], None);
    for now in (60..3 * day).step_by(3600) {
        update(now);
        forget(now);
        assert_eq!(due(&alerts), [], "silenced");
    }
    update(3 * day + 1);
    forget(3 * day + 1);
    assert_eq!(due(&alerts), [("backends:api".to_owned(), 2)]);
    update(4 * day + 2);
    forget(4 * day + 2);
    assert_eq!(due(&alerts), [], "not for ever");
    // Raised and resolved during a silence: nobody is told.
    let start = 5 * day;
    lock(&alerts.shared.book).silence(at(start), "backends:api", at(start + 100));
    during(&alerts, start..start + 5, &[down(&["a"])]);
    assert_eq!(alerts.list().len(), 1);
    during(&alerts, start + 5..start + 102, &[]);
    assert_eq!((alerts.list(), due(&alerts)), (Vec::new(), Vec::new()));
}

#[test]
fn one_key_is_one_alert() {
    let alerts = seasoned();
    let mut panic = down(&["b"]);
    panic.kind = "panic".to_owned();
    panic.severity = Severity::Critical;
    during(&alerts, 0..5, &[down(&["a"]), panic, down(&["c"])]);
    let list = alerts.list();
    assert_eq!(list.len(), 1);
    assert_eq!(
        (&*list[0].kind, list[0].severity),
        ("panic", Severity::Critical)
    );
    assert_eq!(list[0].backends, ["a", "b", "c"]);
}

#[test]
fn an_explained_condition_raises_no_alert() {
    let alerts = seasoned();
    let cause = Condition::new("revision:7", "concentration", Severity::Critical, "shares");
    let mut effect = down(&["a"]);
    effect.part_of = Some("revision:7".to_owned());
    during(&alerts, 0..60, &[cause.clone(), effect.clone()]);
    assert_eq!(alerts.list().len(), 1);
    // The cause has gone, the effect stays.
    during(&alerts, 60..90, std::slice::from_ref(&effect));
    assert_eq!(alerts.list().len(), 1);
    assert_eq!(alerts.list()[0].id, "backends:api");
    // An alert that is on is not taken back because a larger one comes.
    during(&alerts, 90..120, &[cause, effect]);
    assert_eq!(alerts.list().len(), 2);
}

#[test]
fn an_unacknowledged_alert_escalates() {
    let alerts = seasoned();
    during(&alerts, 0..600, &[down(&["a"])]);
    assert_eq!(alerts.list()[0].severity, Severity::Warning);
    during(&alerts, 600..602, &[down(&["a"])]);
    assert_eq!(alerts.list()[0].severity, Severity::Critical);
    assert_eq!(messages(&alerts)[1], "escalated: 1 backends are down");

    let alerts = seasoned();
    during(&alerts, 0..100, &[down(&["a"])]);
    assert_eq!(
        alerts.ack("nonsense", "eve"),
        Err(AlertsError::NotFound("nonsense".to_owned()))
    );
    let alert = alerts.ack("backends:api", "eve").unwrap();
    assert_eq!(alert.acknowledged_by.as_deref(), Some("eve"));
    during(&alerts, 100..2000, &[down(&["a"])]);
    assert_eq!(alerts.list()[0].severity, Severity::Warning);

    let alerts = seasoned();
    let slow = Condition::new("generic_xdp", "generic_xdp", Severity::Warning, "slow");
    during(&alerts, 0..2000, &[slow]);
    assert_eq!(
        alerts.list()[0].severity,
        Severity::Warning,
        "never worth waking anybody"
    );
}

#[test]
fn a_lower_severity_must_last() {
    let alerts = seasoned();
    let mut few = down(&["a", "b"]);
    few.kind = "few_backends".to_owned();
    few.severity = Severity::Critical;
    during(&alerts, 0..10, std::slice::from_ref(&few));
    during(&alerts, 10..15, &[down(&["a"])]);
    assert_eq!(alerts.list()[0].severity, Severity::Critical);
    during(&alerts, 15..25, &[down(&["a"])]);
    let list = alerts.list();
    assert_eq!(
        (list[0].severity, &*list[0].kind),
        (Severity::Warning, "backend_down")
    );
    during(&alerts, 25..26, &[few]);
    assert_eq!(
        alerts.list()[0].severity,
        Severity::Critical,
        "escalated at once"
    );
}

#[test]
fn a_flapping_alert_is_resolved_later_each_time() {
    let alerts = seasoned();
    let mut second = 0;
    let mut lasted = Vec::new();
    for _ in 0..3 {
        during(&alerts, second..second + 10, &[down(&["a"])]);
        second += 10;
        let gone = second;
        while !alerts.list().is_empty() {
            during(&alerts, second..second + 1, &[]);
            second += 1;
        }
        lasted.push(second - gone);
    }
    assert_eq!(lasted, [15, 30, 60]);
}

#[test]
fn changes_of_the_backend_list_are_debounced() {
    let alerts = seasoned();
    during(&alerts, 0..5, &[down(&["a"])]);
    during(&alerts, 5..20, &[down(&["a", "b"])]);
    assert_eq!(alerts.list()[0].backends, ["a", "b"]);
    assert_eq!(messages(&alerts).len(), 1);
    during(&alerts, 20..40, &[down(&["a", "b", "c"])]);
    assert_eq!(messages(&alerts).len(), 2);
    // A cause is sent at once.
    let explained = down(&["a", "b", "c"]).cause("checks say: connection refused");
    during(&alerts, 40..41, &[explained]);
    assert_eq!(
        messages(&alerts)[2],
        "changed: 3 backends are down; checks say: connection refused"
    );
}

#[test]
fn alerts_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Alerts::open(folder.path(), "lb-1", Journal::in_memory());
    let alerts = open();
    during(&alerts, -100..10, &[down(&["a"])]);
    alerts.ack("backends:api", "eve").unwrap();
    let until = Timestamp::now()
        .checked_add(SignedDuration::from_hours(1))
        .unwrap();
    alerts.silence("backends:api", until, "eve").unwrap();
    alerts.finish().unwrap();
    drop(alerts);
    let alerts = open();
    let before = alerts.list();
    assert_eq!(before[0].since, at(-100));
    assert_eq!(before[0].acknowledged_by.as_deref(), Some("eve"));
    // The first checks after a start know nothing yet.
    during(&alerts, 100..125, &[]);
    during(&alerts, 125..128, &[down(&["a"])]);
    assert_eq!(alerts.list()[0].since, at(-100));
    assert_eq!(messages(&alerts), [""; 0], "nothing new");
    during(&alerts, 128..150, &[]);
    assert_eq!(alerts.list(), []);
    std::fs::write(folder.path().join("alerts.json"), "{").unwrap();
    assert_eq!(open().list(), []);
}

#[test]
fn too_many_alerts_are_refused_and_counted() {
    let alerts = seasoned();
    let conditions: Vec<Condition> = (0..book::MOST + 7)
        .map(|i| Condition::new(format!("skew:{i}"), "share_skew", Severity::Warning, "x"))
        .collect();
    during(&alerts, 0..1, &conditions);
    assert_eq!((alerts.list().len(), alerts.refused()), (book::MOST, 7));
    assert_eq!(alerts.firing()[0].count, book::MOST);
}

#[test]
fn a_silence_ends() {
    let alerts = seasoned();
    let now = Timestamp::now();
    let far = now
        .checked_add(SignedDuration::from_hours(24 * 40))
        .unwrap();
    during(&alerts, 0..10, &[down(&["a"])]);
    assert_eq!(
        alerts.silence("backends:api", far, "eve"),
        Err(AlertsError::TooLong(30))
    );
    let until = now.checked_add(SignedDuration::from_hours(1)).unwrap();
    let alert = alerts.silence("backends:api", until, "eve").unwrap();
    assert_eq!(alert.silenced_until, Some(until));
    let alert = alerts.silence("backends:api", now, "eve").unwrap();
    assert_eq!(alert.silenced_until, None);
}

/// The system's clock is set by `by` seconds: before, all that is known is moved with it.
fn set_clock(alerts: &Alerts, by: i64) {
    alerts.clock_was_set(SignedDuration::from_secs(by));
}

#[test]
fn setting_the_clock_keeps_ages_and_silences() {
    for by in [7200, -7200] {
        let alerts = seasoned();
        during(&alerts, 0..10, &[down(&["a"])]);
        lock(&alerts.shared.book).silence(at(10), "backends:api", at(70));
        set_clock(&alerts, by);
        let told = messages(&alerts);
        during(&alerts, 10 + by..69 + by, &[down(&["a"])]);
        let alert = alerts.list().remove(0);
        assert_eq!((alert.severity, alert.since), (Severity::Warning, at(by)));
        assert_eq!(alert.silenced_until, Some(at(70 + by)));
        during(&alerts, 69 + by..71 + by, &[down(&["a"])]);
        assert_eq!(alerts.list()[0].silenced_until, None);
        // It escalates on time, and is resolved after it has been gone for a while.
        assert_eq!(messages(&alerts), told, "nothing new");
        during(&alerts, 71 + by..601 + by, &[down(&["a"])]);
        assert_eq!(alerts.list()[0].severity, Severity::Critical);
        set_clock(&alerts, -by);
        during(&alerts, 601..614, &[]);
        assert_eq!(alerts.list().len(), 1);
        during(&alerts, 614..620, &[]);
        assert_eq!(alerts.list(), []);
    }
}

/// The file format must not change: acknowledgements and silences would be lost.
#[test]
fn reads_the_stored_format() {
    let mut stored = serde_json::json!({
        "entries": {"backends:api": {
            "told": {
                "key": "backends:api", "kind": "backend_down", "severity": "warning", "vip": "api",
                "backends": ["a"], "summary": "backend a of api is down", "cause": null,
                "revision": null, "part_of": null,
            },
            "severity": "critical", "since": "2026-11-30T12:00:00Z", "over": null,
            "acknowledged_by": "ann", "version": 2, "changed": "2026-11-30T12:10:00Z",
            "announced": ["a"], "muted": false, "confirmed": {"http://127.0.0.1:8080": 1},
            "former": [["backend_down", "warning", "2026-11-30T12:10:00Z"]], "flaps": 0,
        }},
        "silences": {"backends:api": "2026-12-01T00:00:00Z"},
    });
    let book: Book = serde_json::from_value(stored.clone()).unwrap();
    // Keys that were added since.
    let entry = &mut stored["entries"]["backends:api"];
    entry["told"]["vips"] = serde_json::json!([]);
    entry["announced_vips"] = serde_json::json!([]);
    (entry["base"], entry["unsilenced"]) = (0.into(), serde_json::Value::Null);
    stored["highest"] = 0.into();
    assert_eq!(serde_json::to_value(&book).unwrap(), stored);
    let alert = &book.list()[0];
    assert_eq!(alert.severity, Severity::Critical);
    assert_eq!(alert.acknowledged_by.as_deref(), Some("ann"));
}

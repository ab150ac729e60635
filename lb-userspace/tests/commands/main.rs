//! Commands as processes against a scripted controller: exit codes, output streams and requests.
#![expect(clippy::unwrap_used, reason = "tests panic: the backtrace says where")]

mod controller;
mod limits;
mod pipes;
mod sources;

use std::{
    fs,
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use controller::{Controller, applied_as, baking, command, error, file, ok, plan, progress};

const LIMIT: Duration = Duration::from_secs(60);

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn the_exit_code_of_plan_is_its_verdict() {
    for (verdict, code) in [("nothing", 0), ("allowed", 2), ("refused", 3)] {
        let controller = Controller::start(&[("POST /v1/plan", &[ok(&plan(verdict))])]);
        let file = file(&controller);
        let output = controller.run(&["plan", &file]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let (path, body) = &controller.requests()[0];
        assert_eq!(path, "POST /v1/plan");
        assert_eq!(body["change"]["text"], "[node]\n");
        assert_eq!(body["change"]["file"], file.as_str(), "an absolute path");
        let json = controller.run(&["plan", &file, "--json"]);
        assert_eq!(json.status.code(), Some(code));
        let said: Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(said, plan(verdict));
    }
}

#[test]
fn apply_follows_the_change_to_its_end() {
    let applied = json!({ "state": "applied" });
    let rolled_back = json!({
        "state": "rolled_back", "reason": "api-1 went down", "undone_at": "2026-11-22T19:00:12Z"
    });
    let failed = json!({ "state": "failed", "reason": "map members: ENOSPC" });
    let ends = [
        (applied, 0, "revision 8 is applied"),
        (
            rolled_back,
            4,
            "revision 8 was rolled back: api-1 went down",
        ),
        (failed, 1, "map members: ENOSPC"),
    ];
    for (end, code, text) in ends {
        let controller = Controller::start(&[
            ("POST /v1/apply", &[applied_as(&baking())]),
            // The controller restarts in between.
            (
                "GET /v1/revisions/8/progress",
                &[
                    progress(&baking()),
                    None,
                    progress(&baking()),
                    progress(&end),
                ],
            ),
        ]);
        let file = file(&controller);
        let arguments = ["apply", &file, "--why", "because", "--confirm", "5m"];
        let output = controller.run(&arguments);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(
            out(&output).contains("32768 of 65537 slots move"),
            "{output:?}"
        );
        assert!(out(&output).contains(text), "{output:?}");
        assert!(
            err(&output).contains("revision 8 is baking, 3s left"),
            "{output:?}"
        );
        let (_, body) = &controller.requests()[0];
        assert_eq!(
            (&body["why"], &body["confirm_s"]),
            (&json!("because"), &json!(300))
        );
    }
}

/// A conflict with a change in progress is waited for; any other error ends the command.
#[test]
fn reload_and_after_wait_for_the_change_in_progress() {
    let busy = || {
        Some((
            409,
            json!({
                "code": "conflict", "message": "revision 7 is baking, 3 s left", "plan": null, "remaining_s": 3.0
            }),
        ))
    };
    let status = json!({ "path": "/etc/e.toml", "state": "active", "problem": null });
    let done = applied_as(&json!({ "state": "applied" }));
    let applied = done.clone().unwrap().1;
    let reloaded = ok(&json!({ "applied": applied, "waits_for": null, "file": status }));
    let controller = Controller::start(&[
        ("POST /v1/reload", &[busy(), busy(), reloaded]),
        ("POST /v1/apply", &[busy(), done]),
    ]);
    let output = controller.run(&["reload"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        err(&output).contains("waiting: revision 7 is baking"),
        "{output:?}"
    );
    assert!(out(&output).contains("revision 8 is applied"), "{output:?}");
    assert_eq!(controller.requests().len(), 3);
    let output = controller.run(&["apply", &file(&controller), "--after"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");

    let busy_only = Controller::start(&[("POST /v1/apply", &[busy()])]);
    let output = busy_only.run(&["apply", &file(&busy_only)]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(err(&output).contains("3 s left"), "{output:?}");
}

#[test]
fn the_exit_code_of_reload_is_its_result() {
    let file = |state: &str| json!({ "path": "/etc/e.toml", "state": state, "problem": null });
    let nothing = json!({ "revision": null, "plan": plan("nothing") });
    let unchanged = json!({ "applied": nothing, "waits_for": null, "file": file("overridden") });
    let waits = json!({ "applied": null, "waits_for": progress(&baking()).unwrap().1, "file": file("edited") });
    let refused =
        json!({ "code": "refused", "message": "refused: max_moved", "plan": plan("refused") });
    let invalid = error("invalid_config", "can't read /etc/e.toml");
    for (response, code, text) in [
        (ok(&unchanged), 0, "was not edited since it was applied"),
        (
            ok(&waits),
            0,
            "applied after the change in progress: revision 8 is baking",
        ),
        (Some((422, refused)), 3, "refused: max_moved"),
        (Some((422, invalid)), 1, "can't read /etc/e.toml"),
    ] {
        let controller = Controller::start(&[("POST /v1/reload", &[response])]);
        let output = controller.run(&["reload", "--no-wait"]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let text_of = format!("{}{}", out(&output), err(&output));
        assert!(text_of.contains(text), "{output:?}");
        assert_eq!(controller.requests()[0].1, json!({ "wait": true }));
    }
}

/// The response is then the revision that was rolled back.
#[test]
fn a_rollback_that_ends_a_bake_succeeds() {
    let undone = json!({
        "state": "rolled_back", "reason": "root asked for it", "undone_at": "2026-11-22T19:00:12Z"
    });
    let controller = Controller::start(&[("POST /v1/rollback", &[applied_as(&undone)])]);
    let output = controller.run(&["rollback", "--why", "slow"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(out(&output).contains("revision 8 was rolled back: root asked for it"));
    let (_, body) = &controller.requests()[0];
    assert_eq!(*body, json!({ "revision": null, "why": "slow" }));
}

#[test]
fn apply_with_json_prints_one_object() {
    let end = json!({ "state": "applied" });
    let controller = Controller::start(&[
        ("POST /v1/apply", &[applied_as(&baking())]),
        ("GET /v1/revisions/8/progress", &[progress(&end)]),
    ]);
    let output = controller.run(&["apply", &file(&controller), "--json"]);
    assert!(output.status.success(), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["revision"]["state"], "applied");
    assert_eq!(said["plan"], plan("allowed"));
    // Without waiting, it is the response to the apply.
    let output = controller.run(&["apply", &file(&controller), "--json", "--no-wait"]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["revision"]["state"], "baking");
}

#[test]
fn a_refused_apply_shows_the_plan_and_the_guard() {
    let refusal = json!({
        "code": "refused", "message": "guard max_moved refuses", "plan": plan("refused")
    });
    let controller = Controller::start(&[("POST /v1/apply", &[Some((422, refusal.clone()))])]);
    let file = file(&controller);
    let output = controller.run(&["apply", &file]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(out(&output).contains("✗ max_moved"), "{output:?}");
    assert!(out(&output).contains("--force max_moved"), "{output:?}");
    assert!(err(&output).contains("guard max_moved refuses; nothing was changed"));
    let output = controller.run(&["apply", &file, "--json"]);
    assert_eq!(output.status.code(), Some(3));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said, refusal);
}

/// The guards of the node where a rollout is begun refuse it before there is one.
#[test]
fn a_refused_change_of_a_fleet_shows_the_plan_and_the_guard() {
    let refusal = json!({
        "code": "refused", "message": "a guard of this node refuses", "plan": plan("refused")
    });
    let answer = || Some((422, refusal.clone()));
    let controller = Controller::start(&[
        ("POST /v1/fleet/apply", &[answer()]),
        ("POST /v1/fleet/rollback", &[answer()]),
    ]);
    let file = file(&controller);
    for arguments in [&["fleet", "apply", &file][..], &["fleet", "rollback"]] {
        let output = controller.run(arguments);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert!(out(&output).contains("✗ max_moved"), "{output:?}");
        let said = "a guard of this node refuses; nothing was changed";
        assert!(err(&output).contains(said), "{output:?}");
    }
}

#[test]
fn prints_the_report_of_the_controller_on_an_invalid_file() {
    let drawn = "error: unknown key `colour`\n --> new.toml:1:1";
    let answer = Some((422, error("invalid_config", drawn)));
    let controller = Controller::start(&[("POST /v1/plan", &[answer])]);
    let output = controller.run(&["plan", &file(&controller)]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(err(&output), format!("{drawn}\n"));
}

#[test]
fn other_errors_are_one_line_and_exit_code_1() {
    let answer = Some((
        409,
        error("conflict", "revision 8 bakes: wait, or roll it back"),
    ));
    let controller = Controller::start(&[("POST /v1/apply", &[answer])]);
    let output = controller.run(&["backend", "drain", "api-1"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        err(&output),
        "evenkeel: revision 8 bakes: wait, or roll it back\n"
    );
    assert_eq!(out(&output), "");
    let (_, body) = &controller.requests()[0];
    let edit = json!({ "edit": "set_state", "vip": null, "backend": "api-1", "state": "drain" });
    assert_eq!(body["change"], json!({ "kind": "edits", "edits": [edit] }));
}

#[test]
fn without_a_controller_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    for arguments in [&["status"][..], &["backend", "list"], &["events", "--json"]] {
        let output = command(&socket, arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let text = err(&output);
        assert!(text.contains("is `evenkeel run` running?"), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn ctrl_c_ends_the_command_but_not_the_change() {
    let controller = Controller::start(&[
        ("POST /v1/apply", &[applied_as(&baking())]),
        ("GET /v1/revisions/8/progress", &[progress(&baking())]),
    ]);
    let mut command = command(&controller.socket(), &["apply", &file(&controller)]);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while controller.requests().len() < 3 {
        assert!(start.elapsed() < LIMIT);
        std::thread::sleep(Duration::from_millis(20));
    }
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert!(
        err(&output).contains("revision 8 continues without this command"),
        "{output:?}"
    );
}

#[test]
fn no_colours_in_a_pipe() {
    let controller = Controller::start(&[("POST /v1/plan", &[ok(&plan("refused"))])]);
    let output = controller.run(&["plan", &file(&controller)]);
    assert!(!out(&output).contains('\x1b'), "{output:?}");
}

#[test]
fn writes_a_manual_page_per_command() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("none");
    let pages = folder.path().join("man1").display().to_string();
    let output = command(&socket, &["man", "--out", &pages])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    for name in ["evenkeel", "evenkeel-apply", "evenkeel-backend-drain"] {
        let page = fs::read_to_string(format!("{pages}/{name}.1")).unwrap();
        assert!(page.contains("evenkeel"), "{name}");
    }
}

/// Whatever of the controller's answer a command prints.
#[test]
fn no_command_prints_control_characters() {
    const HOSTILE: &str = "\u{1b}[31mred\u{1b}]0;title\u{7}\u{9b}31m\u{202e}";
    let alert = json!({
        "id": HOSTILE, "kind": "test", "severity": "warning", "vip": HOSTILE, "backends": [HOSTILE],
        "summary": HOSTILE, "cause": HOSTILE, "revision": null, "since": "2026-11-22T19:00:00Z",
        "acknowledged_by": HOSTILE, "silenced_until": null
    });
    let event = json!({
        "id": 1, "at": "2026-11-22T19:00:00Z", "kind": "health", "vip": HOSTILE, "backend": null,
        "message": HOSTILE
    });
    let mut revision = controller::revision(&json!({ "state": "failed", "reason": HOSTILE }));
    revision["why"] = json!(HOSTILE);
    let tested = json!([{ "kind": "webhook", "receiver": HOSTILE, "error": HOSTILE }]);
    let refused = || Some((409, error("conflict", HOSTILE)));
    let controller = Controller::start(&[
        ("GET /v1/alerts", &[ok(&json!([alert]))]),
        ("GET /v1/events", &[ok(&json!([event]))]),
        ("GET /v1/revisions", &[ok(&json!([revision]))]),
        ("POST /v1/alerts/test", &[ok(&tested)]),
        ("POST /v1/confirm", &[refused()]),
    ]);
    let hostile = controller.folder.path().join("hostile.toml");
    fs::write(&hostile, format!("[node]\n{HOSTILE} = \"{HOSTILE}\"\n")).unwrap();
    let hostile = hostile.display().to_string();
    for arguments in [
        &["alerts"][..],
        &["alerts", "--json"],
        &["events"],
        &["events", "--json"],
        &["history"],
        &["alerts", "test"],
        &["confirm"],
        &["check", &hostile],
        &["check", &hostile, "--json"],
    ] {
        let output = controller.run(arguments);
        let text = out(&output) + &err(&output);
        let odd = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(
            !text.is_empty() && !text.contains(odd),
            "{arguments:?}: {text:?}"
        );
    }
}

#[test]
fn check_prints_the_first_errors_and_reads_standard_input() {
    let controller = Controller::start(&[]);
    let path = controller.folder.path().join("wrong.toml");
    let keys: String = (0..150)
        .map(|number| format!("key{number} = 1\n"))
        .collect();
    fs::write(&path, format!("[node]\n{keys}")).unwrap();
    let path = path.display().to_string();
    let first = controller.run(&["check", &path]);
    assert_eq!(first.status.code(), Some(1), "{first:?}");
    let count = |output: &Output| err(output).matches("unknown key `node.key").count();
    assert!((90..=100).contains(&count(&first)), "{}", count(&first));
    assert!(err(&first).contains("`evenkeel check --all` shows all"));
    assert_eq!(count(&controller.run(&["check", &path, "--all"])), 150);
    let mut command = command(&controller.socket(), &["check", "-"]);
    let input = fs::File::open(&path).unwrap();
    let piped = command.stdin(input).output().unwrap();
    assert_eq!(piped.status.code(), Some(1), "{piped:?}");
    assert!(err(&piped).contains("standard input:"), "{piped:?}");
}

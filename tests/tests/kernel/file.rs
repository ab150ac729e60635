//! The configuration file: one rule for starts and reloads, and reloads during a bake.

use std::{fs, process::Output};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::{
    host::evenkeel,
    node::{EVEN, Node, WITHOUT_ONE, drain, in_namespace, state_of},
};

/// Ways to have the file read again.
#[derive(Clone, Copy, Debug)]
enum Again {
    Reload,
    Restart,
}

impl Again {
    fn on(self, node: &mut Node) {
        match self {
            Self::Reload => {
                let reloaded = run(node, &["reload"]);
                assert!(reloaded.status.success(), "{reloaded:?}");
            }
            Self::Restart => {
                node.end(Signal::SIGTERM);
                node.start();
            }
        }
    }
}

fn run(node: &Node, arguments: &[&str]) -> Output {
    let socket = node.folder.join("api.sock");
    let mut command = evenkeel();
    command.arg("--socket").arg(socket).args(arguments);
    command.env("NO_COLOR", "1").output().unwrap()
}

fn hang_up(node: &Node) {
    let pid = node.child.as_ref().unwrap().id();
    kill(Pid::from_raw(pid as i32), Signal::SIGHUP).unwrap();
}

fn edit_file(node: &Node, from: &str, to: &str) {
    let path = node.folder.join("evenkeel.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from:?} in {text}");
    fs::write(&path, text.replace(from, to)).unwrap();
}

fn apply(node: &Node, change: &Value) {
    let (status, answer) = node.apply(&json!({ "change": change }));
    assert_eq!(status, 200, "{answer}");
}

/// Waits until the status shows this state of the file.
fn wait_file(node: &Node, state: &str) {
    node.wait_for("/v1/status", &format!("the file is {state}"), |status| {
        status["file"]["state"] == state
    });
}

fn active(node: &Node) -> u64 {
    node.get("/v1/status")["revision"]["number"]
        .as_u64()
        .unwrap()
}

#[test]
fn a_file_that_was_applied_undoes_no_later_change() {
    for again in [Again::Reload, Again::Restart] {
        in_namespace(|folder| {
            let mut node = Node::new(folder);
            node.start();
            wait_file(&node, "active");

            // Drained by a command; the file was not edited.
            apply(&node, &drain("b2"));
            again.on(&mut node);
            assert_eq!(node.slots(), WITHOUT_ONE, "{again:?}");
            wait_file(&node, "overridden");
            let diff = run(&node, &["diff", "--file"]);
            let diff = String::from_utf8(diff.stdout).unwrap();
            assert!(diff.contains("-state = \"drain\""), "{diff}");

            // Made equal to what runs, with other words; then drained.
            edit_file(
                &node,
                "10.77.0.2\"",
                "10.77.0.2\"\nstate = \"drain\" # as it runs",
            );
            let undrain = json!({"kind": "edits", "edits": [
                {"edit": "set_state", "backend": "b2", "state": "up"},
                {"edit": "set_state", "backend": "b3", "state": "drain"},
            ]});
            apply(&node, &undrain);
            again.on(&mut node);
            assert_eq!(node.slots(), WITHOUT_ONE, "{again:?}");
            wait_file(&node, "overridden");

            // Applied and rolled back.
            edit_file(&node, "state = \"drain\" # as it runs", "");
            let reload = run(&node, &["reload"]);
            assert!(reload.status.success(), "{reload:?}");
            assert_eq!(node.slots(), EVEN);
            wait_file(&node, "active");
            assert!(run(&node, &["rollback"]).status.success());
            again.on(&mut node);
            assert_eq!(node.slots(), WITHOUT_ONE, "{again:?}");

            // An edit is applied.
            edit_file(&node, "weight = 100", "weight = 101");
            wait_file(&node, "edited");
            let before = active(&node);
            again.on(&mut node);
            assert_eq!(active(&node), before + 1, "{again:?}");
            assert_eq!(node.slots().len(), EVEN.len(), "{again:?}");
            wait_file(&node, "active");
        });
    }
}

#[test]
fn a_reload_during_a_bake_waits_for_its_end() {
    in_namespace(|folder| {
        let mut node = Node::new(folder);
        edit_file(&node, "bake = \"0s\"", "bake = \"4s\"");
        node.start();
        edit_file(&node, "weight = 100", "weight = 101");
        hang_up(&node);
        node.wait_for("/v1/revisions", "the bake of the first edit", |all| {
            all.as_array().unwrap().len() == 2 && state_of(all, 2) == "baking"
        });
        let (status, busy) = node.apply(&json!({ "change": drain("b4") }));
        assert_eq!(status, 409, "{busy}");
        assert!(busy["remaining_s"].as_f64().unwrap() > 0.0, "{busy}");
        let message = busy["message"].as_str().unwrap();
        assert!(message.contains("s left"), "{message}");
        edit_file(&node, "weight = 101", "weight = 102");
        hang_up(&node);
        node.wait_for_log("reload waits");
        node.wait_for("/v1/revisions", "the second edit is kept", |all| {
            all.as_array().unwrap().len() == 3 && state_of(all, 3) == "applied"
        });
        assert_eq!(state_of(&node.get("/v1/revisions"), 2), "applied");
        wait_file(&node, "active");

        // A command waits as well, and reports the result.
        edit_file(&node, "weight = 102", "weight = 103");
        let queued = run(&node, &["reload", "--no-wait"]);
        assert!(queued.status.success(), "{queued:?}");
        edit_file(&node, "weight = 103", "weight = 104");
        let reload = run(&node, &["reload"]);
        assert!(reload.status.success(), "{reload:?}");
        assert_eq!(state_of(&node.get("/v1/revisions"), 5), "applied");
        let drained = run(&node, &["backend", "drain", "b2", "--no-wait"]);
        assert!(drained.status.success(), "{drained:?}");
        let undrain = ["backend", "undrain", "b2", "--after", "--bake", "0s"];
        let after = run(&node, &undrain);
        assert!(after.status.success(), "{after:?}");
        assert_eq!(node.slots().len(), EVEN.len());
    });
}

#[test]
fn a_rejected_file_is_reported_everywhere() {
    in_namespace(|folder| {
        let mut node = Node::new(folder);
        node.start();
        for broken in ["x [", ""] {
            if broken.is_empty() {
                fs::remove_file(node.folder.join("evenkeel.toml")).unwrap();
            } else {
                edit_file(&node, "[node]", "x [");
            }
            let before = node.get("/v1/events").as_array().unwrap().len();
            hang_up(&node);
            node.wait_for("/v1/events", "an event", |events| {
                let mut new = events.as_array().unwrap()[before..].iter();
                new.any(|event| event["message"].as_str().unwrap().contains("rejected"))
            });
            wait_file(&node, "invalid");
            let status = run(&node, &["status"]);
            let status = String::from_utf8(status.stdout).unwrap();
            assert!(status.contains("invalid, not applied"), "{status}");
            let reload = run(&node, &["reload"]);
            assert_eq!(reload.status.code(), Some(1), "{reload:?}");
        }
        assert_eq!(node.slots(), EVEN);
    });
}

/// As in `cd /etc/evenkeel; evenkeel run --config evenkeel.toml`.
#[test]
fn a_bare_file_name_finds_the_files_next_to_it() {
    in_namespace(|folder| {
        let mut node = Node::new(folder);
        let seed = "000102030405060708090a0b0c0d0e0f";
        edit_file(
            &node,
            &format!("hash_seed = \"{seed}\""),
            "hash_seed_file = \"seed\"",
        );
        fs::write(folder.join("seed"), seed).unwrap();
        node.start_in_its_folder();
        apply(&node, &drain("b2"));
        node.end(Signal::SIGTERM);
        node.start_in_its_folder();
        assert!(!node.log().contains("ERROR"), "{}", node.log());
        assert_eq!(node.slots(), WITHOUT_ONE);
    });
}

#[test]
fn an_exported_configuration_can_be_applied_anywhere() {
    in_namespace(|folder| {
        let mut node = Node::new(folder);
        node.start();
        let before = node.slots();
        let shown = run(&node, &["config", "show"]);
        let masked = String::from_utf8(shown.stdout).unwrap();
        assert!(
            !masked.contains("000102030405060708090a0b0c0d0e0f"),
            "{masked}"
        );
        let shown = run(&node, &["config", "show", "--with-secrets"]);
        let text = String::from_utf8(shown.stdout).unwrap();
        let file = fs::read_to_string(folder.join("evenkeel.toml")).unwrap();
        assert_eq!(text, file);
        // A new node with the export as its file.
        node.end(Signal::SIGTERM);
        node.unload();
        fs::remove_dir_all(folder.join("state")).unwrap();
        fs::write(folder.join("evenkeel.toml"), text).unwrap();
        node.start();
        assert_eq!(node.slots(), before);
    });
}

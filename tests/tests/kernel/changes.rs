//! Changes over the API: applied, refused, rolled back, and interrupted by faults and kills.

use std::{fs, path::Path, time::Duration};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::{
    host::evenkeel,
    node::{EVEN, Node, WITHOUT_ONE, drain, in_namespace, state_of},
};

#[test]
fn applies_refuses_and_rolls_back_changes() {
    in_namespace(|folder| {
        let mut node = Node::new(folder);
        node.start();
        assert_eq!(node.slots(), EVEN);
        let (status, applied) = node.apply(&json!({"change": drain("b2"), "why": "a test"}));
        assert_eq!(status, 200, "{applied}");
        assert_eq!(applied["revision"]["state"], "applied", "{applied}");
        assert_eq!(node.slots(), WITHOUT_ONE);

        // The guard of the configuration: no backend gets more than 0.9 of the ring.
        let (status, refused) = node.apply(&json!({"change": drain("b3")}));
        assert_eq!(
            (status, &refused["code"]),
            (422, &json!("refused")),
            "{refused}"
        );
        assert_eq!(node.slots(), WITHOUT_ONE);
        let stale = json!({"change": drain("b3"), "base": 1});
        let (status, conflict) = node.apply(&stale);
        assert_eq!(
            (status, &conflict["code"]),
            (409, &json!("conflict")),
            "{conflict}"
        );

        let (status, back) = node.ask("POST", "/v1/rollback", &json!({}));
        assert_eq!(status, 200, "{back}");
        assert_eq!(node.slots(), EVEN);
        let revisions = node.get("/v1/revisions");
        assert_eq!(revisions.as_array().unwrap().len(), 3, "{revisions}");
        assert_eq!(revisions[2]["how"], "rollback to 1", "{revisions}");

        // A second controller for the same data path, with another state folder.
        let other = folder.join("other.toml");
        let text = fs::read_to_string(folder.join("evenkeel.toml")).unwrap();
        fs::write(
            &other,
            text.replace("/state\"", "/other\"")
                .replace("api.sock", "b.sock"),
        )
        .unwrap();
        let second = evenkeel()
            .args(["run", "--config"])
            .arg(&other)
            .arg("--bpffs")
            .arg(folder.join("bpf"))
            .output()
            .unwrap();
        let said = String::from_utf8(second.stderr).unwrap();
        let pid = node.child.as_ref().unwrap().id();
        assert!(said.contains(&format!("pid {pid}")), "{said}");
    });
}

#[test]
fn a_deadline_survives_the_controller() {
    in_namespace(|folder| {
        let mut node = Node::new(folder);
        node.start();
        let (status, applied) = node.apply(&json!({"change": drain("b2"), "confirm_s": 15}));
        assert_eq!(status, 200, "{applied}");
        assert_eq!(applied["revision"]["state"], "awaiting_confirm");
        node.end(Signal::SIGKILL);
        assert_eq!(node.slots(), WITHOUT_ONE, "forwarding continues");
        node.start();
        let (status, conflict) = node.apply(&json!({"change": drain("b3")}));
        assert_eq!(status, 409, "{conflict}");
        node.wait_for("/v1/revisions", "rolled back", |r| {
            state_of(r, 2) == "rolled_back"
        });
        assert_eq!(node.slots(), EVEN);

        // Confirmed after a bake that a kill interrupted.
        let both = json!({"change": drain("b2"), "bake_s": 15, "confirm_s": 600});
        let (status, applied) = node.apply(&both);
        assert_eq!(
            (status, &applied["revision"]["state"]),
            (200, &json!("baking")),
            "{applied}"
        );
        node.end(Signal::SIGKILL);
        node.start();
        node.wait_for("/v1/revisions", "baked", |r| {
            state_of(r, 3) == "awaiting_confirm"
        });
        let (status, confirmed) = node.ask("POST", "/v1/confirm", &json!({}));
        assert_eq!(
            (status, &confirmed["state"]),
            (200, &json!("applied")),
            "{confirmed}"
        );
        assert_eq!(node.slots(), WITHOUT_ONE);

        // A deadline that passes while no controller runs.
        let (status, applied) = node.apply(&json!({
            "change": {"kind": "revision", "revision": 1}, "confirm_s": 1
        }));
        assert_eq!(status, 200, "{applied}");
        node.end(Signal::SIGKILL);
        std::thread::sleep(Duration::from_millis(1100));
        node.start();
        assert_eq!(node.slots(), WITHOUT_ONE, "{}", node.log());
        assert_eq!(state_of(&node.get("/v1/revisions"), 4), "rolled_back");
    });
}

#[test]
fn applies_a_changed_file_once_and_never_forced() {
    in_namespace(|folder| {
        let mut node = Node::new(folder);
        node.start();
        node.configure(5000);
        node.end(Signal::SIGTERM);
        node.start();
        assert!(
            node.log().contains("configuration file rejected"),
            "{}",
            node.log()
        );
        assert_eq!(node.slots(), EVEN);
        node.configure(200);
        node.end(Signal::SIGTERM);
        node.start();
        assert_eq!(node.slots(), [63, 63, 125]);
        let (status, _) = node.apply(&json!({"change": drain("b2")}));
        assert_eq!(status, 200);
        node.end(Signal::SIGTERM);
        node.start();
        assert_eq!(node.slots(), WITHOUT_ONE, "the file has not changed since");
        // The newest revision is damaged.
        node.end(Signal::SIGTERM);
        let newest = folder.join("state/revisions/00000003.revision");
        let text = fs::read_to_string(&newest).unwrap();
        fs::write(&newest, text.replace("drain", "dra1n")).unwrap();
        node.start();
        assert!(
            node.log().contains("revision 3 is damaged"),
            "{}",
            node.log()
        );
        assert_eq!(node.slots(), [63, 63, 125]);
    });
}

/// Applies a change with a fault: the result is the old or the new state, and the next start is clean. Returns
/// whether the fault point was reached.
fn with_fault(folder: &Path, fault: &str) -> bool {
    let mut node = Node::new(folder);
    let came_up = node.try_start(Some(fault));
    if came_up {
        let answer = node.try_ask("POST", "/v1/apply", &json!({"change": drain("b2")}));
        let slots = node.slots();
        match answer {
            Some((200, _)) => assert_eq!(slots, WITHOUT_ONE, "{}", node.log()),
            Some((status, error)) => {
                assert_eq!(status, 500, "{error}");
                assert_eq!(slots, EVEN, "{error}: {}", node.log());
            }
            // The controller died, before or after the ring was swapped.
            None => assert!(slots == EVEN || slots == WITHOUT_ONE, "{slots:?}"),
        }
    }
    let hit = node.log().contains("injecting a fault");
    node.end(Signal::SIGKILL);
    node.start();
    let running = node.get("/v1/config")["text"].as_str().unwrap().to_owned();
    let expected = if running.contains("drain") {
        &WITHOUT_ONE[..]
    } else {
        &EVEN[..]
    };
    assert_eq!(node.slots(), expected, "{fault}: {}", node.log());
    let revisions = node.get("/v1/revisions");
    let unfinished = revisions
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["state"] == "applying");
    assert!(unfinished.is_none(), "{fault}: {revisions}");
    hit
}

#[test]
fn every_fault_leaves_the_old_or_the_new_state() {
    for kind in ["", ":kill"] {
        in_namespace(|folder| {
            let mut number = 1;
            while with_fault(&folder.join(number.to_string()), &format!("{number}{kind}")) {
                number += 1;
                assert!(number < 1000);
            }
            assert!(number > 20, "only {number} fault points");
        });
    }
}

//! A state folder that is full or read-only: the controller starts and forwards, backends can be drained, and
//! everything is written when that is possible again.

use std::{fs, path::Path};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::Signal,
};
use serde_json::json;

use crate::node::{EVEN, Node, WITHOUT_ONE, drain, in_namespace, state_of};

/// A small file system of its own for the state folder.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    fn new(folder: &'a Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        let none: Option<&str> = None;
        mount(
            Some("tmpfs"),
            folder,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("size=512k,mode=0700"),
        )
        .unwrap();
        mount(none, folder, none, MsFlags::MS_PRIVATE, none).unwrap();
        Self(folder)
    }

    /// Fills it, or makes it read-only.
    fn break_as(&self, kind: &str) {
        if kind == "full" {
            let fill = self.0.join("fill");
            for size in [4096, 1] {
                let mut bytes = fs::read(&fill).unwrap_or_default();
                while fs::write(&fill, &bytes).is_ok() {
                    bytes.resize(bytes.len() + size, 0);
                    assert!(bytes.len() < 1 << 20, "it is not full");
                }
                bytes.truncate(bytes.len() - size);
                let _ = fs::write(&fill, &bytes);
            }
        } else {
            self.remount(MsFlags::MS_RDONLY);
        }
    }

    fn mend(&self) {
        self.remount(MsFlags::empty());
        let _ = fs::remove_file(self.0.join("fill"));
    }

    fn remount(&self, flags: MsFlags) {
        let none: Option<&str> = None;
        mount(none, self.0, none, MsFlags::MS_REMOUNT | flags, none).unwrap();
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

fn wait_alert(node: &Node, fires: bool) {
    node.wait_for("/v1/alerts", &format!("the alert: {fires}"), |alerts| {
        let mut alerts = alerts.as_array().unwrap().iter();
        alerts.any(|alert| alert["kind"] == "state_dir") == fires
    });
}

#[test]
fn a_disk_that_can_not_be_written_stops_nothing() {
    for kind in ["full", "read-only"] {
        in_namespace(|folder| {
            let state = folder.join("state");
            let disk = Disk::new(&state);
            let mut node = Node::new(folder);
            node.start();
            // A change whose deadline passes while no controller runs.
            let change = json!({"change": drain("b2"), "confirm_s": 1});
            assert_eq!(node.apply(&change).0, 200);
            node.end(Signal::SIGKILL);
            disk.break_as(kind);
            std::thread::sleep(std::time::Duration::from_millis(1100));
            node.start();
            assert_eq!(node.slots(), EVEN, "{kind}: {}", node.log());
            assert_eq!(
                state_of(&node.get("/v1/revisions"), 2),
                "rolled_back",
                "{kind}"
            );
            wait_alert(&node, true);

            // An emergency drain works, any other change reports the disk.
            let weight = json!({"kind": "edits", "edits": [
                {"edit": "set_weight", "vip": "v", "backend": "b2", "weight": 50}
            ]});
            let (status, refused) = node.apply(&json!({ "change": weight }));
            assert_eq!(status, 500, "{kind}: {refused}");
            assert!(
                refused["message"]
                    .as_str()
                    .unwrap()
                    .contains("nothing was changed")
            );
            let (status, drained) = node.apply(&json!({"change": drain("b3")}));
            assert_eq!(status, 200, "{kind}: {drained}");
            assert_eq!(node.slots(), WITHOUT_ONE, "{kind}");

            // It is durable as soon as it can be.
            disk.mend();
            wait_alert(&node, false);
            node.end(Signal::SIGKILL);
            node.start();
            assert_eq!(node.slots(), WITHOUT_ONE, "{kind}: {}", node.log());
        });
    }
}

#[test]
fn a_first_start_needs_no_writable_disk() {
    in_namespace(|folder| {
        let state = folder.join("state");
        let disk = Disk::new(&state);
        disk.break_as("read-only");
        let mut node = Node::new(folder);
        node.start();
        assert_eq!(node.slots(), EVEN, "{}", node.log());
        wait_alert(&node, true);
    });
}

#[test]
fn exchanged_states_change_nothing_and_are_reported() {
    in_namespace(|folder| {
        let mut node = Node::new(folder);
        node.start();
        assert_eq!(node.apply(&json!({"change": drain("b2")})).0, 200);
        let weight = json!({"kind": "edits", "edits": [
            {"edit": "set_weight", "vip": "v", "backend": "b3", "weight": 90}
        ]});
        let (status, applied) = node.apply(&json!({"change": weight, "confirm_s": 60}));
        assert_eq!(status, 200, "{applied}");
        assert_eq!(node.ask("POST", "/v1/rollback", &json!({})).0, 200);
        node.end(Signal::SIGTERM);
        let file = |name: &str| folder.join("state/revisions").join(name);
        fs::rename(file("00000002.state"), file("x")).unwrap();
        fs::rename(file("00000003.state"), file("00000002.state")).unwrap();
        fs::rename(file("x"), file("00000003.state")).unwrap();
        node.start();
        assert_eq!(node.slots(), WITHOUT_ONE, "{}", node.log());
        assert_eq!(state_of(&node.get("/v1/revisions"), 3), "rolled_back");
        node.wait_for("/v1/events", "an event about the damage", |events| {
            let mut events = events.as_array().unwrap().iter();
            events.any(|event| event["message"].as_str().unwrap().contains("is damaged"))
        });
    });
}

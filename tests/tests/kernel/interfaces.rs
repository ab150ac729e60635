//! The controller and its host: interfaces that disappear, sockets on the ports of `nat`.

use std::{fs, process::Command};

use lb_dataplane::ethtool;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{
    host::ip,
    node::{EVEN, Node, drain, in_namespace, state_of},
};

/// As after a driver restart: the link to the program disappears with the interface.
#[test]
fn attaches_again_to_an_interface_that_comes_back() {
    in_namespace(|folder| {
        let mut node = Node::new(folder);
        node.start();
        let runs = |status: &Value| {
            let node = &status["node"];
            node["interfaces"][0]["program_id"] == node["program_id"]
        };
        node.wait_for("/v1/status", "attached", runs);
        ip("link del vlb0");
        node.wait_for("/v1/status", "lost", |status| {
            status["node"]["interfaces"][0]["program_id"].is_null()
        });
        for arguments in [
            "link add vlb0 type veth peer name vfar",
            "link set vlb0 up",
            "addr add 10.77.0.1/24 dev vlb0",
        ] {
            ip(arguments);
        }
        node.wait_for("/v1/status", "attached again", runs);
        let links = Command::new("ip").args(["link", "show", "vlb0"]).output();
        let links = String::from_utf8(links.unwrap().stdout).unwrap();
        assert!(links.contains(" xdp "), "{links}");
    });
}

/// A tag beside the frame would be lost: the offload is off, and is switched off again when another
/// program switches it on.
#[test]
fn frames_keep_their_vlan_tags() {
    in_namespace(|folder| {
        let mut node = Node::new(folder);
        node.start();
        let is_on = || ethtool::rx_vlan("vlb0").unwrap();
        assert!(!is_on());
        let mut on = Command::new("ethtool");
        on.args(["-K", "vlb0", "rxvlan", "on"]);
        assert!(on.status().unwrap().success());
        assert!(is_on());
        node.wait_for("/v1/status", "switched off again", |_| !is_on());
    });
}

/// An interface that disappeared is tolerated, also if no controller ran; one that never existed is an error.
#[test]
fn starts_without_an_interface_that_disappeared() {
    in_namespace(|folder| {
        let mut node = Node::new(folder);
        let file = folder.join("evenkeel.toml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("\"vlb0\"", "\"vlb0\", \"vlb1\"")).unwrap();
        assert!(!node.try_start(None), "vlb1 never existed");
        assert!(node.log().contains("vlb1"), "{}", node.log());
        let make = || ip("link add vlb1 type veth peer name vfar1");
        make();
        node.start();
        let runs = |at: usize| {
            move |status: &Value| {
                let node = &status["node"];
                node["interfaces"][at]["program_id"] == node["program_id"]
            }
        };
        node.wait_for("/v1/status", "attached", runs(1));
        for fresh in [false, true] {
            node.end(Signal::SIGTERM);
            ip("link del vlb1");
            if fresh {
                node.unload();
            }
            node.start();
            assert!(node.log().contains("when it comes back"), "{}", node.log());
            node.wait_for("/v1/status", "attached", runs(0));
            node.wait_for("/v1/alerts", "alerted", |alerts| {
                alerts.to_string().contains("vlb1 does not run it")
            });
            let (status, applied) = node.apply(&json!({"change": drain("b2")}));
            assert_eq!(status, 200, "{applied}");
            let (status, back) = node.ask("POST", "/v1/rollback", &json!({}));
            assert_eq!(status, 200, "{back}");
            make();
            node.wait_for("/v1/status", "attached again", runs(1));
        }
        node.end(Signal::SIGTERM);
        node.unload();
        ip("link del vlb1");
        node.start();
        ip("link del vlb0");
        let (status, applied) = node.apply(&json!({"change": drain("b2")}));
        assert_eq!(
            status, 200,
            "a running controller needs no interface: {applied}"
        );
        node.end(Signal::SIGTERM);
        node.unload();
        assert!(!node.try_start(None), "there is no interface");
        assert!(
            node.log().contains("attach to interface vlb"),
            "{}",
            node.log()
        );
    });
}

/// A foreign socket on a port of `nat` raises an alert, but prevents only what needs that port.
#[test]
fn a_socket_on_a_nat_port_raises_an_alert_and_blocks_nothing_else() {
    in_namespace(|folder| {
        let mut node = Node::new(folder);
        let file = folder.join("evenkeel.toml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("\"l2\"", "\"nat\"")).unwrap();
        let bind = || std::net::TcpListener::bind("0.0.0.0:20000").unwrap();
        let socket = bind();
        assert!(!node.try_start(None), "a fresh start fails");
        assert!(node.log().contains("0.0.0.0:20000"), "{}", node.log());
        drop(socket);
        node.start();
        let confirm = json!({"change": drain("b2"), "confirm_s": 1});
        let (status, applied) = node.apply(&confirm);
        assert_eq!(status, 200, "{applied}");
        let number = applied["revision"]["number"].as_u64().unwrap();
        let socket = bind();
        node.wait_for("/v1/revisions", "undone", |r| {
            state_of(r, number) == "rolled_back"
        });
        assert_eq!(node.slots(), EVEN);

        let is_alerted = |alerts: &Value| alerts.to_string().contains("0.0.0.0:20000");
        node.wait_for("/v1/alerts", "alerted", is_alerted);
        ip("neigh replace 10.77.0.2 lladdr 02:00:00:00:00:99 dev vlb0 nud permanent");
        node.wait_for_next_hop([2, 0, 0, 0, 0, 0x99]);
        let (status, applied) = node.apply(&json!({"change": drain("b2")}));
        assert_eq!(status, 200, "{applied}");
        let (status, back) = node.ask("POST", "/v1/rollback", &json!({}));
        assert_eq!(status, 200, "{back}");
        assert_eq!(node.slots(), EVEN);

        // A wider port range is refused, and the error names the socket.
        let wider = fs::read_to_string(&file).unwrap();
        let wider = wider.replace("[node]", "[node]\nnat_ports = \"16384-40000\"");
        let wider = json!({"change": {"kind": "config", "file": "wider.toml", "text": wider}});
        let (status, refused) = node.apply(&wider);
        assert_eq!(status, 500, "{refused}");
        assert!(is_alerted(&refused), "{refused}");

        node.end(Signal::SIGKILL);
        node.start();
        node.wait_for_log("another socket uses a port of");
        ip("neigh replace 10.77.0.2 lladdr 02:00:00:00:00:22 dev vlb0 nud permanent");
        node.wait_for_next_hop([2, 0, 0, 0, 0, 0x22]);
        drop(socket);
        node.wait_for_log("no other socket uses a port of");
    });
}

//! `evenkeel doctor` on a host (a network namespace) with faults.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::host::{evenkeel, in_network_namespace, ip};

fn configure(folder: &Path) -> PathBuf {
    let state = folder.join("state");
    let mut text = format!(
        "[node]\ninterfaces = [\"vlb0\"]\nstate_dir = {state:?}\n\
         hash_seed = \"000102030405060708090a0b0c0d0e0f\"\n"
    );
    for (name, port, forward) in [("tunnel", 80, "ipip"), ("rewritten", 81, "nat")] {
        text += &format!(
            "[[vip]]\nname = \"{name}\"\naddress = \"203.0.113.1\"\nport = {port}\n\
             protocol = \"tcp\"\nforward = \"{forward}\"\n"
        );
        for number in [2, 3] {
            text +=
                &format!("[[vip.backend]]\nname = \"b{number}\"\naddress = \"10.77.0.{number}\"\n");
        }
    }
    let path = folder.join("evenkeel.toml");
    fs::write(&path, text).unwrap();
    path
}

/// Runs the command and returns its exit code and findings.
fn doctor(config: Option<&Path>) -> (i32, Vec<Value>) {
    let mut command = evenkeel();
    command.args(["doctor", "--json"]);
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    let output = command.output().unwrap();
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    for finding in &findings {
        println!("{finding}");
        let keys: Vec<&str> = finding
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        for key in ["check", "subject", "level", "finding", "advice"] {
            assert!(keys.contains(&key), "{finding}");
        }
    }
    (output.status.code().unwrap(), findings)
}

/// Returns level and text of the finding of a check about a subject.
fn found(findings: &[Value], check: &str, subject: &str) -> (String, String) {
    let mut matching = findings
        .iter()
        .filter(|finding| finding["check"] == check && finding["subject"] == subject);
    let finding = matching
        .next()
        .unwrap_or_else(|| panic!("nothing about {check} of {subject}"));
    let text = |key: &str| finding[key].as_str().unwrap().to_owned();
    (text("level"), text("finding"))
}

fn check_faults(folder: &Path) {
    for arguments in [
        "link set lo up",
        "link add vlb0 type veth peer name vfar",
        "addr add 10.77.0.1/24 dev vlb0",
        "link set vlb0 up",
        "link set vfar up",
        "neigh add 10.77.0.2 lladdr 02:00:00:00:00:22 dev vlb0 nud permanent",
    ] {
        ip(arguments);
    }
    let config = configure(folder);
    let socket = TcpListener::bind("10.77.0.1:20000").unwrap();
    let (code, findings) = doctor(Some(&config));
    assert_eq!(code, 1);
    let (level, text) = found(&findings, "next hop", "10.77.0.3");
    assert_eq!(level, "problem");
    assert!(
        text.contains("b3 of VIP tunnel, b3 of VIP rewritten"),
        "{text}"
    );
    assert!(text.contains("does not answer on vlb0"), "{text}");
    assert_eq!(found(&findings, "next hop", "host").0, "ok");
    let (level, text) = found(&findings, "mtu", "tunnel");
    assert_eq!(level, "warning");
    assert!(text.contains("leaves 1480 bytes"), "{text}");
    assert_eq!(found(&findings, "mtu", "rewritten").0, "ok");
    let (level, text) = found(&findings, "nat ports", "host");
    assert_eq!(level, "problem");
    assert!(text.contains("10.77.0.1:20000"), "{text}");
    // No problems are reported for what is in order.
    for (check, subject) in [
        ("program", "host"),
        ("interface", "vlb0"),
        ("structure", "vlb0"),
        ("xdp slot", "vlb0"),
        ("native xdp", "vlb0"),
    ] {
        assert_ne!(found(&findings, check, subject).0, "problem", "{check}");
    }

    drop(socket);
    ip("link set vlb0 mtu 1600");
    ip("link set vfar mtu 1600");
    ip("neigh replace 10.77.0.3 lladdr 02:00:00:00:00:33 dev vlb0 nud permanent");
    let (code, findings) = doctor(Some(&config));
    assert_eq!(code, 0, "warnings do not change the exit code");
    assert_eq!(found(&findings, "mtu", "tunnel").0, "ok");
    assert_eq!(found(&findings, "nat ports", "host").0, "ok");
    let next_hops = findings.iter().filter(|f| f["check"] == "next hop");
    assert!(next_hops.into_iter().all(|f| f["level"] == "ok"));

    ip("link set vlb0 down");
    let (code, findings) = doctor(Some(&config));
    assert_eq!(code, 1);
    assert_eq!(found(&findings, "interface", "vlb0").0, "problem");
    let (code, findings) = doctor(None);
    assert_eq!(
        code, 0,
        "without a configuration, an interface that is down is ignored"
    );
    assert!(findings.iter().all(|finding| finding["subject"] != "vlb0"));
}

#[test]
fn finds_faults_of_a_host() {
    let folder = tempfile::tempdir().unwrap();
    in_network_namespace(|| check_faults(folder.path()));
}

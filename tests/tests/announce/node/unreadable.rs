//! What can't be read withdraws nothing.

use std::fs;

use super::*;

#[test]
fn links_that_cannot_be_read_withdraw_nothing() {
    let name = "announce with links that can't be read";
    if !lab::skip::can_run(name, &["ip", "bird", "birdc", "prlimit"]) {
        return;
    }
    let site = Site::new(&RouterPlan::default()).unwrap();
    let node = Node::start(&site, 0, node_v4(1)).unwrap();
    node.wait_route(true);
    let pid = node.announcer.pid();
    let set_limit = |files: u32| {
        let mut prlimit = Command::new("prlimit");
        prlimit.arg(format!("--pid={pid}"));
        prlimit.arg(format!("--nofile={files}:"));
        output(&node.host.ns.entry(), prlimit, "").unwrap();
    };
    let is_free = |fd: &u32| fs::symlink_metadata(format!("/proc/{pid}/fd/{fd}")).is_err();
    let free = (0..).find(is_free).unwrap();
    // One more file: the link can be opened, and not described.
    set_limit(free + 1);
    std::thread::sleep(Duration::from_secs(2));
    let next_hops = site.next_hops(vip()).unwrap();
    set_limit(1024);
    let log = node.announcer.log();
    assert!(log.contains("provable: can't"), "{log}");
    assert!(!next_hops.is_empty(), "{log}");
    node.wait_state("announced");
    assert_eq!(node.state().unwrap()["peers"][0]["flaps"], 0);
}

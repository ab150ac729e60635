//! A disk that stalls must not delay health checks, API reads or metrics. Needs root.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::node::{Node, in_namespace};

const STALL: Duration = Duration::from_secs(2);
/// Limit of replies during the stall.
const PROMPT: Duration = Duration::from_millis(500);
/// Checks run every 100 ms.
const LEAST_CHECKS: usize = 10;

/// Adds metrics and a health check that appends a line to a file.
fn add_checks_and_metrics(folder: &Path) {
    let file = folder.join("evenkeel.toml");
    let text = fs::read_to_string(&file).unwrap();
    let command = format!("echo >> {}", folder.join("checks").display());
    let health = format!(
        "[vip.health]\nkind = \"exec\"\ninterval = \"100ms\"\ntimeout = \"90ms\"\n\
         command = [\"/bin/sh\", \"-c\", {command:?}]\n[vip.guard]"
    );
    let text = text.replace("[vip.guard]", &health);
    // The folder is this user's.
    let text = text.replace("[node]", "[node]\nexec_user = \"root\"");
    let metrics = "[metrics]\nlisten = \"127.0.0.1:9400\"\n[change]";
    fs::write(&file, text.replace("[change]", metrics)).unwrap();
}

fn checks(folder: &Path) -> usize {
    let lines = fs::read_to_string(folder.join("checks")).unwrap_or_default();
    lines.lines().count()
}

fn metrics() -> String {
    let mut stream = TcpStream::connect("127.0.0.1:9400").unwrap();
    stream.set_read_timeout(Some(STALL)).unwrap();
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}

fn promptly<T>(what: &str, ask: impl FnOnce() -> T) -> T {
    let asked = Instant::now();
    let answer = ask();
    assert!(
        asked.elapsed() < PROMPT,
        "{what} took {:?}",
        asked.elapsed()
    );
    answer
}

/// Ends the stall when dropped, also if the test fails: the change must not wait for ever.
struct Stall<'a>(&'a Path);

impl Drop for Stall<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0);
    }
}

#[test]
fn a_stalled_disk_delays_neither_checks_nor_reads() {
    in_namespace(|folder| {
        let mut node = Node::new(folder);
        add_checks_and_metrics(folder);
        let stall = folder.join("stall");
        assert!(
            node.try_start_with(Some(("EVENKEEL_STALL", stall.as_os_str()))),
            "{}",
            node.log()
        );
        fs::write(&stall, "").unwrap();
        let change = json!({"kind": "edits", "edits": [
            {"edit": "set_weight", "vip": "v", "backend": "b2", "weight": 120}
        ]});
        thread::scope(|scope| {
            let stalled = Stall(&stall);
            let applied = scope.spawn(|| node.apply(&json!({"change": change})));
            node.wait_for_log("stall on purpose");
            let (began, before) = (Instant::now(), checks(folder));
            while began.elapsed() < STALL {
                promptly("/v1/status", || node.get("/v1/status"));
                promptly("/v1/events", || node.get("/v1/events"));
                let page = promptly("/metrics", metrics);
                assert!(page.contains("evenkeel_revision 1"), "{page}");
                thread::sleep(Duration::from_millis(50));
            }
            let ran = checks(folder) - before;
            assert!(ran >= LEAST_CHECKS, "{ran} checks: {}", node.log());
            assert!(!applied.is_finished(), "the change did not stall");
            drop(stalled);
            let (status, applied) = applied.join().unwrap();
            assert_eq!(status, 200, "{applied}");
        });
        node.end(Signal::SIGTERM);
        assert!(node.log().contains("keeps forwarding"), "{}", node.log());
    });
}

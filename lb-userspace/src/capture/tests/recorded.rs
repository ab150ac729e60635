//! Captures by tcpdump on the loopback interface of a network namespace.

use std::{env, fs::OpenOptions, io::Write as _, process::Command};

use crate::capture;

/// Records a skipped test for `cargo xtask test`.
pub(super) fn skip(test: &str, why: &str) {
    let line = format!("{test}: {why}\n");
    eprint!("SKIPPED: {line}");
    if let Some(path) = env::var_os("EVENKEEL_SKIPS") {
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}

/// Starts tcpdump, sends packets until it exits (it does not report when it is ready), and returns its
/// status.
const RECORD: &str = r#"
ip link set lo up
timeout 20 tcpdump -i lo -nn -U --immediate-mode -c 3 -s "$2" -w "$1" udp port 4660 2>/dev/null &
while kill -0 $! 2>/dev/null; do
    echo 'from the one end of a loopback to the other, in more bytes than are kept' >/dev/udp/127.0.0.1/4660
    sleep 0.02
done
wait $!
"#;

fn record(snap_len: &str) -> Option<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("recorded.pcap");
    let namespace = Command::new("unshare").args(["--net", "true"]).output();
    let tcpdump = Command::new("tcpdump").arg("--version").output();
    if !namespace.is_ok_and(|it| it.status.success()) || tcpdump.is_err() {
        return None;
    }
    let mut command = Command::new("unshare");
    command
        .args(["--net", "bash", "-c", RECORD, "record"])
        .arg(&file)
        .arg(snap_len);
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(std::fs::read(&file).unwrap())
}

#[test]
fn reads_captures_of_tcpdump() {
    for (snap_len, cut_frames) in [("0", 0), ("60", 3)] {
        let Some(bytes) = record(snap_len) else {
            skip(
                "capture: reads captures of tcpdump",
                "needs root and tcpdump",
            );
            return;
        };
        let mut recorded = super::open(&bytes).unwrap();
        let frames: Vec<capture::Frame> = recorded.by_ref().map(Result::unwrap).collect();
        assert_eq!((recorded.frames(), recorded.cut_frames()), (3, cut_frames));
        for frame in frames {
            let headers = etherparse::LaxPacketHeaders::from_ethernet(&frame.data).unwrap();
            let Some(etherparse::TransportHeader::Udp(udp)) = headers.transport else {
                panic!("{headers:?}");
            };
            assert_eq!(udp.destination_port, 4660);
            assert_eq!(u32::from(udp.length) + 34, frame.original_len);
            assert!(frame.timestamp.as_secs() > 1_700_000_000);
        }
    }
}

//! `simulate` with the real bytecode: shares, tracked flows, captures.

use std::{
    fmt::Write as _,
    io::PipeWriter,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use evenkeel::{
    capture,
    simulate::{Input, Options, Report, SimulateError, simulate},
};
use lab::packet::{Frame, SYN, V4, tcp};
use lb_model::config::{self, Config};

use crate::host;

fn text(forward: &str, v6: bool, protocol: &str) -> String {
    let (vip, net) = if v6 {
        ("2001:db8::1", "fd00::")
    } else {
        ("203.0.113.1", "10.0.0.")
    };
    let mut text = format!(
        "[node]\ninterfaces = [\"not-there0\"]\nhash_seed = \"000102030405060708090a0b0c0d0e0f\"\n\
         track_flows = 65536\n\
         [[vip]]\nname = \"v\"\naddress = \"{vip}\"\nport = 80\nprotocol = \"{protocol}\"\n\
         forward = \"{forward}\"\n"
    );
    for (number, weight, state) in [
        (1, 100, "up"),
        (2, 50, "up"),
        (3, 10, "up"),
        (4, 100, "drain"),
    ] {
        write!(
            text,
            "[[vip.backend]]\nname = \"b{number}\"\naddress = \"{net}{number}\"\nweight = {weight}\n\
             state = \"{state}\"\n"
        )
        .unwrap();
    }
    text
}

fn config(forward: &str, v6: bool, protocol: &str) -> Config {
    let text = text(forward, v6, protocol);
    config::parse("test.toml", &text).unwrap_or_else(|errors| panic!("{errors}"))
}

fn flows(config: &Config, count: u64) -> Report {
    let options = Options {
        input: Input::Flows { count, seed: 7 },
        write: None,
        trace: false,
        capturing: false,
        mac: None,
    };
    let outcome = simulate(config, &options, &mut std::io::sink()).unwrap();
    assert!(outcome.fault.is_none());
    outcome.report
}

#[test]
fn observed_shares_match_the_ring() {
    const FLOWS: u64 = 20_000;
    for v6 in [false, true] {
        for forward in ["l2", "ipip", "nat"] {
            let report = flows(&config(forward, v6, "tcp"), FLOWS);
            assert_eq!(report.packets, FLOWS);
            // Of that many sessions without replies, a few find no port in eight attempts.
            let without_port = report.reasons.get("NAT_NO_PORT").copied().unwrap_or(0);
            assert!(without_port <= if forward == "nat" { FLOWS / 100 } else { 0 });
            let sent = FLOWS - without_port;
            assert_eq!(report.verdicts.tx, sent, "{forward} {v6}: {report}");
            assert_eq!(report.reasons.get("FORWARDED"), Some(&sent));
            for member in &report.members {
                let (intended, table) = (member.intended_share, member.table_share);
                assert!((intended - table).abs() <= 1.0 / 65_537.0, "{member:?}");
                // Five standard deviations of a binomial distribution.
                let bound = 5.0 * (table * (1.0 - table) / FLOWS as f64).sqrt();
                let off = (member.observed_share - table).abs();
                assert!(
                    off <= bound,
                    "{forward} {v6}: {member:?} is off by {off} > {bound}"
                );
            }
            let drained = report.members.iter().find(|m| m.backend == "b4").unwrap();
            assert_eq!((drained.packets, drained.table_share), (0, 0.0));
            assert_eq!(report.tracked_flows > 0, forward == "nat", "{forward} {v6}");
        }
    }
}

#[test]
fn tracks_udp_flows_once() {
    assert_eq!(flows(&config("l2", false, "udp"), 500).tracked_flows, 500);
    assert_eq!(flows(&config("nat", false, "udp"), 500).tracked_flows, 500);
}

/// A SYN every 250 ms is twice what the limit allows; that of generated flows has no times to be held against.
#[test]
fn rate_limits_have_the_times_of_the_capture() {
    let mut config = config("l2", false, "tcp");
    config.vips[0].limit.source.new_flows = Some(2);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("syns.pcap");
    let mut writer = capture::Writer::create(&path).unwrap();
    for number in 0..40 {
        let ip = V4::new([198, 51, 100, 7].into(), [203, 0, 113, 1].into());
        let frame = Frame::new(ip, tcp(4000 + number, 80, SYN));
        let timestamp = Duration::from_millis(1_800_000_000_000 + 250 * u64::from(number));
        writer.write(timestamp, &frame.bytes()).unwrap();
    }
    writer.finish().unwrap();
    let options = Options {
        input: Input::Capture(path),
        write: None,
        trace: false,
        capturing: false,
        mac: None,
    };
    let outcome = simulate(&config, &options, &mut std::io::sink()).unwrap();
    let reasons = &outcome.report.reasons;
    // In 9.75 seconds, two each and two at once.
    assert_eq!(reasons.get("FORWARDED"), Some(&21), "{reasons:?}");
    assert_eq!(reasons.get("SOURCE_FLOW_LIMIT"), Some(&19));
    assert_eq!(flows(&config, 5000).reasons.get("FORWARDED"), Some(&5000));
}

#[test]
fn writes_transmitted_packets_and_no_file_on_failure() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("1.pcap"), folder.path().join("2.pcap"));
    let run_for = |mac: Option<[u8; 6]>, input: Input, out: &Path| {
        let options = Options {
            input,
            write: Some(out.to_owned()),
            trace: true,
            capturing: false,
            mac,
        };
        let mut trace = Vec::new();
        let outcome = simulate(&config("l2", false, "tcp"), &options, &mut trace);
        outcome.map(|outcome| {
            assert!(outcome.fault.is_none());
            (outcome.report, String::from_utf8(trace).unwrap())
        })
    };
    let run = |input: Input, out: &Path| run_for(None, input, out);
    let (report, trace) = run(Input::Flows { count: 20, seed: 1 }, &first).unwrap();
    assert_eq!((report.packets, trace.lines().count()), (20, 20));
    assert!(trace.starts_with("1 tx FORWARDED v b"), "{trace}");
    // `l2` keeps addresses and ports, so the output is a valid input for the same members.
    let (again, trace_again) = run(Input::Capture(first.clone()), &second).unwrap();
    assert_eq!((&again.members, &trace_again), (&report.members, &trace));
    // As the first backend sees them, on a port that gets those for the others, too.
    let mac = Some([2, 0, 1, 0, 0, 0]);
    let third = folder.path().join("one.pcap");
    let (one, trace) = run_for(mac, Input::Capture(first.clone()), &third).unwrap();
    let passed = trace
        .lines()
        .filter(|line| line.ends_with("pass OTHER_HOST - -"));
    assert_eq!(
        one.members[0],
        lb_daemon::reconciler::MemberShare {
            observed_share: 1.0,
            ..report.members[0].clone()
        }
    );
    assert_eq!(passed.count() as u64, 20 - one.verdicts.tx);
    let times = |path: &Path| -> Vec<_> {
        capture::read(path)
            .unwrap()
            .map(|frame| frame.unwrap().timestamp)
            .collect()
    };
    assert_eq!(times(&first), times(&second));

    // A pipe can be read once. The second packet is too short to run, but it counts.
    let bytes = std::fs::read(&first).unwrap();
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (one, len) = (24 + 16, bytes.len());
    let frame = u32::from_le_bytes(bytes[32..36].try_into().unwrap()) as usize;
    let mut record = bytes[24..one].to_vec();
    record[8..16].copy_from_slice(&[0; 8]);
    let odd = [&bytes[..one + frame], &record, &bytes[one + frame..len]].concat();
    let to = pipe.clone();
    let writer = std::thread::spawn(move || std::fs::write(to, odd).unwrap());
    let (piped, numbers) = run(Input::Capture(pipe.clone()), &second).unwrap();
    writer.join().unwrap();
    assert_eq!((piped.packets, piped.members), (20, again.members));
    let numbers: Vec<_> = numbers
        .lines()
        .map(|l| l.split(' ').next().unwrap())
        .collect();
    assert_eq!((numbers[0], numbers[1], numbers[19]), ("1", "3", "21"));
    std::fs::remove_file(pipe).unwrap();

    // No packet in it is complete.
    let cut = folder.path().join("cut.pcap");
    std::fs::write(&cut, &bytes[..one + 5]).unwrap();
    let out = folder.path().join("3.pcap");
    let error = run(Input::Capture(cut), &out).unwrap_err();
    assert!(matches!(error, SimulateError::Capture(_)), "{error}");
    assert!(error.to_string().contains("cut.pcap"), "{error}");
    assert!(!out.exists());
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        4,
        "no temporary file remains"
    );
}

/// Returns a `simulate` command.
fn command(folder: &Path, arguments: &[&str]) -> Command {
    let file = folder.join("test.toml");
    std::fs::write(&file, text("l2", false, "tcp")).unwrap();
    let mut command = host::evenkeel();
    command.args(["simulate", "--config"]);
    command.arg(file).args(arguments);
    command
}

/// Returns a pipe without a reader.
fn unread() -> PipeWriter {
    std::io::pipe().unwrap().1
}

#[test]
fn finishes_when_the_trace_has_no_reader() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.pcap");
    let written = path.to_str().unwrap();
    let mut printing = command(
        folder.path(),
        &["--flows", "5000", "--trace", "--write", written],
    );
    let output = printing.stdout(unread()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(capture::read(&path).unwrap().count(), 5000);
    std::fs::remove_file(&path).unwrap();

    let mut complaining = command(
        folder.path(),
        &["--flows", "5000", "--trace", "--json", "--write", written],
    );
    let output = complaining.stderr(unread()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(capture::read(&path).unwrap().count(), 5000);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["packets"], 5000);
}

#[test]
fn finishes_when_the_log_has_no_reader() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path(), &["--flows", "1", "--json"]);
    // Enough messages to write to the pipe.
    command.env("RUST_LOG", "trace").stdout(Stdio::piped());
    let output = command.stderr(unread()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn fails_when_the_reader_of_the_capture_disappears() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let opened = pipe.clone();
    // Opening waits for the writer, which writes more than the pipe holds and so can't finish first.
    let reader = std::thread::spawn(move || drop(std::fs::File::open(opened).unwrap()));
    let output = command(
        folder.path(),
        &["--flows", "5000", "--write", pipe.to_str().unwrap()],
    )
    .output()
    .unwrap();
    reader.join().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("write the capture") && stderr.contains("Broken pipe"),
        "{stderr}"
    );
}

#[test]
fn runs_a_damaged_capture_up_to_the_damage() {
    let folder = tempfile::tempdir().unwrap();
    let inside = |name: &str| folder.path().join(name).display().to_string();
    let (whole, cut, out) = (inside("in.pcap"), inside("cut.pcap"), inside("out.pcap"));
    let made = command(folder.path(), &["--flows", "20", "--write", &whole]).output();
    assert!(made.unwrap().status.success());
    let bytes = std::fs::read(&whole).unwrap();
    std::fs::write(&cut, &bytes[..bytes.len() - 5]).unwrap();

    let arguments = ["--pcap", &cut, "--write", &out, "--json"];
    let output = command(folder.path(), &arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    let (end, packets) = (bytes.len() - 5, "19 complete packets");
    assert!(
        stderr.contains(&format!("{cut} is truncated: it ends at byte {end}")),
        "{stderr}"
    );
    assert!(stderr.contains(packets), "{stderr}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["packets"], 19);
    assert_eq!(capture::read(&out).unwrap().count(), 19);
}

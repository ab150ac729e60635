//! The page as Prometheus sees it.

use std::{
    collections::BTreeSet,
    io::Write as _,
    process::{Command, Stdio},
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    example::snapshot,
    server::{Limits, serve_within},
    *,
};
use crate::node::MemberPhase;

fn names(page: &str) -> BTreeSet<&str> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.map(|line| line.split(' ').next().unwrap()).collect()
}

#[test]
fn everything_of_the_list_is_on_the_page() {
    let page = render(&snapshot(1, 4));
    let listed: BTreeSet<&str> = FAMILIES.iter().map(|family| family.name).collect();
    assert_eq!(names(&page), listed);
    for line in [
        r#"evenkeel_member_table_share_ratio{backend="backend-0",vip="vip-0"} 0.24"#,
        r#"evenkeel_member_observed_share_ratio{backend="backend-3",vip="vip-0"} 0.25"#,
        r#"evenkeel_member_new_flows_total{backend="backend-1",vip="vip-0"} 123456899"#,
        r#"evenkeel_vip_utilisation_ratio{vip="vip-0"} 0.035"#,
        r#"evenkeel_vip_headroom_new_flows_per_second{vip="vip-0"} 2860"#,
        r#"evenkeel_vip_wanted_backends{vip="vip-0"} 1"#,
        r#"evenkeel_vip_backends{state="up",vip="vip-0"} 4"#,
        r#"evenkeel_packets_total{fate="dropped",reason="NO_NEXT_HOP"} 7"#,
        r#"evenkeel_vip_peak_new_flows_per_second{vip="vip-0"} 40"#,
        "evenkeel_revision 3",
    ] {
        assert!(page.contains(line), "{line}\nis not on\n{page}");
    }
}

#[test]
fn a_name_that_two_members_have_is_there_once() {
    let mut snapshot = snapshot(1, 2);
    let status = Arc::make_mut(&mut snapshot.state);
    let mut leaving = status.vips[0].members[0].clone();
    leaving.phase = MemberPhase::Leaving;
    status.vips[0].members.push(leaving);
    let page = render(&snapshot);
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    let mut seen = BTreeSet::new();
    for sample in samples {
        let (series, _) = sample.rsplit_once(' ').unwrap();
        assert!(seen.insert(series), "twice: {series}");
    }
    assert!(page.contains(r#"member_state{backend="backend-0",vip="vip-0"} 1"#));
}

#[test]
fn promtool_has_no_complaint() {
    let page = render(&snapshot(2, 3));
    let started = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = started else {
        crate::skip::note("promtool_has_no_complaint", "prometheus");
        return;
    };
    let mut input = promtool.stdin.take().unwrap();
    input.write_all(page.as_bytes()).unwrap();
    drop(input);
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[tokio::test]
async fn only_get_metrics_is_answered() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let sources = small_sources();
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let error = bind(address).await.unwrap_err().to_string();
    assert!(error.contains("metrics.listen"), "{error}");
    tokio::spawn(serve(listener, sources));
    let client = reqwest::Client::new();
    let answer = client
        .get(format!("http://{address}/metrics"))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert!(
        answer.headers()["content-type"]
            .to_str()
            .unwrap()
            .contains("version=0.0.4")
    );
    assert!(
        answer
            .text()
            .await
            .unwrap()
            .contains("evenkeel_build_info{version=\"0.1.0\"} 1")
    );
    for (method, path, status) in [
        ("GET", "/", 404),
        ("GET", "/metrics/x", 404),
        ("POST", "/", 404),
        ("POST", "/metrics", 405),
        ("DELETE", "/metrics", 405),
    ] {
        let answer = client
            .request(method.parse().unwrap(), format!("http://{address}{path}"))
            .send()
            .await;
        assert_eq!(answer.unwrap().status(), status, "{method} {path}");
    }
}

/// The sources of a small node. Their senders are gone: what they last said stays.
fn small_sources() -> Sources {
    let example = example::example(1, 2);
    Sources {
        state: watch::channel(Arc::new(example.state)).1,
        traffic: SharedTraffic::new(example.traffic),
        facts: watch::channel(Arc::new(example.facts)).1,
        alerts: Alerts::in_memory(),
    }
}

/// Clients that say nothing, or half of a request, hold their places for a while and no longer.
#[tokio::test]
async fn slow_clients_hold_up_nobody_for_long() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = Limits {
        clients: 2,
        question: Duration::from_millis(300),
        patience: Duration::from_mins(1),
    };
    tokio::spawn(serve_within(listener, small_sources(), limits));
    let mut slow = Vec::new();
    for said in [&b""[..], b"GET /metrics HTTP/1.1\r\nHost: x\r\n", b"", b"G"] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(said).await.unwrap();
        slow.push(stream);
    }
    let url = format!("http://{address}/metrics");
    let answer = tokio::time::timeout(Duration::from_secs(20), reqwest::get(url)).await;
    let answer = answer
        .expect("an answer, when the slow ones are out")
        .unwrap();
    assert_eq!(answer.status(), 200);
    // All of them were let go.
    for mut stream in slow {
        let mut rest = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest));
        // Reset or ended: either is an end.
        let _ = read.await.expect("an end");
    }
}

#[test]
#[ignore = "a measurement: cargo test --release -- --ignored --nocapture"]
fn cost_of_a_scrape_of_64_vips_and_4096_members() {
    let example = example::example(64, 64);
    let (_state, state) = watch::channel(Arc::new(example.state));
    let (_facts, facts) = watch::channel(Arc::new(example.facts));
    let sources = Sources {
        state,
        traffic: SharedTraffic::new(example.traffic),
        facts,
        alerts: Alerts::in_memory(),
    };
    // Processor time: others may be at work on this machine.
    let now = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
    let mut times: Vec<(Duration, Duration, usize)> = (0..21)
        .map(|_| {
            let begun = now();
            let snapshot = sources.snapshot();
            let held = now() - begun;
            let page = render(&snapshot);
            (now() - begun, held, page.len())
        })
        .collect();
    times.sort();
    let (total, held, bytes) = times[times.len() / 2];
    println!(
        "median of 21: {total:?}, of it {held:?} with the lock; {bytes} bytes; worst {:?}",
        times[20].0
    );
}

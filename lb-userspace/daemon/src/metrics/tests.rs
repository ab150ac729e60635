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
    server::{Limits, bind, serve},
    *,
};
use crate::node::MemberPhase;

fn names(page: &str) -> BTreeSet<&str> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.map(|line| line.split(' ').next().unwrap()).collect()
}

#[test]
fn all_listed_families_are_on_the_page() {
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
        r#"evenkeel_vip_bound_factor{vip="vip-0"} 1.25"#,
        r#"evenkeel_vip_bound_unplaced_flows_total{reason="all_full",vip="vip-0"} 48"#,
        r#"evenkeel_vip_bound_unplaced_flows_total{reason="no_room",vip="vip-0"} 12"#,
        r#"evenkeel_member_spilled_flows_total{backend="backend-2",vip="vip-0"} 360"#,
        r#"evenkeel_member_received_flows_total{backend="backend-2",vip="vip-0"} 240"#,
        "evenkeel_revision 3",
        "evenkeel_fleet_confirmed_revision 4",
        r#"evenkeel_fleet_state{state="in_sync"} 1"#,
        r#"evenkeel_fleet_state{state="refused"} 0"#,
    ] {
        assert!(page.contains(line), "{line}\nis not on\n{page}");
    }
}

#[test]
fn vips_without_bound_have_no_metrics_of_it() {
    let mut snapshot = snapshot(2, 4);
    let status = Arc::make_mut(&mut snapshot.state);
    // With a bound by capacity alone.
    status.vips[0].bound.as_mut().unwrap().bound.factor = None;
    let page = render(&snapshot);
    let samples = |name: &str, vip: &str| {
        let of_vip = |line: &&str| line.starts_with(name) && line.contains(vip);
        page.lines().filter(of_vip).count()
    };
    let names = [
        ("evenkeel_vip_bound_factor", 0),
        ("evenkeel_vip_bound_unplaced_flows_total", 2),
        ("evenkeel_member_spilled_flows_total", 4),
        ("evenkeel_member_received_flows_total", 4),
    ];
    for (name, count) in names {
        assert_eq!((samples(name, "vip-0"), samples(name, "vip-1")), (count, 0));
    }
}

#[test]
fn a_name_shared_by_two_members_appears_once() {
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
fn promtool_accepts_the_page() {
    let page = render(&snapshot(2, 3));
    let started = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = started else {
        lb_skip::skip("promtool_accepts_the_page", "needs prometheus");
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

/// Serves the page of a small node on a free port.
async fn server(limits: Limits) -> SocketAddr {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, small_sources(), limits));
    address
}

#[tokio::test]
async fn serves_only_get_metrics() {
    let address = server(Limits::DEFAULT).await;
    let error = bind(address).await.unwrap_err().to_string();
    assert!(error.contains("metrics.listen"), "{error}");
    let client = reqwest::Client::new();
    let url = format!("http://{address}/metrics");
    let answer = client.get(&url).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let kind = answer.headers()["content-type"].to_str().unwrap();
    assert!(kind.contains("version=0.0.4"), "{kind}");
    let page = answer.text().await.unwrap();
    assert!(page.contains("evenkeel_build_info{version=\"0.1.0\"} 1"));
    let head = client.head(&url).send().await.unwrap();
    assert_eq!(head.status(), 200);
    assert_eq!(head.text().await.unwrap(), "");
    for (method, path, status) in [
        ("GET", "/", 404),
        ("GET", "/metrics/x", 404),
        ("POST", "/", 404),
        ("POST", "/metrics", 405),
        ("DELETE", "/metrics", 405),
    ] {
        let url = format!("http://{address}{path}");
        let request = client.request(method.parse().unwrap(), url);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), status, "{method} {path}");
        let allow = answer.headers().get("allow");
        let expected = (status == 405).then_some("GET,HEAD");
        assert_eq!(allow.map(|allow| allow.to_str().unwrap()), expected);
    }
}

#[tokio::test]
async fn compresses_the_page_for_clients_that_accept_it() {
    let url = format!("http://{}/metrics", server(Limits::DEFAULT).await);
    let request = reqwest::Client::new().get(&url);
    let request = request.header("accept-encoding", "deflate, gzip;q=0.5");
    let answer = request.send().await.unwrap();
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    let compressed = answer.bytes().await.unwrap();
    assert_eq!(&compressed[..2], [0x1f, 0x8b]);
    let plain = reqwest::get(url).await.unwrap().bytes().await.unwrap();
    assert!(compressed.len() < plain.len() / 2);
}

#[tokio::test]
async fn answers_several_requests_on_one_connection() {
    let address = server(Limits::DEFAULT).await;
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    for _ in 0..3 {
        let request = b"GET /elsewhere HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"only GET /metrics is here\n") {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "closed");
        }
    }
}

/// The sources of a small node. Their senders are dropped; the last values remain.
fn small_sources() -> Sources {
    let example = example::example(1, 2);
    Sources {
        state: watch::channel(Arc::new(example.state)).1,
        traffic: SharedTraffic::new(example.traffic),
        facts: watch::channel(Arc::new(example.facts)).1,
        alerts: Alerts::in_memory(),
    }
}

/// Clients that send nothing, or half a request, keep their connections for a while and no longer.
#[tokio::test]
async fn slow_clients_do_not_lock_others_out() {
    let address = server(Limits {
        connections: 2,
        header: Duration::from_millis(300),
        lifetime: Duration::from_mins(1),
    })
    .await;
    let mut slow = Vec::new();
    for sent in [&b""[..], b"GET /metrics HTTP/1.1\r\nHost: x\r\n", b"", b"G"] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(sent).await.unwrap();
        slow.push(stream);
    }
    let url = format!("http://{address}/metrics");
    let answer = tokio::time::timeout(Duration::from_secs(20), reqwest::get(url)).await;
    let answer = answer
        .expect("an answer, when the slow ones are out")
        .unwrap();
    assert_eq!(answer.status(), 200);
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

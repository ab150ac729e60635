//! Established connections that another node continues: it has no entry of its own for them.
//!
//! `EVENKEEL_EXCHANGE=0` leaves `fleet.exchange` out, `EVENKEEL_FLOWS=10000` opens more steady connections than
//! 2,000.

use std::net::SocketAddr;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use lab::host::Host;
use lab::link::ip;
use lab::process::{Daemon, finish, is_listening};
use lab::topology::{Family, Lab};
use lab::traffic::flows::{Flow, FlowLoad, FlowPlan, Transport};
use lb_dataplane::{Pins, Proof};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::site::{EXCHANGE_PORT, LIMIT, Options, SERVING, Site, build, can_run, route};

const NODES: usize = 2;
const STEADY: usize = 2_000;
/// Between the texts of a connection.
const PAUSE: Duration = Duration::from_millis(500);
/// Replies of a connection that survives: three seconds and more.
const REPLIES: u64 = 7;

/// Whether the nodes have `fleet.exchange`: without it, all tests but the steady one fail.
fn exchange() -> bool {
    std::env::var("EVENKEEL_EXCHANGE").map_or(true, |value| value != "0")
}

fn options() -> Options {
    Options {
        exchange: exchange(),
        ..Options::default()
    }
}

/// Starts echo servers on the backends. As processes of their own, they have limits of open files of their own.
pub(crate) fn serve(lab: &Lab, count: usize) -> Vec<Daemon> {
    let serve = |host: &Host| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_echo-server"));
        command.args(["--name", &host.name, "--listen", "0.0.0.0:80"]);
        let log = host.directory().join("echo.log");
        let name = format!("echo-server on {}", host.name);
        let mut daemon = Daemon::start(&name, &host.ns.entry(), command, &log).unwrap();
        let ready = || is_listening(&host.ns, 80);
        daemon.wait_ready(LIMIT, ready).unwrap();
        daemon
    };
    lab.backends.iter().take(count).map(serve).collect()
}

/// Starts nodes on which no slot is in transition. On a node that starts, most are: its backends come up one
/// after the other, and each changes the ring.
fn start(lab: &Lab, options: Options) -> Site<'_> {
    let brief = "transition_ttl = \"1s\"\n";
    let options = Options {
        node: brief,
        ..options
    };
    let site = Site::start_nodes(lab, options);
    let settle = &|node: usize| {
        let what = format!("no slot of node {node} is in transition");
        site.wait(&what, || {
            let ring = site.status(node).vips[0].ring;
            ring.in_transition + ring.settling == 0
        });
        // The default.
        let text = std::fs::read_to_string(site.nodes[node].file()).unwrap();
        let text = text.replace(brief, "");
        site.nodes[node].write_configuration(&text).unwrap();
        site.expect(0, node, &["reload"]);
    };
    std::thread::scope(|scope| {
        for node in 0..NODES {
            scope.spawn(move || settle(node));
        }
    });
    site.wait_in_sync(1);
    site
}

/// Opens connections through the client's route, and waits until all are established.
fn open(lab: &Lab, count: usize) -> FlowLoad {
    let to = SocketAddr::new(lab.vip(Family::V4, 1), 80);
    let plan = FlowPlan {
        pause: PAUSE * (count / STEADY).max(1) as u32,
        answer_limit: Duration::from_secs(10),
        ..FlowPlan::new(Transport::Tcp, to, count)
    };
    let load = FlowLoad::start(&lab.clients[0], &plan).unwrap();
    load.wait_answers(1, LIMIT).unwrap();
    let report = load.snapshot();
    assert_eq!(report.broken().count(), 0, "{:?}", report.faults());
    load
}

/// Lets the connections go on for three seconds. None may have broken; prints what broke.
#[track_caller]
fn assert_none_broken(site: &Site<'_>, what: &str, loads: &[FlowLoad]) {
    std::thread::scope(|scope| {
        for load in loads {
            scope.spawn(|| load.wait_answers(REPLIES, LIMIT).unwrap());
        }
    });
    let reports: Vec<_> = loads.iter().map(FlowLoad::snapshot).collect();
    let all: usize = reports.iter().map(|report| report.flows.len()).sum();
    let mut broken: Vec<&Flow> = Vec::new();
    for (opened, report) in reports.iter().enumerate() {
        let count = report.broken().count();
        if count > 0 {
            let (of, faults) = (report.flows.len(), report.faults());
            eprintln!("fleet: {what}: opened {opened}: {count} of {of}: {faults:?}");
        }
        broken.extend(report.broken());
    }
    eprintln!("fleet: {what}: {} of {all} broken", broken.len());
    if !broken.is_empty() {
        eprintln!("{}", site.logs());
        panic!("{what}: {} of {all}: {:#?}", broken.len(), &broken[..1]);
    }
}

fn set_link(lab: &Lab, node: usize, state: &str) {
    let port = &lab.balancers[node].ports[0].switch_port;
    ip(&lab.switch, &[format!("link set {port} {state}")]).unwrap();
}

/// The first node dies, and the router notices it.
fn lose_first(site: &mut Site<'_>) {
    site.nodes[0].kill();
    set_link(site.lab, 0, "down");
    route(site.lab, &[1]);
}

/// Drains a backend on all nodes.
fn drain(site: &Site<'_>) {
    let file = site.file("up.toml", 100, false);
    let text = std::fs::read_to_string(file).unwrap();
    let name = "name = \"backend-1\"\n";
    let drained = text.replace(name, &format!("{name}state = \"drain\"\n"));
    let file = site.write("drained.toml", &drained);
    site.expect(0, 1, &["fleet", "apply", &file, "--bake", "0s"]);
    site.wait_in_sync(2);
    site.wait_serving(0..NODES, SERVING - 1);
}

/// A node has to know connections of the others one second after they were opened.
fn wait_exchange() {
    std::thread::sleep(Duration::from_millis(1_500));
}

#[test]
fn a_node_is_lost_in_a_transition() {
    if !can_run("node lost in a transition") {
        return;
    }
    let lab = build(NODES);
    let _servers = serve(&lab, SERVING);
    let mut site = start(&lab, options());
    let mut loads = vec![open(&lab, 200)];
    drain(&site);
    loads.push(open(&lab, 200));
    wait_exchange();
    lose_first(&mut site);
    assert_none_broken(&site, "a node lost in a transition", &loads);
}

/// Connections of a backend that no node knew when it was first told of members.
#[test]
fn a_node_is_lost_after_a_backend_was_added() {
    if !can_run("node lost after a backend was added") {
        return;
    }
    let lab = build(NODES);
    let _servers = serve(&lab, SERVING + 1);
    let mut site = start(&lab, options());
    let mut loads = vec![open(&lab, 200)];
    let file = site.file("four.toml", 100, true);
    site.expect(0, 1, &["fleet", "apply", &file, "--bake", "0s"]);
    site.wait_in_sync(2);
    site.wait_serving(0..NODES, SERVING + 1);
    loads.push(open(&lab, 200));
    let added = loads[1].snapshot().per_backend();
    assert!(added.contains_key(&lab.backends[SERVING].name), "{added:?}");
    wait_exchange();
    lose_first(&mut site);
    assert_none_broken(&site, "a node lost after a backend was added", &loads);
}

#[test]
fn a_node_is_rebooted_in_a_transition() {
    if !can_run("node rebooted in a transition") {
        return;
    }
    let lab = build(NODES);
    let _servers = serve(&lab, SERVING);
    let mut site = start(&lab, options());
    let mut loads = vec![open(&lab, 400)];
    drain(&site);
    route(&lab, &[1]);
    site.nodes[0].stop().unwrap();
    site.nodes[0].unload().unwrap();
    loads.push(open(&lab, 100));
    site.nodes[0].try_start(&[]).unwrap();
    wait_warm(&site, 0);
    route(&lab, &[0]);
    assert_none_broken(&site, "a node rebooted in a transition", &loads);
}

/// Waits until a node could be announced again.
fn wait_warm(site: &Site<'_>, node: usize) {
    let replied = Instant::now();
    let proof = Proof::load(&Pins::at(site.nodes[node].bpffs())).unwrap();
    site.wait("the node no longer warms", || {
        proof.warming().unwrap().is_none()
    });
    let took = replied.elapsed();
    eprintln!("fleet: warm at most {took:?} after its API replied");
}

#[test]
fn a_node_is_lost_and_returns() {
    if !can_run("node lost and back") {
        return;
    }
    let flows = std::env::var("EVENKEEL_FLOWS").map_or(STEADY, |flows| flows.parse().unwrap());
    allow_files(flows);
    let lab = build(NODES);
    let _servers = serve(&lab, SERVING);
    let mut site = start(&lab, options());
    let loads = [open(&lab, flows)];
    lose_first(&mut site);
    assert_none_broken(&site, "a node lost", &loads);
    set_link(&lab, 0, "up");
    site.nodes[0].try_start(&[]).unwrap();
    site.wait_in_sync(1);
    site.wait_serving(0..NODES, SERVING);
    route(&lab, &[0, 1]);
    assert_none_broken(&site, "a node back", &loads);
}

/// Raises the limit of open files for this process and its servers.
fn allow_files(flows: usize) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let wanted = flows as u64 + 4_000;
    assert!(hard >= wanted, "`ulimit -Hn` is {hard}, needed: {wanted}");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

/// Only the first node, as a canary, has the change.
#[test]
fn a_node_is_lost_between_two_waves() {
    if !can_run("node lost between two waves") {
        return;
    }
    let lab = build(NODES);
    let _servers = serve(&lab, SERVING);
    let mut site = start(&lab, options());
    let mut loads = vec![open(&lab, 200)];
    let change = ["backend", "drain", "web/backend-1", "--bake", "0s"];
    site.expect(0, 0, &change);
    site.wait_serving(0..1, SERVING - 1);
    loads.push(open(&lab, 200));
    wait_exchange();
    lose_first(&mut site);
    assert_none_broken(&site, "a node lost between two waves", &loads);
}

/// Slots are in transition from the start of a node: its backends came up one after the other.
#[test]
fn a_node_is_lost_soon_after_the_start() {
    if !can_run("node lost soon after the start") {
        return;
    }
    let lab = build(NODES);
    let _servers = serve(&lab, SERVING);
    let mut site = Site::start_nodes(&lab, options());
    for node in 0..NODES {
        let ring = site.status(node).vips[0].ring;
        eprintln!("fleet: node {node} has started: {ring:?}");
    }
    let loads = [open(&lab, 400)];
    wait_exchange();
    lose_first(&mut site);
    assert_none_broken(&site, "a node lost soon after the start", &loads);
}

/// Of one source all flows have one backend, which is full.
#[test]
fn a_node_with_spilled_flows_is_lost() {
    if !can_run("node with spilled flows lost") {
        return;
    }
    let lab = build(NODES);
    let _servers = serve(&lab, SERVING);
    let options = Options {
        vip: "affinity = \"source\"\nbound = { factor = 1.25 }\n",
        ..options()
    };
    let mut site = start(&lab, options);
    let loads = [open(&lab, 400)];
    let backends = loads[0].snapshot().per_backend();
    eprintln!("fleet: flows of one source by backend: {backends:?}");
    let most = backends.values().max().unwrap();
    assert!(*most < 300, "too few are spilled: {backends:?}");
    wait_exchange();
    lose_first(&mut site);
    assert_none_broken(&site, "a node with spilled flows lost", &loads);
}

/// The second node has a certificate of the authority, but the first one's name.
#[test]
fn strangers_and_impostors_get_nothing() {
    let name = "fleet strangers";
    let tools = ["ip", "ethtool", "etcd", "etcdctl", "openssl", "timeout"];
    if !lab::skip::can_run(name, &tools) {
        return;
    }
    if !exchange() {
        lab::skip::skip(name, "EVENKEEL_EXCHANGE=0");
        return;
    }
    let lab = build(NODES);
    let _servers = serve(&lab, SERVING);
    let options = Options {
        impostor: Some((1, "lb-0")),
        ..options()
    };
    let site = start(&lab, options);
    site.wait("the first node listens", || {
        is_listening(&lab.balancers[0].ns, EXCHANGE_PORT).unwrap()
    });
    let files = site.etcd.files();
    let ask = |pair| ask(&lab.clients[0], &lab.balancers[0], pair);
    let second = files.node("lb-1");
    let admitted = ask(Some(&second));
    let shown = String::from_utf8_lossy(&admitted.stderr);
    assert!(!shown.contains("alert"), "{admitted:?}");
    for (who, pair) in [
        ("nobody", None),
        ("a stranger", Some(&files.stranger)),
        ("a node of the past", Some(&files.expired)),
    ] {
        let refused = ask(pair);
        let shown = String::from_utf8_lossy(&refused.stderr);
        assert!(shown.contains("alert"), "{who}: {refused:?}");
        assert!(refused.stdout.is_empty(), "{who}: {refused:?}");
    }
    site.wait("the first node names the second one's certificate", || {
        let doctor = site.run(0, &["fleet", "doctor"]).out;
        let log = site.nodes[0].log();
        let mut lines = doctor.lines().chain(log.lines());
        lines.any(|line| line.contains("lb-1") && line.contains("certificate"))
    });
}

/// Connects to the exchange of a node, and sends nothing.
fn ask(from: &Host, node: &Host, pair: Option<&lb_etcd::Pair>) -> Output {
    let to = format!("{}:{EXCHANGE_PORT}", node.address(Family::V4));
    let mut command = Command::new("timeout");
    // It ends when the node closes the connection; an admitted one stays open.
    command.args(["3", "openssl", "s_client", "-quiet", "-connect", &to]);
    if let Some((certificate, key)) = pair {
        command.arg("-cert").arg(certificate);
        command.arg("-key").arg(key);
    }
    finish(&from.ns.entry(), command, "").unwrap()
}

//! `evenkeel capture` and `evenkeel flows` against a controller: files that tshark reads, and every way a
//! capture ends.

mod losses;
mod refused;

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use lab::{
    packet::{ACK, Frame, Ip, SYN, tcp},
    skip::can_run,
    traffic::flood::packet_socket,
};
use lb_dataplane::{PinnedView, Pins};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use socket2::Socket;

use crate::{
    host::{evenkeel, ip},
    node::{Node, drain, in_namespace},
};

const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// A node with a wire to it.
struct Site {
    node: Node,
    wire: Socket,
    mac: [u8; 6],
}

/// A running `evenkeel capture`.
struct Capture {
    child: Child,
    file: PathBuf,
    log: PathBuf,
}

impl Site {
    fn start(folder: &Path) -> Self {
        let mut node = Node::new(folder);
        node.start();
        let links: Value = serde_json::from_str(&ip("-json link show dev vlb0")).unwrap();
        let octets = links[0]["address"].as_str().unwrap().split(':');
        let octets: Vec<u8> = octets
            .map(|octet| u8::from_str_radix(octet, 16).unwrap())
            .collect();
        Self {
            node,
            wire: packet_socket("vfar").unwrap(),
            mac: octets.try_into().unwrap(),
        }
    }

    fn frame(&self, to: Ipv4Addr, port: u16, flags: u8) -> Frame {
        let source: IpAddr = Ipv4Addr::new(198, 51, 100, 7).into();
        let frame = Frame::new(Ip::new(source, to.into()), tcp(port, 80, flags));
        frame.link(self.mac, [2, 0, 0, 0, 0, 2])
    }

    /// Sends packets to the VIP, each of a flow of its own.
    fn send(&self, packets: u16) {
        for number in 0..packets {
            let frame = self.frame(VIP, 1000 + number, ACK);
            self.wire.send(&frame.bytes()).unwrap();
        }
    }

    /// The program on the interface.
    fn program(&self) -> u64 {
        let links: Value = serde_json::from_str(&ip("-json link show dev vlb0")).unwrap();
        links[0]["xdp"]["prog"]["id"].as_u64().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = evenkeel();
        command.args(arguments).env("NO_COLOR", "1");
        command.env("EVENKEEL_SOCKET", self.node.folder.join("api.sock"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Starts a capture and waits until it has begun.
    fn capture(&self, name: &str, arguments: &[&str]) -> Capture {
        let file = self.node.folder.join(name);
        let log = self.node.folder.join(format!("{name}.log"));
        let mut command = self.command(&["capture", "-w"]);
        command.arg(&file).args(arguments);
        let child = command.stderr(File::create(&log).unwrap()).spawn().unwrap();
        let capture = Capture { child, file, log };
        self.node
            .wait("the capture begins", || capture.log().contains("capturing"));
        capture
    }

    fn wait_for_program(&self, what: &str, program: u64) {
        self.node.wait(what, || self.program() == program);
    }

    /// Alerts and the program that the controller expects.
    fn assert_undisturbed(&self) {
        let program = self.program();
        // The first tick after a start reads the links.
        let status = self
            .node
            .wait_for("/v1/status", "the program is known", |status| {
                status["node"]["interfaces"][0]["program_id"] == program
            });
        let alerts = status["alerts"].as_array().unwrap();
        let data_path = alerts.iter().filter(|alert| alert["kind"] == "data_path");
        assert_eq!(data_path.count(), 0, "{alerts:?}");
        assert_eq!(status["node"]["program_id"], program);
        assert!(
            !self.node.log().contains("not as it was loaded"),
            "{}",
            self.node.log()
        );
    }

    /// Packets that reached the data path.
    fn counted(&self) -> u64 {
        let view = PinnedView::open(&Pins::at(self.node.folder.join("bpf"))).unwrap();
        view.counters.node().unwrap().reasons.iter().sum()
    }
}

impl Capture {
    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Waits for its end and returns its messages.
    fn wait(&mut self) -> String {
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log());
        self.log()
    }

    /// The frames with these fields, as tshark reads them.
    fn read(&self, fields: &[&str]) -> Vec<Vec<String>> {
        let mut command = Command::new("tshark");
        command
            .args(["-n", "-T", "fields", "-E", "separator=|", "-r"])
            .arg(&self.file);
        for field in fields {
            command.args(["-e", field]);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let errors = String::from_utf8_lossy(&output.stderr);
        let errors = errors
            .lines()
            .filter(|line| !line.starts_with("Running as user"));
        assert_eq!(errors.collect::<Vec<_>>(), [""; 0]);
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines();
        lines
            .map(|line| line.split('|').map(str::to_owned).collect())
            .collect()
    }

    fn frames(&self) -> usize {
        self.read(&["frame.number"]).len()
    }
}

fn test(name: &str, test: impl FnOnce(Site) + Send) {
    if can_run(&format!("kernel capture {name}"), &["tshark"]) {
        in_namespace(|folder| test(Site::start(folder)));
    }
}

#[test]
fn tshark_reads_frames_with_what_was_decided() {
    test("tshark", |site| {
        let mut capture = site.capture("all", &["--count", "3", "--vip", "v", "--snap", "60"]);
        site.wire
            .send(&site.frame(Ipv4Addr::new(203, 0, 113, 9), 5, ACK).bytes())
            .unwrap();
        site.send(2);
        let edits = ["b2", "b3", "b4"].map(|backend| drain(backend)["edits"][0].clone());
        let edits = json!({"kind": "edits", "edits": edits});
        let drained = json!({"change": edits, "force": ["nothing_left", "min_backends"]});
        let (status, answer) = site.node.apply(&drained);
        assert_eq!(status, 200, "{answer}");
        site.wire.send(&site.frame(VIP, 7, SYN).bytes()).unwrap();
        let said = capture.wait();
        assert!(
            said.contains("3 packets captured, none lost; ended: the number of packets is reached"),
            "{said}"
        );
        let frames = capture.read(&[
            "frame.interface_name",
            "frame.packet_flags_direction",
            "frame.packet_id",
            "frame.verdict.ebpf_xdp",
            "frame.cap_len",
            "frame.len",
            "tcp.srcport",
            "ip.ttl",
            "frame.comment",
        ]);
        let text: Vec<String> = frames.iter().map(|frame| frame[..8].join(" ")).collect();
        let whole = site.frame(VIP, 1000, ACK).bytes().len();
        let expected = [
            format!("in 0x00000001 1 3 60 {whole} 1000 64"),
            format!("out 0x00000002 1 3 60 {whole} 1000 63"),
            format!("in 0x00000001 2 3 60 {whole} 1001 64"),
            format!("out 0x00000002 2 3 60 {whole} 1001 63"),
            format!("in 0x00000001 3 1 60 {whole} 7 64"),
        ];
        assert_eq!(text, expected);
        for frame in &frames[..4] {
            let comment = &frame[8];
            assert!(comment.starts_with("tx to v/b"), "{comment}");
            assert!(
                comment.contains(", counted as FORWARDED; slot "),
                "{comment}"
            );
            assert!(
                comment.ends_with("; chosen by ring; from vlb0"),
                "{comment}"
            );
        }
        let drop = &frames[4][8];
        assert!(
            drop.starts_with("drop, VIP v, counted as NO_MEMBER; slot "),
            "{drop}"
        );
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(&capture.file).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
    });
}

#[test]
fn every_way_to_end_puts_the_program_back() {
    test("ends", |site| {
        let ordinary = site.program();
        let begin = |name: &str, arguments: &[&str]| {
            let capture = site.capture(name, arguments);
            assert_ne!(site.program(), ordinary, "{name}");
            site.assert_undisturbed();
            capture
        };
        let ended = |name: &str| {
            site.wait_for_program(name, ordinary);
            site.assert_undisturbed();
        };
        let mut timed = begin("for", &["--vip", "v", "--for", "1s"]);
        site.send(5);
        assert!(
            timed
                .wait()
                .contains("5 packets captured, none lost; ended: the time is over")
        );
        assert_eq!(timed.frames(), 10);
        ended("for");

        for (name, signal) in [("ctrl-c", Signal::SIGINT), ("term", Signal::SIGTERM)] {
            let mut capture = begin(name, &["--vip", "v"]);
            site.send(5);
            capture.signal(signal);
            let said = capture.wait();
            assert!(
                said.contains("5 packets captured, none lost; ended: by root"),
                "{said}"
            );
            assert_eq!(capture.frames(), 10);
            ended(name);
        }

        let mut stopped = begin("stop", &["--vip", "v", "--side", "in"]);
        site.send(5);
        let output = site.run(&["capture", "--stop"]);
        assert!(output.status.success(), "{output:?}");
        stopped.wait();
        assert_eq!(stopped.frames(), 5);
        ended("stop");
        assert!(
            !site.run(&["capture", "--stop"]).status.success(),
            "nothing is running"
        );

        // Killed while nothing is captured: the controller must notice by itself.
        let mut killed = begin("kill", &["--reason", "BAD_HEADER"]);
        killed.signal(Signal::SIGKILL);
        killed.child.wait().unwrap();
        let start = Instant::now();
        ended("kill");
        println!(
            "the program is back {:?} after the client was killed",
            start.elapsed()
        );

        let mut piped = site.command(&["capture", "-w", "-"]);
        let mut piped = piped
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut magic = [0; 4];
        piped.stdout.take().unwrap().read_exact(&mut magic).unwrap();
        assert_eq!(magic, [0x0a, 0x0d, 0x0d, 0x0a]);
        let output = piped.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "a closed pipe is no error: {output:?}"
        );
        ended("pipe");
        let log = site.node.log();
        assert!(!log.contains("ERROR"), "{log}");
    });
}

#[test]
fn a_killed_controller_leaves_the_ordinary_program() {
    test("controller", |mut site| {
        let ordinary = site.program();
        let mut capture = site.capture("killed", &["--vip", "v"]);
        site.send(5);
        // Five packets, each with both sides.
        site.node.wait("records", || {
            fs::metadata(&capture.file).is_ok_and(|file| file.len() > 1000)
        });
        let capturing = site.program();
        assert_ne!(capturing, ordinary);
        let start = Instant::now();
        site.node.end(Signal::SIGKILL);
        site.wait_for_program("the guard acts", ordinary);
        println!(
            "the guard put the program back {:?} after the kill",
            start.elapsed()
        );
        assert!(!capture.child.wait().unwrap().success());
        let said = capture.log();
        assert!(
            said.contains("the capture ended early, with 10 frames"),
            "{said}"
        );
        assert_eq!(capture.frames(), 10, "the file is valid");

        // Stopped in order, the client gets the end.
        site.node.start();
        let ordinary = site.program();
        let mut capture = site.capture("stopped", &["--vip", "v"]);
        site.send(5);
        site.node.end(Signal::SIGTERM);
        assert_eq!(site.program(), ordinary);
        let said = capture.wait();
        assert!(
            said.contains("5 packets captured, none lost; ended: the controller is stopping"),
            "{said}"
        );
        assert_eq!(capture.frames(), 10);

        // Also without a guard, the next controller replaces the program.
        site.node.start();
        let mut capture = site.capture("guardless", &[]);
        let capturing = site.program();
        let guard = guard_of(site.node.child.as_ref().unwrap().id());
        kill(guard, Signal::SIGKILL).unwrap();
        site.node.end(Signal::SIGKILL);
        capture.child.wait().unwrap();
        assert_eq!(site.program(), capturing);
        site.node.start();
        assert_ne!(site.program(), capturing);
        site.assert_undisturbed();
    });
}

/// The guard of a controller.
fn guard_of(controller: u32) -> Pid {
    let children = fs::read_dir(format!("/proc/{controller}/task")).unwrap();
    let children = children.map(|task| fs::read_to_string(task.unwrap().path().join("children")));
    let children: String = children.map(Result::unwrap).collect();
    let is_guard = |pid: &&str| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline"));
        line.is_ok_and(|line| line.contains("capture-guard"))
    };
    let found = children.split_whitespace().find(is_guard).unwrap();
    Pid::from_raw(found.parse().unwrap())
}

/// A reload works as usual, and a new interface gets the program of the capture.
#[test]
fn a_capture_follows_changes_of_the_configuration() {
    test("changes", |site| {
        ip("link add vlb1 type veth peer name vfar1");
        ip("link set vlb1 up");
        let ordinary = site.program();
        let mut capture = site.capture("changes", &["--backend", "b2", "--side", "in"]);
        let file = site.node.folder.join("evenkeel.toml");
        let text = fs::read_to_string(&file).unwrap();
        // The name moves to another address: another member.
        let text = text.replace("[\"vlb0\"]", "[\"vlb0\", \"vlb1\"]");
        let text = text
            .replace("10.77.0.2", "10.77.0.5")
            .replace("10.77.0.3", "10.77.0.2");
        let text = text
            .replace("min_backends", "#")
            .replace("weight = 100", "weight = 90");
        fs::write(&file, text).unwrap();
        ip("neigh add 10.77.0.5 lladdr 02:00:00:00:00:55 dev vlb0 nud permanent");
        let output = site.run(&["reload"]);
        assert!(output.status.success(), "{output:?}");
        let plan = site.node.get("/v1/status");
        assert_eq!(plan["revision"]["number"], 2);
        let program_of = |interface: &str| {
            let links = ip(&format!("-json link show dev {interface}"));
            let links: Value = serde_json::from_str(&links).unwrap();
            links[0]["xdp"]["prog"]["id"].as_u64().unwrap()
        };
        assert_ne!(site.program(), ordinary);
        assert_eq!(program_of("vlb1"), site.program());
        site.assert_undisturbed();
        // The filter is renewed every second.
        std::thread::sleep(Duration::from_millis(2500));
        for number in 0..200 {
            // New flows: others may stay on the slot's previous backend.
            site.wire
                .send(&site.frame(VIP, 1000 + number, SYN).bytes())
                .unwrap();
        }
        capture.signal(Signal::SIGINT);
        capture.wait();
        let comments = capture.read(&["frame.comment"]);
        assert!((20..180).contains(&comments.len()), "{}", comments.len());
        for comment in comments {
            assert!(comment[0].starts_with("tx to v/b2, "), "{comment:?}");
        }
        assert_eq!((site.program(), program_of("vlb1")), (ordinary, ordinary));
        site.assert_undisturbed();
        let output = site.run(&["status"]);
        assert!(output.status.success(), "{output:?}");
    });
}

#[test]
fn sampled_flows_have_names() {
    test("flows", |site| {
        site.send(3);
        let flows = || {
            let output = site.run(&["flows", "--json", "--vip", "v"]);
            assert!(output.status.success(), "{output:?}");
            let lines = String::from_utf8(output.stdout).unwrap();
            let lines = lines
                .lines()
                .map(|line| serde_json::from_str(line).unwrap());
            lines.collect::<Vec<Value>>()
        };
        site.node.wait("flows", || flows().len() == 3);
        for flow in flows() {
            let text = flow["flow"].as_str().unwrap();
            assert!(text.starts_with("tcp 198.51.100.7:100"), "{flow}");
            assert!(text.ends_with(" > 203.0.113.1:80"), "{flow}");
            assert_eq!((&flow["vip"], &flow["packets"]), (&json!("v"), &json!(1)));
            assert!(flow["backend"].as_str().unwrap().starts_with('b'), "{flow}");
        }
        let output = site.run(&["flows", "--backend", "b22"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.contains("no VIP has a backend \"b22\"; did you mean \"b2\"?"),
            "{said}"
        );
    });
}

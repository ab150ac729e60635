//! The controller as a process with its API, in a network namespace of its own. Needs root.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use lb_common::member::NextHop;
use lb_dataplane::{PinnedView, Pins};
use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::host::{evenkeel, in_network_namespace, ip};

const LIMIT: Duration = Duration::from_secs(60);

/// A folder with a configuration, and the controller that runs by it.
struct Node {
    folder: PathBuf,
    child: Option<Child>,
}

impl Node {
    fn new(folder: &Path) -> Self {
        fs::create_dir_all(folder.join("bpf")).unwrap();
        let node = Self {
            folder: folder.to_owned(),
            child: None,
        };
        node.configure(100);
        node
    }

    fn configure(&self, weight: u32) {
        let (state, socket) = (self.folder.join("state"), self.folder.join("api.sock"));
        let text = format!(
            "[node]\ninterfaces = [\"vlb0\"]\nstate_dir = {state:?}\n\
             hash_seed = \"000102030405060708090a0b0c0d0e0f\"\n\
             [api]\nsocket = {socket:?}\n[change]\nbake = \"0s\"\n\
             [[vip]]\nname = \"v\"\naddress = \"203.0.113.1\"\nport = 80\nprotocol = \"tcp\"\n\
             forward = \"l2\"\nring_size = 251\n[vip.guard]\nmax_share = 0.9\n\
             [[vip.backend]]\nname = \"b2\"\naddress = \"10.77.0.2\"\nweight = {weight}\n\
             [[vip.backend]]\nname = \"b3\"\naddress = \"10.77.0.3\"\n\
             [[vip.backend]]\nname = \"b4\"\naddress = \"10.77.0.4\"\n"
        );
        fs::write(self.folder.join("evenkeel.toml"), text).unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Starts the controller. Says whether it came up; a fault may keep it from that.
    fn try_start(&mut self, fault: Option<&str>) -> bool {
        let mut command = evenkeel();
        command
            .args(["run", "--config"])
            .arg(self.folder.join("evenkeel.toml"));
        command.arg("--bpffs").arg(self.folder.join("bpf"));
        command.env("NO_COLOR", "1").env_remove("EVENKEEL_FAULT");
        if let Some(fault) = fault {
            command.env("EVENKEEL_FAULT", fault);
        }
        let log = File::create(self.folder.join("log")).unwrap();
        let mut child = command.stderr(log).spawn().unwrap();
        let start = Instant::now();
        while !self.log().contains("INFO ready") {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(start.elapsed() < LIMIT, "not ready: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child = Some(child);
        true
    }

    fn start(&mut self) {
        assert!(self.try_start(None), "{}", self.log());
    }

    fn end(&mut self, signal: Signal) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(child.id() as i32), signal);
            child.wait().unwrap();
        }
    }

    /// A request; no answer when the controller dies of it.
    fn try_ask(&self, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
        let mut stream = UnixStream::connect(self.folder.join("api.sock")).ok()?;
        let body = if method == "GET" {
            String::new()
        } else {
            body.to_string()
        };
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.get(9..12)?.parse().ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        Some((status, serde_json::from_str(body).ok()?))
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        self.try_ask(method, path, body)
            .unwrap_or_else(|| panic!("no answer from {path}: {}", self.log()))
    }

    fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask("GET", path, &Value::Null);
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    fn apply(&self, request: &Value) -> (u16, Value) {
        self.ask("POST", "/v1/apply", request)
    }

    fn wait_for(&self, path: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let found = self.get(path);
            if is(&found) {
                return found;
            }
            assert!(start.elapsed() < LIMIT, "{what}: {found}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Slots in the kernel, by member.
    fn slots(&self) -> Vec<u32> {
        let view = PinnedView::open(&Pins::at(self.folder.join("bpf"))).unwrap();
        let vip = view.vip("203.0.113.1".parse().unwrap(), 80, 6).unwrap();
        let ring = view.ring(vip.unwrap()).unwrap().unwrap();
        let mut slots: Vec<u32> = ring.slots_per_member().into_values().collect();
        slots.sort_unstable();
        slots
    }

    fn unload(&self) {
        let _ = evenkeel()
            .args(["unload", "--bpffs"])
            .arg(self.folder.join("bpf"))
            .output();
    }

    fn wait(&self, what: &str, is: impl Fn() -> bool) {
        let start = Instant::now();
        while !is() {
            assert!(start.elapsed() < LIMIT, "{what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn wait_for_log(&self, text: &str) {
        self.wait(text, || self.log().contains(text));
    }

    /// Until the kernel has this address for a backend's next hop.
    fn wait_for_next_hop(&self, mac: [u8; 6]) {
        let view = PinnedView::open(&Pins::at(self.folder.join("bpf"))).unwrap();
        let vip = view.vip("203.0.113.1".parse().unwrap(), 80, 6).unwrap();
        self.wait("next hop", || {
            let mut members = view.members_of(vip.unwrap());
            members.any(|(_, member)| {
                NextHop::unpack(member.next_hop).is_some_and(|hop| hop.mac == mac)
            })
        });
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end(Signal::SIGKILL);
        self.unload();
        let _ = umount2(&self.folder.join("bpf"), MntFlags::MNT_DETACH);
    }
}

/// Runs a test in a network namespace with an interface and three neighbours.
fn in_namespace(test: impl FnOnce(&Path) + Send) {
    let folder = tempfile::tempdir().unwrap();
    in_network_namespace(|| {
        for arguments in [
            "link set lo up",
            "link add vlb0 type veth peer name vfar",
            "link set vlb0 up",
            "link set vfar up",
            "addr add 10.77.0.1/24 dev vlb0",
            "neigh add 10.77.0.2 lladdr 02:00:00:00:00:22 dev vlb0 nud permanent",
            "neigh add 10.77.0.3 lladdr 02:00:00:00:00:33 dev vlb0 nud permanent",
            "neigh add 10.77.0.4 lladdr 02:00:00:00:00:44 dev vlb0 nud permanent",
        ] {
            ip(arguments);
        }
        test(folder.path());
    });
}

fn drain(backend: &str) -> Value {
    json!({"kind": "edits", "edits": [{"edit": "set_state", "backend": backend, "state": "drain"}]})
}

fn state_of(revisions: &Value, number: u64) -> String {
    let all = revisions.as_array().unwrap();
    let found = all.iter().find(|r| r["number"] == number).unwrap();
    found["state"].as_str().unwrap().to_owned()
}

const EVEN: [u32; 3] = [83, 84, 84];
const WITHOUT_ONE: [u32; 2] = [125, 126];

#[test]
fn changes_are_made_refused_and_undone() {
    in_namespace(|folder| {
        let mut node = Node::new(folder);
        node.start();
        assert_eq!(node.slots(), EVEN);
        let (status, applied) = node.apply(&json!({"change": drain("b2"), "why": "a test"}));
        assert_eq!(status, 200, "{applied}");
        assert_eq!(applied["revision"]["state"], "applied", "{applied}");
        assert_eq!(node.slots(), WITHOUT_ONE);

        // The guard of the configuration: nobody gets more than 0.9 of the table.
        let (status, refused) = node.apply(&json!({"change": drain("b3")}));
        assert_eq!(
            (status, &refused["code"]),
            (422, &json!("refused")),
            "{refused}"
        );
        assert_eq!(node.slots(), WITHOUT_ONE);
        let stale = json!({"change": drain("b3"), "base": 1});
        let (status, conflict) = node.apply(&stale);
        assert_eq!(
            (status, &conflict["code"]),
            (409, &json!("conflict")),
            "{conflict}"
        );

        let (status, back) = node.ask("POST", "/v1/rollback", &json!({}));
        assert_eq!(status, 200, "{back}");
        assert_eq!(node.slots(), EVEN);
        let revisions = node.get("/v1/revisions");
        assert_eq!(revisions.as_array().unwrap().len(), 3, "{revisions}");
        assert_eq!(revisions[2]["how"], "rollback to 1", "{revisions}");

        // Another controller of the same data path, with another state folder.
        let other = folder.join("other.toml");
        let text = fs::read_to_string(folder.join("evenkeel.toml")).unwrap();
        fs::write(
            &other,
            text.replace("/state\"", "/other\"")
                .replace("api.sock", "b.sock"),
        )
        .unwrap();
        let second = evenkeel()
            .args(["run", "--config"])
            .arg(&other)
            .arg("--bpffs")
            .arg(folder.join("bpf"))
            .output()
            .unwrap();
        let said = String::from_utf8(second.stderr).unwrap();
        let pid = node.child.as_ref().unwrap().id();
        assert!(said.contains(&format!("pid {pid}")), "{said}");
    });
}

/// As after a restart of a driver: the link to the interface is gone with it.
#[test]
fn an_interface_that_comes_back_gets_the_program_again() {
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

/// Also while nobody ran; but what was never there is a mistake.
#[test]
fn a_start_goes_on_without_an_interface_that_is_gone() {
    in_namespace(|folder| {
        let mut node = Node::new(folder);
        let file = folder.join("evenkeel.toml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("\"vlb0\"", "\"vlb0\", \"vlb1\"")).unwrap();
        assert!(!node.try_start(None), "it was never there");
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
            node.wait_for("/v1/alerts", "said", |alerts| {
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
        assert_eq!(status, 200, "one that runs needs none: {applied}");
        node.end(Signal::SIGTERM);
        node.unload();
        assert!(!node.try_start(None), "there is none");
        assert!(
            node.log().contains("attach to interface vlb"),
            "{}",
            node.log()
        );
    });
}

/// Anybody can bind a socket: that is said, and keeps nothing from being done that `nat` needs no port for.
#[test]
fn a_socket_on_a_port_of_nat_is_said_and_stops_nothing() {
    in_namespace(|folder| {
        let mut node = Node::new(folder);
        let file = folder.join("evenkeel.toml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("\"l2\"", "\"nat\"")).unwrap();
        let bind = || std::net::TcpListener::bind("0.0.0.0:20000").unwrap();
        let socket = bind();
        assert!(!node.try_start(None), "nothing is adopted: it refuses");
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

        let is_said = |alerts: &Value| alerts.to_string().contains("0.0.0.0:20000");
        node.wait_for("/v1/alerts", "said", is_said);
        ip("neigh replace 10.77.0.2 lladdr 02:00:00:00:00:99 dev vlb0 nud permanent");
        node.wait_for_next_hop([2, 0, 0, 0, 0, 0x99]);
        let (status, applied) = node.apply(&json!({"change": drain("b2")}));
        assert_eq!(status, 200, "{applied}");
        let (status, back) = node.ask("POST", "/v1/rollback", &json!({}));
        assert_eq!(status, 200, "{back}");
        assert_eq!(node.slots(), EVEN);

        // More ports than before are refused, with the socket's name.
        let wider = fs::read_to_string(&file).unwrap();
        let wider = wider.replace("[node]", "[node]\nnat_ports = \"16384-40000\"");
        let wider = json!({"change": {"kind": "config", "file": "wider.toml", "text": wider}});
        let (status, refused) = node.apply(&wider);
        assert_eq!(status, 500, "{refused}");
        assert!(is_said(&refused), "{refused}");

        node.end(Signal::SIGKILL);
        node.start();
        node.wait_for_log("are not its own");
        ip("neigh replace 10.77.0.2 lladdr 02:00:00:00:00:22 dev vlb0 nud permanent");
        node.wait_for_next_hop([2, 0, 0, 0, 0, 0x22]);
        drop(socket);
        node.wait_for_log("are its own again");
    });
}

#[test]
fn a_deadline_outlives_the_controller() {
    in_namespace(|folder| {
        let mut node = Node::new(folder);
        node.start();
        let (status, applied) = node.apply(&json!({"change": drain("b2"), "confirm_s": 15}));
        assert_eq!(status, 200, "{applied}");
        assert_eq!(applied["revision"]["state"], "awaiting_confirm");
        node.end(Signal::SIGKILL);
        assert_eq!(node.slots(), WITHOUT_ONE, "the data path goes on");
        node.start();
        let (status, conflict) = node.apply(&json!({"change": drain("b3")}));
        assert_eq!(status, 409, "{conflict}");
        node.wait_for("/v1/revisions", "rolled back", |r| {
            state_of(r, 2) == "rolled_back"
        });
        assert_eq!(node.slots(), EVEN);

        // Confirmed after a bake that a kill interrupted.
        let both = json!({"change": drain("b2"), "bake_s": 15, "confirm_s": 600});
        let (status, applied) = node.apply(&both);
        assert_eq!(
            (status, &applied["revision"]["state"]),
            (200, &json!("baking")),
            "{applied}"
        );
        node.end(Signal::SIGKILL);
        node.start();
        node.wait_for("/v1/revisions", "baked", |r| {
            state_of(r, 3) == "awaiting_confirm"
        });
        let (status, confirmed) = node.ask("POST", "/v1/confirm", &json!({}));
        assert_eq!(
            (status, &confirmed["state"]),
            (200, &json!("applied")),
            "{confirmed}"
        );
        assert_eq!(node.slots(), WITHOUT_ONE);

        // A deadline that passes while nobody runs.
        let (status, applied) = node.apply(&json!({
            "change": {"kind": "revision", "revision": 1}, "confirm_s": 1
        }));
        assert_eq!(status, 200, "{applied}");
        node.end(Signal::SIGKILL);
        std::thread::sleep(Duration::from_millis(1100));
        node.start();
        assert_eq!(node.slots(), WITHOUT_ONE, "{}", node.log());
        assert_eq!(state_of(&node.get("/v1/revisions"), 4), "rolled_back");
    });
}

#[test]
fn the_file_is_taken_over_once_and_never_by_force() {
    in_namespace(|folder| {
        let mut node = Node::new(folder);
        node.start();
        node.configure(5000);
        node.end(Signal::SIGTERM);
        node.start();
        assert!(node.log().contains("not in force"), "{}", node.log());
        assert_eq!(node.slots(), EVEN);
        node.configure(200);
        node.end(Signal::SIGTERM);
        node.start();
        assert_eq!(node.slots(), [63, 63, 125]);
        let (status, _) = node.apply(&json!({"change": drain("b2")}));
        assert_eq!(status, 200);
        node.end(Signal::SIGTERM);
        node.start();
        assert_eq!(node.slots(), WITHOUT_ONE, "the file was not changed since");
        // A newest revision that is damaged.
        node.end(Signal::SIGTERM);
        let newest = folder.join("state/revisions/00000003.revision");
        let text = fs::read_to_string(&newest).unwrap();
        fs::write(&newest, text.replace("drain", "dra1n")).unwrap();
        node.start();
        assert!(
            node.log().contains("revision 3 is damaged"),
            "{}",
            node.log()
        );
        assert_eq!(node.slots(), [63, 63, 125]);
    });
}

/// Whatever fails or dies in an apply: the old state or the new one, and the next start is clean.
fn with_fault(folder: &Path, fault: &str) -> bool {
    let mut node = Node::new(folder);
    let came_up = node.try_start(Some(fault));
    if came_up {
        let answer = node.try_ask("POST", "/v1/apply", &json!({"change": drain("b2")}));
        let slots = node.slots();
        match answer {
            Some((200, _)) => assert_eq!(slots, WITHOUT_ONE, "{}", node.log()),
            Some((status, error)) => {
                assert_eq!(status, 500, "{error}");
                assert_eq!(slots, EVEN, "{error}: {}", node.log());
            }
            // It died; the ring was swapped or was not.
            None => assert!(slots == EVEN || slots == WITHOUT_ONE, "{slots:?}"),
        }
    }
    let hit = node.log().contains("injecting a fault");
    node.end(Signal::SIGKILL);
    node.start();
    let running = node.get("/v1/config")["text"].as_str().unwrap().to_owned();
    let expected = if running.contains("drain") {
        &WITHOUT_ONE[..]
    } else {
        &EVEN[..]
    };
    assert_eq!(node.slots(), expected, "{fault}: {}", node.log());
    let revisions = node.get("/v1/revisions");
    let unfinished = revisions
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["state"] == "applying");
    assert!(unfinished.is_none(), "{fault}: {revisions}");
    hit
}

#[test]
fn every_fault_leaves_the_old_or_the_new() {
    for kind in ["", ":kill"] {
        in_namespace(|folder| {
            let mut number = 1;
            while with_fault(&folder.join(number.to_string()), &format!("{number}{kind}")) {
                number += 1;
                assert!(number < 1000);
            }
            assert!(number > 20, "only {number} points");
        });
    }
}

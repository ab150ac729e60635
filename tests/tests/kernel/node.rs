//! A controller process with its API, in a network namespace of its own.

use std::{
    ffi::OsStr,
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

/// A folder with a configuration, and the controller that uses it.
pub(crate) struct Node {
    pub(crate) folder: PathBuf,
    pub(crate) child: Option<Child>,
}

impl Node {
    pub(crate) fn new(folder: &Path) -> Self {
        fs::create_dir_all(folder.join("bpf")).unwrap();
        let node = Self {
            folder: folder.to_owned(),
            child: None,
        };
        node.configure(100);
        node
    }

    pub(crate) fn configure(&self, weight: u32) {
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

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Starts the controller, with a fault point if given. Returns whether it came up.
    pub(crate) fn try_start(&mut self, fault: Option<&str>) -> bool {
        let environment = fault.map(|fault| ("EVENKEEL_FAULT", OsStr::new(fault)));
        self.try_start_with(environment)
    }

    /// Starts the controller with an environment variable. Returns whether it came up.
    pub(crate) fn try_start_with(&mut self, variable: Option<(&str, &OsStr)>) -> bool {
        let mut command = evenkeel();
        command
            .args(["run", "--config"])
            .arg(self.folder.join("evenkeel.toml"));
        command.env_remove("EVENKEEL_FAULT").envs(variable);
        self.try_spawn(command)
    }

    /// Starts the controller in the folder of its configuration, with a bare file name.
    pub(crate) fn start_in_its_folder(&mut self) {
        let mut command = evenkeel();
        command.args(["run", "--config", "evenkeel.toml"]);
        command.current_dir(&self.folder);
        assert!(self.try_spawn(command), "{}", self.log());
    }

    fn try_spawn(&mut self, mut command: Command) -> bool {
        command.arg("--bpffs").arg(self.folder.join("bpf"));
        command.env("NO_COLOR", "1");
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

    pub(crate) fn start(&mut self) {
        assert!(self.try_start(None), "{}", self.log());
    }

    pub(crate) fn end(&mut self, signal: Signal) {
        if let Some(mut child) = self.child.take() {
            // It may have exited by itself.
            let _ = kill(Pid::from_raw(child.id() as i32), signal);
            child.wait().unwrap();
        }
    }

    /// Makes a request. Returns `None` if the controller dies before it replies.
    pub(crate) fn try_ask(&self, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
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

    pub(crate) fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        self.try_ask(method, path, body)
            .unwrap_or_else(|| panic!("no reply from {path}: {}", self.log()))
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask("GET", path, &Value::Null);
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    pub(crate) fn apply(&self, request: &Value) -> (u16, Value) {
        self.ask("POST", "/v1/apply", request)
    }

    pub(crate) fn wait_for(&self, path: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
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

    /// Returns the slots per member in the kernel, in ascending order.
    pub(crate) fn slots(&self) -> Vec<u32> {
        let view = PinnedView::open(&Pins::at(self.folder.join("bpf"))).unwrap();
        let vip = view.vip("203.0.113.1".parse().unwrap(), 80, 6).unwrap();
        let ring = view.ring(vip.unwrap()).unwrap().unwrap();
        let mut slots: Vec<u32> = ring.slots_per_member().into_values().collect();
        slots.sort_unstable();
        slots
    }

    pub(crate) fn unload(&self) {
        let _ = evenkeel()
            .args(["unload", "--bpffs"])
            .arg(self.folder.join("bpf"))
            .output();
    }

    pub(crate) fn wait(&self, what: &str, is: impl Fn() -> bool) {
        let start = Instant::now();
        while !is() {
            assert!(start.elapsed() < LIMIT, "{what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn wait_for_log(&self, text: &str) {
        self.wait(text, || self.log().contains(text));
    }

    /// Waits until a backend's next hop in the kernel has this MAC address.
    pub(crate) fn wait_for_next_hop(&self, mac: [u8; 6]) {
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

/// Returns an edit that drains a backend.
pub(crate) fn drain(backend: &str) -> Value {
    json!({"kind": "edits", "edits": [{"edit": "set_state", "backend": backend, "state": "drain"}]})
}

pub(crate) fn state_of(revisions: &Value, number: u64) -> String {
    let all = revisions.as_array().unwrap();
    let found = all.iter().find(|r| r["number"] == number).unwrap();
    found["state"].as_str().unwrap().to_owned()
}

/// Slots per member with three backends of equal weight, in ascending order.
pub(crate) const EVEN: [u32; 3] = [83, 84, 84];
/// The same with one of them drained.
pub(crate) const WITHOUT_ONE: [u32; 2] = [125, 126];

/// Runs a test in a network namespace with an interface and three neighbours.
pub(crate) fn in_namespace(test: impl FnOnce(&Path) + Send) {
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

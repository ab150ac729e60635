//! `evenkeel run` and `unload` in a network namespace with a veth.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Output},
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::host::{evenkeel, in_network_namespace, ip};

const LIMIT: Duration = Duration::from_secs(30);

fn is_attached() -> bool {
    ip("link show vlb0").contains("prog/xdp")
}

/// A controller, killed when dropped.
struct Controller {
    child: Child,
    log: PathBuf,
}

impl Controller {
    fn start(folder: &Path, name: &str) -> Self {
        Self::spawn(run(folder), folder.join(name))
    }

    fn spawn(mut command: Command, log: PathBuf) -> Self {
        let child = command.stderr(File::create(&log).unwrap()).spawn().unwrap();
        let mut controller = Self { child, log };
        controller.wait_for("ready");
        controller
    }

    fn wait_for(&mut self, text: &str) {
        let start = Instant::now();
        while !self.log().contains(text) {
            assert!(
                self.child.try_wait().unwrap().is_none(),
                "exited: {}",
                self.log()
            );
            assert!(start.elapsed() < LIMIT, "no {text:?} in {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        // It may have exited by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(folder: &Path) -> Command {
    with_arguments(evenkeel(), folder)
}

/// Runs it with the capabilities of `deploy/evenkeel.service` only.
fn run_as_in_the_unit(folder: &Path) -> Command {
    let unit = include_str!("../../../deploy/evenkeel.service");
    let bounding = unit
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="))
        .unwrap();
    let kept: String = bounding
        .split_whitespace()
        .map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()))
        .collect();
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", &format!("-all{kept}")]);
    command.arg(evenkeel().get_program());
    with_arguments(command, folder)
}

fn with_arguments(mut command: Command, folder: &Path) -> Command {
    command
        .arg("run")
        .arg("--config")
        .arg(folder.join("evenkeel.toml"));
    command
        .arg("--bpffs")
        .arg(folder.join("bpf"))
        .env("NO_COLOR", "1");
    command
}

fn unload(folder: &Path) -> Output {
    let mut command = evenkeel();
    command.arg("unload").arg("--bpffs").arg(folder.join("bpf"));
    command.output().unwrap()
}

fn configure(folder: &Path, backends: u8, more: &str) {
    let (state, socket) = (folder.join("state"), folder.join("api.sock"));
    let mut text = format!(
        "[node]\ninterfaces = [\"vlb0\"]\nstate_dir = {state:?}\n\
         hash_seed = \"000102030405060708090a0b0c0d0e0f\"\n[api]\nsocket = {socket:?}\n\
         [change]\nbake = \"0s\"\n\
         [[vip]]\nname = \"v\"\naddress = \"203.0.113.1\"\nport = 80\nprotocol = \"tcp\"\n\
         forward = \"nat\"\n{more}\n"
    );
    for number in 2..2 + backends {
        text += &format!("[[vip.backend]]\nname = \"b{number}\"\naddress = \"10.77.0.{number}\"\n");
    }
    fs::write(folder.join("evenkeel.toml"), text).unwrap();
}

fn reserved() -> String {
    let output = Command::new("cat")
        .arg("/proc/sys/net/ipv4/ip_local_reserved_ports")
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn lifetime(folder: &Path) {
    for arguments in [
        "link set lo up",
        "link add vlb0 type veth peer name vfar",
        "link set vlb0 up",
        "link set vfar up",
        "addr add 10.77.0.1/24 dev vlb0",
        "neigh add 10.77.0.2 lladdr 02:00:00:00:00:22 dev vlb0 nud permanent",
        "neigh add 10.77.0.3 lladdr 02:00:00:00:00:33 dev vlb0 nud permanent",
    ] {
        ip(arguments);
    }
    configure(folder, 2, "");
    fs::create_dir(folder.join("bpf")).unwrap();
    a_failed_start_leaves_nothing(folder);
    let mut first = Controller::start(folder, "first.log");
    assert!(is_attached());
    assert_eq!(reserved(), "16384-32767");
    assert!(first.log().contains("mode=\"native\""), "{}", first.log());

    let second = run(folder).output().unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(
        said.contains(&format!("pid {}", first.child.id())),
        "{said}"
    );

    configure(folder, 2, "prot = 1");
    first.signal(Signal::SIGHUP);
    first.wait_for("reload failed; nothing changed");
    configure(folder, 2, "ring_size = 251");
    first.signal(Signal::SIGHUP);
    first.wait_for("ring_size: 65537 → 251");
    configure(folder, 2, "");
    first.signal(Signal::SIGHUP);
    first.wait_for("ring_size: 251 → 65537");
    configure(folder, 1, "");
    first.signal(Signal::SIGHUP);
    first.wait_for("members_leaving=1");

    first.signal(Signal::SIGTERM);
    assert_eq!(first.child.wait().unwrap().code(), Some(0));
    assert!(is_attached(), "forwarding continues");

    let again = Controller::spawn(run_as_in_the_unit(folder), folder.join("again.log"));
    let log = again.log();
    assert!(log.contains("adopted=true members=2"), "{log}");
    assert!(log.contains("rings_changed=0 slots_moved=0"), "{log}");
    drop(again);
    assert!(is_attached(), "still attached after a kill");
    state_moves(folder);

    for _ in 0..2 {
        let output = unload(folder);
        assert!(output.status.success(), "{output:?}");
        assert!(!is_attached());
        assert_eq!(reserved(), "");
    }
    forwarding_ends_without_pins(folder);
    drop(Controller::start(folder, "gone.log"));
    ip("link del vlb0");
    let output = unload(folder);
    assert!(output.status.success(), "without its interface: {output:?}");
}

/// If the BPF file system is unmounted, forwarding lasts only as long as the controller.
fn forwarding_ends_without_pins(folder: &Path) {
    let mut controller = Controller::start(folder, "unmounted.log");
    umount2(&folder.join("bpf"), MntFlags::MNT_DETACH).unwrap();
    controller.wait_for("the pins are gone");
    assert!(is_attached());
    controller.signal(Signal::SIGTERM);
    assert_eq!(controller.child.wait().unwrap().code(), Some(0));
    let log = controller.log();
    assert!(log.contains("forwarding ends\n"), "{log}");
    assert!(
        !log.contains("keeps forwarding") && !log.contains("does not run"),
        "{log}"
    );
    let start = Instant::now();
    while is_attached() {
        assert!(start.elapsed() < LIMIT, "still attached");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn a_failed_start_leaves_nothing(folder: &Path) {
    let file = folder.join("evenkeel.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("[\"vlb0\"]", "[\"vlb0\", \"vlb9\"]")).unwrap();
    let output = run(folder).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("vlb9"), "{said}");
    assert!(!is_attached());
    assert_eq!(reserved(), "");
    fs::write(&file, text).unwrap();
}

/// The state folder may be moved while no controller runs: history and edits continue.
fn state_moves(folder: &Path) {
    fs::rename(folder.join("state"), folder.join("moved")).unwrap();
    let file = folder.join("evenkeel.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("/state\"", "/moved\"")).unwrap();
    let controller = Controller::start(folder, "moved.log");
    let log = controller.log();
    assert!(!log.contains("ERROR"), "{log}");
    for arguments in [
        &["backend", "weight", "v/b2", "50", "--bake", "0s"][..],
        &["rollback"],
    ] {
        let mut command = evenkeel();
        command.args(arguments).arg("--socket");
        let output = command.arg(folder.join("api.sock")).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
    assert!(
        !folder.join("state").exists(),
        "the old state folder is not used"
    );
}

#[test]
fn runs_from_start_to_unload() {
    let folder = tempfile::tempdir().unwrap();
    in_network_namespace(|| {
        let _unmounted = Unmount(folder.path().join("bpf"));
        lifetime(folder.path());
    });
}

/// Unmounts a folder when dropped.
struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

//! `evenkeel run` and `unload` in a network namespace with a veth.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Output},
    time::{Duration, Instant},
};

use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::host::{evenkeel, in_network_namespace, ip, run as run_command};

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

/// Runs it with the capabilities and the read-only paths of `deploy/evenkeel.service`.
fn run_as_in_the_unit(folder: &Path) -> Command {
    let unit = include_str!("../../../deploy/evenkeel.service");
    let value = |key| {
        unit.lines()
            .find_map(|line| line.strip_prefix(key))
            .unwrap()
    };
    let kept: String = value("CapabilityBoundingSet=")
        .split_whitespace()
        .map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()))
        .collect();
    let mut mounts = "set -e; mount --make-rprivate /;".to_owned();
    for (paths, mode) in [("ReadOnlyPaths=", "ro"), ("ReadWritePaths=", "rw")] {
        for path in value(paths).split_whitespace() {
            let path = path.trim_start_matches('-');
            if Path::new(path).exists() {
                mounts +=
                    &format!("mount --bind {path} {path}; mount -o remount,bind,{mode} {path};");
            }
        }
    }
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &format!("{mounts} exec \"$@\""), "sh"]);
    command.args(["setpriv", "--bounding-set", &format!("-all{kept}")]);
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

fn add_interface() {
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
}

fn lifetime(folder: &Path) {
    add_interface();
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

    run_command("sysctl -q -w net.ipv4.ip_local_reserved_ports=");
    let again = Controller::spawn(run_as_in_the_unit(folder), folder.join("again.log"));
    let log = again.log();
    assert!(log.contains("adopted=true members=2"), "{log}");
    assert!(log.contains("rings_changed=0 slots_moved=0"), "{log}");
    lab::deadline::until("the ports are reserved again", LIMIT, || {
        Ok(reserved() == "16384-32767")
    })
    .unwrap();
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

/// Reports its user and whether it can change the kernel, and leaves a process in another session behind.
const CHECK: &str = "id -u > $1/user; (: >> /proc/sys/kernel/core_pattern) 2>&- && touch $1/kernel; \
                     if [ ! -e $1/pid ]; then setsid sleep 1000 & echo $! > $1/pid; fi; exit 0";

fn commands_are_confined(folder: &Path, user: Option<&str>, id: &str) {
    let facts = folder.join("facts");
    fs::create_dir(&facts).unwrap();
    for open in [folder, &facts] {
        fs::set_permissions(open, Permissions::from_mode(0o777)).unwrap();
    }
    let health = format!(
        "[vip.health]\nkind = \"exec\"\ncommand = [\"sh\", \"-c\", {CHECK:?}, \"sh\", {facts:?}]"
    );
    configure(folder, 1, &health);
    let (bpf, file) = (folder.join("bpf"), folder.join("evenkeel.toml"));
    if let Some(user) = user {
        let text = fs::read_to_string(&file).unwrap();
        let line = format!("[node]\nexec_user = {user:?}");
        fs::write(&file, text.replace("[node]", &line)).unwrap();
    }
    fs::create_dir(&bpf).unwrap();
    let _unmounted = Unmount(bpf.clone());
    run_command(&format!("mount -t bpf -o mode=0700 bpf {}", bpf.display()));
    let mut controller = Controller::spawn(run_as_in_the_unit(folder), folder.join("log"));
    controller.wait_for("backend is up");
    let user = fs::read_to_string(facts.join("user")).unwrap();
    assert_eq!(user.trim(), id);
    assert!(!facts.join("kernel").exists(), "can write to core_pattern");
    let pid = fs::read_to_string(facts.join("pid")).unwrap();
    let start = Instant::now();
    while Path::new("/proc").join(pid.trim()).exists() {
        assert!(start.elapsed() < LIMIT, "{pid} still runs");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(controller);
    assert!(unload(folder).status.success());
    // Linux itself puts `maps.debug` and `progs.debug` there.
    let left = fs::read_dir(&bpf)
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    let left: Vec<_> = left
        .filter(|path| path.extension() != Some("debug".as_ref()))
        .collect();
    assert_eq!(left, Vec::<PathBuf>::new());
}

#[test]
fn commands_of_checks_have_few_rights() {
    in_network_namespace(|| {
        add_interface();
        for (user, id) in [(None, "65534"), (Some("root"), "0")] {
            commands_are_confined(tempfile::tempdir().unwrap().path(), user, id);
        }
    });
}

/// A BPF file system is open to all users by default, and another user may have been there before.
#[test]
fn pins_belong_to_root_alone() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    in_network_namespace(|| {
        add_interface();
        configure(folder, 2, "");
        let bpf = folder.join("bpf");
        fs::create_dir(&bpf).unwrap();
        let _unmounted = Unmount(bpf.clone());
        run_command(&format!("mount -t bpf bpf {}", bpf.display()));
        for name in [
            "evenkeel",
            "evenkeel/maps",
            "evenkeel/links",
            "evenkeel-lock",
        ] {
            fs::create_dir(bpf.join(name)).unwrap();
            chown(bpf.join(name), Some(65534), Some(65534)).unwrap();
        }
        let theirs = File::open(bpf.join("evenkeel-lock")).unwrap();
        let _theirs = Flock::lock(theirs, FlockArg::LockExclusiveNonblock).unwrap();
        let controller = Controller::start(folder, "log");
        for name in ["", "/maps", "/images", "/programs", "/links", "-lock"] {
            let found = fs::metadata(bpf.join(format!("evenkeel{name}"))).unwrap();
            assert_eq!((found.uid(), found.mode() & 0o7777), (0, 0o700), "{name}");
        }
        drop(controller);
        assert!(unload(folder).status.success());
    });
    in_network_namespace(|| {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        add_interface();
        configure(folder, 2, "");
        fs::create_dir(folder.join("bpf")).unwrap();
        let _unmounted = Unmount(folder.join("bpf"));
        let _controller = Controller::start(folder, "log");
        let mode = |name| fs::metadata(folder.join(name)).unwrap().mode() & 0o777;
        assert_eq!(
            [mode("bpf"), mode("state"), mode("state/lock")],
            [0o700, 0o700, 0o600]
        );
    });
}

//! Everything is removed: by guards, and after a harness was killed.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lab::balancer::Balancer;
use lab::deadline::until;
use lab::host::Host;
use lab::leftovers::{of_run, processes_inside, sweep};
use lab::namespace::Namespace;
use lab::nginx::Nginx;
use lab::process::Daemon;
use lab::run::Run;
use lab::topology::{Lab, Layout, Plan};

const LIMIT: Duration = Duration::from_secs(20);

fn names(ns: &Namespace) -> bool {
    let output = Command::new("ip").args(["netns", "list"]).output().unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .any(|line| line.split(' ').next() == Some(ns.name()))
}

fn inode(ns: &Namespace) -> (u64, u64) {
    let data = Path::new("/run/netns").join(ns.name()).metadata().unwrap();
    (data.dev(), data.ino())
}

fn mounts_under(folder: &Path) -> usize {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|target| Path::new(target).starts_with(folder))
        .count()
}

fn sleeper(host: &Host) -> Daemon {
    let mut command = Command::new("sh");
    // Without `exec`, so that the process has a child which is found only by the namespace.
    command.args(["-c", "sleep 1000; true"]);
    let log = host.directory().join("sleeper.log");
    Daemon::start("sleeper", &host.ns.entry(), command, &log).unwrap()
}

#[test]
fn a_namespace_exists_as_long_as_its_guard() {
    let outside = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let ns = Namespace::new("guard").unwrap();
    assert!(names(&ns), "{} is listed", ns.name());
    let inside = ns.enter(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap());
    assert_ne!(inside, outside);
    let here = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    assert_eq!(here, outside, "the caller stays where it was");
    let path = Path::new("/run/netns").join(ns.name());
    drop(ns);
    assert!(!path.exists(), "{} is gone", path.display());
}

#[test]
fn a_panic_removes_the_namespace() {
    let (send, receive) = std::sync::mpsc::channel();
    let outcome = std::thread::spawn(move || {
        let ns = Namespace::new("panics").unwrap();
        send.send(Path::new("/run/netns").join(ns.name())).unwrap();
        ns.enter(|| panic!("on purpose"));
    })
    .join();
    assert!(outcome.is_err(), "the panic inside goes on outside");
    let path = receive.recv().unwrap();
    assert!(!path.exists(), "{} is gone", path.display());
}

#[test]
fn a_host_removes_its_processes_and_mounts() {
    let host = Host::new("guard").unwrap();
    let daemon = sleeper(&host);
    let inside = inode(&host.ns);
    until("shell and sleep run", LIMIT, || {
        Ok(processes_inside(inside).len() == 2)
    })
    .unwrap();
    let folder = host.directory().to_owned();
    let node = Balancer::new(&host, Path::new("/nonexistent")).unwrap();
    assert_eq!(mounts_under(&folder), 1);
    drop(node);
    assert_eq!(mounts_under(&folder), 0);
    // The daemon's guard is dropped after the host, so the host must kill it.
    drop(host);
    let pid = daemon.pid();
    drop(daemon);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    until("nothing runs inside", LIMIT, || {
        Ok(processes_inside(inside).is_empty())
    })
    .unwrap();
    assert!(!folder.exists());
}

#[test]
fn an_early_exit_is_an_error_with_the_log() {
    let host = Host::new("fails").unwrap();
    let binary = host.directory().join("fake-evenkeel");
    std::fs::write(&binary, "#!/bin/sh\necho \"got: $*\"; exit 3\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&binary, mode).unwrap();
    let mut node = Balancer::new(&host, &binary).unwrap();
    let error = node.start("[node]\n", || Ok(false)).unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("exit status: 3"), "{text}");
    let bpffs = format!("--bpffs {}", node.bpffs().display());
    assert!(
        text.contains("got: run --config") && text.contains(&bpffs),
        "{text}"
    );
}

/// Killed when dropped, also if the test fails.
struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Runs this test again in a new process, which builds a lab and is killed.
#[test]
fn sweeps_leftovers_of_a_killed_harness() {
    const VICTIM: &str = "LAB_VICTIM";
    const THIS: &str = "guards::sweeps_leftovers_of_a_killed_harness";
    if let Some(report) = std::env::var_os(VICTIM) {
        be_killed(&PathBuf::from(report));
    }
    let report = tempfile::tempdir().unwrap();
    let file = report.path().join("ready");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", THIS]).env(VICTIM, &file);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let victim = Victim(command.spawn().unwrap());
    until("the victim has built its lab", LIMIT, || Ok(file.exists())).unwrap();
    let first = std::fs::read_to_string(&file).unwrap();
    let run = Run::of_name(&first).unwrap();
    sweep();
    let before = of_run(run);
    assert!(
        before.contains(&first),
        "living labs are left alone: {before:?}"
    );
    let backend = before.iter().find(|name| name.ends_with("backend-0"));
    let data = Path::new("/run/netns").join(backend.unwrap()).metadata();
    let data = data.unwrap();
    assert_eq!(processes_inside((data.dev(), data.ino())).len(), 1, "nginx");

    drop(victim);
    until("nginx has died with the victim", LIMIT, || {
        Ok(processes_inside((data.dev(), data.ino())).is_empty())
    })
    .unwrap();
    sweep();
    assert_eq!(of_run(run), [].into());
}

fn be_killed(report: &Path) -> ! {
    let lab = Lab::build(Plan::new(Layout::OneArm)).unwrap();
    let node = Balancer::new(&lab.balancers[0], Path::new("/nonexistent")).unwrap();
    let nginx = Nginx::start(&lab.backends[0], &["0.0.0.0:80".parse().unwrap()]).unwrap();
    let written = report.with_extension("new");
    std::fs::write(&written, lab.switch.name()).unwrap();
    std::fs::rename(&written, report).unwrap();
    loop {
        std::thread::park();
        let _ = (&lab, &node, &nginx);
    }
}

//! Ctrl-C ends a demonstration, and nothing of it remains.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lab::deadline::{poll, until};
use lab::leftovers::{of_run, processes_inside, sweep};
use lab::run::Run;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Generous: a busy machine is slow.
const LIMIT: Duration = Duration::from_secs(90);

/// Killed and swept when dropped, also if the test fails.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        // Both fail if it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
        sweep();
    }
}

/// The namespaces of a process's lab.
fn namespaces(pid: u32) -> Vec<(u64, u64)> {
    let names = std::fs::read_dir("/run/netns").into_iter().flatten();
    let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let own = names.filter(|name| Run::of_name(name).is_some_and(|run| run.pid == pid));
    let inode = |name: String| {
        let data = Path::new("/run/netns").join(name).metadata().ok()?;
        Some((data.dev(), data.ino()))
    };
    own.filter_map(inode).collect()
}

fn run_of(pid: u32) -> Option<Run> {
    let names = std::fs::read_dir("/run/netns").ok()?;
    let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names
        .filter_map(|name| Run::of_name(&name))
        .find(|run| run.pid == pid)
}

#[test]
fn nothing_of_a_demonstration_remains_after_ctrl_c() {
    let tools = ["ip", "ethtool", "etcd", "etcdctl", "nginx", "bird", "birdc"];
    if !lab::skip::can_run("interrupt a demonstration", &tools) {
        return;
    }
    let output = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.arg("--fleet").stdout(Stdio::null());
    command.stderr(output.reopen().unwrap());
    let mut demo = Demo(command.spawn().unwrap());
    let pid = demo.0.id();
    let said = || std::fs::read_to_string(output.path()).unwrap();
    // Its nodes run then.
    until("it makes a fleet", LIMIT, || {
        Ok(said().contains("making a fleet"))
    })
    .unwrap_or_else(|error| panic!("{error:#}: {}", said()));
    let inside = namespaces(pid);
    let run = run_of(pid).unwrap();
    let processes = || {
        inside
            .iter()
            .map(|it| processes_inside(*it).len())
            .sum::<usize>()
    };
    // Two on each node, nginx, etcd and BIRD.
    assert!(processes() > 10, "{}", processes());
    kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGINT).unwrap();
    let status = poll("it ends", LIMIT, || Ok(demo.0.try_wait()?)).unwrap();
    assert_eq!(status.code(), Some(1), "{status}: {}", said());
    assert!(said().contains("interrupted"), "{}", said());
    assert_eq!(of_run(run), [].into(), "its namespaces and folders");
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&run.to_string()), "its pins: {mounts}");
    assert_eq!(processes(), 0, "its processes");
}

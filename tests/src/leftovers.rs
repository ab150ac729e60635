//! Removes what a harness left behind that was killed before its guards could run.
//!
//! Only names of labs whose process is gone ([`Run::is_alive`]) are touched. Only processes in such
//! a namespace are killed: a lab has started them.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Once;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::directory::DIRECTORIES;
use crate::namespace::{NAMES, remove};
use crate::run::Run;

/// Sweeps when the process creates its first namespace.
pub(crate) fn sweep_once() {
    static SWEPT: Once = Once::new();
    SWEPT.call_once(sweep);
}

/// Removes the namespaces, processes, mounts and files of dead runs.
///
/// Another harness may sweep at the same time, so it is no error if something is gone already. What
/// can't be removed is reported and left to the next run.
pub fn sweep() {
    for name in names_in(NAMES).filter(|name| is_dead(name)) {
        if let Err(error) = remove(&Path::new(NAMES).join(&name)) {
            eprintln!("lab: remove the leftover {name}: {error:#}");
        }
    }
    for name in names_in(DIRECTORIES).filter(|name| is_dead(name)) {
        remove_directory(&Path::new(DIRECTORIES).join(name));
    }
}

/// Returns the namespaces and folders of a run, alive or not.
pub fn of_run(run: Run) -> BTreeSet<String> {
    [NAMES, DIRECTORIES]
        .into_iter()
        .flat_map(names_in)
        .filter(|name| Run::of_name(name) == Some(run))
        .collect()
}

/// Returns the processes whose network namespace has this device and inode.
pub fn processes_inside(namespace: (u64, u64)) -> Vec<u32> {
    names_in("/proc")
        .filter_map(|name| name.parse().ok())
        .filter(|pid| {
            std::fs::metadata(format!("/proc/{pid}/ns/net"))
                .is_ok_and(|data| (data.dev(), data.ino()) == namespace)
        })
        .collect()
}

/// Kills the processes in a namespace, except the harness itself.
pub(crate) fn kill_inside(namespace: (u64, u64)) {
    for pid in processes_inside(namespace) {
        if pid != std::process::id()
            && let Ok(pid) = i32::try_from(pid)
        {
            // It may have ended since it was listed.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Removes a folder and unmounts what is mounted in it.
pub(crate) fn remove_directory(directory: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for target in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
        if Path::new(target).starts_with(directory) {
            let _ = umount2(target, MntFlags::MNT_DETACH);
        }
    }
    if let Err(error) = std::fs::remove_dir_all(directory)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        eprintln!("lab: remove {}: {error}", directory.display());
    }
}

fn is_dead(name: &str) -> bool {
    Run::of_name(name).is_some_and(|run| !run.is_alive())
}

fn names_in(folder: &str) -> impl Iterator<Item = String> + use<> {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
}

//! Kernel, limits, file systems, clock.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
};

use nix::{
    sys::{
        statfs::{BPF_FS_MAGIC, NFS_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, statfs},
        statvfs::{FsFlags, statvfs},
    },
    unistd::{AccessFlags, access},
};

use crate::doctor::{Bpffs, Folder};
use lb_dataplane::{Dataplane, LoadOptions};

pub(super) fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().to_owned()
}

/// Loads the program with small tables of its own, and runs it on an empty frame.
pub(super) fn trial() -> Result<(), String> {
    let options = LoadOptions {
        track_buckets: 64,
        nat_sessions: 64,
        nat_embryonic: 64,
        jiffies_shift: Some(8),
        ..LoadOptions::default()
    };
    Dataplane::load(&options)
        .and_then(|dataplane| dataplane.run(&[0; 64]))
        .map(drop)
        .map_err(|error| error.to_string())
}

pub(super) fn capabilities() -> u64 {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let mut lines = status.lines();
    lines
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or_default()
}

/// The soft limit, in bytes; `None`: there is none.
pub(super) fn memlock() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let mut lines = limits.lines();
    let line = lines.find_map(|line| line.strip_prefix("Max locked memory"))?;
    // The word `unlimited` is no number.
    line.split_whitespace().next()?.parse().ok()
}

pub(super) fn cpus() -> u32 {
    // Those that are online, whatever this process may use.
    // SAFETY: takes a number, returns one.
    let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    u32::try_from(online).unwrap_or(1).max(1)
}

pub(super) fn bpffs(path: &Path) -> Bpffs {
    let at = path.to_owned();
    let missing = |why: String| Bpffs::Missing {
        path: path.to_owned(),
        why,
    };
    match statfs(path) {
        Ok(kind) if kind.filesystem_type() == BPF_FS_MAGIC => Bpffs::Mounted(at),
        Ok(_) if !has_file_system("bpf") => missing("the kernel has none".into()),
        Ok(_) => Bpffs::Mountable(at),
        Err(error) => missing(error.to_string()),
    }
}

fn has_file_system(name: &str) -> bool {
    let list = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    list.lines()
        .any(|line| line.split_whitespace().last() == Some(name))
}

/// Asks the kernel whether a time service keeps its clock (adjtimex).
pub(super) fn clock_synchronised() -> Option<bool> {
    // SAFETY: plain numbers, for which zero is a value: ask, change nothing.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills the structure.
    let result = unsafe { libc::adjtimex(&raw mut state) };
    (result >= 0).then_some(result != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0)
}

/// A folder, judged by the nearest one above it that is there.
pub(super) fn folder(path: &Path) -> Folder {
    let mut there: PathBuf = path.to_owned();
    while !there.exists() && there.pop() {}
    let unwritable = writable(&there).err();
    let free_bytes = statvfs(&there).map_or(u64::MAX, |disk| {
        disk.blocks_available().saturating_mul(disk.fragment_size())
    });
    let kind = statfs(&there).map(|disk| disk.filesystem_type());
    Folder {
        exists: there == path,
        path: path.to_owned(),
        unwritable,
        free_bytes,
        file_system: match kind {
            Ok(TMPFS_MAGIC) => Some("tmpfs"),
            Ok(NFS_SUPER_MAGIC) => Some("nfs"),
            Ok(OVERLAYFS_SUPER_MAGIC) => Some("overlay"),
            _ => None,
        },
    }
}

fn writable(folder: &Path) -> Result<(), String> {
    let shown = folder.display();
    if !folder.is_dir() {
        return Err(format!("{shown} is no folder"));
    }
    if statvfs(folder).is_ok_and(|disk| disk.flags().contains(FsFlags::ST_RDONLY)) {
        return Err(format!("{shown} is mounted read-only"));
    }
    access(folder, AccessFlags::W_OK | AccessFlags::X_OK)
        .map_err(|error| format!("{shown}: {error} (process {})", process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_is_judged_by_the_one_above() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("a/b");
        let found = folder(&path);
        assert_eq!((found.exists, &found.unwritable), (false, &None));
        assert_eq!(found.path, path);
        assert!(folder(above.path()).exists);
        let file = above.path().join("file");
        fs::write(&file, "").unwrap();
        let found = folder(&file.join("state"));
        assert!(found.unwritable.unwrap().contains("no folder"));
    }

    #[test]
    fn the_bpf_file_system_is_told_from_others() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(bpffs(folder.path()), Bpffs::Mountable(_)));
        let none = folder.path().join("none");
        assert!(matches!(bpffs(&none), Bpffs::Missing { .. }));
    }
}

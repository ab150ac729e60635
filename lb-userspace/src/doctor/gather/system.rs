//! Kernel, limits, file systems and clock.

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

use crate::doctor::{Bpffs, Directory};
use lb_dataplane::{Dataplane, LoadOptions};

pub(super) fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().to_owned()
}

/// Loads the program with small maps of its own and runs it on an empty frame.
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

/// The soft limit in bytes; `None`: unlimited.
pub(super) fn memlock() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let mut lines = limits.lines();
    let line = lines.find_map(|line| line.strip_prefix("Max locked memory"))?;
    // `unlimited` does not parse.
    line.split_whitespace().next()?.parse().ok()
}

pub(super) fn cpus() -> u32 {
    // All online CPUs, not only those of this process' affinity mask.
    // SAFETY: takes and returns numbers.
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
        Ok(_) if !has_file_system("bpf") => missing("not supported by the kernel".into()),
        Ok(_) => Bpffs::Mountable(at),
        Err(error) => missing(error.to_string()),
    }
}

fn has_file_system(name: &str) -> bool {
    let list = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    list.lines()
        .any(|line| line.split_whitespace().last() == Some(name))
}

/// Whether the kernel considers its clock synchronised (adjtimex).
pub(super) fn clock_synchronised() -> Option<bool> {
    // SAFETY: consists of numbers, for which zero is valid: read, change nothing.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills the structure.
    let result = unsafe { libc::adjtimex(&raw mut state) };
    (result >= 0).then_some(result != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0)
}

/// Reads a directory, or its nearest existing ancestor.
pub(super) fn directory(path: &Path) -> Directory {
    let mut existing: PathBuf = path.to_owned();
    while !existing.exists() && existing.pop() {}
    let unwritable = writable(&existing).err();
    let free_bytes = statvfs(&existing).map_or(u64::MAX, |disk| {
        disk.blocks_available().saturating_mul(disk.fragment_size())
    });
    let kind = statfs(&existing).map(|disk| disk.filesystem_type());
    Directory {
        exists: existing == path,
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

fn writable(directory: &Path) -> Result<(), String> {
    let shown = directory.display();
    if !directory.is_dir() {
        return Err(format!("{shown} is not a directory"));
    }
    if statvfs(directory).is_ok_and(|disk| disk.flags().contains(FsFlags::ST_RDONLY)) {
        return Err(format!("{shown} is mounted read-only"));
    }
    access(directory, AccessFlags::W_OK | AccessFlags::X_OK)
        .map_err(|error| format!("{shown}: {error} (process {})", process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_directory_is_checked_by_its_ancestor() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("a/b");
        let found = directory(&path);
        assert_eq!((found.exists, &found.unwritable), (false, &None));
        assert_eq!(found.path, path);
        assert!(directory(above.path()).exists);
        let file = above.path().join("file");
        fs::write(&file, "").unwrap();
        let found = directory(&file.join("state"));
        assert!(found.unwritable.unwrap().contains("not a directory"));
    }

    #[test]
    fn distinguishes_the_bpf_file_system() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(bpffs(folder.path()), Bpffs::Mountable(_)));
        let none = folder.path().join("none");
        assert!(matches!(bpffs(&none), Bpffs::Missing { .. }));
    }
}

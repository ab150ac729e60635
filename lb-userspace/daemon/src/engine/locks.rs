//! One controller per BPF file system, even with different state folders: two would overwrite each
//! other's changes.

use std::{
    fs::{self, File, Metadata},
    io,
    os::linux::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

/// The BPF file system could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum BpffsLockError {
    #[error(
        "another controller (pid {pid}) with another node.state_dir runs the data path below {}: stop it \
         first (`kill {pid}`; forwarding continues), or use a separate BPF file system (--bpffs)",
        path.display()
    )]
    Held {
        /// Its process id, or `unknown`.
        pid: String,
        path: PathBuf,
    },
    #[error("lock {}: {source}", path.display())]
    System { path: PathBuf, source: io::Error },
}

/// A lock on the root of a BPF file system, which `unload` does not remove. Nothing can be written
/// there, so the holder is found in the kernel's list of locks.
#[derive(Debug)]
pub struct BpffsLock {
    folder: Flock<File>,
    path: PathBuf,
}

impl BpffsLock {
    /// Locks the BPF file system; the lock is held until the value is dropped.
    pub fn take(bpffs: &Path) -> Result<Self, BpffsLockError> {
        let failed = |source| BpffsLockError::System {
            path: bpffs.to_owned(),
            source,
        };
        let folder = File::open(bpffs).map_err(failed)?;
        let metadata = folder.metadata().map_err(failed)?;
        match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(folder) => Ok(Self {
                folder,
                path: bpffs.to_owned(),
            }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                let holder = holder(metadata.st_dev(), metadata.st_ino());
                Err(BpffsLockError::Held {
                    pid: holder.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string()),
                    path: bpffs.to_owned(),
                })
            }
            Err((_, error)) => Err(failed(error.into())),
        }
    }

    /// Whether the file system is still mounted at its path. An unmounted one lives, with its pins, as long
    /// as the lock holds it.
    pub fn is_in_place(&self) -> bool {
        let there = fs::metadata(&self.path);
        let ours = self.folder.metadata();
        there
            .and_then(|there| Ok(identity(&there) == identity(&ours?)))
            .unwrap_or(false)
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.st_dev(), metadata.st_ino())
}

fn holder(device: u64, inode: u64) -> Option<u32> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    find_holder(&locks, device, inode)
}

/// Reads `1: FLOCK  ADVISORY  WRITE 4711 00:2a:1 0 EOF`; a pid below 1 belongs to another namespace.
fn find_holder(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let (major, minor) = (nix::libc::major(device), nix::libc::minor(device));
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields[..] {
            [_, "FLOCK", _, _, pid, at, ..] if at == file => {
                pid.parse().ok().filter(|pid| *pid > 0)
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_found_in_the_kernels_list() {
        let list = "1: FLOCK  ADVISORY  WRITE 17 00:2a:1 0 EOF\n\
                    2: POSIX  ADVISORY  READ 18 00:2a:2 0 EOF\n\
                    2: -> FLOCK  ADVISORY  WRITE 19 00:2a:3 0 EOF\n";
        let device = nix::libc::makedev(0, 0x2a);
        assert_eq!(find_holder(list, device, 1), Some(17));
        assert_eq!(find_holder(list, device, 2), None);
        assert_eq!(find_holder(list, device, 3), None);
    }

    #[test]
    fn a_second_lock_names_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let first = BpffsLock::take(folder.path()).unwrap();
        let error = BpffsLock::take(folder.path()).unwrap_err().to_string();
        let pid = std::process::id();
        assert!(error.contains(&format!("pid {pid}")), "{error}");
        drop(first);
        BpffsLock::take(folder.path()).unwrap();
    }
}

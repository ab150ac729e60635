//! One controller per BPF file system, even with different state folders: two would overwrite each
//! other's changes.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::{
        linux::fs::MetadataExt as _,
        unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{Flock, FlockArg},
    unistd::geteuid,
};

/// The folder that is locked. Whoever can open a folder can lock it, and the root of a BPF file system is
/// open to all users unless it was mounted with another mode. Names there have no dots.
const FOLDER: &str = "evenkeel-lock";
const MODE: u32 = 0o700;

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

/// A lock on a folder in the root of a BPF file system. Nothing can be written there, so the holder is
/// found in the kernel's list of locks.
#[derive(Debug)]
pub struct BpffsLock {
    folder: Flock<File>,
    bpffs: PathBuf,
}

impl BpffsLock {
    /// Locks the BPF file system; the lock is held until the value is dropped.
    pub fn take(bpffs: &Path) -> Result<Self, BpffsLockError> {
        let path = bpffs.join(FOLDER);
        let failed = |source| BpffsLockError::System {
            path: path.clone(),
            source,
        };
        loop {
            let folder = open(&path).map_err(failed)?;
            let id = identity(&folder.metadata().map_err(failed)?);
            match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
                // `unload` may have removed the folder that was opened.
                Ok(_)
                    if fs::metadata(&path).map_or(None, |now| Some(identity(&now))) != Some(id) => {
                }
                Ok(folder) => {
                    let bpffs = bpffs.to_owned();
                    return Ok(Self { folder, bpffs });
                }
                Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                    let pid =
                        holder(id).map_or_else(|| "unknown".to_owned(), |pid| pid.to_string());
                    let path = bpffs.to_owned();
                    return Err(BpffsLockError::Held { pid, path });
                }
                Err((_, error)) => return Err(failed(error.into())),
            }
        }
    }

    /// Whether the file system is still mounted at its path. An unmounted one lives, with its pins, as long
    /// as the lock holds it.
    pub fn is_in_place(&self) -> bool {
        let there = fs::metadata(&self.bpffs);
        let ours = self.folder.metadata();
        there
            .and_then(|there| Ok(there.st_dev() == ours?.st_dev()))
            .unwrap_or(false)
    }

    /// Removes the folder, after everything else of the data path.
    pub fn remove(self) -> io::Result<()> {
        fs::remove_dir(self.bpffs.join(FOLDER))
    }
}

/// Opens the folder, which only this user can. One that another user made is replaced, as it may be open
/// there.
fn open(path: &Path) -> io::Result<File> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() && found.st_uid() == geteuid().as_raw() => {
            fs::set_permissions(path, Permissions::from_mode(MODE))?;
        }
        Ok(found) => {
            if found.is_dir() {
                fs::remove_dir(path)?;
            } else {
                fs::remove_file(path)?;
            }
            DirBuilder::new().mode(MODE).create(path)?;
        }
        Err(_) => DirBuilder::new().mode(MODE).create(path)?,
    }
    File::open(path)
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.st_dev(), metadata.st_ino())
}

fn holder((device, inode): (u64, u64)) -> Option<u32> {
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
        BpffsLock::take(folder.path()).unwrap().remove().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    /// As root only: files of another user.
    #[test]
    fn another_user_cannot_hold_the_lock() {
        if !geteuid().is_root() {
            lb_skip::skip("another_user_cannot_hold_the_lock", "needs root");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
        let path = folder.path().join(FOLDER);
        fs::create_dir(&path).unwrap();
        std::os::unix::fs::chown(&path, Some(65534), Some(65534)).unwrap();
        let theirs = File::open(&path).unwrap();
        let _theirs = Flock::lock(theirs, FlockArg::LockExclusiveNonblock).unwrap();
        let lock = BpffsLock::take(folder.path()).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        let found = (metadata.st_uid(), metadata.st_mode() & 0o7777);
        assert_eq!(found, (geteuid().as_raw(), MODE));
        assert!(lock.is_in_place());
    }
}

//! A lock against a second controller on the node: two would undo each other's changes.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{Flock, FlockArg},
    unistd::geteuid,
};
use tracing::warn;

use crate::durable::is_unwritable;

/// Whoever can open the file can lock it.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error(
        "another controller is running (pid {pid}, holds {}): stop it first (`kill {pid}`; forwarding \
         continues), or send it SIGHUP to reload its configuration",
        path.display()
    )]
    Held {
        /// Process id of the other controller, or `unknown`.
        pid: String,
        path: PathBuf,
    },
    /// Others could replace revisions, and so the configuration.
    #[error(
        "other users can write to node.state_dir {} (owner {owner}, mode {mode:o}): \
         `chown {user} {0}; chmod 700 {0}`",
        path.display(), user = geteuid()
    )]
    Exposed {
        path: PathBuf,
        owner: u32,
        mode: u32,
    },
    #[error("can't lock {}: {source}; node.state_dir must be a folder writable by root", path.display())]
    File { path: PathBuf, source: io::Error },
}

/// The lock of a state folder. Released when this is dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// # Errors
    ///
    /// Another controller holds the lock, other users can write to the folder, or the file can't be used.
    pub fn take(state_dir: &Path) -> Result<Self, LockError> {
        let path = state_dir.join("lock");
        let failed = |source: io::Error| LockError::File {
            path: path.clone(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(state_dir)
            .map_err(failed)?;
        let folder = fs::metadata(state_dir).map_err(failed)?;
        let (owner, mode) = (folder.uid(), folder.mode() & 0o7777);
        if owner != geteuid().as_raw() || mode & 0o022 != 0 {
            let path = state_dir.to_owned();
            return Err(LockError::Exposed { path, owner, mode });
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(&path);
        let file = match file {
            // A lock needs no writable file.
            Err(error) if is_unwritable(&error) => {
                File::open(&path).or_else(|_| File::open(state_dir))
            }
            // It may be of a version that let others read it.
            Ok(file) => file
                .set_permissions(Permissions::from_mode(FILE_MODE))
                .map(|()| file),
            file => file,
        };
        let file = file.map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                let pid = std::process::id();
                let written = file.set_len(0).and_then(|()| file.rewind());
                // The pid only helps the reader.
                if let Err(error) = written.and_then(|()| writeln!(file, "{pid}")) {
                    warn!(path = %path.display(), %error, "can't write the pid to the lock file");
                }
                Ok(Self { _file: file })
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                // The pid only helps the reader.
                let _ = file.read_to_string(&mut pid);
                let pid = match pid.trim() {
                    "" => "unknown".to_owned(),
                    pid => pid.to_owned(),
                };
                Err(LockError::Held { pid, path })
            }
            Err((_, error)) => Err(failed(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_pid_of_the_first_controller() {
        let folder = tempfile::tempdir().unwrap();
        let first = Lock::take(&folder.path().join("state")).unwrap();
        let error = Lock::take(&folder.path().join("state")).unwrap_err();
        let pid = std::process::id();
        assert!(error.to_string().contains(&format!("pid {pid}")), "{error}");
        drop(first);
        Lock::take(&folder.path().join("state")).unwrap();
    }

    #[test]
    fn only_the_controllers_user_can_open_it() {
        let folder = tempfile::tempdir().unwrap();
        let state_dir = folder.path().join("state");
        let _lock = Lock::take(&state_dir).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&state_dir), FOLDER_MODE);
        assert_eq!(mode(&state_dir.join("lock")), FILE_MODE);
        let open = folder.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o1777)).unwrap();
        let error = Lock::take(&open).unwrap_err().to_string();
        assert!(
            error.contains("mode 1777") && error.contains("chmod 700"),
            "{error}"
        );
    }

    #[test]
    fn names_state_dir_if_the_folder_is_invalid() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Lock::take(&file.path().join("x")).unwrap_err().to_string();
        assert!(error.contains("state_dir"), "{error}");
    }
}

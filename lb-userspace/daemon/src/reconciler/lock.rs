//! A lock against a second controller on the node: two would undo each other's changes.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use tracing::warn;

use crate::durable::is_unwritable;

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
    /// Another controller holds the lock, or the file can't be used.
    pub fn take(state_dir: &Path) -> Result<Self, LockError> {
        let path = state_dir.join("lock");
        let failed = |source: io::Error| LockError::File {
            path: path.clone(),
            source,
        };
        fs::create_dir_all(state_dir).map_err(failed)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let file = match file {
            // A lock needs no writable file.
            Err(error) if is_unwritable(&error) => {
                File::open(&path).or_else(|_| File::open(state_dir))
            }
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
    fn names_state_dir_if_the_folder_is_invalid() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Lock::take(&file.path().join("x")).unwrap_err().to_string();
        assert!(error.contains("state_dir"), "{error}");
    }
}

//! One controller for a node: two would undo each other's changes.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

/// The lock can't be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another controller has it.
    #[error(
        "another controller runs already (pid {pid}, it holds {}): stop it first (`kill {pid}`; \
         forwarding goes on), or send it SIGHUP to read its configuration again",
        path.display()
    )]
    Held {
        /// Process id of the other controller, or what is known of it.
        pid: String,
        /// The file.
        path: PathBuf,
    },
    /// The file can't be used.
    #[error("lock {}: {source}; node.state_dir must be a folder that root can write to", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The lock of a state folder; gone when this is dropped, or the process ends in whatever way.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock.
    ///
    /// # Errors
    ///
    /// [`LockError`].
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
            .open(&path)
            .map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                file.set_len(0).map_err(failed)?;
                file.rewind().map_err(failed)?;
                writeln!(file, "{}", std::process::id()).map_err(failed)?;
                Ok(Self { _file: file })
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                // The number is a service to the reader; without it the message still says enough.
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
    fn a_second_controller_is_told_who_the_first_is() {
        let folder = tempfile::tempdir().unwrap();
        let first = Lock::take(&folder.path().join("state")).unwrap();
        let error = Lock::take(&folder.path().join("state")).unwrap_err();
        let pid = std::process::id();
        assert!(error.to_string().contains(&format!("pid {pid}")), "{error}");
        drop(first);
        Lock::take(&folder.path().join("state")).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Lock::take(&file.path().join("x")).unwrap_err().to_string();
        assert!(error.contains("state_dir"), "{error}");
    }
}

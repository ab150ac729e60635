//! Replaces files as a whole, so that a crash or a power failure leaves the old content or the new.
//!
//! The content is written to a temporary file in the same folder and flushed; the file is renamed
//! over the old one, and the folder is flushed. The temporary file has a fixed name: one that a crash
//! leaves behind is overwritten by the next write or removed by its owner. (`tempfile` neither flushes
//! nor gives fixed names, and a killed process would leave a new file each time.)

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use crate::fault;

/// How files are replaced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replacer {
    /// Suffix of the temporary file's name.
    pub(crate) suffix: &'static str,
    /// Permissions of the file, whatever the umask is.
    pub(crate) mode: u32,
    /// Prefix of the fault points that each step passes; `None` for no fault points.
    pub(crate) faults: Option<&'static str>,
}

/// An operation on a file failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}: {source}", path.display())]
pub(crate) struct FileError {
    pub(crate) operation: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
}

impl From<FileError> for io::Error {
    fn from(error: FileError) -> Self {
        Self::new(error.source.kind(), error.to_string())
    }
}

/// Permissions of files in the state folder. They quote what backends and receivers responded.
pub(crate) const STATE_MODE: u32 = 0o600;

/// Bytes of a state file that are read: far more than any has.
const MOST: u64 = 64 << 20;

/// Reads a state file.
///
/// # Errors
///
/// It can't be read, or is so large that it is not one of ours.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(MOST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MOST {
        return Err(io::Error::other(format!("larger than {} MiB", MOST >> 20)));
    }
    Ok(content)
}

/// Replaces or creates a state file.
///
/// # Errors
///
/// As [`Replacer::replace`].
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let replacer = Replacer {
        suffix: ".new",
        mode: STATE_MODE,
        faults: None,
    };
    Ok(replacer.replace(path, content)?)
}

/// Whether the file system is full or read-only.
pub(crate) fn is_unwritable(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    [QuotaExceeded, ReadOnlyFilesystem, StorageFull].contains(&error.kind())
}

/// Returns an error that names the operation and the file.
pub(crate) fn with_path(operation: &str, path: &Path, error: &io::Error) -> io::Error {
    let text = format!("{operation} {}: {error}", path.display());
    io::Error::new(error.kind(), text)
}

impl Replacer {
    /// Replaces or creates a file.
    ///
    /// # Errors
    ///
    /// The step that failed. The file has its old content, unless the last step failed (flushing the
    /// folder): then it has either.
    pub(crate) fn replace(&self, path: &Path, content: &[u8]) -> Result<(), FileError> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(self.suffix);
        let temporary = PathBuf::from(temporary);
        let written = self.write(&temporary, content).and_then(|()| {
            self.step("rename", "rename", &temporary, || {
                fs::rename(&temporary, path)
            })
        });
        if let Err(error) = written {
            self.remove(&temporary);
            return Err(error);
        }
        match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => self.flush_folder(folder),
            _ => self.flush_folder(Path::new(".")),
        }
    }

    fn write(&self, path: &Path, content: &[u8]) -> Result<(), FileError> {
        let mut options = OpenOptions::new();
        options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(self.mode);
        let mut file = self.step("create", "create", path, || {
            let file = options.open(path)?;
            // An unfinished file that was left behind keeps its mode when it is opened.
            file.set_permissions(fs::Permissions::from_mode(self.mode))?;
            Ok(file)
        })?;
        // In two halves, so that a fault can leave a truncated file.
        let (first, second) = content.split_at(content.len() / 2);
        self.step("write", "write", path, || file.write_all(first))?;
        self.step("write", "write the rest", path, || file.write_all(second))?;
        self.step("flush", "fsync", path, || file.sync_all())
    }

    /// Flushes the names in a folder to the disk.
    pub(crate) fn flush_folder(&self, folder: &Path) -> Result<(), FileError> {
        self.step("flush", "fsync folder", folder, || {
            File::open(folder)?.sync_all()
        })
    }

    /// Removes an unfinished file. Failing to do so is only logged: its owner ignores such files.
    pub(crate) fn remove(&self, path: &Path) {
        if let Err(error) = self.step("remove", "remove", path, || fs::remove_file(path))
            && error.source.kind() != io::ErrorKind::NotFound
        {
            let (path, error) = (path.display(), error.source);
            tracing::warn!(%path, %error, "cannot remove an unfinished file");
        }
    }

    fn step<T>(
        &self,
        operation: &'static str,
        point: &str,
        path: &Path,
        run: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, FileError> {
        let fault = match self.faults {
            Some(area) => fault::point(&format!("{area}: {point}")),
            None => Ok(()),
        };
        fault.and_then(|()| run()).map_err(|source| FileError {
            operation,
            path: path.to_owned(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_the_content_and_leaves_no_other_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_error_names_the_operation_and_the_file() {
        let error = replace(Path::new("/nonexistent/file"), b"x").unwrap_err();
        assert!(
            error.to_string().contains("create /nonexistent/file.new"),
            "{error}"
        );
    }
}

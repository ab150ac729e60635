//! Files that are never half-written.
//!
//! A file is replaced in one step: a temporary file beside it, flushed to the disk, renamed over it,
//! and the folder flushed. Whoever reads it meets the old content or the new one, also after the
//! power failed.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

/// Replaces the content of a file, or makes the file.
///
/// # Errors
///
/// The operation that failed, with the path. The old content is still there, unless it was the last
/// step (flushing the folder) that failed.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
    name.push(".new");
    let temporary = path.with_file_name(name);
    let written = write_new(&temporary, content).and_then(|()| {
        let renamed = fs::rename(&temporary, path);
        renamed.map_err(|error| with_path("rename to", path, &error))
    });
    if written.is_err() {
        // What is left of it would only confuse; that it can't be removed changes nothing.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    flush_folder(path)
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let file = File::create(path);
    let mut file = file.map_err(|error| with_path("create", path, &error))?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    written.map_err(|error| with_path("write", path, &error))
}

/// Makes renames in the file's folder last.
pub(crate) fn flush_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let flushed = File::open(folder).and_then(|folder| folder.sync_all());
    flushed.map_err(|error| with_path("flush", folder, &error))
}

/// An error that says what was done to which file.
pub(crate) fn with_path(operation: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("{operation} {}: {error}", path.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_is_replaced_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_error_says_which_file() {
        let error = replace(Path::new("/nonexistent/file"), b"x").unwrap_err();
        assert!(
            error.to_string().contains("create /nonexistent/file.new"),
            "{error}"
        );
    }
}

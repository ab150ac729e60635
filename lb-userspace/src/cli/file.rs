//! Configuration files that are sent to the controller.

use std::{fs::File, io, path::Path};

use anyhow::{Context as _, Result};

use lb_api::{Change, ErrorCode, client::ClientError};
use lb_daemon::config_file;

/// Reads a configuration file, or standard input for `-`.
///
/// The name is sent as an absolute path: relative paths in the file start at its directory, and the
/// controller has another working directory.
pub(super) fn read(path: &Path) -> Result<Change> {
    let (path, bytes) = bytes(path);
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other));
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    let absolute = std::path::absolute(path).context("cannot get the working directory")?;
    let file = absolute.display().to_string();
    Ok(Change::Config { file, text })
}

/// Reads a configuration file, or standard input for `-`. Returns its name in messages, too.
pub(super) fn bytes(path: &Path) -> (&Path, io::Result<Vec<u8>>) {
    if path == Path::new("-") {
        return (Path::new("standard input"), config_file::read(io::stdin()));
    }
    (path, File::open(path).and_then(config_file::read))
}

/// Parses the file again if the controller found it invalid, to render the same errors in colour.
pub(super) fn with_colors(error: anyhow::Error, file: &Change) -> anyhow::Error {
    if let Some(ClientError::Api(refusal)) = error.downcast_ref()
        && let Change::Config { file, text } = file
        && let Err(errors) = config_file::parse(file, text)
        && refusal.code == ErrorCode::InvalidConfig
        && refusal.message.trim() == errors.to_string().trim()
    {
        return errors.into();
    }
    error
}

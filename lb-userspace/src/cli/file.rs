//! Configuration files that are sent to the controller.

use std::{io::Read as _, path::Path};

use anyhow::{Context as _, Result};

use lb_api::{Change, ErrorCode, client::ClientError};
use lb_daemon::config_file;

/// Reads a configuration file, or standard input for `-`.
///
/// The name is sent as an absolute path: relative paths in the file start at its directory, and the
/// controller has another working directory.
pub(super) fn read(path: &Path) -> Result<Change> {
    let (path, text) = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("cannot read standard input")?;
        (Path::new("standard input"), text)
    } else {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        (path, text)
    };
    let absolute = std::path::absolute(path).context("cannot get the working directory")?;
    let file = absolute.display().to_string();
    Ok(Change::Config { file, text })
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

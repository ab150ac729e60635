//! Configuration files that are sent to the controller.

use std::{io::Read as _, path::Path};

use anyhow::{Context as _, Result};

use lb_api::{Change, ErrorCode, client::ClientError};
use lb_model::config;

/// Reads a file, or standard input for `-`, as a change.
///
/// The name that is sent is the whole path: relative paths inside begin at the file's folder, and
/// the controller's own folder is another one.
pub(super) fn read(path: &Path) -> Result<Change> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("read standard input")?;
        let here = std::env::current_dir().context("find the working folder")?;
        let file = here.join("standard input").display().to_string();
        return Ok(Change::Config { file, text });
    }
    let text =
        std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
    let whole = std::path::absolute(path).with_context(|| format!("find {}", path.display()))?;
    let file = whole.display().to_string();
    Ok(Change::Config { file, text })
}

/// The error as it is best shown: mistakes of the file, which the controller draws without colours,
/// are drawn again here, if the same come out.
pub(super) fn explained(error: anyhow::Error, file: &Change) -> anyhow::Error {
    let Some(ClientError::Api(said)) = error.downcast_ref() else {
        return error;
    };
    let Change::Config { file, text } = file else {
        return error;
    };
    match config::parse(file, text) {
        Err(errors)
            if said.code == ErrorCode::InvalidConfig
                && said.message.trim() == errors.to_string().trim() =>
        {
            errors.into()
        }
        _ => error,
    }
}

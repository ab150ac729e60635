//! Tests that can't run on this machine say so: see CONTRIBUTING.md.

use std::fs::File;
use std::io::Write;

use anyhow::{Context, Result};

use crate::tool;

/// Whether a test that needs root and these programs can run here. If not, that is told to
/// `cargo xtask test`, and the test is to return.
///
/// # Panics
/// If it can't be told.
pub fn can_run(test: &str, tools: &[&str]) -> bool {
    let reason = if nix::unistd::geteuid().is_root() {
        tool::require(tools).err().map(|error| error.to_string())
    } else {
        Some("needs root".to_owned())
    };
    let Some(reason) = reason else {
        return true;
    };
    skip(test, &reason);
    false
}

/// Tells that a test is skipped, and why.
///
/// # Panics
/// If it can't be told.
pub fn skip(test: &str, reason: &str) {
    eprintln!("skipped {test}: {reason}");
    record(test, reason).expect("a skipped test can be recorded");
}

fn record(test: &str, reason: &str) -> Result<()> {
    let Some(file) = std::env::var_os("EVENKEEL_SKIPS") else {
        return Ok(());
    };
    let open = File::options().append(true).create(true).open(&file);
    let mut file = open.with_context(|| format!("file {}", file.display()))?;
    // One write, so that tests that run at the same time don't mix their lines.
    file.write_all(format!("{test}: {reason}\n").as_bytes())
        .context("a line")
}

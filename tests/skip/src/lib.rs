//! Tests that can't run on a machine report it, and `cargo xtask test` counts them (CONTRIBUTING.md).
//!
//! A crate of its own, because tests of lb-daemon need it too and the lab depends on lb-daemon.

use std::{fs::File, io::Write as _};

/// Reports that a test is skipped, and why.
///
/// # Panics
/// If the report can't be written: a skipped test must not count as passed.
pub fn skip(test: &str, reason: &str) {
    eprintln!("skipped {test}: {reason}");
    let Some(path) = std::env::var_os("EVENKEEL_SKIPS") else {
        return;
    };
    let file = File::options().append(true).create(true).open(&path);
    // One write, so that tests that run at the same time don't mix their lines.
    file.and_then(|mut file| file.write_all(format!("{test}: {reason}\n").as_bytes()))
        .unwrap_or_else(|error| panic!("report a skipped test in {}: {error}", path.display()));
}

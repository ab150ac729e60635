//! Tests that need a program which is not installed: see CONTRIBUTING.md.

use std::{fs::File, io::Write as _};

/// Records a skipped test, for `cargo xtask test` to count.
pub(crate) fn note(test: &str, package: &str) {
    eprintln!("skipped {test}: apt-get install {package}");
    let Some(file) = std::env::var_os("EVENKEEL_SKIPS") else {
        return;
    };
    let mut file = File::options()
        .append(true)
        .create(true)
        .open(file)
        .expect("a file for skipped tests");
    // One write, so that concurrent tests do not mix their lines.
    file.write_all(format!("{test}: needs {package}\n").as_bytes())
        .expect("a line for a skipped test");
}

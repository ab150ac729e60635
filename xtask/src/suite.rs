//! `cargo xtask test`: all tests, and one line that counts them.
//!
//! A test that can't run on a machine (no root, no such kernel feature, no such program) must not
//! count as passed, but libtest has no word for that. So such a test appends one line, its name and
//! the reason, to the file named by `EVENKEEL_SKIPS`, and returns; here those lines are shown and
//! taken out of the passed. `#[ignore]`d tests count as skipped too. The whole suite ends with the programs on
//! other kernels, each of which counts as a test.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::Stdio,
};

use anyhow::{Context as _, Result};

use crate::{kernels, process, setup};

/// Names the file to which a test that can't run appends a line.
const SKIPS_VARIABLE: &str = "EVENKEEL_SKIPS";

/// What to run.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Only this crate (may be given several times).
    #[arg(short, long)]
    package: Vec<String>,
    /// Passed to the test binaries, after `--`: a filter, `--nocapture`, …
    #[arg(last = true)]
    arguments: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// What came of the tests.
pub(crate) struct Outcome {
    count: Count,
    /// Whether all is well; without a failed test it may still not be.
    pub(crate) success: bool,
}

impl Outcome {
    /// Prints `N passed, N failed, N skipped`, to be the last line of all.
    pub(crate) fn print(&self) {
        let Count {
            passed,
            failed,
            skipped,
        } = self.count;
        println!("{passed} passed, {failed} failed, {skipped} skipped");
    }
}

/// Runs the tests and shows those that were skipped.
pub(crate) fn run(options: &Options) -> Result<Outcome> {
    setup::run()?;
    let skips = process::root().join("target/skipped-tests.txt");
    clear(&skips)?;
    let (mut count, success) = test(options, &skips)?;
    if options.package.is_empty() && options.arguments.is_empty() && success {
        count.add_kernels();
    }
    let reasons = fs::read_to_string(&skips)
        .with_context(|| format!("read the skipped tests from {}", skips.display()))?;
    for reason in reasons.lines() {
        println!("SKIPPED: {reason}");
        count.skipped += 1;
        count.passed = count.passed.saturating_sub(1);
    }
    if !success && count.failed == 0 {
        // A crate that does not build or a binary that dies has no line of its own to count.
        count.failed = 1;
        eprintln!(
            "test: cargo failed without a failed test: a crate did not build, or a test binary died"
        );
    }
    Ok(Outcome {
        count,
        success: success && count.failed == 0,
    })
}

/// An empty file, so that tests only ever append.
fn clear(skips: &Path) -> Result<()> {
    if let Some(folder) = skips.parent() {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    fs::write(skips, "").with_context(|| format!("empty {}", skips.display()))
}

fn test(options: &Options, skips: &Path) -> Result<(Count, bool)> {
    let mut command = process::cargo(["test", "--no-fail-fast"]);
    if options.package.is_empty() {
        // The eBPF crate has no tests and builds for another target only.
        command.args(["--workspace", "--exclude", "lb-ebpf"]);
        command.args(["--exclude", "evenkeel-fuzz"]);
    }
    for package in &options.package {
        command.args(["--package", package]);
    }
    command
        .arg("--")
        .args(&options.arguments)
        .env(SKIPS_VARIABLE, skips);
    if env::var_os("RUST_TEST_THREADS").is_none() {
        // Tests with namespaces and real servers have deadlines: don't start one per core on big
        // machines, nor more than the small ones can serve.
        command.env("RUST_TEST_THREADS", "2");
    }
    eprintln!("+ {}", process::shown(&command));
    let mut cargo = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start cargo: is it on the PATH?")?;
    let mut count = Count::default();
    if let Some(stdout) = cargo.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.context("read the output of cargo test")?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            count.add(&line);
        }
    }
    let status = cargo.wait().context("wait for cargo test")?;
    Ok((count, status.success()))
}

impl Count {
    /// Adds what the programs do on other kernels.
    fn add_kernels(&mut self) {
        for (kernel, outcome) in kernels::in_suite() {
            match outcome {
                Ok(true) => self.passed += 1,
                Ok(false) => self.failed += 1,
                Err(error) => {
                    println!("SKIPPED: {kernel}: {error:#}");
                    self.skipped += 1;
                }
            }
        }
    }

    /// Adds the line with which a test binary ends, such as
    /// `test result: ok. 7 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s`.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for part in counts.split(';') {
            let mut words = part.split_whitespace();
            let Some(number) = words.next().and_then(|word| word.parse::<u64>().ok()) else {
                continue;
            };
            match words.next() {
                Some("passed") => self.passed += number,
                Some("failed") => self.failed += number,
                Some("ignored") => self.skipped += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Count;

    #[test]
    fn the_last_lines_of_all_binaries_add_up() {
        let mut count = Count::default();
        for line in [
            "running 3 tests",
            "test a ... ok",
            "test result: ok. 7 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.00s",
            "test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s",
            "5 passed, 5 failed, 5 skipped",
        ] {
            count.add(line);
        }
        assert_eq!(
            count,
            Count {
                passed: 9,
                failed: 3,
                skipped: 1
            }
        );
    }
}

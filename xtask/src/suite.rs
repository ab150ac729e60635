//! `cargo xtask test`: runs the tests, lists the slowest test binaries and counts the tests.
//!
//! A test that can't run on a machine (no root, no such kernel feature, no such program) must not
//! count as passed, but libtest can't express that. Such a test appends one line, its name and the
//! reason, to the file named by `EVENKEEL_SKIPS`, and returns. These lines are printed here and
//! subtracted from the passed tests. `#[ignore]`d tests count as skipped too. The whole suite ends
//! with the programs on other kernels; each kernel counts as one test.
//!
//! Tests with real traffic have deadlines, which a machine that is busy with other things can miss. A few
//! that failed are run once more, alone. Those that pass then are listed as flaky: each is a fault of the
//! test or of the product that waits to be mended.

use std::{
    env, fs,
    io::{self, BufRead as _, BufReader, IsTerminal as _},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::{kernels, process, setup};

/// Environment variable with the file to which a test that can't run appends a line.
const SKIPS_VARIABLE: &str = "EVENKEEL_SKIPS";

/// Test binaries that are listed with their times.
const SLOWEST: usize = 10;

/// The crate whose failed tests are run once more, and the most that are.
const RUN_AGAIN: (&str, usize) = ("lb-tests", 3);

#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Test only this crate (repeatable)
    #[arg(short, long)]
    package: Vec<String>,
    /// Arguments for the test binaries, after `--`: a filter, `--nocapture`, …
    #[arg(last = true)]
    arguments: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// What a run of tests printed.
#[derive(Debug, Default)]
struct Ran {
    count: Count,
    finished: Vec<Finished>,
    /// Names of the failed tests.
    failed: Vec<String>,
    /// Test binaries that were started.
    started: usize,
    success: bool,
}

/// A test binary that ran.
#[derive(Debug, PartialEq)]
struct Finished {
    name: String,
    seconds: f64,
}

pub(crate) struct Outcome {
    count: Count,
    /// False also if no test failed but cargo did.
    pub(crate) success: bool,
}

impl Outcome {
    /// Prints `N passed, N failed, N skipped`. This must be the last line of the output.
    pub(crate) fn print(&self) {
        let Count {
            passed,
            failed,
            skipped,
        } = self.count;
        println!("{passed} passed, {failed} failed, {skipped} skipped");
    }
}

/// Runs the tests, and lists the slowest test binaries and the skipped tests.
pub(crate) fn run(options: &Options) -> Result<Outcome> {
    setup::run()?;
    let skips = process::root().join("target/skipped-tests.txt");
    clear(&skips)?;
    let mut ran = test(options, &skips)?;
    if may_be_flaky(&ran) {
        run_again(&mut ran, &skips)?;
    }
    let Ran {
        mut count,
        finished,
        success,
        ..
    } = ran;
    if options.package.is_empty() && options.arguments.is_empty() && success {
        count.add_kernels();
    }
    print_slowest(finished);
    let reasons = fs::read_to_string(&skips)
        .with_context(|| format!("read the skipped tests from {}", skips.display()))?;
    for reason in reasons.lines() {
        println!("SKIPPED: {reason}");
        count.skipped += 1;
        count.passed = count.passed.saturating_sub(1);
    }
    if !success && count.failed == 0 {
        // A crate that does not build and a test binary that dies print no line to count.
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

/// Empties the file, because tests only append.
fn clear(skips: &Path) -> Result<()> {
    if let Some(folder) = skips.parent() {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    fs::write(skips, "").with_context(|| format!("empty {}", skips.display()))
}

/// Whether a few tests failed, and nothing else did.
fn may_be_flaky(ran: &Ran) -> bool {
    let is_complete = ran.finished.len() == ran.started;
    let is_few = (1..=RUN_AGAIN.1).contains(&ran.failed.len());
    !ran.success && is_complete && is_few && ran.count.failed == ran.failed.len() as u64
}

/// Runs the failed tests once more, one after the other. If all pass, they count as passed.
fn run_again(ran: &mut Ran, skips: &Path) -> Result<()> {
    println!("Run once more, alone: {}", ran.failed.join(", "));
    let mut command = process::cargo(["test", "--no-fail-fast", "--package", RUN_AGAIN.0]);
    command.args(["--", "--exact"]).args(&ran.failed);
    command.env("RUST_TEST_THREADS", "1");
    let again = execute(command, skips)?;
    let count = ran.failed.len() as u64;
    if again.success && again.count.passed == count {
        for test in &ran.failed {
            println!("FLAKY: {test} failed beside other tests, and passed alone");
        }
        ran.count.passed += count;
        ran.count.failed -= count;
        ran.success = true;
    }
    Ok(())
}

fn test(options: &Options, skips: &Path) -> Result<Ran> {
    let mut command = process::cargo(["test", "--no-fail-fast"]);
    if options.package.is_empty() {
        // The eBPF crate has no tests and builds only for another target.
        command.args(["--workspace", "--exclude", "lb-ebpf"]);
        command.args(["--exclude", "evenkeel-fuzz"]);
    }
    for package in &options.package {
        command.args(["--package", package]);
    }
    command.arg("--").args(&options.arguments);
    if env::var_os("RUST_TEST_THREADS").is_none() {
        // Tests with namespaces and real servers have deadlines: a large machine must not run one
        // per core, nor a small one more than it can serve. Most of the time they wait.
        command.env("RUST_TEST_THREADS", "3");
    }
    execute(command, skips)
}

/// Runs a command of `cargo test`, prints its output, and reads it.
fn execute(mut command: Command, skips: &Path) -> Result<Ran> {
    command.env(SKIPS_VARIABLE, skips);
    if io::stdout().is_terminal() && env::var_os("CARGO_TERM_COLOR").is_none() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    eprintln!("+ {}", process::shown(&command));
    // One pipe for both: the name of a test binary is on cargo's stderr, its result on stdout.
    let (reader, writer) = io::pipe().context("make a pipe for the output of cargo")?;
    let mut cargo = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone().context("duplicate the pipe")?)
        .stderr(writer)
        .spawn()
        .context("start cargo: is it on the PATH?")?;
    // The command still holds the writing ends, and the output would never end.
    drop(command);
    let (mut ran, mut running) = (Ran::default(), String::new());
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.context("read the output of cargo test")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        ran.count.add(&line);
        if let Some(name) = binary_of(&line) {
            name.clone_into(&mut running);
            ran.started += 1;
        } else if let Some(seconds) = seconds_of(&line) {
            let name = std::mem::take(&mut running);
            ran.finished.push(Finished { name, seconds });
        } else if let Some(name) = failed_of(&line) {
            ran.failed.push(name.to_owned());
        }
    }
    let status = cargo.wait().context("wait for cargo test")?;
    ran.success = status.success();
    Ok(ran)
}

/// Returns the test binary that cargo says it runs:
/// `     Running tests/kernel/main.rs (target/debug/deps/kernel-d413be663ca972d5)`.
fn binary_of(line: &str) -> Option<&str> {
    if let Some((_, documented)) = line.split_once("Doc-tests ") {
        return Some(documented);
    }
    if !line.contains("Running ") {
        return None;
    }
    let (_, file) = line.rsplit_once("/deps/")?;
    file.rsplit_once('-').map(|(name, _)| name)
}

/// Returns the time in the last line of a test binary.
fn seconds_of(line: &str) -> Option<f64> {
    let (_, time) = line
        .strip_prefix("test result: ")?
        .split_once("finished in ")?;
    time.trim_end().strip_suffix('s')?.parse().ok()
}

/// Returns the name in `test a::b ... FAILED`.
fn failed_of(line: &str) -> Option<&str> {
    let line = line.strip_prefix("test ")?;
    line.trim_end().strip_suffix(" ... FAILED")
}

fn print_slowest(mut finished: Vec<Finished>) {
    finished.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    for Finished { name, seconds } in finished.iter().take(SLOWEST) {
        println!("SLOWEST: {seconds:>7.1} s {name}");
    }
}

impl Count {
    /// Runs the programs on other kernels and adds the results.
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

    /// Adds the last line of a test binary:
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
    use super::{Count, Finished, Ran, binary_of, failed_of, may_be_flaky, seconds_of};

    #[test]
    fn adds_the_results_of_all_binaries() {
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

    #[test]
    fn a_few_failed_tests_may_be_flaky_and_a_binary_that_died_is_not() {
        assert_eq!(failed_of("test a::b ... FAILED"), Some("a::b"));
        assert_eq!(failed_of("test a::b ... ok"), None);
        assert_eq!(failed_of("test result: FAILED. 1 passed"), None);
        let ran = |failed: usize, started, success| Ran {
            count: Count {
                failed: failed as u64,
                ..Count::default()
            },
            finished: vec![Finished {
                name: String::new(),
                seconds: 1.0,
            }],
            failed: vec!["a".to_owned(); failed],
            started,
            success,
        };
        assert!(may_be_flaky(&ran(1, 1, false)));
        assert!(may_be_flaky(&ran(3, 1, false)));
        for other in [
            ran(0, 1, true),
            ran(0, 1, false),
            ran(4, 1, false),
            ran(1, 2, false),
        ] {
            assert!(!may_be_flaky(&other), "{other:?}");
        }
    }

    #[test]
    fn reads_names_and_times_of_binaries() {
        let running = "     Running tests/kernel/main.rs (target/debug/deps/kernel-d413be66)";
        assert_eq!(binary_of(running), Some("kernel"));
        assert_eq!(binary_of("   Doc-tests lb_common"), Some("lb_common"));
        assert_eq!(binary_of("running 3 tests"), None);
        let result = "test result: ok. 7 passed; 0 failed; finished in 161.64s";
        assert_eq!(seconds_of(result), Some(161.64));
        assert_eq!(seconds_of("test a ... ok"), None);
    }
}

//! Compares this build with another one, in one run: machines differ, and so does one machine from
//! hour to hour.
//!
//! The two benchmarks run in turns, each as a process of its own. Compared is what the program costs of
//! itself: the nanoseconds of a workload less those of its floor, which depend on the machine.

use std::{
    env,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::measure::median;
use crate::table::{Align, Table};

/// Rounds that a benchmark measures in its turn.
const ROUNDS_A_TURN: u32 = 3;

/// Own cost of a workload in two builds: nanoseconds per packet without the floor's.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    pub workload: String,
    /// Median in the other build.
    pub before_ns: f64,
    /// Median in this build.
    pub now_ns: f64,
    /// `now_ns` over `before_ns`.
    pub ratio: f64,
    /// The smallest of this build over the smallest of the other: a cross-check on a noisy machine.
    pub best_ratio: f64,
}

/// A line of a benchmark's JSON. Every version of it has these.
#[derive(Deserialize)]
struct Line {
    workload: String,
    ns: f64,
    floor_ns: f64,
}

/// Runs the benchmark `other` and this one in turns, and compares the workloads that both have.
///
/// # Errors
///
/// One of them failed, or no workload is in both.
pub fn compare(
    other: &Path,
    workloads: &[&str],
    rounds: u32,
    mut progress: impl FnMut(&str),
) -> Result<Vec<Comparison>> {
    let this = env::current_exe().context("find this program")?;
    let known = run(other, &["--help"])?;
    let is_known = |name: &&str| known.split([' ', ',', ']']).any(|word| word == *name);
    let common: Vec<&str> = workloads.iter().copied().filter(is_known).collect();
    ensure!(
        !common.is_empty(),
        "{} has none of these workloads",
        other.display()
    );
    let turns = rounds.div_ceil(ROUNDS_A_TURN);
    let (mut before, mut now) = (Vec::new(), Vec::new());
    for turn in 1..=turns {
        progress(&format!("turn {turn} of {turns}"));
        before.extend(measured(other, &common)?);
        now.extend(measured(&this, &common)?);
    }
    let compared = common.iter().map(|name| {
        let own = |lines: &[Line]| -> Vec<f64> {
            let of_it = lines.iter().filter(|line| line.workload == *name);
            of_it.map(|line| line.ns - line.floor_ns).collect()
        };
        comparison(name, own(&before), own(&now))
    });
    Ok(compared.collect())
}

fn comparison(name: &str, before: Vec<f64>, now: Vec<f64>) -> Comparison {
    let best = |ns: &[f64]| ns.iter().copied().fold(f64::INFINITY, f64::min);
    let best_ratio = best(&now) / best(&before);
    let (before_ns, now_ns) = (median(before), median(now));
    Comparison {
        workload: name.to_owned(),
        before_ns,
        now_ns,
        ratio: now_ns / before_ns,
        best_ratio,
    }
}

fn measured(bench: &Path, workloads: &[&str]) -> Result<Vec<Line>> {
    let rounds = ROUNDS_A_TURN.to_string();
    let arguments = [&["--json", "--rounds", &rounds], workloads].concat();
    let json = run(bench, &arguments)?;
    serde_json::from_str(&json).with_context(|| format!("the output of {}", bench.display()))
}

fn run(program: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let output = command
        .output()
        .with_context(|| format!("start {}", program.display()))?;
    ensure!(
        output.status.success(),
        "{} failed ({}): {}",
        program.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns the result as a table.
#[must_use]
pub fn table(lines: &[Comparison]) -> Table {
    let mut table = Table::new(&[
        ("workload", Align::Left),
        ("own ns before", Align::Right),
        ("now", Align::Right),
        ("ratio", Align::Right),
        ("best", Align::Right),
    ]);
    for line in lines {
        table.row([
            line.workload.clone(),
            format!("{:.1}", line.before_ns),
            format!("{:.1}", line.now_ns),
            format!("{:.2}", line.ratio),
            format!("{:.2}", line.best_ratio),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_medians_of_the_own_cost() {
        let found = comparison("x", vec![20.0, 30.0, 25.0], vec![10.0, 40.0, 20.0]);
        assert_eq!((found.before_ns, found.now_ns), (25.0, 20.0));
        assert_eq!((found.ratio, found.best_ratio), (0.8, 0.5));
    }

    #[test]
    fn names_the_benchmark_that_fails() {
        let error = compare(Path::new("/bin/false"), &["x"], 1, |_| {}).unwrap_err();
        assert!(error.to_string().contains("/bin/false failed"), "{error}");
    }
}

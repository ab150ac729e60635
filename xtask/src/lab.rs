//! `cargo xtask demo`, `bench`, `outage` and `skew-sim`: builds a binary of the tests and runs it.

use std::{
    ffi::{OsStr, OsString},
    os::unix::process::CommandExt as _,
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{process, setup};

/// Builds and executes a binary of the lab, which creates network namespaces.
pub(crate) fn run(binary: &str, arguments: &[OsString]) -> Result<()> {
    setup::run()?;
    if !process::is_root() {
        bail!("`{binary}` creates network namespaces and loads eBPF programs: run it as root");
    }
    execute(
        &["lb-tests", "lb-userspace"],
        // The servers of `outage spike` are processes, because they crash.
        &["evenkeel", "overrun-server"],
        binary,
        arguments,
    )
}

/// Builds the benchmark of a commit in a work tree of its own, and executes the current one against it.
pub(crate) fn bench_against(commit: &str, arguments: &[OsString]) -> Result<()> {
    let folder = process::target().join("against");
    let tree = folder.join("tree");
    let git = |arguments: &[&OsStr]| {
        let mut git = Command::new("git");
        process::run(git.args(arguments))
    };
    let commit = commit.as_ref();
    if tree.join(".git").exists() {
        let at = tree.as_os_str();
        git(&[
            "-C".as_ref(),
            at,
            "checkout".as_ref(),
            "--detach".as_ref(),
            commit,
        ])?;
    } else {
        // Of a tree that was deleted, git still has a note.
        git(&["worktree".as_ref(), "prune".as_ref()])?;
        let at = tree.as_os_str();
        git(&[
            "worktree".as_ref(),
            "add".as_ref(),
            "--detach".as_ref(),
            at,
            commit,
        ])?;
    }
    setup::run()?;
    let built = folder.join("target");
    let mut build = process::cargo([
        "build",
        "--release",
        "--package",
        "lb-tests",
        "--bin",
        "bench",
    ]);
    build.current_dir(&tree).env("CARGO_TARGET_DIR", &built);
    process::run(&mut build).context("build the benchmark of the commit")?;
    let mut all = vec!["--against".into(), built.join("release/bench").into()];
    all.extend(arguments.iter().cloned());
    run("bench", &all)
}

/// Builds and executes the traffic simulation, which needs no set-up.
pub(crate) fn simulate(arguments: &[OsString]) -> Result<()> {
    execute(&["skew-sim"], &[], "skew-sim", arguments)
}

/// Builds binaries of these packages and replaces this process with `binary`, so that stdout holds
/// nothing but its output.
///
/// One `cargo build` builds all of them: cargo unifies features over what is built together, and
/// separate builds or `cargo run` would rebuild most crates.
fn execute(packages: &[&str], others: &[&str], binary: &str, arguments: &[OsString]) -> Result<()> {
    let mut build = process::cargo(["build", "--release"]);
    for package in packages {
        build.args(["--package", package]);
    }
    for name in others.iter().chain([&binary]) {
        build.args(["--bin", name]);
    }
    process::run(&mut build).with_context(|| format!("build {binary}"))?;
    let mut command = Command::new(process::built("release", binary));
    let error = command.args(arguments).exec();
    Err(error).with_context(|| format!("start `{}`", process::shown(&command)))
}

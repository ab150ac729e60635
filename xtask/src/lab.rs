//! `cargo xtask demo`, `bench` and `outage`: the binaries of the lab (crate `tests`), built and started; and `skew-sim`.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{process, setup};

/// Becomes a binary of the lab that makes network namespaces.
pub(crate) fn run(binary: &str, arguments: &[OsString]) -> Result<()> {
    setup::run()?;
    if !process::is_root() {
        bail!("`{binary}` makes network namespaces and loads eBPF programs: run it as root");
    }
    become_binary(
        &["lb-tests", "lb-userspace"],
        &["evenkeel"],
        binary,
        arguments,
    )
}

/// Becomes the simulation of traffic: it only calculates, and needs nothing that has to be set up.
pub(crate) fn simulate(arguments: &[OsString]) -> Result<()> {
    become_binary(&["skew-sim"], &[], "skew-sim", arguments)
}

/// Builds a binary of one of the packages, and others beside it, and becomes it. Its stdout is ours: nothing else
/// is written there.
///
/// All are built by one call, and none by `cargo run`: cargo chooses the features of all crates for what is built
/// together, and would build most of them anew for each.
fn become_binary(
    packages: &[&str],
    beside: &[&str],
    binary: &str,
    arguments: &[OsString],
) -> Result<()> {
    let mut build = process::cargo(["build", "--release"]);
    for package in packages {
        build.args(["--package", package]);
    }
    for name in beside.iter().chain([&binary]) {
        build.args(["--bin", name]);
    }
    process::run(&mut build).with_context(|| format!("build {binary}"))?;
    let mut command = Command::new(process::built("release", binary));
    let error = command.args(arguments).exec();
    Err(error).with_context(|| format!("start `{}`", process::shown(&command)))
}

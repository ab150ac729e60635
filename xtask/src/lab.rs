//! `cargo xtask demo`, `bench` and `outage`: the binaries of the lab (crate `tests`), built and started; and `skew-sim`.

use std::{ffi::OsString, os::unix::process::CommandExt as _};

use anyhow::{Context as _, Result, bail};

use crate::{process, setup};

/// Becomes a binary of the lab that makes network namespaces.
pub(crate) fn run(binary: &str, arguments: &[OsString]) -> Result<()> {
    setup::run()?;
    if !process::is_root() {
        bail!("`{binary}` makes network namespaces and loads eBPF programs: run it as root");
    }
    let balancer = ["build", "--release", "-p", "lb-userspace"];
    process::run(&mut process::cargo(balancer)).context("build the balancer")?;
    start(binary, arguments)
}

/// Becomes the simulation of traffic: it only calculates, and needs nothing that has to be set up.
pub(crate) fn simulate(arguments: &[OsString]) -> Result<()> {
    become_binary("skew-sim", "skew-sim", arguments)
}

fn start(binary: &str, arguments: &[OsString]) -> Result<()> {
    become_binary("lb-tests", binary, arguments)
}

/// Its stdout is ours: nothing else is written there.
fn become_binary(package: &str, binary: &str, arguments: &[OsString]) -> Result<()> {
    let mut build = process::cargo(["build", "--release", "-p", package, "--bin", binary]);
    process::run(&mut build).with_context(|| format!("build {binary}"))?;
    let mut command = process::cargo(["run", "--quiet", "--release", "-p", package]);
    let error = command.args(["--bin", binary, "--"]).args(arguments).exec();
    Err(error).with_context(|| format!("start `{}`", process::shown(&command)))
}

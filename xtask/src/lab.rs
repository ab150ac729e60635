//! `cargo xtask demo`, `bench`, `outage` and `skew-sim`: the binaries of the lab (crate `tests`), built and started.

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

/// Becomes a binary of the lab that only calculates.
pub(crate) fn calculate(binary: &str, arguments: &[OsString]) -> Result<()> {
    // The lab is built on the library of the controller, which holds the eBPF programs.
    setup::run()?;
    start(binary, arguments)
}

/// Its stdout is ours: nothing else is written there.
fn start(binary: &str, arguments: &[OsString]) -> Result<()> {
    let mut build = process::cargo(["build", "--release", "-p", "lb-tests", "--bin", binary]);
    process::run(&mut build).context("build the lab")?;
    let mut command = process::cargo(["run", "--quiet", "--release", "-p", "lb-tests"]);
    let error = command.args(["--bin", binary, "--"]).args(arguments).exec();
    Err(error).with_context(|| format!("start `{}`", process::shown(&command)))
}

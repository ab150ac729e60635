//! `cargo xtask demo` and `bench`: the binaries of the lab (crate `tests`), built and started.

use std::{ffi::OsString, os::unix::process::CommandExt as _};

use anyhow::{Context as _, Result, bail};

use crate::{process, setup};

/// Becomes a binary of the lab. Its stdout is ours: nothing else is written there.
pub(crate) fn run(binary: &str, arguments: &[OsString]) -> Result<()> {
    setup::run()?;
    if !process::is_root() {
        bail!("`{binary}` makes network namespaces and loads eBPF programs: run it as root");
    }
    process::run(&mut process::cargo([
        "build",
        "--release",
        "-p",
        "lb-userspace",
        "-p",
        "lb-tests",
    ]))
    .context("build the balancer and the lab")?;
    let mut command = process::cargo([
        "run",
        "--quiet",
        "--release",
        "-p",
        "lb-tests",
        "--bin",
        binary,
        "--",
    ]);
    let error = command.args(arguments).exec();
    Err(error).with_context(|| format!("start `{}`", process::shown(&command)))
}

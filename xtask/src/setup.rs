//! `cargo xtask setup`: gets a machine ready, and finds that it is.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{apt::Apt, linker, process, toolchain, toolchain::Toolchain, versions};

/// Installs what is missing; returns the toolchain for the eBPF programs.
pub(crate) fn run() -> Result<Toolchain> {
    let mut apt = Apt::default();
    let toolchain = toolchain::ensure(&mut apt)?;
    let linker = linker::ensure(&mut apt, &toolchain)?;
    let missing = || {
        versions::TEST_TOOLS
            .iter()
            .filter(|it| process::find(it.program).is_none())
    };
    if missing().next().is_some() {
        for tool in missing() {
            eprintln!("setup: {} is missing, which {}", tool.program, tool.purpose);
        }
        let packages: Vec<&str> = missing().map(|it| it.package).collect();
        apt.install(&packages, "tests, demo and benchmark call them")?;
    }
    let tools: Vec<&str> = versions::TEST_TOOLS.iter().map(|it| it.program).collect();
    eprintln!(
        "setup: all is there: {}, {linker}, {}",
        toolchain.describe(),
        tools.join(" ")
    );
    Ok(toolchain)
}

/// Returns a program that cargo installs: the one on the PATH, or one of this version below `target/tools`, built if
/// it is missing.
pub(crate) fn cargo_tool(name: &str, version: &str) -> Result<PathBuf> {
    if let Some(program) = process::find(name) {
        return Ok(program);
    }
    let tools = process::root().join("target/tools");
    let program = tools.join("bin").join(name);
    if !program.exists() {
        eprintln!("setup: building {name} {version} in target/tools (a few minutes)");
        let mut install = Command::new("cargo");
        install.args(["install", name, "--locked", "--version", version, "--root"]);
        process::run(install.arg(&tools)).with_context(|| format!("build {name}"))?;
    }
    Ok(program)
}

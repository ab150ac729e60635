//! `cargo xtask setup`: gets a machine ready, and finds that it is.

use anyhow::Result;

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

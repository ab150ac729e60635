//! `cargo xtask lint`: format, lints of the host's crates, lints of the eBPF programs.
//!
//! The eBPF crate is linted on its own target with its own toolchain: on the host, code for BPF
//! (`cfg(target_arch = "bpf")`) is not even parsed, and the programs have no panic handler there.

use std::{fs, process::Command};

use anyhow::{Result, bail};

use crate::{
    process, setup,
    toolchain::{Core, Toolchain},
    versions,
};

/// Most lines of a file.
const MOST_LINES: usize = 500;

/// Runs all checks, also after one failed; says which did, and returns whether all are clean.
pub(crate) fn run() -> Result<bool> {
    let toolchain = setup::run()?;
    let mut failed = Vec::new();
    let mut check = |what: &str, command: &mut Command| -> Result<()> {
        eprintln!("lint: {what}");
        if !process::status(command)?.success() {
            failed.push(what.to_owned());
        }
        Ok(())
    };
    check("format", &mut process::cargo(["fmt", "--all", "--check"]))?;
    let mut host = process::cargo(["clippy", "--workspace", "--exclude", "lb-ebpf"]);
    host.args(["--exclude", "evenkeel-fuzz"]);
    check(
        "host crates",
        host.args(["--all-targets", "--", "-D", "warnings"]),
    )?;
    // Advisories need a download and change by themselves: `cargo deny check advisories` looks at them by hand.
    let mut deny = Command::new(setup::cargo_tool("cargo-deny", versions::CARGO_DENY)?);
    deny.args(["check", "bans", "licenses", "sources"]);
    check("dependencies", deny.current_dir(process::root()))?;
    match ebpf(&toolchain) {
        Ok(mut command) => check("eBPF programs", &mut command)?,
        Err(error) => {
            eprintln!("lint: {error}");
            failed.push("eBPF programs".to_owned());
        }
    }
    let long = long_files();
    if !long.is_empty() {
        eprintln!("lint: over {MOST_LINES} lines: {}", long.join(", "));
        failed.push("length of files".to_owned());
    }
    if failed.is_empty() {
        eprintln!("lint: clean");
    } else {
        eprintln!(
            "lint: not clean: {} (`cargo fmt --all` fixes the format)",
            failed.join(", ")
        );
    }
    Ok(failed.is_empty())
}

/// The files that have too many lines to hold one idea; none where git can't list them.
fn long_files() -> Vec<String> {
    let mut git = Command::new("git");
    git.args(["ls-files", "*.rs"]).current_dir(process::root());
    let Some(files) = process::output(&mut git) else {
        eprintln!("lint: length of files not checked: `git ls-files` failed");
        return Vec::new();
    };
    let length = |file: &str| {
        // One that was deleted, and is not committed, has none.
        let text = fs::read_to_string(process::root().join(file)).unwrap_or_default();
        text.lines().count()
    };
    let files = files.lines().map(|file| (file, length(file)));
    let long = files.filter(|(_, lines)| *lines > MOST_LINES);
    long.map(|(file, lines)| format!("{file} ({lines})"))
        .collect()
}

fn ebpf(toolchain: &Toolchain) -> Result<Command> {
    if process::output(toolchain.command("cargo").args(["clippy", "--version"])).is_none() {
        bail!(
            "{} has no clippy, so the eBPF programs can't be linted: install `rust-web-clippy` (Debian) \
             or `rustup component add clippy`",
            toolchain.describe()
        );
    }
    let mut command = toolchain.command("cargo");
    command
        .current_dir(process::root())
        .env("RUSTC_BOOTSTRAP", versions::BPF_BOOTSTRAP);
    command.args([
        "clippy",
        "-p",
        "lb-ebpf",
        "--release",
        "--target",
        versions::BPF_TARGET,
    ]);
    if toolchain.core == Core::FromSource {
        command.arg("-Zbuild-std=core");
    }
    // A folder of its own: another rustc in target/ would make cargo build everything again.
    command.args(["--target-dir", "target/bpf-clippy", "--", "-D", "warnings"]);
    Ok(command)
}

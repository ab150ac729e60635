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
const DAEMON: &str = "lb-userspace/daemon/src/";
/// Where the daemon converts between its types and those of the API: its socket, that of the announcer, and
/// the agent of the fleet, which passes requests of other nodes on.
const BORDERS: [&str; 3] = ["http/", "announcer/socket", "fleet/node.rs"];

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
    let sources = sources();
    let mut list = |what: &str, rule: &str, files: Vec<String>| {
        if !files.is_empty() {
            eprintln!("lint: {rule}: {}", files.join(", "));
            failed.push(what.to_owned());
        }
    };
    list(
        "length of files",
        &format!("over {MOST_LINES} lines"),
        long_files(&sources),
    );
    list(
        "API types",
        "lb_api inside the daemon (convert in http/)",
        api_inside(&sources),
    );
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

/// Names and texts of the Rust files; none where git can't list them.
fn sources() -> Vec<(String, String)> {
    let mut git = Command::new("git");
    git.args(["ls-files", "*.rs"]).current_dir(process::root());
    let Some(files) = process::output(&mut git) else {
        eprintln!("lint: files not checked: `git ls-files` failed");
        return Vec::new();
    };
    // One that was deleted, and is not committed, has no text.
    let text = |file: &str| fs::read_to_string(process::root().join(file)).unwrap_or_default();
    let files = files.lines();
    files.map(|file| (file.to_owned(), text(file))).collect()
}

/// The files that have too many lines to hold one idea.
fn long_files(sources: &[(String, String)]) -> Vec<String> {
    let lengths = sources
        .iter()
        .map(|(file, text)| (file, text.lines().count()));
    let long = lengths.filter(|(_, lines)| *lines > MOST_LINES);
    long.map(|(file, lines)| format!("{file} ({lines})"))
        .collect()
}

/// The files inside the daemon that name API types.
fn api_inside(sources: &[(String, String)]) -> Vec<String> {
    let is_inside = |file: &str| {
        let file = file.strip_prefix(DAEMON);
        file.is_some_and(|file| !BORDERS.iter().any(|border| file.starts_with(border)))
    };
    let inside = sources.iter().filter(|(file, _)| is_inside(file));
    let naming = inside.filter(|(_, text)| text.contains("lb_api"));
    naming.map(|(file, _)| file.clone()).collect()
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

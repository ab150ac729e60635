//! `cargo xtask package`: a Debian package with all that a host needs.
//!
//! What goes where is said in `lb-userspace/Cargo.toml`, for cargo-deb. Manual pages and completions are
//! written by the binary itself, so they are those of the binary in the package.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{apt::Apt, process, setup, versions};

/// Shells, and the name of the file that each looks for.
const SHELLS: &[(&str, &str)] = &[
    ("bash", "evenkeel"),
    ("zsh", "_evenkeel"),
    ("fish", "evenkeel.fish"),
];

/// Builds the package and prints where it is.
pub(crate) fn run() -> Result<()> {
    setup::run()?;
    let work = process::root().join("target/package");
    let binary = build()?;
    write_manual(&binary, &work)?;
    write_completions(&binary, &work)?;
    let cargo_deb = cargo_deb()?;
    let mut pack = Command::new(cargo_deb);
    pack.args(["deb", "--no-build", "--package", "lb-userspace", "--output"]);
    // cargo-deb looks for the workspace from where it stands.
    process::run(pack.arg(&work).current_dir(process::root()))?;
    let package = newest(&work).context("cargo-deb left no package")?;
    println!("{}", package.display());
    Ok(())
}

fn build() -> Result<PathBuf> {
    let build = ["build", "--release", "-p", "lb-userspace"];
    process::run(&mut process::cargo(build)).context("build the balancer")?;
    Ok(process::built("release", "evenkeel"))
}

fn write_manual(binary: &Path, work: &Path) -> Result<()> {
    let folder = work.join("man");
    // Pages of commands that are no more must not go along.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    process::run(Command::new(binary).args(["man", "--out"]).arg(folder))
}

fn write_completions(binary: &Path, work: &Path) -> Result<()> {
    let folder = work.join("completions");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    for (shell, name) in SHELLS {
        let text = process::output(Command::new(binary).args(["completions", shell]))
            .with_context(|| format!("`{} completions {shell}` failed", binary.display()))?;
        let file = folder.join(name);
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

/// cargo-deb, built if it is not there, and what it calls.
fn cargo_deb() -> Result<PathBuf> {
    let shlibdeps = versions::SHLIBDEPS;
    if process::find(shlibdeps.program).is_none() {
        Apt::default().install(&[shlibdeps.package], shlibdeps.purpose)?;
    }
    if let Some(there) = process::find("cargo-deb") {
        return Ok(there);
    }
    // In a folder of its own: it is nobody's but this task's.
    let tools = process::root().join("target/tools");
    let program = tools.join("bin/cargo-deb");
    if !program.exists() {
        let mut install = Command::new("cargo");
        install.args(["install", "cargo-deb", "--locked", "--version"]);
        install.args([versions::CARGO_DEB, "--root"]).arg(&tools);
        process::run(&mut install).context("build cargo-deb")?;
    }
    Ok(program)
}

fn newest(folder: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let packages = files.filter(|file| file.path().extension().is_some_and(|it| it == "deb"));
    let newest = packages.max_by_key(|file| file.metadata().and_then(|it| it.modified()).ok())?;
    Some(newest.path())
}

//! `cargo xtask package`: a Debian package with all that a host needs.
//!
//! What goes where is said in `lb-userspace/Cargo.toml`, for cargo-deb. Manual pages and completions are
//! written by the binary itself, so they are those of the binary in the package.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{apt::Apt, process, setup, versions};

/// Shells, and the name of the file that each looks for.
const SHELLS: &[(&str, &str)] = &[
    ("bash", "evenkeel"),
    ("zsh", "_evenkeel"),
    ("fish", "evenkeel.fish"),
];

const UNITS: [&str; 3] = [
    "evenkeel.service",
    "evenkeel-announce.service",
    "evenkeel-kube.service",
];

/// Cargo's profile of the binary in a package.
const PROFILE: &str = "dist";

/// Builds the package and prints where it is.
pub(crate) fn run() -> Result<()> {
    setup::run()?;
    let work = process::root().join("target/package");
    let binary = build()?;
    write_manual(&binary, &work)?;
    write_completions(&binary, &work)?;
    let cargo_deb = cargo_deb()?;
    let mut pack = Command::new(cargo_deb);
    pack.args(["deb", "--no-build", "--profile", PROFILE]);
    pack.args(["--package", "lb-userspace", "--output"]);
    // cargo-deb looks for the workspace from where it stands.
    process::run(pack.arg(&work).current_dir(process::root()))?;
    let package = newest(&work).context("cargo-deb left no package")?;
    let ask = |what: &[&str], more: &[&str]| {
        let mut command = Command::new("dpkg-deb");
        process::output(command.args(what).arg(&package).args(more)).context("dpkg-deb failed")
    };
    check(
        &ask(&["--contents"], &[])?,
        &ask(&["--info"], &["postinst"])?,
    )
    .with_context(|| format!("{} is wrong", package.display()))?;
    println!("{}", package.display());
    Ok(())
}

fn build() -> Result<PathBuf> {
    let build = [
        "build",
        "--profile",
        PROFILE,
        "-p",
        "lb-userspace",
        "-p",
        "lb-kube",
    ];
    process::run(&mut process::cargo(build)).context("build the balancer")?;
    Ok(process::built(PROFILE, "evenkeel"))
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

/// cargo-deb, and what it calls.
fn cargo_deb() -> Result<PathBuf> {
    let shlibdeps = versions::SHLIBDEPS;
    if process::find(shlibdeps.program).is_none() {
        Apt::default().install(&[shlibdeps.package], shlibdeps.purpose)?;
    }
    setup::cargo_tool("cargo-deb", versions::CARGO_DEB)
}

/// Checks that all units are in a package, and that an upgrade does not restart the announcer: that would end its
/// BGP sessions.
fn check(contents: &str, postinst: &str) -> Result<()> {
    for unit in UNITS {
        let file = format!("./usr/lib/systemd/system/{unit}\n");
        ensure!(format!("{contents}\n").contains(&file), "no {unit} in it");
        let known = format!("update-state {unit} ");
        ensure!(postinst.contains(&known), "postinst does not know {unit}");
    }
    let restarts = postinst.lines().filter(|line| line.contains("restart"));
    let restarts: Vec<&str> = restarts.flat_map(str::split_whitespace).collect();
    for unit in ["evenkeel.service", "evenkeel-kube.service"] {
        ensure!(
            restarts.contains(&unit),
            "an upgrade does not restart {unit}"
        );
    }
    ensure!(
        !restarts.contains(&"evenkeel-announce.service"),
        "an upgrade restarts the announcer"
    );
    Ok(())
}

fn newest(folder: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let packages = files.filter(|file| file.path().extension().is_some_and(|it| it == "deb"));
    let newest = packages.max_by_key(|file| file.metadata().and_then(|it| it.modified()).ok())?;
    Some(newest.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(units: &[&str]) -> String {
        let line = |unit: &&str| {
            format!("-rw-r--r-- 0/0 1905 2026-12-02 00:00 ./usr/lib/systemd/system/{unit}\n")
        };
        units.iter().map(line).collect()
    }

    fn postinst(restarted: &str) -> String {
        let state =
            UNITS.map(|it| format!("deb-systemd-helper update-state {it} >/dev/null || true\n"));
        format!(
            "{}deb-systemd-invoke try-restart {restarted} >/dev/null || true\n",
            state.concat()
        )
    }

    #[test]
    fn an_upgrade_restarts_all_but_the_announcer() {
        let all = contents(&UNITS);
        let right = "evenkeel.service evenkeel-kube.service";
        check(&all, &postinst(right)).unwrap();
        let wrong = |contents: &str, restarted: &str| {
            check(contents, &postinst(restarted))
                .unwrap_err()
                .to_string()
        };
        // As cargo-deb takes a unit without a name: all that begin with the package's.
        let error = wrong(&all, &format!("evenkeel-announce.service {right}"));
        assert_eq!(error, "an upgrade restarts the announcer");
        for unit in right.split(' ') {
            let others = right.replace(unit, "");
            let error = wrong(&all, &others);
            assert_eq!(error, format!("an upgrade does not restart {unit}"));
        }
        let error = wrong(&contents(&UNITS[1..]), right);
        assert_eq!(error, "no evenkeel.service in it");
    }
}

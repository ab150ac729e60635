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
    let build = ["build", "--profile", PROFILE, "-p", "lb-userspace"];
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

/// Checks that both units are in a package, and that an upgrade restarts the controller only: a restart of the
/// announcer ends its BGP sessions.
fn check(contents: &str, postinst: &str) -> Result<()> {
    for unit in ["evenkeel.service", "evenkeel-announce.service"] {
        let file = format!("./usr/lib/systemd/system/{unit}\n");
        ensure!(format!("{contents}\n").contains(&file), "no {unit} in it");
        let known = format!("update-state {unit} ");
        ensure!(postinst.contains(&known), "postinst does not know {unit}");
    }
    let restarts = postinst.lines().filter(|line| line.contains("restart"));
    let restarts: Vec<&str> = restarts.flat_map(str::split_whitespace).collect();
    ensure!(
        restarts.contains(&"evenkeel.service"),
        "an upgrade does not restart the controller"
    );
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

    const CONTENTS: &str = "-rw-r--r-- 0/0 1905 2026-12-02 00:00 ./usr/lib/systemd/system/evenkeel-announce.service\n\
                            -rw-r--r-- 0/0 2716 2026-12-02 00:00 ./usr/lib/systemd/system/evenkeel.service";

    fn postinst(restarted: &str) -> String {
        let state = ["evenkeel", "evenkeel-announce"]
            .map(|it| format!("deb-systemd-helper update-state {it}.service >/dev/null || true\n"));
        format!(
            "{}deb-systemd-invoke try-restart {restarted} >/dev/null || true\n",
            state.concat()
        )
    }

    #[test]
    fn an_upgrade_restarts_the_controller_only() {
        check(CONTENTS, &postinst("evenkeel.service")).unwrap();
        // As cargo-deb takes a unit without a name: all that begin with the package's.
        let both = postinst("evenkeel-announce.service evenkeel.service");
        let error = check(CONTENTS, &both).unwrap_err().to_string();
        assert_eq!(error, "an upgrade restarts the announcer");
        let error = check(CONTENTS, &postinst("")).unwrap_err().to_string();
        assert_eq!(error, "an upgrade does not restart the controller");
        let (announcer, _) = CONTENTS.split_once('\n').unwrap();
        let error = check(announcer, &postinst("evenkeel.service")).unwrap_err();
        assert_eq!(error.to_string(), "no evenkeel.service in it");
    }
}

//! Finds or installs a rustc that can build the eBPF programs.
//!
//! Two kinds can: one with a prebuilt core library for BPF (Debian's `rustc-web` with
//! `libstd-rust-web-dev-bpf`), and a nightly with `rust-src`, which builds core itself. An installed
//! one is used, in the order in which `lb-userspace/dataplane/build.rs` looks. No rustup toolchain
//! is downloaded: the owner of the machine decides that.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{apt, apt::Apt, process, versions};

/// Source of the core library for BPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Core {
    /// Part of the toolchain.
    Prebuilt,
    /// Built by cargo (`-Zbuild-std`).
    FromSource,
}

/// A toolchain that can build for BPF.
pub(crate) struct Toolchain {
    /// rustup's name for it; `None`: the rustc on the PATH, without rustup.
    name: Option<String>,
    release: String,
    /// Major version of rustc's LLVM, whose bitcode the linker must read.
    pub(crate) llvm: u32,
    pub(crate) core: Core,
}

impl Toolchain {
    /// Returns a command that runs a program of this toolchain.
    pub(crate) fn command(&self, program: &str) -> Command {
        command(self.name.as_deref(), program)
    }

    pub(crate) fn describe(&self) -> String {
        let name = self.name.as_deref().unwrap_or("on the PATH");
        format!("rustc {} ({name}, LLVM {})", self.release, self.llvm)
    }
}

/// Finds a toolchain, and installs Debian's if there is none.
pub(crate) fn ensure(apt: &mut Apt) -> Result<Toolchain> {
    if let Ok(name) = env::var(versions::BPF_TOOLCHAIN_VARIABLE) {
        return probe(Some(&name)).with_context(|| {
            format!(
                "{}={name} is set, but this toolchain can't build for BPF",
                versions::BPF_TOOLCHAIN_VARIABLE
            )
        });
    }
    let rustup = process::find("rustup").is_some();
    let candidates: &[Option<&str>] = if rustup {
        &[Some(versions::BPF_TOOLCHAIN), Some("nightly")]
    } else {
        &[None]
    };
    let mut rejected = Vec::new();
    for candidate in candidates {
        match probe(*candidate) {
            Ok(found) => return Ok(found),
            Err(error) => rejected.push(format!("  {error:#}")),
        }
    }
    eprintln!(
        "setup: no rustc here can build for BPF:\n{}",
        rejected.join("\n")
    );
    install(apt, rustup)?;
    probe(rustup.then_some(versions::BPF_TOOLCHAIN)).with_context(|| match rustup {
        true => "Debian's packages are installed, but their rustc can't build for BPF".to_owned(),
        false => "Debian's packages are installed, but another rustc precedes theirs on the PATH: \
                  put /usr/bin first, or install rustup"
            .to_owned(),
    })
}

/// Installs Debian's toolchain and links it as a rustup toolchain.
fn install(apt: &mut Apt, rustup: bool) -> Result<()> {
    let missing: Vec<&str> = versions::DEBIAN_RUST
        .iter()
        .copied()
        .filter(|package| !apt::has(package))
        .collect();
    if !missing.is_empty() {
        apt.install(&missing, "a rustc with a core library for BPF, in addition to the installed one")
            .map_err(|error| anyhow!("{error:#}\n\nA rustup nightly with its source works as well:\n  rustup toolchain install nightly --component rust-src"))?;
    }
    if rustup {
        eprintln!(
            "setup: linking /usr as rustup toolchain `{}`, which the build uses",
            versions::BPF_TOOLCHAIN
        );
        process::run(Command::new("rustup").args([
            "toolchain",
            "link",
            versions::BPF_TOOLCHAIN,
            "/usr",
        ]))?;
    }
    Ok(())
}

/// Returns a toolchain if it can build for BPF, or why it can't.
fn probe(name: Option<&str>) -> Result<Toolchain> {
    let called = name.unwrap_or("rustc on the PATH");
    let verbose = process::output(command(name, "rustc").arg("-vV"))
        .ok_or_else(|| anyhow!("{called}: not installed"))?;
    let sysroot = process::output(command(name, "rustc").args(["--print", "sysroot"]))
        .ok_or_else(|| anyhow!("{called}: has no sysroot"))?;
    let rustlib = PathBuf::from(sysroot.trim()).join("lib/rustlib");
    let (release, llvm) =
        release_and_llvm(&verbose).ok_or_else(|| anyhow!("{called}: unknown rustc:\n{verbose}"))?;
    let core = core_of(&rustlib, release.contains("nightly")).ok_or_else(|| {
        anyhow!(
            "{called} (rustc {release}): neither a core library for {} nor a nightly with rust-src",
            versions::BPF_TARGET
        )
    })?;
    if process::output(command(name, "cargo").arg("--version")).is_none() {
        bail!("{called}: has no cargo");
    }
    Ok(Toolchain {
        name: name.map(str::to_owned),
        release,
        llvm,
        core,
    })
}

fn command(toolchain: Option<&str>, program: &str) -> Command {
    let Some(toolchain) = toolchain else {
        return Command::new(program);
    };
    let mut command = Command::new("rustup");
    // Newer versions of rustup would download a missing toolchain.
    command
        .env("RUSTUP_AUTO_INSTALL", "0")
        .args(["run", toolchain, program]);
    command
}

fn core_of(rustlib: &Path, nightly: bool) -> Option<Core> {
    let prebuilt = rustlib.join(versions::BPF_TARGET).join("lib");
    let is_core = |name: &str| name.starts_with("libcore-") && name.ends_with(".rlib");
    let has_core = prebuilt.read_dir().is_ok_and(|mut files| {
        files.any(|file| file.is_ok_and(|it| it.file_name().to_str().is_some_and(is_core)))
    });
    if has_core {
        Some(Core::Prebuilt)
    } else if nightly && rustlib.join("src/rust/library/core").is_dir() {
        Some(Core::FromSource)
    } else {
        None
    }
}

/// Parses the output of `rustc -vV`.
fn release_and_llvm(verbose: &str) -> Option<(String, u32)> {
    let field = |name: &str| verbose.lines().find_map(|line| line.strip_prefix(name));
    let llvm = field("LLVM version: ")?.split('.').next()?.parse().ok()?;
    Some((field("release: ")?.to_owned(), llvm))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Core, core_of, release_and_llvm};

    #[test]
    fn reads_llvm_from_the_verbose_version() {
        let verbose = "rustc 1.96.0 (x)\nhost: x86_64\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(release_and_llvm(verbose), Some(("1.96.0".to_owned(), 22)));
        assert_eq!(release_and_llvm("rustc 1.0\nrelease: 1.0\n"), None);
    }

    #[test]
    fn accepts_a_nightly_with_its_source_and_any_with_a_core() {
        let folder = tempfile::tempdir().unwrap();
        let rustlib = folder.path();
        assert_eq!(core_of(rustlib, true), None);
        fs::create_dir_all(rustlib.join("src/rust/library/core")).unwrap();
        assert_eq!(core_of(rustlib, true), Some(Core::FromSource));
        assert_eq!(core_of(rustlib, false), None);
        let library = rustlib.join("bpfel-unknown-none/lib");
        fs::create_dir_all(&library).unwrap();
        assert_eq!(
            core_of(rustlib, false),
            None,
            "the folder of the library is empty"
        );
        fs::write(library.join("libcore-0123.rlib"), "").unwrap();
        assert_eq!(core_of(rustlib, false), Some(Core::Prebuilt));
    }
}

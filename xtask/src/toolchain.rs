//! The rustc that builds the eBPF programs.
//!
//! Two kinds can: one with a prebuilt core library for BPF (Debian's `rustc-web` with
//! `libstd-rust-web-dev-bpf`), and a nightly with `rust-src`, which builds core itself. What is
//! there is taken, in the order in which `lb-userspace/dataplane/build.rs` looks; no rustup toolchain is ever
//! downloaded: that is for the owner of the machine to decide.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{apt, apt::Apt, process, versions};

/// Where the core library for BPF comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Core {
    /// It came with the toolchain.
    Prebuilt,
    /// Cargo builds it (`-Zbuild-std`).
    FromSource,
}

/// A toolchain that can build for BPF.
pub(crate) struct Toolchain {
    /// rustup's name for it; `None` without rustup: then it is what is on the PATH.
    name: Option<String>,
    /// rustc's release.
    release: String,
    /// The major version of the LLVM that rustc has: the bitcode that the linker must understand.
    pub(crate) llvm: u32,
    /// Where core comes from.
    pub(crate) core: Core,
}

impl Toolchain {
    /// A command of this toolchain.
    pub(crate) fn command(&self, program: &str) -> Command {
        command(self.name.as_deref(), program)
    }

    /// For people.
    pub(crate) fn describe(&self) -> String {
        let name = self.name.as_deref().unwrap_or("on the PATH");
        format!("rustc {} ({name}, LLVM {})", self.release, self.llvm)
    }
}

/// Finds a toolchain, installing Debian's if there is none.
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
    let mut refused = Vec::new();
    for candidate in candidates {
        match probe(*candidate) {
            Ok(found) => return Ok(found),
            Err(error) => refused.push(format!("  {error:#}")),
        }
    }
    eprintln!(
        "setup: no rustc here can build for BPF:\n{}",
        refused.join("\n")
    );
    install(apt, rustup)?;
    probe(rustup.then_some(versions::BPF_TOOLCHAIN)).with_context(|| match rustup {
        true => "Debian's packages are installed, but their rustc does not serve".to_owned(),
        false => "Debian's packages are installed, but without rustup the eBPF programs are built by the \
                  first rustc on the PATH, and that is another one: put /usr/bin first, or install rustup"
            .to_owned(),
    })
}

/// Installs Debian's toolchain and tells rustup about it.
fn install(apt: &mut Apt, rustup: bool) -> Result<()> {
    let missing: Vec<&str> = versions::DEBIAN_RUST
        .iter()
        .copied()
        .filter(|package| !apt::has(package))
        .collect();
    if !missing.is_empty() {
        apt.install(&missing, "a rustc with a core library for BPF, beside the one that is there")
            .map_err(|error| anyhow!("{error:#}\n\nAny rustup nightly with its source serves as well:\n  rustup toolchain install nightly --component rust-src"))?;
    }
    if rustup {
        eprintln!(
            "setup: linking /usr as rustup's toolchain `{}`: the build calls it by name",
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

/// What a toolchain is, if it can build for BPF; else why not.
fn probe(name: Option<&str>) -> Result<Toolchain> {
    let called = name.unwrap_or("rustc on the PATH");
    let verbose = process::output(command(name, "rustc").arg("-vV"))
        .ok_or_else(|| anyhow!("{called}: not there"))?;
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
    // Newer rustups download what is asked for; we only look.
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

/// Reads `rustc -vV`.
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
    fn llvm_is_read_from_the_verbose_version() {
        let verbose = "rustc 1.96.0 (x)\nhost: x86_64\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(release_and_llvm(verbose), Some(("1.96.0".to_owned(), 22)));
        assert_eq!(release_and_llvm("rustc 1.0\nrelease: 1.0\n"), None);
    }

    #[test]
    fn a_nightly_serves_only_with_its_source_and_a_stable_only_with_a_core() {
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
            "an empty folder is no library"
        );
        fs::write(library.join("libcore-0123.rlib"), "").unwrap();
        assert_eq!(core_of(rustlib, false), Some(Core::Prebuilt));
    }
}

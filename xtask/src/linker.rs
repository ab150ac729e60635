//! Finds or builds a bpf-linker with the LLVM version of the rustc for BPF.
//!
//! rustc passes LLVM bitcode to it, and LLVM reads only bitcode of its own version or older. A
//! linker with another LLVM fails late with a poor message, so the versions are compared here.

use std::{
    cmp::Ordering,
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{apt, apt::Apt, process, toolchain::Toolchain, versions};

/// Finds or builds a bpf-linker for this toolchain. Returns its description.
pub(crate) fn ensure(apt: &mut Apt, toolchain: &Toolchain) -> Result<String> {
    match probe(toolchain.llvm) {
        Ok(description) => return Ok(description),
        Err(reason) => eprintln!("setup: {reason}"),
    }
    if process::find("bpf-linker").is_none()
        && let Some(program) = installed_by_cargo()
    {
        bail!(
            "{} is not on the PATH, where rustc looks for it: add its folder to the PATH",
            program.display()
        );
    }
    build(apt, toolchain.llvm)?;
    probe(toolchain.llvm).map_err(anyhow::Error::msg).context(
        "bpf-linker was built, but ~/.cargo/bin is not on the PATH, or another bpf-linker precedes it",
    )
}

/// Returns the bpf-linker where `cargo install` puts it. rustup adds that folder to the PATH of its
/// programs, but without rustup it may be missing there, and a second build would not help.
fn installed_by_cargo() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))?;
    Some(home.join("bin/bpf-linker")).filter(|program| program.exists())
}

/// Returns a description of the bpf-linker on the PATH, or why it can't be used.
fn probe(llvm: u32) -> Result<String, String> {
    let Some(program) = process::find("bpf-linker") else {
        return Err("no bpf-linker on the PATH".to_owned());
    };
    let version = process::output(Command::new(&program).arg("--version")).unwrap_or_default();
    let version = version.split_whitespace().last().unwrap_or_default();
    if compare(version, versions::BPF_LINKER).is_none_or(Ordering::is_lt) {
        let found = if version.is_empty() {
            "none that runs"
        } else {
            version
        };
        return Err(format!(
            "bpf-linker {} or newer is needed, found {found}",
            versions::BPF_LINKER
        ));
    }
    match linked_llvm(&program) {
        Some(own) if own != llvm => Err(format!(
            "bpf-linker {version} has LLVM {own}, but rustc has LLVM {llvm}"
        )),
        Some(own) => Ok(format!("bpf-linker {version} (LLVM {own})")),
        // Linked statically, as the released binaries are: a mismatch shows when linking.
        None => Ok(format!("bpf-linker {version}")),
    }
}

fn build(apt: &mut Apt, llvm: u32) -> Result<()> {
    if !versions::BPF_LINKER_LLVM.contains(&llvm) {
        bail!(
            "bpf-linker {} can be built with LLVM {:?}, but the rustc for BPF has LLVM {llvm}: select another \
             rustc with {}",
            versions::BPF_LINKER,
            versions::BPF_LINKER_LLVM,
            versions::BPF_TOOLCHAIN_VARIABLE
        );
    }
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    if !prefix.join("bin/llvm-config").exists() || !prefix.join("include/llvm-c").is_dir() {
        let package = format!("llvm-{llvm}-dev");
        apt.install(&[&package], "bpf-linker is linked with it")
            .map_err(|error| {
                let unknown = !apt::knows(&package);
                let hint = if unknown {
                    "\n\nThis Debian has no such package; https://apt.llvm.org provides it."
                } else {
                    ""
                };
                anyhow::anyhow!("{error:#}{hint}")
            })?;
    }
    if process::find(versions::CPP_COMPILER.program).is_none() {
        apt.install(
            &[versions::CPP_COMPILER.package],
            versions::CPP_COMPILER.purpose,
        )?;
    }
    eprintln!(
        "setup: building bpf-linker {} with LLVM {llvm} (a minute or two)",
        versions::BPF_LINKER
    );
    process::run(
        Command::new("cargo")
            .env("LLVM_PREFIX", &prefix)
            .args([
                "install",
                "bpf-linker",
                "--version",
                versions::BPF_LINKER,
                "--locked",
            ])
            .args([
                "--no-default-features",
                "--features",
                &format!("llvm-{llvm}"),
            ]),
    )
}

/// Returns the major version of the LLVM library that a program is linked with, if any.
fn linked_llvm(program: &Path) -> Option<u32> {
    llvm_in(&process::output(Command::new("ldd").arg(program))?)
}

/// Finds `libLLVM.so.22.1` or, for older versions, `libLLVM-17.so.1` in the output of `ldd`.
fn llvm_in(libraries: &str) -> Option<u32> {
    let rest = libraries.split("libLLVM").nth(1)?;
    let rest = rest
        .strip_prefix(".so.")
        .or_else(|| rest.strip_prefix('-'))?;
    let end = rest
        .find(|it: char| !it.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// Compares versions of the form 1.2.3. Returns `None` if one has another form.
fn compare(left: &str, right: &str) -> Option<Ordering> {
    let numbers = |version: &str| {
        version
            .split('.')
            .map(str::parse::<u32>)
            .collect::<Result<Vec<_>, _>>()
            .ok()
    };
    Some(numbers(left)?.cmp(&numbers(right)?))
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use super::{compare, llvm_in};

    #[test]
    fn finds_the_linked_llvm_under_both_names() {
        assert_eq!(
            llvm_in("\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x7)"),
            Some(22)
        );
        assert_eq!(
            llvm_in("\tlibLLVM-17.so.1 => /lib/libLLVM-17.so.1 (0x7)"),
            Some(17)
        );
        assert_eq!(llvm_in("\tlibc.so.6 => /lib/libc.so.6"), None);
    }

    #[test]
    fn compares_versions_as_numbers() {
        assert_eq!(compare("0.9.15", "0.13.0"), Some(Ordering::Less));
        assert_eq!(compare("0.13.0", "0.13.0"), Some(Ordering::Equal));
        assert_eq!(compare("", "0.13.0"), None);
    }
}

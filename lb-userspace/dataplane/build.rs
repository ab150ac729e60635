//! Builds the eBPF programs that the library embeds.
//!
//! The toolchain is the one chosen by `cargo xtask setup`: `EVENKEEL_BPF_TOOLCHAIN` if set, else
//! `evenkeel-bpf` if rustup has it, else `nightly`. With a prebuilt core for BPF, only aya-ebpf may use
//! unstable features; a nightly builds core itself.
//!
//! With `EVENKEEL_BPF=skip` nothing is compiled and the objects are empty: enough for `cargo check`,
//! clippy and unit tests on a machine without a BPF toolchain. Such a binary can't load any program.
//!
//! aya-build is similar, but can't set the instruction set. Its default, the oldest, lacks half of the
//! comparisons and all 32-bit arithmetic.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

const CRATE: &str = "lb-ebpf";

/// Instruction set of the programs: version 3, supported since Linux 5.1.
const INSTRUCTIONS: &str = "v3";

const PROGRAMS: [&str; 4] = [
    "evenkeel-lb",
    "evenkeel-decap",
    "evenkeel-probe",
    "evenkeel-bench",
];

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=../../lb-common/src");
    println!("cargo:rerun-if-changed=../../{CRATE}");
    println!("cargo:rerun-if-env-changed=EVENKEEL_BPF");
    println!("cargo:rerun-if-env-changed=EVENKEEL_BPF_TOOLCHAIN");
    let out = PathBuf::from(env::var("OUT_DIR").context("OUT_DIR")?);
    if env::var("EVENKEEL_BPF").is_ok_and(|value| value == "skip") {
        println!(
            "cargo:warning=EVENKEEL_BPF=skip: the eBPF programs are empty and can't be loaded"
        );
        return write_empty(&out);
    }
    let toolchain = env::var("EVENKEEL_BPF_TOOLCHAIN").unwrap_or_else(|_| {
        if version("evenkeel-bpf").is_some() {
            "evenkeel-bpf".into()
        } else {
            "nightly".into()
        }
    });
    build(&toolchain, &out).with_context(|| {
        format!(
            "build the eBPF programs with toolchain `{toolchain}` (`cargo xtask setup` installs \
             what is missing)"
        )
    })
}

/// Builds all programs and copies them to the folder `out`.
fn build(toolchain: &str, out: &Path) -> Result<()> {
    let target = match env::var("CARGO_CFG_TARGET_ENDIAN").as_deref() {
        Ok("big") => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };
    let arch = env::var("CARGO_CFG_TARGET_ARCH").context("CARGO_CFG_TARGET_ARCH")?;
    // A separate folder: cargo locks the one that it builds in.
    let folder = out.join("bpf");
    let mut cargo = command(toolchain, "cargo");
    cargo
        .args(["build", "--release", "--bins"])
        .args(["--package", CRATE, "--target", target, "--target-dir"])
        .arg(&folder)
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            [
                format!("--cfg=bpf_target_arch=\"{arch}\""),
                format!("-Ctarget-cpu={INSTRUCTIONS}"),
                "-Cdebuginfo=2".into(),
                "-Clink-arg=--btf".into(),
            ]
            .join("\x1f"),
        )
        // Required by bpf-linker for one small program, whatever the workspace profile is.
        .env("CARGO_PROFILE_RELEASE_LTO", "true")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "2")
        // Set by the outer cargo.
        .env_remove("RUSTC")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    if version(toolchain).is_some_and(|version| version.contains("nightly")) {
        cargo.args(["-Z", "build-std=core"]);
    }
    if env::var_os("RUSTC_BOOTSTRAP").is_none() {
        cargo.env("RUSTC_BOOTSTRAP", "aya_ebpf,evenkeel_lb");
    }
    let result = cargo.output().context("start cargo")?;
    if !result.status.success() {
        bail!("{}", String::from_utf8_lossy(&result.stderr));
    }
    copy_programs(&folder.join(target).join("release"), out)
}

/// Writes an empty object for each program.
fn write_empty(out: &Path) -> Result<()> {
    for program in PROGRAMS {
        let path = out.join(program);
        fs::write(&path, "").with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Copies the linked programs: the files without an extension.
fn copy_programs(from: &Path, to: &Path) -> Result<()> {
    let entries = fs::read_dir(from).with_context(|| format!("read {}", from.display()))?;
    for entry in entries {
        let path = entry.context("read the folder of the programs")?.path();
        let name = path.file_name().unwrap_or_default();
        if path.is_file() && !name.to_string_lossy().contains('.') {
            fs::copy(&path, to.join(name)).with_context(|| format!("copy {}", path.display()))?;
        }
    }
    Ok(())
}

/// A command of the toolchain; without rustup, the one in `PATH`.
fn command(toolchain: &str, program: &str) -> Command {
    let has_rustup = Command::new("rustup").arg("--version").output().is_ok();
    if !has_rustup {
        return Command::new(program);
    }
    let mut command = Command::new("rustup");
    command.args(["run", toolchain, program]);
    command
}

/// Version of the toolchain's compiler, if there is one.
fn version(toolchain: &str) -> Option<String> {
    let output = command(toolchain, "rustc").arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
}

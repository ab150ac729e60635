//! Builds the eBPF programs that the library embeds.
//!
//! The toolchain is the one `cargo xtask setup` chose: `EVENKEEL_BPF_TOOLCHAIN` if that is set, else
//! `evenkeel-bpf` if rustup knows it, else `nightly`. A toolchain with a prebuilt core for BPF is told to
//! let aya-ebpf alone use unstable features; a nightly builds core itself.

use std::process::Command;

use anyhow::{Context as _, anyhow};
use aya_build::{Package, Toolchain};

fn main() -> anyhow::Result<()> {
    println!("cargo:rerun-if-changed=../lb-common/src");
    println!("cargo:rerun-if-env-changed=EVENKEEL_BPF_TOOLCHAIN");
    let toolchain = std::env::var("EVENKEEL_BPF_TOOLCHAIN").unwrap_or_else(|_| {
        if rustup_knows("evenkeel-bpf") {
            "evenkeel-bpf".into()
        } else {
            "nightly".into()
        }
    });
    if std::env::var_os("RUSTC_BOOTSTRAP").is_none() {
        // SAFETY: a build script's main has no other thread.
        unsafe { std::env::set_var("RUSTC_BOOTSTRAP", "aya_ebpf") };
    }
    let package = Package {
        name: "lb-ebpf",
        root_dir: "../lb-ebpf",
        ..Package::default()
    };
    aya_build::build_ebpf([package], Toolchain::Custom(&toolchain))
        .with_context(|| format!("build the eBPF programs with toolchain `{toolchain}`"))
        .map_err(|error| {
            anyhow!("{error:?}\n\nRun `cargo xtask setup` to install what is missing.")
        })
}

/// Whether rustup has a toolchain of this name.
fn rustup_knows(name: &str) -> bool {
    Command::new("rustup")
        .args(["run", name, "rustc", "--version"])
        .output()
        .is_ok_and(|output| output.status.success())
}

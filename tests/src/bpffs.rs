//! A BPF file system for each balancer node.
//!
//! Nodes must not see each other's pins, `/sys/fs/bpf` is not mounted everywhere, and pins must
//! outlive the controller. So each node gets a mount in the folder of the run. Dropping its guard
//! unmounts it, which removes the pins and, with them, the attached programs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A mounted BPF file system, unmounted when dropped.
#[derive(Debug)]
pub struct Bpffs {
    path: PathBuf,
}

impl Bpffs {
    /// Mounts one at `path`, which is created if it is missing.
    pub fn mount(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path).with_context(|| format!("folder {}", path.display()))?;
        mount(
            Some("bpf"),
            path,
            Some("bpf"),
            MsFlags::empty(),
            Some("mode=0700"),
        )
        .with_context(|| format!("mount a BPF file system at {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.path, MntFlags::MNT_DETACH) {
            eprintln!("lab: unmounting {}: {error}", self.path.display());
        }
    }
}

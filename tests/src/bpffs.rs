//! A BPF file system of a balancer node's own.
//!
//! Nodes must not see each other's pins, `/sys/fs/bpf` is not mounted everywhere, and pins have to outlive the
//! controller (that is what they are for). So each node gets a mount in the run's folder, which lives
//! until its guard is dropped; with it go the pins, and with the pins the attached programs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// The mount; it is taken away when this is dropped.
#[derive(Debug)]
pub struct Bpffs {
    path: PathBuf,
}

impl Bpffs {
    /// Mounts one at `path`, which is made if need be.
    pub fn mount(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path).with_context(|| format!("folder {}", path.display()))?;
        mount(
            Some("bpf"),
            path,
            Some("bpf"),
            MsFlags::empty(),
            Some("mode=0700"),
        )
        .with_context(|| format!("mounting a BPF file system at {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Where it is mounted.
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

//! Folders for what a host needs as files: configurations, logs, pages, its BPF file system.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::leftovers;
use crate::run::Run;

/// Where the folders of all labs are.
pub(crate) const DIRECTORIES: &str = "/run/evenkeel-lab";

/// A folder; it goes, with all that is in it or mounted in it, when this is dropped.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Makes an empty one.
    pub fn new(role: &str) -> Result<Self> {
        let path = Path::new(DIRECTORIES).join(Run::current().name(role));
        std::fs::create_dir_all(&path).with_context(|| format!("folder {}", path.display()))?;
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        leftovers::remove_directory(&self.path);
    }
}

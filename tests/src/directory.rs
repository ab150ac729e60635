//! Folders for the files of a host: configurations, logs, pages, its BPF file system.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::leftovers;
use crate::run::Run;

/// Parent of the folders of all labs.
pub(crate) const DIRECTORIES: &str = "/run/evenkeel-lab";

/// A folder that is removed, with everything in it or mounted in it, when dropped.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Creates an empty folder.
    pub fn new(role: &str) -> Result<Self> {
        let path = Path::new(DIRECTORIES).join(Run::current().name(role));
        std::fs::create_dir_all(&path).with_context(|| format!("folder {}", path.display()))?;
        Ok(Self { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        leftovers::remove_directory(&self.path);
    }
}

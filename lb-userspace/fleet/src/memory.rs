//! What a node remembers over restarts: a small JSON file, replaced durably.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use lb_api::FleetPhase;
use serde::{Deserialize, Serialize};

/// A confirmed revision, as this node runs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    pub(crate) revision: u64,
    pub(crate) digest: String,
    /// Digest that the node reports while it runs the revision. Another one if the text differed only in
    /// comments from what was active, which then stayed.
    pub(crate) runs: String,
}

/// Why a text is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Candidate,
    Head,
}

/// The result of an apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Local {
    /// Written before the apply: it may or may not have happened.
    Unknown,
    /// It made this local revision.
    Revision(u64),
    /// The text means what was active; there is no local revision.
    Unchanged,
}

/// A text that is being applied, or is on trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pending {
    pub(crate) kind: Kind,
    pub(crate) revision: u64,
    pub(crate) digest: String,
    /// The local revision before.
    pub(crate) before: u64,
    pub(crate) local: Local,
}

/// A candidate that this node does not run any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) revision: u64,
    pub(crate) phase: FleetPhase,
    pub(crate) reason: String,
}

/// What a node remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// Identity of the joined fleet; none: not joined.
    pub(crate) fleet: Option<String>,
    /// The head that this node confirmed last.
    pub(crate) head: Option<Known>,
    /// Highest number of a fleet revision that was seen.
    pub(crate) newest: u64,
    /// The next head replaces whatever the node runs: after `fleet join`.
    pub(crate) take: bool,
    pub(crate) pending: Option<Pending>,
    /// The newest candidate that ended here. It is not applied again as a candidate.
    pub(crate) ended: Option<Ended>,
}

impl Memory {
    /// Reads the file. Without one, the node has joined nothing.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Replaces the file: after a crash there is the old content or the new.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let temporary = path.with_extension("json.new");
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(self).map_err(io::Error::other)?)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        let folder = path.parent().filter(|path| !path.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fleet.json");
        assert_eq!(Memory::read(&path).unwrap(), Memory::default());
        let memory = Memory {
            newest: 4,
            ..Memory::default()
        };
        memory.write(&path).unwrap();
        assert_eq!(Memory::read(&path).unwrap(), memory);
        fs::write(&path, "{").unwrap();
        assert!(Memory::read(&path).is_err());
    }
}

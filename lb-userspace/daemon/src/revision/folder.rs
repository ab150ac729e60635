//! The folder of the store: its files, and contents that could not be written yet.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    damage::StoreError,
    file::{self, FILES},
    info::{RevisionInfo, RevisionNumber, RevisionState},
};

/// Folder of the revisions in the state folder.
const FOLDER: &str = "revisions";
/// Only the owner may read them: a text may have the hash seed in it.
const FOLDER_MODE: u32 = 0o700;
pub(super) const REVISION: &str = "revision";
pub(super) const STATE: &str = "state";

/// What happens to a file that can't be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// The operation fails, and changes nothing.
    Fail,
    /// The file is kept in memory, and written as soon as that is possible. A restart before loses it.
    Keep,
}

/// Content of a state's file. The revision is missing in files of older versions.
#[derive(Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) number: Option<RevisionNumber>,
    /// SHA-256 of the revision's text.
    pub(super) digest: Option<String>,
    #[serde(flatten)]
    pub(super) state: RevisionState,
}

impl Stored {
    pub(super) fn is_of(&self, info: &RevisionInfo) -> bool {
        let number = self.number.is_none_or(|number| number == info.number);
        number
            && self
                .digest
                .as_ref()
                .is_none_or(|digest| *digest == info.digest)
    }
}

#[derive(Debug)]
pub(super) struct Folder {
    folder: PathBuf,
    /// Contents of files that could not be written yet. A revision's file comes before that of its state.
    unwritten: BTreeMap<PathBuf, String>,
    /// Why the last write failed.
    problem: Option<String>,
}

/// The revisions that have files.
pub(super) struct Found {
    pub(super) revisions: Vec<RevisionNumber>,
    /// Revisions of which only the state has a file.
    pub(super) without_revision: Vec<RevisionNumber>,
    /// Higher than every number ever tried.
    pub(super) next: RevisionNumber,
}

impl Folder {
    /// Opens or creates the folder. One that exists need not be writable.
    pub(super) fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let folder = state_dir.join(FOLDER);
        let problem = match create_folder(&folder) {
            Err(error) if error.is_unwritable() => Some(error.to_string()),
            created => created.map(|()| None)?,
        };
        Ok(Self {
            folder,
            unwritten: BTreeMap::new(),
            problem,
        })
    }

    /// Removes temporary files that a crash left, and lists the others.
    pub(super) fn sweep(&self) -> Result<Found, StoreError> {
        let failed = |source| failed("read", &self.folder, source);
        let (mut revisions, mut without_revision, mut next) = (Vec::new(), Vec::new(), 1);
        let entries = match fs::read_dir(&self.folder) {
            // It could not be created.
            Err(_) if self.problem.is_some() => None,
            entries => Some(entries.map_err(failed)?),
        };
        for entry in entries.into_iter().flatten() {
            let name = entry.map_err(failed)?.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(number) = numbered(name, FILES.suffix) {
                FILES.remove(&self.folder.join(name));
                next = next.max(number + 1);
            } else if let Some(number) = numbered(name, "") {
                next = next.max(number + 1);
                if name.ends_with(REVISION) {
                    revisions.push(number);
                } else {
                    without_revision.push(number);
                }
            }
        }
        revisions.sort_unstable();
        without_revision.retain(|number| revisions.binary_search(number).is_err());
        Ok(Found {
            revisions,
            without_revision,
            next,
        })
    }

    pub(super) fn path(&self, number: RevisionNumber, kind: &str) -> PathBuf {
        self.folder.join(format!("{number:08}.{kind}"))
    }

    /// Reads a file of a revision.
    pub(super) fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        match self.unwritten.get(path) {
            Some(sealed) => Ok(sealed.clone().into_bytes()),
            None => fs::read(path).map_err(|error| format!("cannot be read: {error}")),
        }
    }

    /// Removes a file of a revision, if there is one.
    pub(super) fn remove(&mut self, number: RevisionNumber, kind: &str) -> Result<(), StoreError> {
        let path = self.path(number, kind);
        self.unwritten.remove(&path);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &path, error))
            }
            _ => Ok(()),
        }
    }

    /// The state of a revision in the file of another one's state.
    pub(super) fn misplaced_state(&self, info: &RevisionInfo) -> Option<RevisionState> {
        let entries = fs::read_dir(&self.folder).ok()?.filter_map(Result::ok);
        let mut states = entries
            .filter(|entry| entry.path().extension().is_some_and(|kind| kind == STATE))
            .filter_map(|entry| read_state(&entry.path()).ok().flatten());
        let found = states.find(|stored| stored.number.is_some() && stored.is_of(info));
        found.map(|stored| stored.state)
    }

    /// Writes a file of a revision. With [`OnFailure::Keep`], or if the revision itself is only in memory,
    /// a failure keeps the content in memory.
    pub(super) fn write(
        &mut self,
        number: RevisionNumber,
        kind: &str,
        sealed: String,
        on_failure: OnFailure,
    ) -> Result<(), StoreError> {
        let path = self.path(number, kind);
        let is_kept = self.unwritten.contains_key(&self.path(number, REVISION));
        match FILES.replace(&path, sealed.as_bytes()) {
            Ok(()) => {
                self.unwritten.remove(&path);
                Ok(())
            }
            Err(error) if is_kept || on_failure == OnFailure::Keep => {
                self.problem = Some(error.to_string());
                self.unwritten.insert(path, sealed);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Writes what could not be written before. Returns why something is still only in memory.
    pub(super) fn flush(&mut self) -> Option<&str> {
        while let Some((path, sealed)) = self.unwritten.first_key_value() {
            if let Err(error) = create_folder(&self.folder)
                .and_then(|()| Ok(FILES.replace(path, sealed.as_bytes())?))
            {
                self.problem = Some(error.to_string());
                return self.problem.as_deref();
            }
            self.unwritten.pop_first();
        }
        self.problem = None;
        None
    }
}

/// Reads the file of a state; none if it does not exist.
pub(super) fn read_state(path: &Path) -> Result<Option<Stored>, String> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|error| format!("cannot be read: {error}"))?,
    };
    let body = file::unseal(STATE, &bytes)?;
    let stored = serde_json::from_str(&body);
    stored.map_err(|error| format!("has an invalid state: {error}"))
}

/// Parses `NUMBER.KIND` followed by `ending`.
fn numbered(name: &str, ending: &str) -> Option<RevisionNumber> {
    let (number, kind) = name.strip_suffix(ending)?.split_once('.')?;
    let is_digits = number.len() >= 8 && number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.parse().ok().filter(|number| *number < u64::MAX)?;
    (is_digits && [REVISION, STATE].contains(&kind)).then_some(number)
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::System {
        what,
        path: path.to_owned(),
        source,
    }
}

fn create_folder(folder: &Path) -> Result<(), StoreError> {
    let make = || {
        crate::fault::point("revision: make folder")?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(folder)?;
        // The folder may have existed, or a umask applied.
        if fs::metadata(folder)?.permissions().mode() & 0o777 == FOLDER_MODE {
            return Ok(());
        }
        fs::set_permissions(folder, fs::Permissions::from_mode(FOLDER_MODE))
    };
    make().map_err(|source| failed("create", folder, source))?;
    if let Some(parent) = folder.parent() {
        FILES.flush_folder(parent)?;
    }
    Ok(())
}

//! Reads and writes the revisions of a node.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    damage::{Damage, StoreError},
    file::{self, FILES},
    info::{RevisionInfo, RevisionNumber, RevisionState},
    states::{self, AtStart},
};
use lb_model::{
    config::{Config, ConfigErrors},
    planner::Guard,
    secrets,
};

use crate::config_file;

/// Folder of the revisions in the state folder.
const FOLDER: &str = "revisions";
/// Only the owner may read them: a text may have the hash seed in it.
const FOLDER_MODE: u32 = 0o700;
const REVISION: &str = "revision";
const STATE: &str = "state";

/// Returns the SHA-256 of a text in hex, for [`RevisionInfo::digest`] and [`Record::file_digest`].
#[must_use]
pub fn digest(text: &str) -> String {
    file::sha256(text.as_bytes())
}

/// A revision to append.
#[derive(Clone)]
pub struct New {
    /// The configuration (TOML), with its secrets.
    pub text: String,
    /// The folder that relative paths in the text are relative to. Edits keep that of their parent.
    pub base: PathBuf,
    pub parent: Option<RevisionNumber>,
    pub at: Timestamp,
    pub who: String,
    /// `start`, `reload`, `apply FILE` and so on.
    pub how: String,
    pub why: Option<String>,
    pub forced: Vec<Guard>,
    /// [`digest`] of the configuration file when it was last applied.
    pub file_digest: Option<String>,
    /// [`RevisionState::Applying`] for all but the first.
    pub state: RevisionState,
}

/// A revision without its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub info: RevisionInfo,
    /// The folder that relative paths in the text are relative to.
    pub base: PathBuf,
    /// [`digest`] of the configuration file when it was last applied.
    pub file_digest: Option<String>,
}

/// A revision. `Debug` omits the text, which may contain secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Revision {
    pub record: Record,
    /// The configuration (TOML), with its secrets.
    pub text: String,
}

impl fmt::Debug for New {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { how, state, .. } = self;
        write!(f, "New({how}, {state:?})")
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Revision({:?})", self.record)
    }
}

impl Revision {
    /// Parses the configuration again. It means the same as when it was accepted, unless a file that
    /// it names (`hash_seed_file`) has changed.
    ///
    /// # Errors
    ///
    /// Such a file is gone, or a newer version of the program wrote the revision.
    pub fn config(&self) -> Result<Config, ConfigErrors> {
        config_file::parse(&self.file_name(), &self.text)
    }

    /// Returns a file name for error messages, in the folder that relative paths are relative to.
    #[must_use]
    pub fn file_name(&self) -> String {
        let name = format!("revision-{}", self.record.info.number);
        self.record.base.join(name).display().to_string()
    }
}

/// The first line of a revision file's body.
#[derive(Serialize, Deserialize)]
struct Header {
    number: RevisionNumber,
    parent: Option<RevisionNumber>,
    at: Timestamp,
    who: String,
    how: String,
    why: Option<String>,
    forced: Vec<Guard>,
    file_digest: Option<String>,
    base: PathBuf,
    /// Valid until there is a file for the state.
    state: RevisionState,
}

impl Header {
    fn into_record(self, text: &str) -> Record {
        let Self {
            number,
            parent,
            at,
            who,
            how,
            why,
            forced,
            file_digest,
            base,
            state,
        } = self;
        let digest = digest(text);
        let info = RevisionInfo {
            number,
            parent,
            at,
            who,
            how,
            why,
            forced,
            state,
            digest,
        };
        Record {
            info,
            base,
            file_digest,
        }
    }
}

/// The revisions of a node. One process at a time may open it; the lock of the state folder ensures
/// that.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    records: BTreeMap<RevisionNumber, Record>,
    /// Higher than every number ever tried.
    next: RevisionNumber,
}

impl Store {
    /// Opens or creates the store in a state folder. Damaged files are skipped and returned, for the
    /// caller to log as errors.
    ///
    /// # Errors
    ///
    /// The folder cannot be created or read.
    pub fn open(state_dir: &Path) -> Result<(Self, Vec<Damage>), StoreError> {
        let folder = state_dir.join(FOLDER);
        create_folder(&folder)?;
        let mut store = Self {
            folder,
            records: BTreeMap::new(),
            next: 1,
        };
        let mut damages = Vec::new();
        for number in store.sweep()? {
            match store.read(number) {
                Ok(revision) => {
                    let record = store.with_state(revision.record, &mut damages);
                    store.records.insert(number, record);
                }
                Err(StoreError::Damaged(damage)) => damages.push(damage),
                Err(error) => return Err(error),
            }
        }
        Ok((store, damages))
    }

    /// Removes temporary files that a crash left; returns the numbers of the revisions.
    fn sweep(&mut self) -> Result<Vec<RevisionNumber>, StoreError> {
        let failed = |source| failed("read", &self.folder, source);
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(number) = numbered(name, FILES.suffix) {
                FILES.remove(&self.folder.join(name));
                self.next = self.next.max(number + 1);
            } else if let Some(number) = numbered(name, "") {
                self.next = self.next.max(number + 1);
                if name.ends_with(REVISION) {
                    numbers.push(number);
                }
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn path(&self, number: RevisionNumber, kind: &str) -> PathBuf {
        self.folder.join(format!("{number:08}.{kind}"))
    }

    fn read(&self, number: RevisionNumber) -> Result<Revision, StoreError> {
        let path = self.path(number, REVISION);
        let bytes = fs::read(&path).map_err(|error| format!("cannot be read: {error}"));
        let damaged = |what| StoreError::Damaged(Damage { number, path, what });
        let body = match bytes.and_then(|bytes| file::unseal(REVISION, &bytes)) {
            Ok(body) => body,
            Err(what) => return Err(damaged(what)),
        };
        let (header, text) = body.split_once('\n').unwrap_or((&body, ""));
        match serde_json::from_str::<Header>(header) {
            Ok(header) if header.number == number => Ok(Revision {
                record: header.into_record(text),
                text: text.to_owned(),
            }),
            Ok(header) => Err(damaged(format!("is revision {}", header.number))),
            Err(error) => Err(damaged(format!("has an invalid header: {error}"))),
        }
    }

    /// Returns the record with the state from its file, if there is one.
    fn with_state(&self, mut record: Record, damages: &mut Vec<Damage>) -> Record {
        let number = record.info.number;
        let path = self.path(number, STATE);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return record,
            read => read.map_err(|error| format!("cannot be read: {error}")),
        };
        let state = bytes
            .and_then(|bytes| file::unseal(STATE, &bytes))
            .and_then(|body| {
                serde_json::from_str(&body)
                    .map_err(|error| format!("has an invalid state: {error}"))
            });
        record.info.state = state.unwrap_or_else(|what| {
            let why = "unknown: its state file is damaged".to_owned();
            damages.push(Damage { number, path, what });
            RevisionState::Failed { why }
        });
        record
    }

    /// Appends a revision under the next number.
    ///
    /// # Errors
    ///
    /// The file cannot be written. The revision then does not exist, and its number is not reused. If
    /// removing the file fails too, the next start may find it, but does not use it: it was not
    /// applied.
    pub fn append(&mut self, new: New) -> Result<Revision, StoreError> {
        let number = self.next;
        self.next += 1;
        let header = |why: String| StoreError::Header { number, why };
        let New {
            text,
            base,
            parent,
            at,
            who,
            how,
            why,
            forced,
            file_digest,
            state,
        } = new;
        let base = std::path::absolute(&base).map_err(|error| header(error.to_string()))?;
        let new = Header {
            number,
            parent,
            at,
            who,
            how,
            why,
            forced,
            file_digest,
            base,
            state,
        };
        let json = serde_json::to_string(&new).map_err(|error| header(error.to_string()))?;
        let path = self.path(number, REVISION);
        let sealed = file::seal(REVISION, &format!("{json}\n{text}"));
        if let Err(error) = FILES.replace(&path, sealed.as_bytes()) {
            FILES.remove(&path);
            return Err(error.into());
        }
        let record = new.into_record(&text);
        self.records.insert(number, record.clone());
        Ok(Revision { record, text })
    }

    /// Writes the state of a revision.
    ///
    /// # Errors
    ///
    /// There is no such revision, its state is final ([`states::is_final`]), or the file cannot be
    /// written: then the store keeps the old state, the disk has either, and the call can be repeated.
    pub fn set_state(
        &mut self,
        number: RevisionNumber,
        state: RevisionState,
    ) -> Result<(), StoreError> {
        let has = self.record(number)?.info.state.clone();
        if !states::is_step(&has, &state) {
            return Err(StoreError::NotAStep {
                number,
                has,
                new: state,
            });
        }
        let json = serde_json::to_string(&state).map_err(|error| StoreError::Header {
            number,
            why: error.to_string(),
        })?;
        if has != state {
            let sealed = file::seal(STATE, &format!("{json}\n"));
            FILES.replace(&self.path(number, STATE), sealed.as_bytes())?;
        }
        if let Some(record) = self.records.get_mut(&number) {
            record.info.state = state;
        }
        Ok(())
    }

    /// Returns all revisions, oldest first.
    pub fn list(&self) -> impl DoubleEndedIterator<Item = &Record> {
        self.records.values()
    }

    /// Returns a revision without its text.
    ///
    /// # Errors
    ///
    /// There is no such revision.
    pub fn record(&self, number: RevisionNumber) -> Result<&Record, StoreError> {
        self.records
            .get(&number)
            .ok_or_else(|| StoreError::Missing {
                number,
                newest: self.records.keys().next_back().copied(),
            })
    }

    /// Reads a revision with its text from the disk.
    ///
    /// # Errors
    ///
    /// There is no such revision, or its file was damaged meanwhile.
    pub fn get(&self, number: RevisionNumber) -> Result<Revision, StoreError> {
        let record = self.record(number)?.clone();
        let text = self.read(number)?.text;
        Ok(Revision { record, text })
    }

    /// Returns the active revision: the newest that is applied, baking or awaiting confirmation.
    #[must_use]
    pub fn head(&self) -> Option<&Record> {
        let mut newest_first = self.list().rev();
        newest_first.find(|record| states::is_active(&record.info.state))
    }

    /// Returns the newest applied revision before `number`, to which a rollback of `number` goes.
    #[must_use]
    pub fn previous_good(&self, number: RevisionNumber) -> Option<&Record> {
        let mut older = self.records.range(..number).rev();
        let good = older.find(|(_, record)| record.info.state == RevisionState::Applied);
        good.map(|(_, record)| record)
    }

    /// Returns the newest revision that is being applied, baking or awaiting confirmation.
    #[must_use]
    pub fn unfinished(&self) -> Option<&Record> {
        let mut newest_first = self.list().rev();
        newest_first.find(|record| !states::is_final(&record.info.state))
    }

    /// Decides what a start at `now` (wall clock) has to activate, and what to write after that.
    /// Changes nothing.
    #[must_use]
    pub fn at_start(&self, now: Timestamp) -> AtStart {
        let newest_first = self.list().rev();
        states::at_start(
            newest_first.map(|record| (record.info.number, &record.info.state)),
            now,
        )
    }

    /// Returns a unified diff of two revisions, with secrets masked; empty if they are the same.
    ///
    /// # Errors
    ///
    /// As [`Self::get`].
    pub fn diff(&self, from: RevisionNumber, to: RevisionNumber) -> Result<String, StoreError> {
        let (old, new) = (self.get(from)?, self.get(to)?);
        let (old, new) = secrets::mask_pair(&old.text, &new.text);
        let (a, b) = (format!("revision {from}"), format!("revision {to}"));
        Ok(unified(&old, &new, &a, &b))
    }
}

/// Returns the unified diff of two texts, under their names.
pub(crate) fn unified(old: &str, new: &str, old_name: &str, new_name: &str) -> String {
    let diff = similar::TextDiff::from_lines(old, new);
    diff.unified_diff().header(old_name, new_name).to_string()
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::System {
        what,
        path: path.to_owned(),
        source,
    }
}

/// Parses `NUMBER.KIND` followed by `ending`.
fn numbered(name: &str, ending: &str) -> Option<RevisionNumber> {
    let (number, kind) = name.strip_suffix(ending)?.split_once('.')?;
    let is_digits = number.len() >= 8 && number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.parse().ok().filter(|number| *number < u64::MAX)?;
    (is_digits && [REVISION, STATE].contains(&kind)).then_some(number)
}

fn create_folder(folder: &Path) -> Result<(), StoreError> {
    let make = || {
        crate::fault::point("revision: make folder")?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(folder)?;
        // The folder may have existed, or a umask applied.
        fs::set_permissions(folder, fs::Permissions::from_mode(FOLDER_MODE))
    };
    make().map_err(|source| failed("create", folder, source))?;
    if let Some(parent) = folder.parent() {
        FILES.flush_folder(parent)?;
    }
    Ok(())
}

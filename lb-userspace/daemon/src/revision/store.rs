//! Reads and writes the revisions of a node.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    damage::{Damage, StoreError},
    file::{self, FILES},
    folder::{Folder, OnFailure, REVISION, STATE, Stored, read_state},
    info::{RevisionInfo, RevisionNumber, RevisionState},
    states::{self, AtStart},
};
use lb_model::{
    config::{Config, ConfigErrors},
    planner::Guard,
    secrets,
};

use crate::config_file;

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
    folder: Folder,
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
    /// The folder cannot be created or read. One that exists need not be writable.
    pub fn open(state_dir: &Path) -> Result<(Self, Vec<Damage>), StoreError> {
        let folder = Folder::open(state_dir)?;
        let found = folder.sweep()?;
        let mut store = Self {
            folder,
            records: BTreeMap::new(),
            next: found.next,
        };
        let missing = found.without_revision.into_iter().map(|number| Damage {
            number,
            path: store.folder.path(number, REVISION),
            what: "is missing, but there is a file for its state".to_owned(),
            is_used: false,
        });
        let mut damages: Vec<Damage> = missing.collect();
        for number in found.revisions {
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

    fn read(&self, number: RevisionNumber) -> Result<Revision, StoreError> {
        let path = self.folder.path(number, REVISION);
        let bytes = self.folder.read(&path);
        let damaged = |what| {
            StoreError::Damaged(Damage {
                number,
                path,
                what,
                is_used: false,
            })
        };
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

    /// Returns the record with its state, if there is a file for it: the one of its number, or, if the
    /// files were exchanged, another one that names it.
    fn with_state(&self, mut record: Record, damages: &mut Vec<Damage>) -> Record {
        let number = record.info.number;
        let path = self.folder.path(number, STATE);
        let what = match read_state(&path) {
            Ok(Some(stored)) if stored.is_of(&record.info) => {
                record.info.state = stored.state;
                return record;
            }
            Ok(Some(Stored { number, .. })) => {
                let other = number.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
                Some(format!("is the state of another revision ({other})"))
            }
            Ok(None) => None,
            Err(what) => Some(what),
        };
        let misplaced = self.folder.misplaced_state(&record.info);
        let is_used = misplaced.is_some();
        match (misplaced, &what) {
            (Some(state), _) => record.info.state = state,
            (None, Some(_)) => {
                let why = "unknown: its state file is damaged".to_owned();
                record.info.state = RevisionState::Failed { why };
            }
            (None, None) => {}
        }
        damages.extend(what.map(|what| Damage {
            number,
            path,
            what,
            is_used,
        }));
        record
    }

    /// Writes what could not be written before. Returns why something is still only in memory.
    pub fn flush(&mut self) -> Option<&str> {
        self.folder.flush()
    }

    /// Removes the oldest revisions until `keep` are left. The active one and the newest good one before
    /// it are never removed. A failure is returned; the next call tries again.
    pub fn prune(&mut self, keep: usize) -> Result<(), StoreError> {
        let active = self.head().map(|record| record.info.number);
        let good = active.and_then(|active| Some(self.previous_good(active)?.info.number));
        let excess = self.records.len().saturating_sub(keep);
        let oldest: Vec<RevisionNumber> = self.records.keys().copied().take(excess).collect();
        for number in oldest {
            if [active, good].contains(&Some(number)) {
                continue;
            }
            // In this order, a crash leaves no state without its revision.
            for kind in [STATE, REVISION] {
                self.folder.remove(number, kind)?;
            }
            self.records.remove(&number);
        }
        Ok(())
    }

    /// Appends a revision under the next number.
    ///
    /// # Errors
    ///
    /// The file cannot be written. The revision then does not exist, and its number is not reused. If
    /// removing the file fails too, the next start may find it, but does not use it: it was not
    /// applied.
    pub fn append(&mut self, new: New) -> Result<Revision, StoreError> {
        self.append_with(new, OnFailure::Fail)
    }

    /// As [`Self::append`].
    ///
    /// # Errors
    ///
    /// As [`Self::append`], unless files that can't be written are kept.
    pub fn append_with(&mut self, new: New, on_failure: OnFailure) -> Result<Revision, StoreError> {
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
        let sealed = file::seal(REVISION, &format!("{json}\n{text}"));
        if let Err(error) = self.folder.write(number, REVISION, sealed, on_failure) {
            FILES.remove(&self.folder.path(number, REVISION));
            return Err(error);
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
        self.set_state_with(number, state, OnFailure::Fail)
    }

    /// As [`Self::set_state`].
    ///
    /// # Errors
    ///
    /// As [`Self::set_state`], unless files that can't be written are kept.
    pub fn set_state_with(
        &mut self,
        number: RevisionNumber,
        state: RevisionState,
        on_failure: OnFailure,
    ) -> Result<(), StoreError> {
        let info = &self.record(number)?.info;
        let has = info.state.clone();
        if !states::is_step(&has, &state) {
            return Err(StoreError::NotAStep {
                number,
                has,
                new: state,
            });
        }
        let stored = Stored {
            number: Some(number),
            digest: Some(info.digest.clone()),
            state,
        };
        let json = serde_json::to_string(&stored).map_err(|error| StoreError::Header {
            number,
            why: error.to_string(),
        })?;
        let state = stored.state;
        if has != state {
            let sealed = file::seal(STATE, &format!("{json}\n"));
            self.folder.write(number, STATE, sealed, on_failure)?;
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

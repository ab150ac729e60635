//! The store itself.

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
    file,
    info::{RevisionInfo, RevisionNumber, RevisionState},
    secrets,
    states::{self, AtStart},
};
use lb_model::{
    config::{self, Config, ConfigErrors},
    planner::Guard,
};

/// Folder of the revisions in the state folder.
const FOLDER: &str = "revisions";
/// Only the owner: texts may have the hash seed in them.
const FOLDER_MODE: u32 = 0o700;
const REVISION: &str = "revision";
const STATE: &str = "state";

/// SHA-256 of a text, in hex: of a revision's ([`RevisionInfo::digest`]), or of the configuration
/// file ([`Record::file_digest`]).
#[must_use]
pub fn digest(text: &str) -> String {
    file::sha256(text.as_bytes())
}

/// A revision that is to be written down.
#[derive(Clone)]
pub struct New {
    /// The configuration (TOML), secrets and all.
    pub text: String,
    /// The folder that relative paths in the text begin at. Changes made by edits keep that of their
    /// parent.
    pub base: PathBuf,
    /// The revision that it changes.
    pub parent: Option<RevisionNumber>,
    /// When it was accepted.
    pub at: Timestamp,
    /// Who asked for it.
    pub who: String,
    /// How: `start`, `reload`, `apply FILE`.
    pub how: String,
    /// Why, if the caller said.
    pub why: Option<String>,
    /// Guards that were forced.
    pub forced: Vec<Guard>,
    /// SHA-256 of the configuration file when it was last taken in ([`digest`]).
    pub file_digest: Option<String>,
    /// What becomes of it: [`RevisionState::Applying`] for all but the first.
    pub state: RevisionState,
}

/// What is known of a revision, without its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What everybody may know.
    pub info: RevisionInfo,
    /// The folder that relative paths in the text begin at.
    pub base: PathBuf,
    /// SHA-256 of the configuration file when it was last taken in.
    pub file_digest: Option<String>,
}

/// A revision. `Debug` does not show its text, which may have secrets in it.
#[derive(Clone, PartialEq, Eq)]
pub struct Revision {
    /// What is known of it.
    pub record: Record,
    /// The configuration (TOML), secrets and all.
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
    /// The configuration, read again. It means what it meant when it was accepted, unless a file that
    /// it names (`hash_seed_file`) has changed.
    ///
    /// # Errors
    ///
    /// Such a file is gone, or a newer version of the program wrote the revision.
    pub fn config(&self) -> Result<Config, ConfigErrors> {
        config::parse(&self.file_name(), &self.text)
    }

    /// A name for messages about the text, in the folder that its relative paths begin at.
    #[must_use]
    pub fn file_name(&self) -> String {
        let name = format!("revision-{}", self.record.info.number);
        self.record.base.join(name).display().to_string()
    }
}

/// The first line of a revision's body.
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
    /// Until there is a file for the state.
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

/// The revisions of a node. One process at a time may have it open (the lock of the state folder).
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    records: BTreeMap<RevisionNumber, Record>,
    /// The number of the next revision: higher than all that were ever tried.
    next: RevisionNumber,
}

impl Store {
    /// Opens the store of a state folder, and makes it if there is none. Files that can't be trusted
    /// are passed over and told of; they must be told loudly.
    ///
    /// # Errors
    ///
    /// The folder can't be made or read.
    pub fn open(state_dir: &Path) -> Result<(Self, Vec<Damage>), StoreError> {
        let folder = state_dir.join(FOLDER);
        make_folder(&folder)?;
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

    /// Removes what a crash left unfinished; says which revisions there are.
    fn sweep(&mut self) -> Result<Vec<RevisionNumber>, StoreError> {
        let failed = |source| failed("read", &self.folder, source);
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(number) = numbered(name, file::TEMPORARY) {
                file::remove(&self.folder.join(name));
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
        let bytes = fs::read(&path).map_err(|error| format!("it can't be read: {error}"));
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
            Ok(header) => Err(damaged(format!("it is revision {}", header.number))),
            Err(error) => Err(damaged(format!("its header is not understood: {error}"))),
        }
    }

    /// The record with the state that was written down last.
    fn with_state(&self, mut record: Record, damages: &mut Vec<Damage>) -> Record {
        let number = record.info.number;
        let path = self.path(number, STATE);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return record,
            read => read.map_err(|error| format!("it can't be read: {error}")),
        };
        let state = bytes
            .and_then(|bytes| file::unseal(STATE, &bytes))
            .and_then(|body| serde_json::from_str(&body).map_err(|error| error.to_string()));
        record.info.state = state.unwrap_or_else(|what| {
            let why = "what became of it is not known: the file of its state is damaged".to_owned();
            damages.push(Damage { number, path, what });
            RevisionState::Failed { why }
        });
        record
    }

    /// Writes down a revision, and gives it the next number.
    ///
    /// # Errors
    ///
    /// The disk refused; there is no such revision then. (If even the undoing fails, the next start
    /// may find one; being not applied, it is not used.) Its number is not used again.
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
        if let Err(error) = file::replace(&path, &sealed) {
            file::remove(&path);
            return Err(error);
        }
        let record = new.into_record(&text);
        self.records.insert(number, record.clone());
        Ok(Revision { record, text })
    }

    /// Writes down what became of a revision.
    ///
    /// # Errors
    ///
    /// There is no such revision; its state is final ([`states::is_final`]); or the disk refused: then
    /// the state counts as it was, the disk may have either, and the call may be made again.
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
            file::replace(
                &self.path(number, STATE),
                &file::seal(STATE, &format!("{json}\n")),
            )?;
        }
        if let Some(record) = self.records.get_mut(&number) {
            record.info.state = state;
        }
        Ok(())
    }

    /// What is known of all revisions, oldest first.
    pub fn list(&self) -> impl DoubleEndedIterator<Item = &Record> {
        self.records.values()
    }

    /// What is known of a revision.
    ///
    /// # Errors
    ///
    /// There is none of this number.
    pub fn record(&self, number: RevisionNumber) -> Result<&Record, StoreError> {
        self.records
            .get(&number)
            .ok_or_else(|| StoreError::Missing {
                number,
                newest: self.records.keys().next_back().copied(),
            })
    }

    /// A revision with its text, from the disk.
    ///
    /// # Errors
    ///
    /// There is none of this number, or it was damaged meanwhile.
    pub fn get(&self, number: RevisionNumber) -> Result<Revision, StoreError> {
        let record = self.record(number)?.clone();
        let text = self.read(number)?.text;
        Ok(Revision { record, text })
    }

    /// The revision that is in force: the newest that is applied, baking or waiting to be confirmed.
    #[must_use]
    pub fn head(&self) -> Option<&Record> {
        let mut newest_first = self.list().rev();
        newest_first.find(|record| states::is_in_force(&record.info.state))
    }

    /// The newest revision before this one that was applied for good: where a rollback of `number`
    /// leads.
    #[must_use]
    pub fn previous_good(&self, number: RevisionNumber) -> Option<&Record> {
        let mut older = self.records.range(..number).rev();
        let good = older.find(|(_, record)| record.info.state == RevisionState::Applied);
        good.map(|(_, record)| record)
    }

    /// The newest revision that is not finished: being applied, baking, or waiting.
    #[must_use]
    pub fn unfinished(&self) -> Option<&Record> {
        let mut newest_first = self.list().rev();
        newest_first.find(|record| !states::is_final(&record.info.state))
    }

    /// What a start at `now` (the clock on the wall) has to put in force, and what it has to write
    /// down after that. Changes nothing.
    #[must_use]
    pub fn at_start(&self, now: Timestamp) -> AtStart {
        let newest_first = self.list().rev();
        states::at_start(
            newest_first.map(|record| (record.info.number, &record.info.state)),
            now,
        )
    }

    /// The unified diff of two revisions' texts, with secrets masked; empty if they are the same.
    ///
    /// # Errors
    ///
    /// As [`Self::get`].
    pub fn diff(&self, from: RevisionNumber, to: RevisionNumber) -> Result<String, StoreError> {
        let (old, new) = (self.get(from)?, self.get(to)?);
        let (old, new) = secrets::masked_pair(&old.text, &new.text);
        let (a, b) = (format!("revision {from}"), format!("revision {to}"));
        let diff = similar::TextDiff::from_lines(&old, &new);
        Ok(diff.unified_diff().header(&a, &b).to_string())
    }
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::System {
        what,
        path: path.to_owned(),
        source,
    }
}

/// The number of a file of the store, whose name ends with this after its kind.
fn numbered(name: &str, ending: &str) -> Option<RevisionNumber> {
    let (number, kind) = name.strip_suffix(ending)?.split_once('.')?;
    let is_digits = number.len() >= 8 && number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.parse().ok().filter(|number| *number < u64::MAX)?;
    (is_digits && [REVISION, STATE].contains(&kind)).then_some(number)
}

fn make_folder(folder: &Path) -> Result<(), StoreError> {
    let make = || {
        crate::fault::point("revision: make folder")?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(folder)?;
        // One that was there, or that a umask made.
        fs::set_permissions(folder, fs::Permissions::from_mode(FOLDER_MODE))
    };
    make().map_err(|source| failed("make", folder, source))?;
    folder.parent().map_or(Ok(()), file::sync_folder)
}

//! Keeps the accounts on disk.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tracing::warn;

use super::{Sample, Traffic};
use crate::durable;

/// Interval of regular writes.
const SAVE_EVERY: Duration = Duration::from_secs(10);

/// Shared access to the accounts.
#[derive(Clone, Debug)]
pub struct SharedTraffic(Arc<Mutex<Traffic>>);

impl SharedTraffic {
    /// Accounts without a file.
    #[must_use]
    pub fn new(traffic: Traffic) -> Self {
        Self(Arc::new(Mutex::new(traffic)))
    }

    /// Don't hold the lock for long: the actor waits for it.
    pub fn lock(&self) -> MutexGuard<'_, Traffic> {
        lock(&self.0)
    }
}

#[derive(Debug)]
pub struct Recorder {
    traffic: SharedTraffic,
    file: LedgerFile,
    saved: Option<Instant>,
}

impl Recorder {
    /// Reads the ledger in `state_dir`, if there is one. `epoch` identifies the counter maps: kernel boot
    /// id and map id. An unusable ledger is logged, and totals start at 0.
    #[must_use]
    pub fn open(state_dir: &Path, epoch: impl Into<String>, wall: Timestamp) -> Self {
        let path = state_dir.join("traffic.json");
        let traffic = match crate::durable::read(&path) {
            Ok(bytes) => {
                let (traffic, error) = Traffic::from_ledger(epoch, &bytes, wall);
                if let Some(error) = error {
                    warn!(file = %path.display(), %error, "traffic totals");
                }
                traffic
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Traffic::new(epoch),
            Err(error) => {
                warn!(file = %path.display(), %error, "can't read the ledger; totals start at 0");
                Traffic::new(epoch)
            }
        };
        Self {
            traffic: SharedTraffic::new(traffic),
            file: LedgerFile::new(path),
            saved: None,
        }
    }

    #[must_use]
    pub fn traffic(&self) -> SharedTraffic {
        self.traffic.clone()
    }

    /// Adds a reading, and writes the ledger: at once if a member was added or removed, otherwise every ten
    /// seconds, on another thread if there is a tokio runtime.
    pub fn observe(&mut self, sample: &Sample<'_>) {
        let changed = self.traffic.lock().observe(sample);
        let last = self.saved.map(|saved| sample.at.duration_since(saved));
        if !changed && last.is_some_and(|last| last < SAVE_EVERY) {
            return;
        }
        self.saved = Some(sample.at);
        let job = self.file.job(self.traffic.lock().to_ledger(false));
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if !changed => {
                runtime.spawn_blocking(move || job.report());
            }
            _ => job.report(),
        }
    }

    /// Writes the ledger now: before members are removed from the maps, so that a crash does not lose
    /// their totals.
    pub fn save(&mut self) {
        let job = self.file.job(self.traffic.lock().to_ledger(false));
        job.report();
    }

    /// Why the last save failed, if it did.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        lock(&self.file.problem).clone()
    }

    /// Writes the ledger for the last time. The next process counts what follows the last sample.
    ///
    /// # Errors
    ///
    /// It can't be written; the older one is kept.
    pub fn finish(mut self) -> io::Result<()> {
        let bytes = self.traffic.lock().to_ledger(true);
        self.file.job(bytes).run()
    }
}

/// The file and the number of its newest content: a slow write must not overwrite a later one.
#[derive(Debug)]
struct LedgerFile {
    path: PathBuf,
    begun: u64,
    written: Arc<Mutex<u64>>,
    /// Why the last save failed: repeated failures are logged once.
    problem: Arc<Mutex<Option<String>>>,
}

struct Job {
    path: PathBuf,
    number: u64,
    bytes: Vec<u8>,
    written: Arc<Mutex<u64>>,
    problem: Arc<Mutex<Option<String>>>,
}

impl LedgerFile {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            begun: 0,
            written: Arc::new(Mutex::new(0)),
            problem: Arc::new(Mutex::new(None)),
        }
    }

    fn job(&mut self, bytes: Vec<u8>) -> Job {
        self.begun += 1;
        Job {
            path: self.path.clone(),
            number: self.begun,
            bytes,
            written: Arc::clone(&self.written),
            problem: Arc::clone(&self.problem),
        }
    }
}

impl Job {
    /// Saves, and records a failure.
    fn report(self) {
        let problem = Arc::clone(&self.problem);
        let failed = self.run().err().map(|error| error.to_string());
        let mut before = lock(&problem);
        if let (Some(error), None) = (&failed, &*before) {
            warn!(error, "can't save the traffic totals; trying again");
        }
        *before = failed;
    }

    fn run(self) -> io::Result<()> {
        let mut written = lock(&self.written);
        if *written > self.number {
            return Ok(());
        }
        durable::replace(&self.path, &self.bytes)?;
        *written = self.number;
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic leaves whole values behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

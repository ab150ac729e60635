//! The accounts on disk.

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

/// How often the ledger is written when nothing special happens.
const SAVE_EVERY: Duration = Duration::from_secs(10);

/// The accounts, for those that only read: metrics, status.
#[derive(Clone, Debug)]
pub struct SharedTraffic(Arc<Mutex<Traffic>>);

impl SharedTraffic {
    /// Accounts that nobody writes to a file.
    #[must_use]
    pub fn new(traffic: Traffic) -> Self {
        Self(Arc::new(Mutex::new(traffic)))
    }

    /// The accounts; don't hold them for long.
    pub fn lock(&self) -> MutexGuard<'_, Traffic> {
        // Whoever panicked with the lock left numbers behind, nothing worse.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the accounts, and keeps them on disk.
#[derive(Debug)]
pub struct Recorder {
    traffic: SharedTraffic,
    file: LedgerFile,
    saved: Option<Instant>,
    /// Whether the last save failed, so that it is said once.
    is_failing: bool,
}

impl Recorder {
    /// Goes on with the ledger in `state_dir`, or begins one. `epoch` names the maps that samples will be of:
    /// the boot id of the kernel and the id of the map of counters.
    ///
    /// A ledger that can't be used is said in the log, and the accounts begin at 0: that is no reason not to balance.
    #[must_use]
    pub fn open(state_dir: &Path, epoch: impl Into<String>, wall: Timestamp) -> Self {
        let path = state_dir.join("traffic.json");
        let traffic = match std::fs::read(&path) {
            Ok(bytes) => {
                let (traffic, error) = Traffic::from_ledger(epoch, &bytes, wall);
                if let Some(error) = error {
                    warn!(file = %path.display(), %error, "totals of the traffic");
                }
                traffic
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Traffic::new(epoch),
            Err(error) => {
                warn!(file = %path.display(), %error, "the ledger can't be read: the totals begin at 0");
                Traffic::new(epoch)
            }
        };
        Self {
            traffic: SharedTraffic::new(traffic),
            file: LedgerFile::new(path),
            saved: None,
            is_failing: false,
        }
    }

    /// The accounts, for those that read.
    #[must_use]
    pub fn traffic(&self) -> SharedTraffic {
        self.traffic.clone()
    }

    /// Takes in a reading, and writes the ledger when it is time: at once when a member came or went, else
    /// every ten seconds, from a thread of its own when there is a tokio runtime.
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
                runtime.spawn_blocking(move || {
                    if let Err(error) = job.run() {
                        warn!(%error, "the totals of the traffic could not be saved");
                    }
                });
            }
            _ => self.report(&job.run()),
        }
    }

    /// Writes the ledger now: before members are taken out of the tables, so that what they got is
    /// not forgotten if the process dies.
    pub fn save(&mut self) {
        let job = self.file.job(self.traffic.lock().to_ledger(false));
        self.report(&job.run());
    }

    /// Writes the ledger for the last time. What was counted after the last sample is counted by the
    /// next process.
    ///
    /// # Errors
    ///
    /// Why it can't be written; the older one is still there.
    pub fn finish(mut self) -> io::Result<()> {
        let bytes = self.traffic.lock().to_ledger(true);
        self.file.job(bytes).run()
    }

    fn report(&mut self, result: &io::Result<()>) {
        if let (Err(error), false) = (result, self.is_failing) {
            warn!(%error, "the totals of the traffic could not be saved; trying on");
        }
        self.is_failing = result.is_err();
    }
}

/// The file, and the number of the newest content that was written to it: a slow write must not
/// undo a later one.
#[derive(Debug)]
struct LedgerFile {
    path: PathBuf,
    begun: u64,
    written: Arc<Mutex<u64>>,
}

struct Job {
    path: PathBuf,
    number: u64,
    bytes: Vec<u8>,
    written: Arc<Mutex<u64>>,
}

impl LedgerFile {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            begun: 0,
            written: Arc::new(Mutex::new(0)),
        }
    }

    fn job(&mut self, bytes: Vec<u8>) -> Job {
        self.begun += 1;
        Job {
            path: self.path.clone(),
            number: self.begun,
            bytes,
            written: Arc::clone(&self.written),
        }
    }
}

impl Job {
    fn run(self) -> io::Result<()> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if *written > self.number {
            return Ok(());
        }
        durable::replace(&self.path, &self.bytes)?;
        *written = self.number;
        Ok(())
    }
}

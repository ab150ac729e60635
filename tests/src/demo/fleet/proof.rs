//! What a booting node waits for before it is announced.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use lb_api::client::Client;

/// Interval between two questions.
const INTERVAL: Duration = Duration::from_millis(20);

/// Conditions without which nothing is announced at all (`docs/announcing.md`).
const REQUIRED: [&str; 4] = ["linked", "forwards", "warm", "settled"];

/// Asks an announcer for its unmet conditions until [`Conditions::finish`].
#[derive(Debug)]
pub(super) struct Conditions {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<BTreeMap<String, Instant>>,
}

impl Conditions {
    /// Starts asking at a socket that need not exist yet.
    pub(super) fn watch(socket: &Path) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, client) = (Arc::clone(&stop), Client::new(socket));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let watch = move || {
            let mut unmet = BTreeMap::new();
            while !stopped.load(Relaxed) {
                // An error: there is no announcer yet.
                if let Ok(status) = runtime.block_on(client.announce_status()) {
                    let of_addresses = status.addresses.iter().flat_map(|it| &it.checks);
                    let checks = of_addresses.chain(&status.checks);
                    let is_unmet = |it: &&lb_api::AnnounceCheck| {
                        !it.is_met && REQUIRED.contains(&it.name.as_str())
                    };
                    for check in checks.filter(is_unmet) {
                        unmet.insert(check.name.clone(), Instant::now());
                    }
                }
                std::thread::sleep(INTERVAL);
            }
            unmet
        };
        let thread = std::thread::Builder::new().name("conditions".to_owned());
        Ok(Self {
            stop,
            thread: thread.spawn(watch).context("start a thread")?,
        })
    }

    /// Returns when each condition was last seen unmet, earliest first.
    pub(super) fn finish(self) -> Vec<(String, Instant)> {
        self.stop.store(true, Relaxed);
        let unmet = self.thread.join();
        let unmet = unmet.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let mut unmet: Vec<(String, Instant)> = unmet.into_iter().collect();
        unmet.sort_by_key(|(_, at)| *at);
        unmet
    }
}

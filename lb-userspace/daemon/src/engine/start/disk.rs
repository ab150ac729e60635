//! What a start finds on disk.

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use tracing::error;

use super::super::{
    Options,
    change::Running,
    import,
    membership::Membership,
    request::{self, Candidate},
};
use crate::{
    clock,
    reconciler::lock::Lock,
    revision::{AtStart, Damage, RevisionState, Store},
};
use lb_model::config::DEFAULT_EXEC_USER;

/// What is on disk before the kernel is touched.
pub(super) struct OnDisk {
    /// The configuration file, or why it was rejected.
    pub(super) file: std::result::Result<Candidate, String>,
    pub(super) store: Store,
    pub(super) at_start: AtStart,
    /// The active revision and its state, if there is one.
    pub(super) active: Option<(Running, RevisionState)>,
    pub(super) damages: Vec<Damage>,
    pub(super) membership: Membership,
    pub(super) lock: Lock,
    pub(super) state_dir: PathBuf,
}

/// Reads the configuration file and the revisions.
pub(super) fn read(options: &Options) -> Result<OnDisk> {
    let file = import::candidate(&options.config, "start");
    let state_dir = match &file {
        Ok(file) => file.config.node.state_dir.clone(),
        Err(_) => state_dir_of(options),
    };
    let file = file.map_err(|error| error.to_string());
    if let Err(why) = &file
        && !state_dir.exists()
    {
        return Err(anyhow!(why.clone()));
    }
    let lock = Lock::take(&state_dir)?;
    let (store, damages) = Store::open(&state_dir)?;
    for damage in &damages {
        error!("{damage}");
    }
    let at_start = store.at_start(clock::now());
    let active = find_active(&store, &at_start)?;
    Ok(OnDisk {
        file,
        store,
        at_start,
        active,
        damages,
        membership: Membership::open(&state_dir),
        lock,
        state_dir,
    })
}

/// The newest good revision whose text is still valid.
fn find_active(store: &Store, at_start: &AtStart) -> Result<Option<(Running, RevisionState)>> {
    let mut next = at_start.active;
    while let Some(number) = next {
        let found = store.get(number)?;
        match request::parse(&found.file_name(), &found.text) {
            Ok(config) => {
                let running = Running {
                    number: Some(number),
                    fleet_digest: Default::default(),
                    config,
                    text: found.text,
                    base: found.record.base,
                    file_digest: imported(store),
                };
                return Ok(Some((running, found.record.info.state)));
            }
            Err(error) => {
                // For example because the file with the seed is gone.
                error!(
                    revision = number,
                    "skipping the revision: its configuration is invalid: {error}"
                );
                next = store.previous_good(number).map(|record| record.info.number);
            }
        }
    }
    Ok(None)
}

/// SHA-256 of the configuration file when it was last applied, even if that was rolled back: the next
/// start must not apply it again.
fn imported(store: &Store) -> Option<String> {
    let mut newest_first = store.list().rev();
    let known = newest_first.find(|record| {
        !matches!(
            record.info.state,
            RevisionState::Applying | RevisionState::Failed { .. }
        )
    });
    known.and_then(|record| record.file_digest.clone())
}

/// The state folder named by an invalid file, or the default.
fn state_dir_of(options: &Options) -> PathBuf {
    let named = node_key(options, "state_dir").map(PathBuf::from);
    named.unwrap_or_else(|| PathBuf::from("/var/lib/evenkeel"))
}

/// The user of `exec` checks. Only the file decides, even if it is invalid: who may use the API must not
/// get the rights of another user by a check.
pub(super) fn exec_user(options: &Options) -> String {
    node_key(options, "exec_user").unwrap_or_else(|| DEFAULT_EXEC_USER.to_owned())
}

/// A text of the file's table `[node]`, also of an invalid file.
fn node_key(options: &Options, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(&options.config).ok()?;
    let document: toml::Table = text.parse().ok()?;
    let node = document.get("node")?.as_table()?;
    node.get(key)?.as_str().map(str::to_owned)
}

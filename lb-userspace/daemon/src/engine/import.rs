//! The configuration file: a proposal, which is applied like any other change.
//!
//! One rule for a start and a reload: a file that was applied before, or that meant the same as the active
//! configuration when it was seen, proposes nothing. Changes made by commands and rollbacks therefore
//! stay, until the file is edited again.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use jiff::SignedDuration;

use super::{
    EngineError, EngineResult,
    actor::Actor,
    change::{ChangeControl, Terms},
    command::{FileDiff, Reloaded},
    data_path::DataPath,
    fleet,
    request::{self, Candidate, Prepared, folder_of},
};
use crate::{
    caller::Caller,
    node::{FileState, FileStatus},
    revision::{self, OnFailure},
};
use lb_model::{config::Config, secrets};
use tracing::info;

/// Identifies the content of a file: inode, size, time of the last write and of the last change.
type Stamp = (u64, u64, [i64; 4]);

/// The configuration file as it was last read.
pub(super) struct ConfigFile {
    pub(super) path: PathBuf,
    stamp: Option<Stamp>,
    /// Its digest and its configuration, or why it is invalid.
    content: Result<(String, Config), String>,
}

impl ConfigFile {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self {
            path,
            stamp: None,
            content: Err(String::new()),
        }
    }

    /// Reads the file again if it was changed.
    fn refresh(&mut self) {
        let metadata = fs::metadata(&self.path).ok();
        let stamp = metadata.map(|m| {
            let times = [m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()];
            (m.ino(), m.size(), times)
        });
        // Without a stamp, the error may have changed.
        if stamp.is_none() || stamp != self.stamp {
            self.stamp = stamp;
            let read = candidate(&self.path, "");
            self.content = read
                .map(|file| (file.file_digest.unwrap_or_default(), file.config))
                .map_err(|error| summary(&error.to_string()));
        }
    }
}

/// A report on a configuration in one line: the first error, and its place.
pub(super) fn summary(report: &str) -> String {
    let mut lines = report
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let first = first.strip_prefix("error: ").unwrap_or(first);
    let place = lines.find_map(|line| line.strip_prefix("--> "));
    let place = place.map_or_else(String::new, |place| format!(" ({place})"));
    request::one_line(&format!("{first}{place}"))
}

fn read(file: &Path) -> EngineResult<String> {
    fs::read_to_string(file).map_err(|error| {
        EngineError::InvalidConfig(format!("can't read {}: {error}", file.display()))
    })
}

pub(super) fn candidate(file: &Path, how: &str) -> EngineResult<Candidate> {
    let text = read(file)?;
    let name = file.display().to_string();
    Ok(Candidate {
        config: request::parse(&name, &text)?,
        base: folder_of(&name),
        file_digest: Some(revision::digest(&text)),
        how: how.to_owned(),
        text,
    })
}

pub(super) fn default_bake(candidate: &Candidate) -> SignedDuration {
    // The configuration allows at most an hour.
    SignedDuration::try_from(candidate.config.change.bake).unwrap_or(SignedDuration::ZERO)
}

/// Terms of a change that proposes the file.
pub(super) fn terms(who: &str, bake: SignedDuration) -> Terms {
    Terms {
        force: Vec::new(),
        is_rollback: false,
        on_failure: OnFailure::Fail,
        who: who.to_owned(),
        why: None,
        bake,
        confirm: None,
        keeps_text: false,
    }
}

impl ChangeControl {
    /// Compares the file with the active configuration. One that means the same counts as applied: what
    /// later changes override must not come back with the next start or reload.
    pub(super) fn compare_file(&mut self) {
        self.file.refresh();
        self.file_state = match &self.file.content {
            Err(why) => FileState::Invalid(why.clone()),
            Ok((digest, config)) => {
                let keeps_vips = fleet::keeps_vips(config, &self.running);
                let with_vips = || Config {
                    vips: self.running.config.vips.clone(),
                    ..config.clone()
                };
                let is_active = match keeps_vips {
                    true => with_vips() == self.running.config,
                    false => config.is_written_as(&self.running.config),
                };
                let is_applied = self.running.file_digest.as_ref() == Some(digest);
                if is_active {
                    self.running.file_digest = Some(digest.clone());
                    FileState::Active
                } else if is_applied {
                    FileState::Overridden
                } else {
                    FileState::Edited
                }
            }
        };
    }

    pub(super) fn file_status(&self) -> FileStatus {
        FileStatus {
            path: self.file.path.clone(),
            state: self.file_state.clone(),
        }
    }

    /// What the file proposes; none if it was applied before.
    pub(super) fn proposal(&self, file: Candidate) -> Option<Candidate> {
        (file.file_digest != self.running.file_digest).then_some(file)
    }

    /// What a reload applies: the file, or, if that proposes nothing, the active configuration with the
    /// present content of the files that it names.
    pub(super) fn reloaded(&self) -> EngineResult<Candidate> {
        let file = candidate(&self.file.path, "reload")?;
        if let Some(proposal) = self.proposal(file) {
            return fleet::with_vips_of(&self.running, proposal);
        }
        let name = self.running.base.join("the active configuration");
        let config = request::parse(&name.display().to_string(), &self.running.text)?;
        Ok(Candidate {
            config: self.in_place(config),
            text: self.running.text.clone(),
            base: self.running.base.clone(),
            how: "reload".to_owned(),
            file_digest: None,
        })
    }

    pub(super) fn prepare_reload(&self) -> EngineResult<Box<Prepared>> {
        Ok(self.prepared(self.reloaded()?))
    }

    /// Reloads, or has the reload wait until the change in progress is settled.
    pub(super) fn reload(
        &mut self,
        data_path: &mut DataPath,
        prepared: Prepared,
        wait: bool,
        caller: &Caller,
    ) -> EngineResult<Reloaded> {
        if let Some(number) = self.trial.as_ref().map(|trial| trial.number)
            && wait
        {
            self.reload_waits = true;
            return Ok(Reloaded {
                applied: None,
                waits_for: Some(self.progress(number)?),
                file: self.file_status(),
            });
        }
        let candidate = match self.unchanged_since(prepared) {
            Some(candidate) => candidate,
            None => self.reloaded()?,
        };
        let terms = terms(&caller.to_string(), default_bake(&candidate));
        let applied = self.change(data_path, &candidate, &terms)?;
        self.compare_file();
        Ok(Reloaded {
            applied: Some(applied),
            waits_for: None,
            file: self.file_status(),
        })
    }

    /// Whether a reload waited for a change that is settled now.
    pub(super) fn take_due_reload(&mut self) -> bool {
        self.trial.is_none() && std::mem::take(&mut self.reload_waits)
    }

    /// The difference from the active revision to the file.
    pub(super) fn diff_file(&self) -> EngineResult<FileDiff> {
        let text = read(&self.file.path);
        let text = text.map_err(|error| EngineError::NotFound(error.to_string()))?;
        let text = fleet::file_text(&text, &self.running, &self.file.path);
        let revision = self.running.number.unwrap_or(0);
        let file = self.file.path.display().to_string();
        let (active, text) = secrets::mask_pair(&self.running.text, &text);
        let name = format!("revision {revision}");
        Ok(FileDiff {
            unified: revision::unified(&active, &text, &name, &file),
            revision,
            file,
        })
    }
}

impl Actor {
    /// Applies the file if it differs from the one applied last. An invalid file is rejected, and the
    /// controller keeps running with the active revision.
    pub(super) fn apply_file(&mut self, file: std::result::Result<Candidate, String>) {
        let file = match file {
            Ok(file) => file,
            Err(why) => {
                self.publisher.count_change(|changes| changes.invalid += 1);
                return self.file_rejected(&why);
            }
        };
        self.changes.compare_file();
        let Some(file) = self.changes.proposal(file) else {
            return;
        };
        let file = match fleet::with_vips_of(&self.changes.running, file) {
            Ok(file) => file,
            Err(error) => return self.file_rejected(&error.to_string()),
        };
        if !self.changes.sources_to_ask(&file.config, false).is_empty() {
            info!("configuration file changed; it is applied when its sources have been asked");
            self.changes.reload_waits = true;
            return;
        }
        let terms = terms("evenkeel run", default_bake(&file));
        let changed = self.changes.change(&mut self.data_path, &file, &terms);
        self.follow_changes();
        match changed {
            Ok(applied) => {
                let number = applied.revision.map(|revision| revision.number);
                info!(revision = number, "configuration file changed; applied");
            }
            Err(EngineError::Busy { .. }) => self.changes.reload_waits = true,
            Err(error) => self.file_rejected(&error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_after_every_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("evenkeel.toml");
        let mut file = ConfigFile::new(path.clone());
        file.refresh();
        let missing = file.content.clone().unwrap_err();
        assert!(missing.contains("can't read"), "{missing}");
        let good = include_str!("../../../model/tests/golden/config/least.toml");
        fs::write(&path, good).unwrap();
        file.refresh();
        assert_eq!(file.content.as_ref().unwrap().0, revision::digest(good));
        fs::write(&path, format!("{good}\n# no comment may be missed")).unwrap();
        file.refresh();
        assert_ne!(file.content.as_ref().unwrap().0, revision::digest(good));
        fs::write(&path, "x [").unwrap();
        file.refresh();
        let broken = file.content.unwrap_err();
        assert!(broken.contains("evenkeel.toml:1:"), "{broken}");
        assert!(
            !broken.contains('\n') && !broken.starts_with("error"),
            "{broken}"
        );
    }
}

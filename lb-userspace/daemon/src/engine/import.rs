//! The configuration file: what it says is taken over by a change like any other.

use std::{fs, path::Path};

use jiff::SignedDuration;

use super::{
    EngineError, EngineResult,
    actor::Actor,
    change::Terms,
    command::Applied,
    request::{self, Candidate, folder_of},
};
use crate::revision;

/// The file's text.
pub(super) fn read(file: &Path) -> EngineResult<String> {
    fs::read_to_string(file).map_err(|error| {
        EngineError::InvalidConfig(format!("can't read {}: {error}", file.display()))
    })
}

/// The file as a candidate.
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

/// How a change comes about that nobody asked for over the API.
pub(super) fn terms(who: &str, bake: SignedDuration) -> Terms {
    Terms {
        force: Vec::new(),
        is_rollback: false,
        who: who.to_owned(),
        why: None,
        bake,
        confirm: None,
    }
}

impl Actor {
    pub(super) fn candidate_of_file(&self, how: &str) -> EngineResult<Candidate> {
        candidate(&self.options.config, how)
    }

    /// SHA-256 of the file as it is now, if it can be read.
    pub(super) fn digest_of_file(&self) -> Option<String> {
        let text = fs::read_to_string(&self.options.config).ok()?;
        Some(revision::digest(&text))
    }

    /// Takes over what the file says now.
    pub(super) fn reload(&mut self) -> EngineResult<Applied> {
        let candidate = self.candidate_of_file("reload")?;
        let terms = terms("SIGHUP", self.default_bake(&candidate));
        self.change(&candidate, &terms)
    }
}

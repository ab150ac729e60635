//! The configuration file: a change of it is applied like any other change.

use std::{fs, path::Path};

use jiff::SignedDuration;

use super::{
    EngineError, EngineResult,
    change::{ChangeControl, Terms, default_bake},
    command::Applied,
    data_path::DataPath,
    request::{self, Candidate, Prepared, folder_of},
};
use crate::revision;

pub(super) fn read(file: &Path) -> EngineResult<String> {
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

/// Terms of a change that was not requested over the API.
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

impl ChangeControl {
    pub(super) fn candidate_of_file(&self, how: &str) -> EngineResult<Candidate> {
        candidate(&self.file, how)
    }

    /// SHA-256 of the current file, if it can be read.
    pub(super) fn digest_of_file(&self) -> Option<String> {
        let text = fs::read_to_string(&self.file).ok()?;
        Some(revision::digest(&text))
    }

    pub(super) fn reload(
        &mut self,
        data_path: &mut DataPath,
        prepared: Prepared,
    ) -> EngineResult<Applied> {
        let candidate = prepared.into_candidate();
        let terms = terms("SIGHUP", default_bake(&candidate));
        self.change(data_path, &candidate, &terms)
    }
}

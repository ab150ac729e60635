//! Turns a requested change into a candidate: a configuration and its text.

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use super::{
    EngineError, EngineResult, change::ChangeControl, command::Change, data_path::DataPath, fleet,
    routes::backends_of,
};
use crate::{
    config_file,
    revision::{self, RevisionNumber},
};
use lb_model::{
    config::{self, Config},
    edit::{self, BackendSpec, Edit, WantedState},
    secrets,
};

/// A configuration that may be applied.
#[derive(Clone)]
pub(super) struct Candidate {
    pub(super) text: String,
    /// Folder that relative paths in the text are relative to.
    pub(super) base: PathBuf,
    pub(super) config: Config,
    /// The command that made it, for the history.
    pub(super) how: String,
    /// SHA-256 of the configuration file, if the text is that of the file.
    pub(super) file_digest: Option<String>,
}

/// A candidate that was read before its change is made.
pub(super) struct Prepared {
    candidate: Candidate,
    /// The revision that was active then.
    running: Option<RevisionNumber>,
}

impl Prepared {
    /// Addresses of the candidate's backends.
    pub(super) fn backends(&self) -> BTreeSet<IpAddr> {
        backends_of(&self.candidate.config).collect()
    }
}

impl ChangeControl {
    pub(super) fn prepare(
        &self,
        data_path: &DataPath,
        change: &Change,
    ) -> EngineResult<Box<Prepared>> {
        Ok(self.prepared(self.candidate(data_path, change)?))
    }

    pub(super) fn prepared(&self, candidate: Candidate) -> Box<Prepared> {
        let mut candidate = candidate;
        // Those that are left out are reported when the change is made.
        let _ = self.membership.fill_with_what_fits(&mut candidate.config);
        Box::new(Prepared {
            candidate,
            running: self.running.number,
        })
    }

    /// The prepared candidate of a change. Edits and rollbacks start from the active revision: if
    /// another one is active by now, the candidate is made again.
    pub(super) fn current(
        &self,
        data_path: &DataPath,
        prepared: Prepared,
        change: &Change,
    ) -> EngineResult<Candidate> {
        match self.unchanged_since(prepared) {
            Some(candidate) => Ok(candidate),
            None => self.candidate(data_path, change),
        }
    }

    /// The prepared candidate, if the same revision is active as then.
    pub(super) fn unchanged_since(&self, prepared: Prepared) -> Option<Candidate> {
        (prepared.running == self.running.number).then_some(prepared.candidate)
    }

    pub(super) fn candidate(
        &self,
        data_path: &DataPath,
        change: &Change,
    ) -> EngineResult<Candidate> {
        match change {
            Change::Config { file, text } => self.candidate_of_text(file, text),
            Change::Edits(edits) => self.candidate_of_edits(data_path, edits),
            Change::Revision(revision) => self.candidate_of_revision(*revision),
            Change::Fleet { vips, origin } => self.candidate_of_fleet(vips, origin),
        }
    }

    fn candidate_of_text(&self, file: &str, text: &str) -> EngineResult<Candidate> {
        let text = &secrets::restore(text, &self.running.text);
        let digest = revision::digest(text);
        let ours = fs::read_to_string(&self.file.path);
        let is_ours = ours.is_ok_and(|ours| revision::digest(&ours) == digest);
        let candidate = Candidate {
            config: parse(file, text)?,
            text: text.to_owned(),
            base: folder_of(file),
            how: format!("apply {}", one_line(file)),
            file_digest: is_ours.then_some(digest),
        };
        fleet::with_vips_of(&self.running, candidate)
    }

    fn candidate_of_edits(&self, data_path: &DataPath, edits: &[Edit]) -> EngineResult<Candidate> {
        if edits.is_empty() {
            let message = "the request has no edits";
            return Err(EngineError::BadRequest(message.into()));
        }
        let running = &self.running;
        let edits = &self.with_sourced(&self.with_leaving(data_path, edits))?;
        let text = edit::apply(&running.text, edits)
            .map_err(|error| EngineError::InvalidConfig(error.to_string()))?;
        let name = running.base.join("the edited configuration");
        let words: Vec<String> = edits.iter().map(describe).collect();
        let config = parse(&name.display().to_string(), &text)?;
        Ok(Candidate {
            config: self.in_place(config),
            text,
            base: running.base.clone(),
            how: words.join(", "),
            file_digest: None,
        })
    }

    /// Edits in which a backend that was removed and still has flows is added again, disabled, where it is
    /// to be disabled: that cuts its flows off.
    fn with_leaving(&self, data_path: &DataPath, edits: &[Edit]) -> Vec<Edit> {
        let vips = &self.running.config.vips;
        let mut all = Vec::new();
        for edit in edits {
            if let Edit::SetState {
                vip,
                backend,
                state: WantedState::Disabled,
            } = edit
            {
                let wanted = |name: &String| vip.as_ref().is_none_or(|vip| vip == name);
                let configured = vips.iter().any(|vip| {
                    let mut backends = vip.backends.iter();
                    wanted(&vip.name) && backends.any(|b| b.name == *backend)
                });
                if !configured {
                    all.extend((data_path.reconciler).leaving(backend).filter_map(
                        |(vip, identity)| {
                            let spec = BackendSpec {
                                name: backend.clone(),
                                address: identity.address,
                                port: (identity.port != 0).then_some(identity.port),
                                weight: None,
                                capacity: None,
                            };
                            // What a source has named before can't be added.
                            let has_list = vips
                                .iter()
                                .any(|it| it.name == vip && it.backends_from.is_none());
                            (wanted(&vip) && has_list)
                                .then_some(Edit::AddBackend { vip, backend: spec })
                        },
                    ));
                }
            }
            all.push(edit.clone());
        }
        all
    }

    fn candidate_of_revision(&self, number: Option<RevisionNumber>) -> EngineResult<Candidate> {
        let number = match number {
            Some(number) => number,
            None => self.one_before()?,
        };
        let found = self.store.get(number)?;
        let config = found.config().map_err(|errors| invalid(&errors))?;
        Ok(Candidate {
            config: self.in_place(config),
            base: found.record.base.clone(),
            text: found.text,
            how: format!("rollback to {number}"),
            file_digest: None,
        })
    }

    /// A configuration from the revision store, with the current `state_dir`: it may have been moved
    /// between two starts.
    pub(super) fn in_place(&self, mut config: Config) -> Config {
        let state_dir = &self.running.config.node.state_dir;
        config.node.state_dir.clone_from(state_dir);
        config
    }

    /// The revision before the last change.
    fn one_before(&self) -> EngineResult<RevisionNumber> {
        let number = self.running.number;
        let parent = number.and_then(|n| self.store.record(n).ok()?.info.parent);
        parent.ok_or_else(|| {
            let message = "there is no earlier revision to go back to";
            EngineError::NotFound(message.into())
        })
    }
}

/// Parses a configuration; errors are rendered without colours.
pub(super) fn parse(file: &str, text: &str) -> EngineResult<Config> {
    config_file::parse(file, text).map_err(|errors| invalid(&errors))
}

/// Errors of a configuration that a reply shows. Rendering more would block the actor.
const MAX_SHOWN: usize = 100;

fn invalid(errors: &config::ConfigErrors) -> EngineError {
    EngineError::InvalidConfig(errors.render_first(false, MAX_SHOWN))
}

pub(super) fn folder_of(file: &str) -> PathBuf {
    let folder = Path::new(file).parent().unwrap_or(Path::new(""));
    // `absolute` rejects the empty path of a bare file name.
    let folder = Path::new(".").join(folder);
    // Without a working directory, relative paths have no base.
    std::path::absolute(folder).unwrap_or_else(|_| PathBuf::from("/"))
}

/// Replaces control characters: text from outside must not control the terminal that shows the
/// history.
pub(super) fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(500)
        .collect()
}

/// The command that makes an edit.
fn describe(edit: &Edit) -> String {
    let words = match edit {
        Edit::AddVip { vip } => format!("vip add {}", vip.name),
        Edit::RemoveVip { vip } => format!("vip remove {vip}"),
        Edit::AddBackend { vip, backend } => format!("backend add {vip} {}", backend.name),
        Edit::RemoveBackend { vip, backend } => format!("backend remove {vip} {backend}"),
        Edit::SetState {
            vip,
            backend,
            state,
        } => {
            let verb = match state {
                WantedState::Up => "undrain",
                WantedState::Drain => "drain",
                WantedState::Disabled => "disable",
            };
            match vip {
                Some(vip) => format!("backend {verb} {vip} {backend}"),
                None => format!("backend {verb} {backend}"),
            }
        }
        Edit::SetWeight {
            vip,
            backend,
            weight,
        } => format!("backend weight {vip} {backend} {weight}"),
    };
    one_line(&words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hides_the_seed_in_rendered_errors() {
        let seed = "000102030405060708090a0b0c0d0e0f";
        for text in [
            format!("[node]\nhash_seed = \"{seed}\"\n"),
            format!("[node]\nhash_seed = \"{seed}00\"\ninterfaces = 5\n"),
            format!("[node]\nhash_seed = \"{seed}\" x\ninterfaces = [\"eth0\"]\n"),
        ] {
            let message = parse("f.toml", &text).unwrap_err().to_string();
            assert!(!message.contains(seed), "{message}");
            assert!(message.contains("f.toml"), "{message}");
        }
    }

    #[test]
    fn relative_paths_start_at_the_folder_of_the_file() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(folder_of("evenkeel.toml"), here);
        assert_eq!(folder_of("etc/evenkeel.toml"), here.join("etc"));
        assert_eq!(
            folder_of("/etc/evenkeel/evenkeel.toml"),
            Path::new("/etc/evenkeel")
        );
    }

    #[test]
    fn history_entries_have_one_line() {
        assert_eq!(one_line("a\nb\x1b[31m"), "a b [31m");
        let drain = Edit::SetState {
            vip: None,
            backend: "api-1".into(),
            state: WantedState::Drain,
        };
        assert_eq!(describe(&drain), "backend drain api-1");
    }
}

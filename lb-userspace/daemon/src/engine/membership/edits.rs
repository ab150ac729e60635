//! Edits of backends that come from sources: the text has only overrides of them, so whether there is such a
//! backend is decided here.

use lb_model::{
    config::Vip,
    edit::{self, Edit, EditError},
};

use crate::engine::{EngineError, EngineResult, change::ChangeControl};

impl ChangeControl {
    /// Edits for VIPs with sources in a form that can be made in the text: one for each VIP.
    ///
    /// # Errors
    ///
    /// A VIP with a source has no such backend.
    pub(in crate::engine) fn with_sourced(&self, edits: &[Edit]) -> EngineResult<Vec<Edit>> {
        let mut all = Vec::new();
        for edit in edits {
            match edit {
                Edit::SetState {
                    vip: None,
                    backend,
                    state,
                } if self.sourced().any(|vip| has(vip, backend)) => {
                    let vips = self.running.config.vips.iter();
                    let named = vips.filter(|vip| has(vip, backend));
                    all.extend(named.map(|vip| Edit::SetState {
                        vip: Some(vip.name.clone()),
                        backend: backend.clone(),
                        state: *state,
                    }));
                }
                Edit::SetState {
                    vip: Some(vip),
                    backend,
                    ..
                }
                | Edit::SetWeight { vip, backend, .. } => {
                    self.check_sourced(vip, backend)?;
                    all.push(edit.clone());
                }
                _ => all.push(edit.clone()),
            }
        }
        Ok(all)
    }

    fn sourced(&self) -> impl Iterator<Item = &Vip> {
        let vips = self.running.config.vips.iter();
        vips.filter(|vip| vip.backends_from.is_some())
    }

    fn check_sourced(&self, name: &str, backend: &str) -> EngineResult<()> {
        let Some(vip) = self.sourced().find(|vip| vip.name == name) else {
            return Ok(());
        };
        if has(vip, backend) {
            return Ok(());
        }
        let names: Vec<String> = vip.backends.iter().map(|it| it.name.clone()).collect();
        let error = EditError::NoBackend {
            vip: name.to_owned(),
            backend: backend.to_owned(),
            hint: edit::hint(backend, &names),
        };
        Err(EngineError::InvalidConfig(error.to_string()))
    }
}

/// Whether a VIP has a backend, or an override that waits for it.
fn has(vip: &Vip, backend: &str) -> bool {
    let mut overrides = vip.overrides.iter();
    vip.backends.iter().any(|it| it.name == backend) || overrides.any(|it| it.name == backend)
}

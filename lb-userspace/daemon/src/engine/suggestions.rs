//! Limits that the traffic of the last hour suggests.

use lb_model::{
    edit::hint,
    sources::{LimitSuggestion, suggestion},
};

use super::{EngineError, EngineResult, change::ChangeControl};

impl ChangeControl {
    /// Suggests limits for a VIP, or for all in the order of the configuration.
    pub(super) fn suggest_limits(&self, name: Option<&str>) -> EngineResult<Vec<LimitSuggestion>> {
        let vips = &self.running.config.vips;
        let wanted = vips
            .iter()
            .filter(|vip| name.is_none_or(|name| vip.name == name));
        let suggestions: Vec<LimitSuggestion> = wanted
            .map(|vip| suggestion(vip, &self.histories.sources(vip)))
            .collect();
        match name {
            Some(name) if suggestions.is_empty() => {
                let names: Vec<String> = vips.iter().map(|vip| vip.name.clone()).collect();
                let hint = hint(name, &names);
                Err(EngineError::NotFound(format!(
                    "there is no VIP {name:?}{hint}"
                )))
            }
            _ => Ok(suggestions),
        }
    }
}

//! The watch over one VIP.

use super::{Facts, Finding, Observation, Thresholds};

/// The watch over one VIP: counts in, findings out.
#[derive(Clone, Debug)]
pub struct Detector {
    thresholds: Thresholds,
    facts: Facts,
    findings: Vec<Finding>,
}

impl Detector {
    /// A watch that has seen nothing yet.
    #[must_use]
    pub fn new(thresholds: Thresholds, facts: Facts) -> Self {
        Self {
            thresholds,
            facts,
            findings: Vec::new(),
        }
    }

    /// Takes what was counted, and returns the findings that are on: those raised now, those that
    /// stay, not those that ended.
    pub fn observe(&mut self, _observation: &Observation<'_>) -> &[Finding] {
        &self.findings
    }

    /// The findings that are on.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Overdispersion of the VIP: 1 when every flow chooses by itself.
    #[must_use]
    pub fn dispersion(&self) -> f64 {
        1.0
    }

    /// Other thresholds from now on; what was learned and what is on stays.
    pub fn set_thresholds(&mut self, thresholds: Thresholds) {
        self.thresholds = thresholds;
    }

    /// What does not change while the VIP lives.
    #[must_use]
    pub fn facts(&self) -> Facts {
        self.facts
    }
}

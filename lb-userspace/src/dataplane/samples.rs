//! Sampled flows.

use aya::maps::{HashMap, MapData};
use lb_common::sample::{FlowKey, FlowSample};

use super::{
    catalog::name,
    error::{DataplaneError, PRIVILEGE_HINT, Result},
    is_missing,
    mapping::Plain,
};

/// The sampled flows.
#[derive(Debug)]
pub struct Samples {
    pub(super) table: HashMap<MapData, Plain<FlowKey>, Plain<FlowSample>>,
}

impl Samples {
    /// All sampled flows. The table lives while it is read: flows that were displaced meanwhile are
    /// missing, and one may come twice.
    pub fn read(&self) -> Result<Vec<(FlowKey, FlowSample)>> {
        let mut samples = Vec::new();
        for entry in self.table.iter() {
            match entry {
                Ok((key, sample)) => samples.push((key.0, sample.0)),
                Err(error) if is_missing(&error) => {}
                Err(error) => {
                    return Err(DataplaneError::map(
                        "read",
                        name::SAMPLES,
                        &error,
                        PRIVILEGE_HINT,
                    ));
                }
            }
        }
        Ok(samples)
    }
}

//! Sampled flows.

use std::os::fd::AsFd as _;

use aya::maps::MapData;
use lb_common::sample::{FlowKey, FlowSample, MAX_SAMPLES};

use super::{
    catalog::name,
    error::{DataplaneError, PRIVILEGE_HINT, Result},
    syscalls,
};

#[derive(Debug)]
pub struct Samples {
    pub(super) map: MapData,
}

impl Samples {
    /// Reads all sampled flows in a few system calls. Flows that are evicted meanwhile may be missing.
    pub fn read(&self) -> Result<Vec<(FlowKey, FlowSample)>> {
        let read = syscalls::read_hash(self.map.fd().as_fd(), MAX_SAMPLES as usize);
        read.map_err(|error| DataplaneError::Map {
            operation: "read",
            map: name::SAMPLES.to_owned(),
            kernel: error.to_string(),
            hint: PRIVILEGE_HINT,
        })
    }
}

//! The eBPF object embedded in this binary, and its load-time settings.

use std::path::PathBuf;

use aya::{Ebpf, EbpfLoader};
use lb_common::{
    nat::{DEFAULT_EMBRYONIC, DEFAULT_SESSIONS, buckets_for, embryonic_buckets},
    node::{DEFAULT_ICMP_RATE, setting},
    track::DEFAULT_BUCKETS,
};

use super::{
    catalog::{self, ordinary},
    error::{DataplaneError, Result, chain},
    external::ExternalMaps,
};

/// The object, built by the build script.
#[doc(hidden)]
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/evenkeel-lb"));

const LOAD_HINT: &str = "root (or CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN), Linux 5.10 or newer \
     and enough free memory are needed";

/// Load-time settings of the data path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// Buckets of the tracking table, sixteen flows each; a power of two.
    pub track_buckets: u32,
    /// Capacity for established sessions of `nat`.
    pub nat_sessions: u32,
    /// Capacity for sessions of `nat` that are not established yet.
    pub nat_embryonic: u32,
    /// Limit of ICMP messages per second and CPU.
    pub icmp_rate: u32,
    /// Write a trace for every packet, for `simulate` and tests.
    pub tracing: bool,
    /// Load the program for packet captures, without a reader: shows that a kernel accepts it. Implies
    /// `tracing`.
    pub capturing: bool,
    /// Right shift from jiffies to seconds. `None`: measured.
    pub jiffies_shift: Option<u32>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            track_buckets: DEFAULT_BUCKETS,
            nat_sessions: DEFAULT_SESSIONS,
            nat_embryonic: DEFAULT_EMBRYONIC,
            icmp_rate: DEFAULT_ICMP_RATE,
            tracing: false,
            capturing: false,
            jiffies_shift: None,
        }
    }
}

impl LoadOptions {
    fn check(&self) -> Result<()> {
        let wrong = |setting, value: u32, why| {
            Err(DataplaneError::Setting {
                setting,
                value: value.into(),
                why,
            })
        };
        if !self.track_buckets.is_power_of_two() {
            return wrong(
                "track_buckets",
                self.track_buckets,
                "must be a power of two",
            );
        }
        for (setting, value) in [
            ("nat_sessions", self.nat_sessions),
            ("nat_embryonic", self.nat_embryonic),
        ] {
            if value == 0 || value > 1 << 24 {
                return wrong(setting, value, "must be between 1 and 16,777,216");
            }
        }
        Ok(())
    }
}

/// Creates the maps and relocates the programs without loading them. Maps for which `adopted` returns the
/// path of a pin are adopted. With `capture_bytes`, the maps of a capture get their full sizes, and the buffer for records
/// this many bytes.
pub(super) fn open(
    options: &LoadOptions,
    jiffies_shift: u32,
    external: &ExternalMaps,
    adopted: &dyn Fn(&str) -> Option<PathBuf>,
    capture_bytes: Option<u32>,
) -> Result<Ebpf> {
    options.check()?;
    let cpus = external.cpus()?;
    let track_mask = options.track_buckets - 1;
    let nat_buckets = buckets_for(options.nat_sessions);
    let nat_new_mask = embryonic_buckets(options.nat_embryonic) - 1;
    let tracing = u32::from(options.tracing || options.capturing);
    let maps = ordinary(options, cpus);
    let mut loader = EbpfLoader::new();
    loader
        .override_global(setting::CPUS, &cpus, true)
        .override_global(setting::JIFFIES_SHIFT, &jiffies_shift, true)
        .override_global(setting::TRACK_MASK, &track_mask, true)
        .override_global(setting::NAT_BUCKETS, &nat_buckets, true)
        .override_global(setting::NAT_NEW_MASK, &nat_new_mask, true)
        .override_global(setting::ICMP_RATE, &options.icmp_rate, true)
        .override_global(setting::TRACING, &tracing, true);
    if let Some(bytes) = capture_bytes {
        loader
            .map_max_entries(catalog::name::CAPTURE_FRAMES, cpus)
            .map_max_entries(catalog::name::CAPTURE_COUNTS, cpus)
            .map_max_entries(catalog::name::CAPTURE_RECORDS, bytes);
    }
    for map in &maps {
        if [
            catalog::name::TRACK,
            catalog::name::NAT_REQUESTS,
            catalog::name::NAT_REPLIES,
            catalog::name::NAT_NEW,
            catalog::name::NAT_INDEX,
            catalog::name::LOADS,
        ]
        .contains(&map.name)
        {
            loader.map_max_entries(map.name, map.max_entries);
        }
        if let Some(path) = adopted(map.name) {
            loader.map_pin_path(map.name, path);
        }
    }
    let object = external.link(OBJECT)?;
    loader
        .load(object.bytes())
        .map_err(|error| load_error(&error))
}

/// The object with maps of one entry each, for programs that use no maps.
pub(super) fn open_without_tables() -> Result<Ebpf> {
    let maps = ordinary(&LoadOptions::default(), 1);
    let mut loader = EbpfLoader::new();
    for map in &maps {
        loader.map_max_entries(map.name, 1);
    }
    loader.load(OBJECT).map_err(|error| load_error(&error))
}

fn load_error(error: &aya::EbpfError) -> DataplaneError {
    DataplaneError::Load {
        kernel: chain(error),
        hint: LOAD_HINT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_invalid_settings_by_name() {
        for (options, name) in [
            (
                LoadOptions {
                    track_buckets: 0,
                    ..LoadOptions::default()
                },
                "track_buckets",
            ),
            (
                LoadOptions {
                    track_buckets: 3,
                    ..LoadOptions::default()
                },
                "track_buckets",
            ),
            (
                LoadOptions {
                    nat_sessions: 0,
                    ..LoadOptions::default()
                },
                "nat_sessions",
            ),
            (
                LoadOptions {
                    nat_embryonic: u32::MAX,
                    ..LoadOptions::default()
                },
                "nat_embryonic",
            ),
        ] {
            assert!(
                options.check().unwrap_err().to_string().contains(name),
                "{options:?}"
            );
        }
        LoadOptions::default().check().unwrap();
    }
}

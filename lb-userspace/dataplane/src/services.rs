//! The service table: an open-addressing hash table from address, protocol and port to VIP.
//!
//! Layout and search are defined in [`lb_common::vip`]. An entry becomes valid when its service word
//! is written, and is removed by overwriting that word. A running program may have read the service
//! word of a removed entry and then read address and target of a new one in its place. So a place is
//! reused only after a grace period ([`Services::settle`]).

use std::mem::offset_of;

use lb_common::vip::{MAX_PROBES, REMOVED, VipEntry, VipKey};

use super::{
    catalog::part,
    error::{DataplaneError, Result},
    mapping::Mapped,
};

const SERVICE: usize = offset_of!(VipEntry, key) + offset_of!(VipKey, service);
const HIGH: usize = offset_of!(VipEntry, key) + offset_of!(VipKey, high);
const LOW: usize = offset_of!(VipEntry, key) + offset_of!(VipKey, low);
const TARGET: usize = offset_of!(VipEntry, target);

const FREE: u64 = 0;

#[derive(Debug)]
pub struct Services {
    table: Mapped<VipEntry>,
    /// Entries that were removed since the last grace period.
    unsettled: Vec<u32>,
}

/// Result of a search for a key.
struct Search {
    found: Option<(u32, u64)>,
    /// First free place of the probe sequence.
    free: Option<u32>,
    /// Whether a place would be free after a grace period.
    unsettled: bool,
}

impl Services {
    #[must_use]
    pub fn new(table: Mapped<VipEntry>) -> Self {
        Self {
            table,
            unsettled: Vec::new(),
        }
    }

    fn search(&self, key: &VipKey) -> Result<Search> {
        let mut search = Search {
            found: None,
            free: None,
            unsettled: false,
        };
        for step in 0..MAX_PROBES {
            let place = (key.home() + step) % self.table.len();
            let entry = self.table.read(place)?;
            if entry.key == *key {
                search.found = Some((place, entry.target));
                break;
            }
            if entry.key.service == FREE || entry.key.service == REMOVED {
                if self.unsettled.contains(&place) {
                    search.unsettled = true;
                } else {
                    search.free = search.free.or(Some(place));
                }
            }
            if entry.key.service == FREE {
                break;
            }
        }
        Ok(search)
    }

    /// The target of a key ([`lb_common::vip::target`]).
    pub fn get(&self, key: &VipKey) -> Result<Option<u64>> {
        Ok(self.search(key)?.found.map(|(_, target)| target))
    }

    /// Whether a key can be inserted only after a grace period.
    pub fn needs_grace_period(&self, key: &VipKey) -> Result<bool> {
        let search = self.search(key)?;
        Ok(search.found.is_none() && search.free.is_none() && search.unsettled)
    }

    /// Allows the places of removed entries to be reused. Call it after a grace period.
    pub fn settle(&mut self) {
        self.unsettled.clear();
    }

    /// Adds a key, or changes its target atomically.
    pub fn insert(&mut self, key: &VipKey, target: u64) -> Result<()> {
        let search = self.search(key)?;
        if let Some((place, _)) = search.found {
            return self.table.store_word(place, TARGET, target);
        }
        let place = search.free.ok_or_else(|| DataplaneError::Full {
            table: part::SERVICES.name,
            what: format!("service {key:x?}"),
            limit: format!("all {MAX_PROBES} places of its probe sequence are in use"),
            hint: "remove VIPs, or use another address or port",
        })?;
        self.table.store_word(place, HIGH, key.high)?;
        self.table.store_word(place, LOW, key.low)?;
        self.table.store_word(place, TARGET, target)?;
        self.table.store_word(place, SERVICE, key.service)
    }

    /// Removes a key; returns whether it was present.
    pub fn remove(&mut self, key: &VipKey) -> Result<bool> {
        let Some((place, _)) = self.search(key)?.found else {
            return Ok(false);
        };
        self.table.store_word(place, SERVICE, REMOVED)?;
        self.unsettled.push(place);
        self.sweep(place)?;
        Ok(true)
    }

    /// Frees removed entries directly before a free one: no search needs to pass them.
    fn sweep(&self, from: u32) -> Result<()> {
        let len = self.table.len();
        let mut place = from;
        while self.table.load_word(place, SERVICE)? == REMOVED
            && self.table.load_word((place + 1) % len, SERVICE)? == FREE
        {
            self.table.store_word(place, SERVICE, FREE)?;
            place = (place + len - 1) % len;
        }
        Ok(())
    }

    pub fn iter(&self) -> impl Iterator<Item = VipEntry> + '_ {
        (0..self.table.len())
            .filter_map(|place| self.table.read(place).ok())
            .filter(|entry| entry.key.service != FREE && entry.key.service != REMOVED)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use lb_common::{family, proto, vip::VIP_TABLE_SIZE};
    use proptest::prelude::*;

    use super::*;

    fn empty() -> Services {
        Services::new(Mapped::anonymous("VIP_TABLE", VIP_TABLE_SIZE).unwrap())
    }

    fn key(number: u32) -> VipKey {
        VipKey::new(
            &lb_common::address_v4(number / 7),
            family::V4,
            proto::TCP,
            (number % 7) as u16,
        )
    }

    /// Searches as the data path does.
    fn data_path_finds(services: &Services, key: &VipKey) -> Option<u64> {
        for step in 0..MAX_PROBES {
            let entry = services
                .table
                .read((key.home() + step) % VIP_TABLE_SIZE)
                .unwrap();
            if entry.key == *key {
                return Some(entry.target);
            }
            if entry.key.service == 0 {
                return None;
            }
        }
        None
    }

    /// Keys that all start their search at the same place.
    fn crowd(home: u32) -> impl Iterator<Item = VipKey> {
        (0..).map(key).filter(move |key| key.home() == home)
    }

    proptest! {
        #[test]
        fn behaves_like_a_map(
            changes in prop::collection::vec((0..60u32, any::<bool>(), any::<bool>()), 1..400),
            home in prop::sample::select(vec![0, 5, VIP_TABLE_SIZE - 2]),
        ) {
            // Two crowds that overlap, so that places run out and searches pass removed entries.
            let keys: Vec<VipKey> = crowd(home).take(6).chain(crowd(home + 1).take(5)).collect();
            let mut services = empty();
            let mut model = HashMap::new();
            for (number, (pick, insert, settle)) in changes.into_iter().enumerate() {
                let key = keys[pick as usize % keys.len()];
                let target = number as u64 + 1;
                if settle {
                    services.settle();
                }
                if insert {
                    match services.insert(&key, target) {
                        Ok(()) => drop(model.insert(key.high << 3 | key.service, target)),
                        Err(DataplaneError::Full { .. }) => {
                            prop_assert!(!model.contains_key(&(key.high << 3 | key.service)));
                        }
                        Err(other) => return Err(TestCaseError::fail(other.to_string())),
                    }
                } else {
                    let was = model.remove(&(key.high << 3 | key.service)).is_some();
                    prop_assert_eq!(services.remove(&key).unwrap(), was);
                }
                for key in &keys {
                    let expected = model.get(&(key.high << 3 | key.service)).copied();
                    prop_assert_eq!(services.get(key).unwrap(), expected);
                    prop_assert_eq!(data_path_finds(&services, key), expected);
                }
            }
            prop_assert_eq!(services.iter().count(), model.len());
        }
    }

    #[test]
    fn a_full_neighbourhood_is_an_error_that_says_so() {
        let mut services = empty();
        let mut keys = crowd(100);
        for target in 0..u64::from(MAX_PROBES) {
            services.insert(&keys.next().unwrap(), target).unwrap();
        }
        let error = services.insert(&keys.next().unwrap(), 9).unwrap_err();
        assert!(matches!(error, DataplaneError::Full { .. }), "{error}");
    }

    #[test]
    fn places_of_removed_entries_wait_for_a_grace_period() {
        let mut services = empty();
        let keys: Vec<VipKey> = crowd(100).take(MAX_PROBES as usize + 1).collect();
        let (last, first) = keys.split_last().unwrap();
        for key in first {
            services.insert(key, 1).unwrap();
        }
        assert!(services.remove(&first[3]).unwrap());
        assert!(services.needs_grace_period(last).unwrap());
        services.insert(last, 2).unwrap_err();
        services.settle();
        assert!(!services.needs_grace_period(last).unwrap());
        services.insert(last, 2).unwrap();
        assert_eq!(data_path_finds(&services, last), Some(2));
    }

    #[test]
    fn a_thousand_vips_find_their_places() {
        let mut services = empty();
        for number in 0..2048 {
            services.insert(&key(number), number.into()).unwrap();
        }
        for number in 0..2048 {
            assert_eq!(services.get(&key(number)).unwrap(), Some(number.into()));
            assert!(services.remove(&key(number)).unwrap());
        }
        assert!(
            services.table.words().iter().enumerate().all(|(at, word)| {
                let word = word.load(std::sync::atomic::Ordering::Relaxed);
                at % 4 != 2 || word == FREE
            }),
            "removed entries are swept when nothing is behind them"
        );
    }
}

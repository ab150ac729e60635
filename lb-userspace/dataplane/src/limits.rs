//! Rate limits of VIPs, and the lists of exempt and denied sources.

use std::{collections::BTreeMap, fmt, ops::Range, os::fd::AsFd as _};

use aya::maps::{Map, MapData, MapError, PerCpuArray, PerCpuValues, lpm_trie};
use lb_common::{
    address_of, ip_of,
    limit::{
        AREA_WORDS, AREAS, Cell, Kind, LIST_FAMILY_BITS, Limit, LimitCounters, LimitedKey, Line,
        ListKey, MAX_LIMITED, area_of, list_key,
    },
};
use lb_model::config::Prefix;

use super::{
    Mapped,
    catalog::name,
    error::{DataplaneError, PRIVILEGE_HINT, Result, os_error},
    maps::mapped_from,
    syscalls,
};

const FULL_HINT: &str = "all lists together have room for four million prefixes, and during a change for those \
     before and after it: shorten some, or change one list after another";

/// [`LimitCounters`] as aya takes it.
type Words = [u64; size_of::<LimitCounters>() / 8];

/// Prefixes with the lists that contain them, a bit for each: what the trie is made of.
pub type ListedPrefixes = BTreeMap<Prefix, u64>;

pub struct Limits {
    table: Mapped<Limit>,
    cells: Mapped<Line>,
    vips: Mapped<Line>,
    counters: PerCpuArray<MapData, Words>,
    prefixes: lpm_trie::LpmTrie<MapData, ListKey, u64>,
    /// What [`Self::prefixes`] holds.
    listed: ListedPrefixes,
    areas: Mapped<u64>,
    limited: MapData,
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits").finish_non_exhaustive()
    }
}

impl Limits {
    /// The maps of limits; `open` gets each by its name.
    pub(super) fn of(mut open: impl FnMut(&'static str) -> Result<Map>) -> Result<Self> {
        let typed =
            |name, error: MapError| DataplaneError::map("open", name, &error, PRIVILEGE_HINT);
        let prefixes = open(name::PREFIXES)?;
        let prefixes = lpm_trie::LpmTrie::try_from(prefixes);
        let prefixes = prefixes.map_err(|error| typed(name::PREFIXES, error))?;
        let counters = PerCpuArray::try_from(open(name::LIMIT_COUNTERS)?);
        let Map::LruHashMap(limited) = open(name::LIMITED)? else {
            return Err(DataplaneError::Missing {
                kind: "LRU hash map",
                name: name::LIMITED,
            });
        };
        Ok(Self {
            table: mapped_from(name::LIMITS, &open(name::LIMITS)?)?,
            cells: mapped_from(name::LIMIT_CELLS, &open(name::LIMIT_CELLS)?)?,
            vips: mapped_from(name::LIMIT_VIPS, &open(name::LIMIT_VIPS)?)?,
            counters: counters.map_err(|error| typed(name::LIMIT_COUNTERS, error))?,
            listed: read_listed(&prefixes)?,
            prefixes,
            areas: mapped_from(name::DENIED_AREAS, &open(name::DENIED_AREAS)?)?,
            limited,
        })
    }

    pub fn read(&self, vip: u16) -> Result<Limit> {
        self.table.read(vip.into())
    }

    /// Writes the limits of a VIP word by word.
    pub fn write(&self, vip: u16, limit: &Limit) -> Result<()> {
        self.table.write(vip.into(), limit)
    }

    /// The cells of a line of the table of sources.
    pub fn cells(&self, line: u32) -> Result<Line> {
        self.cells.read(line)
    }

    /// How far a limit of a VIP is used up.
    pub fn vip_cell(&self, vip: u16, kind: Kind) -> Result<Cell> {
        let at = kind as usize * size_of::<u64>();
        Ok(Cell(self.vips.load_word(vip.into(), at)?))
    }

    /// The counters of a VIP, of all CPUs together.
    pub fn counters(&self, vip: u16) -> Result<LimitCounters> {
        let failed =
            |error| DataplaneError::map("read", name::LIMIT_COUNTERS, &error, PRIVILEGE_HINT);
        let cpus = self.counters.get(&vip.into(), 0).map_err(failed)?;
        let mut sum: Words = [0; _];
        for words in cpus.iter() {
            for (sum, word) in sum.iter_mut().zip(words) {
                *sum = sum.wrapping_add(*word);
            }
        }
        let mut sum: LimitCounters = bytemuck::cast(sum);
        // No counter: it goes down too.
        sum.drawn = 0;
        Ok(sum)
    }

    /// Makes the limits of the VIP as a whole unused: its full bursts are admitted.
    pub fn refill(&self, vip: u16) -> Result<()> {
        self.vips.write(vip.into(), &Line::default())
    }

    /// Resets the counters of a VIP whose index belonged to another one before.
    pub fn reset(&mut self, vip: u16) -> Result<()> {
        let failed =
            |error| DataplaneError::map("write", name::LIMIT_COUNTERS, &error, PRIVILEGE_HINT);
        let cpus = self.counters.get(&vip.into(), 0).map_err(failed)?;
        let zeros = PerCpuValues::try_from(vec![Words::default(); cpus.len()])
            .map_err(|error| failed(error.into()))?;
        self.counters.set(vip.into(), zeros, 0).map_err(failed)
    }

    /// Sources that were over a limit lately, with the packets recorded of each.
    pub fn limited(&self) -> Result<Vec<(LimitedKey, u64)>> {
        let read = syscalls::read_hash(self.limited.fd().as_fd(), MAX_LIMITED as usize);
        read.map_err(|error| DataplaneError::Map {
            operation: "read",
            map: name::LIMITED.to_owned(),
            kernel: error.to_string(),
            hint: PRIVILEGE_HINT,
        })
    }

    /// The prefixes in the trie.
    #[must_use]
    pub const fn listed(&self) -> &ListedPrefixes {
        &self.listed
    }

    /// Makes the trie hold these prefixes, and marks the areas of those in one of the lists `denying`.
    /// Each address moves once from the lists that it was in to those that it is in.
    pub fn set_lists(&mut self, wanted: &ListedPrefixes, denying: u64) -> Result<()> {
        let denied = wanted.iter().filter(|(_, lists)| *lists & denying != 0);
        let marks = marks_of(denied.map(|(prefix, _)| prefix));
        // Before a prefix is there, its area is marked, and afterwards still.
        self.mark(|word, mark| word | mark, &marks)?;
        let failed = |error: MapError| {
            let is_full = os_error(&error) == Some(libc::ENOSPC);
            let hint = if is_full { FULL_HINT } else { PRIVILEGE_HINT };
            DataplaneError::map("write", name::PREFIXES, &error, hint)
        };
        for (prefix, lists) in wanted {
            if self.listed.get(prefix) != Some(lists) {
                let key = key_of(prefix);
                self.prefixes.insert(&key, *lists, 0).map_err(failed)?;
                self.listed.insert(*prefix, *lists);
            }
        }
        let is_gone = |prefix: &&Prefix| !wanted.contains_key(prefix);
        let gone: Vec<Prefix> = self.listed.keys().filter(is_gone).copied().collect();
        for prefix in gone {
            self.prefixes.remove(&key_of(&prefix)).map_err(failed)?;
            self.listed.remove(&prefix);
        }
        self.mark(|_, mark| mark, &marks)
    }

    fn mark(&self, word: impl Fn(u64, u64) -> u64, marks: &[u64]) -> Result<()> {
        for (index, mark) in (0..).zip(marks) {
            let now = self.areas.load_word(index, 0)?;
            self.areas.store_word(index, 0, word(now, *mark))?;
        }
        Ok(())
    }
}

/// Reads the trie.
fn read_listed(prefixes: &lpm_trie::LpmTrie<MapData, ListKey, u64>) -> Result<ListedPrefixes> {
    let failed = |error| DataplaneError::map("read", name::PREFIXES, &error, PRIVILEGE_HINT);
    let mut listed = ListedPrefixes::new();
    for entry in prefixes.iter() {
        let (key, lists) = entry.map_err(failed)?;
        let prefix = prefix_of(key.prefix_len(), &key.data());
        listed.extend(prefix.map(|prefix| (prefix, lists)));
    }
    Ok(listed)
}

/// Words with the bits of the areas that these prefixes touch.
fn marks_of<'a>(prefixes: impl Iterator<Item = &'a Prefix>) -> Vec<u64> {
    let mut words = vec![0_u64; AREA_WORDS as usize];
    for prefix in prefixes {
        for area in areas_of(prefix) {
            words[area as usize / 64] |= 1 << (area % 64);
        }
    }
    words
}

/// All areas with addresses of a prefix.
fn areas_of(prefix: &Prefix) -> Range<u32> {
    let (address, family) = address_of(prefix.address());
    let first = area_of(&address, family);
    let bits = if prefix.address().is_ipv4() { 16 } else { 32 };
    let missing = u32::from(bits - prefix.length().min(bits));
    let is_v6 = !prefix.address().is_ipv4();
    // The areas of IPv6 are hashes: those of many /32s are nearly all there are.
    match (is_v6, missing) {
        (_, 0) => first..first + 1,
        (false, missing) => first..first + (1 << missing),
        (true, _) => AREAS / 2..AREAS,
    }
}

fn key_of(prefix: &Prefix) -> lpm_trie::Key<ListKey> {
    let (address, family) = address_of(prefix.address());
    let bits = LIST_FAMILY_BITS + u32::from(prefix.length());
    lpm_trie::Key::new(bits, list_key(&address, family))
}

/// The prefix of a key; none if it is of no address family.
fn prefix_of(bits: u32, key: &ListKey) -> Option<Prefix> {
    let length = bits.checked_sub(LIST_FAMILY_BITS)?;
    let word = |at: usize| Some(u64::from_ne_bytes(key.get(at..at + 8)?.try_into().ok()?));
    let address = ip_of(&[word(1)?, word(9)?], key[0]);
    Some(Prefix::containing(address, length as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str, length: u8) -> Prefix {
        Prefix::containing(text.parse().unwrap(), length)
    }

    #[test]
    fn keys_name_their_prefixes() {
        for prefix in [
            prefix("192.0.2.0", 24),
            prefix("0.0.0.0", 0),
            prefix("2001:db8::", 33),
            prefix("::", 0),
            prefix("2001:db8::1", 128),
        ] {
            let key = key_of(&prefix);
            assert_eq!(prefix_of(key.prefix_len(), &key.data()), Some(prefix));
        }
    }

    #[test]
    fn every_address_of_a_prefix_is_in_a_marked_area() {
        for (text, length, inside) in [
            ("192.0.2.0", 24, "192.0.2.255"),
            ("10.0.0.0", 8, "10.255.255.255"),
            ("0.0.0.0", 0, "203.0.113.9"),
            ("198.18.0.0", 15, "198.19.0.1"),
            ("2001:db8::", 32, "2001:db8:ffff::1"),
            ("2001:db8::", 48, "2001:db8:0:ffff::1"),
            ("2001:d00::", 24, "2001:db8::1"),
            ("::", 0, "2001:db8::1"),
        ] {
            let (address, family) = address_of(inside.parse().unwrap());
            let area = area_of(&address, family);
            let mut areas = areas_of(&prefix(text, length));
            assert!(areas.any(|marked| marked == area), "{text}/{length}");
        }
        // An IPv4 prefix does not touch the areas of IPv6.
        assert!(areas_of(&prefix("0.0.0.0", 0)).all(|area| area < AREAS / 2));
    }
}

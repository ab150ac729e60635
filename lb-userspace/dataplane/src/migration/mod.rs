//! Migrates pinned maps of an earlier layout.
//!
//! While the old program forwards, new maps are pinned in the folder `next`, and the new program is
//! loaded with them. Then elements of the old maps are converted, again and again until few of them
//! change meanwhile; the folder takes the place of `maps`, and the program that of the old one in its
//! links. What the old program wrote in the last milliseconds is lost: a flow that began then begins
//! again.
//!
//! The old maps stay in the folder `previous` until all of that is done. If this process ends in
//! between, the next start undoes it ([`recover`]).

mod layout_5;

use std::{fs, sync::atomic::Ordering};

use aya::maps::{MapData, MapType};
use lb_common::ABI_VERSION;

use super::{
    Dataplane, attach,
    catalog::MapSpec,
    error::{DataplaneError, MISMATCH_HINT, PRIVILEGE_HINT, Result, chain},
    mapping::Mapped,
    pins::{Pins, failed},
};

/// The layout before this one, which can be migrated.
pub(super) const PREVIOUS_LAYOUT: u32 = 5;
const _: () = assert!(
    ABI_VERSION == PREVIOUS_LAYOUT + 1,
    "write the migration of the new layout"
);

/// Rounds of copying, at most: the last ones find what changed in a few milliseconds.
const ROUNDS: u32 = 4;

/// What becomes of a map.
#[derive(Clone, Copy)]
enum Fate {
    /// It is kept: the layout of its elements is the same.
    Kept,
    /// A new, empty one takes its place: nothing in it is needed for long.
    Emptied,
    /// Each element of a new one is made of the old element with the same index. Elements have the old
    /// size in words, and the new one.
    Converted(usize, usize, fn(&[u64], &mut [u64])),
}

/// A map that is converted.
struct Conversion {
    old: Mapped<u64>,
    new: Mapped<u64>,
    sizes: (usize, usize),
    convert: fn(&[u64], &mut [u64]),
    /// The old words that were converted.
    done: Vec<u64>,
}

pub(super) struct Migration<'a> {
    pins: &'a Pins,
    conversions: Vec<Conversion>,
}

impl<'a> Migration<'a> {
    /// Creates the maps of a data path with these `maps` in the folder `next` and converts all elements.
    pub(super) fn begin(pins: &'a Pins, maps: &[MapSpec]) -> Result<Self> {
        let next = pins.next();
        fs::create_dir_all(&next)
            .map_err(|error| failed("create", &next, &error, PRIVILEGE_HINT))?;
        let mut conversions = Vec::new();
        for map in maps {
            let new = match layout_5::fate(map.name) {
                Fate::Kept => {
                    let old = open(pins, map)?;
                    map.check(&pins.maps().join(map.name).display().to_string(), &old)?;
                    old
                }
                Fate::Emptied => map.create()?,
                Fate::Converted(old_size, new_size, convert) => {
                    let old = open(pins, map)?;
                    let expected = MapSpec {
                        kind: MapType::Array,
                        value_size: (old_size * size_of::<u64>()) as u32,
                        ..map.clone()
                    };
                    expected.check(&pins.maps().join(map.name).display().to_string(), &old)?;
                    let new = map.create()?;
                    let (len, sizes) = (map.max_entries, (old_size, new_size));
                    conversions.push(Conversion {
                        old: Mapped::of(map.name, old.fd(), 0, len * old_size as u32)?,
                        new: Mapped::of(map.name, new.fd(), 0, len * new_size as u32)?,
                        sizes,
                        convert,
                        done: Vec::new(),
                    });
                    new
                }
            };
            let path = next.join(map.name);
            new.pin(&path).map_err(|error| DataplaneError::Pin {
                operation: "pin",
                kernel: chain(&error),
                path,
                hint: PRIVILEGE_HINT,
            })?;
        }
        let mut migration = Self { pins, conversions };
        migration.convert();
        Ok(migration)
    }

    /// Converts what changed since the last time; returns how many elements.
    fn convert(&mut self) -> usize {
        self.conversions.iter_mut().map(Conversion::convert).sum()
    }

    /// Makes the new maps those of the node, and attaches the program that uses them.
    pub(super) fn finish(mut self, dataplane: &mut Dataplane) -> Result<()> {
        for _ in 0..ROUNDS {
            if self.convert() == 0 {
                break;
            }
        }
        let pins = self.pins;
        pins.rename(&pins.maps(), &pins.previous())?;
        pins.rename(&pins.next(), &pins.maps())?;
        pins.set_version(ABI_VERSION)?;
        // The old layout has no stations, and the new program forwards only frames for one.
        for interface in pins.interfaces()? {
            if let Ok(ifindex) = nix::net::if_::if_nametoindex(&*interface) {
                dataplane.stations.accept_own(&interface, ifindex)?;
            }
        }
        // A link whose interface is gone can't be changed; whoever attaches next replaces it.
        let replaced = attach::replace_all(dataplane.balancer.xdp_mut()?, pins);
        pins.remove_previous()?;
        replaced
    }
}

impl Conversion {
    fn convert(&mut self) -> usize {
        let (old_size, new_size) = self.sizes;
        let is_first = self.done.is_empty();
        self.done.resize(self.old.words().len(), 0);
        let old = self.old.words().chunks_exact(old_size);
        let new = self.new.words().chunks_exact(new_size);
        let done = self.done.chunks_exact_mut(old_size);
        let mut converted = 0;
        let mut element = vec![0; new_size];
        for ((old, new), done) in old.zip(new).zip(done) {
            let is_same = old
                .iter()
                .zip(&*done)
                .all(|(word, done)| word.load(Ordering::Acquire) == *done);
            if is_same && !is_first {
                continue;
            }
            for (word, done) in old.iter().zip(&mut *done) {
                *done = word.load(Ordering::Acquire);
            }
            element.fill(0);
            (self.convert)(done, &mut element);
            for (word, value) in new.iter().zip(&element) {
                word.store(*value, Ordering::Release);
            }
            converted += 1;
        }
        converted
    }
}

fn open(pins: &Pins, map: &MapSpec) -> Result<MapData> {
    let path = pins.maps().join(map.name);
    MapData::from_pin(&path).map_err(|error| DataplaneError::Pin {
        operation: "open pinned map",
        kernel: chain(&error),
        path,
        hint: MISMATCH_HINT,
    })
}

/// Completes or undoes a migration that was interrupted.
pub(super) fn recover(pins: &Pins) -> Result<()> {
    if pins.previous().exists() {
        if pins.version()? == ABI_VERSION {
            return pins.remove_previous();
        }
        pins.remove_maps()?;
        pins.rename(&pins.previous(), &pins.maps())?;
    }
    pins.remove_next()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `deploy/debian/preinst` lets through what this crate adopts or migrates.
    #[test]
    fn the_package_knows_the_layouts() {
        let script = include_str!("../../../../deploy/debian/preinst");
        let layouts = format!("LAYOUTS=\"{PREVIOUS_LAYOUT} {ABI_VERSION}\"\n");
        assert!(script.contains(&layouts), "{layouts}");
    }

    #[test]
    fn converts_what_changed() {
        fn doubled(old: &[u64], new: &mut [u64]) {
            (new[0], new[1]) = (2 * old[0], 1);
        }
        let mut conversion = Conversion {
            old: Mapped::anonymous("old", 8).unwrap(),
            new: Mapped::anonymous("new", 16).unwrap(),
            sizes: (1, 2),
            convert: doubled,
            done: Vec::new(),
        };
        for (number, word) in (1..).zip(conversion.old.words()) {
            word.store(number, Ordering::Relaxed);
        }
        assert_eq!(conversion.convert(), 8);
        assert_eq!(conversion.convert(), 0);
        conversion.old.words()[3].store(50, Ordering::Relaxed);
        assert_eq!(conversion.convert(), 1);
        let new: Vec<u64> = conversion
            .new
            .words()
            .iter()
            .map(|w| w.load(Ordering::Relaxed))
            .collect();
        assert_eq!(new[..8], [2, 1, 4, 1, 6, 1, 100, 1]);
    }
}

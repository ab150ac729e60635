//! Opens maps: those of an object, and pinned ones.

use std::path::Path;

use aya::{
    Ebpf,
    maps::{Map, MapData, MapError},
    pin::PinError,
};
use bytemuck::Pod;

use super::{
    Mapped,
    catalog::{MapSpec, Part},
    error::{self, DataplaneError, PRIVILEGE_HINT, Result},
    external::ExternalMaps,
};

/// Takes a map out of the object.
pub(super) fn take_any(ebpf: &mut Ebpf, name: &'static str) -> Result<Map> {
    ebpf.take_map(name)
        .ok_or(DataplaneError::Missing { kind: "map", name })
}

/// Takes a map out of the object as aya's type for it.
pub(super) fn take<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T> {
    T::try_from(take_any(ebpf, name)?)
        .map_err(|error| DataplaneError::map("open", name, &error, PRIVILEGE_HINT))
}

/// Takes an LRU hash map out of the object, untyped.
pub(super) fn take_data(ebpf: &mut Ebpf, name: &'static str) -> Result<MapData> {
    match ebpf.take_map(name) {
        Some(Map::LruHashMap(data)) => Ok(data),
        _ => Err(DataplaneError::Missing {
            kind: "LRU hash map",
            name,
        }),
    }
}

/// Maps an array into memory.
pub(super) fn mapped<T: Pod>(ebpf: &mut Ebpf, name: &'static str) -> Result<Mapped<T>> {
    mapped_from(name, &take_any(ebpf, name)?)
}

/// Maps a table of fixed size into memory. `tables` must have been checked against the catalog.
pub(super) fn part_of<T: Pod>(tables: &MapData, part: &Part<T>) -> Result<Mapped<T>> {
    Mapped::of(part.name, tables.fd(), part.offset, part.len)
}

/// Maps an open array map into memory.
pub(super) fn mapped_from<T: Pod>(name: &'static str, map: &Map) -> Result<Mapped<T>> {
    let data = data_of(map).ok_or(DataplaneError::Missing {
        kind: "array map",
        name,
    })?;
    let info = data
        .info()
        .map_err(|error| DataplaneError::map("describe", name, &error, PRIVILEGE_HINT))?;
    let (element, size) = (info.value_size(), size_of::<T>() as u32);
    if !element.is_multiple_of(size) {
        return Err(DataplaneError::Incompatible {
            map: name.to_owned(),
            what: "value size",
            has: element.to_string(),
            needs: format!("a multiple of {size}"),
            hint: "build controller and eBPF object from the same sources",
        });
    }
    Mapped::of(name, data.fd(), 0, info.max_entries() * (element / size))
}

/// The untyped data of a map.
pub(super) const fn data_of(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::ArrayOfMaps(data)
        | Map::DevMapHash(data)
        | Map::HashMap(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data) => Some(data),
        _ => None,
    }
}

pub(super) fn check_maps(ebpf: &Ebpf, maps: &[MapSpec]) -> Result<()> {
    for spec in maps {
        let missing = DataplaneError::Missing {
            kind: "map",
            name: spec.name,
        };
        let data = ebpf.map(spec.name).and_then(data_of).ok_or(missing)?;
        spec.check(spec.name, data)?;
    }
    Ok(())
}

pub(super) fn pin_maps(
    ebpf: &Ebpf,
    external: &ExternalMaps,
    folder: &Path,
    maps: &[MapSpec],
) -> Result<()> {
    let pin = |name, pin: &dyn Fn(&Path) -> std::result::Result<(), PinError>| {
        let path = folder.join(name);
        pin(&path).map_err(|error| DataplaneError::Pin {
            operation: "pin",
            path,
            kernel: error::chain(&error),
            hint: PRIVILEGE_HINT,
        })
    };
    for (spec, map) in external.iter() {
        pin(spec.name, &|path| map.pin(path))?;
    }
    for spec in maps {
        let missing = DataplaneError::Missing {
            kind: "map",
            name: spec.name,
        };
        let map = ebpf.map(spec.name).ok_or(missing)?;
        pin(spec.name, &|path| map.pin(path))?;
    }
    Ok(())
}

/// Whether an error means that there is no such entry.
pub(super) fn is_missing(error: &MapError) -> bool {
    matches!(error, MapError::KeyNotFound | MapError::ElementNotFound)
        || error::os_error(error) == Some(libc::ENOENT)
}

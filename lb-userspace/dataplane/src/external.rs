//! Maps that programs access as global data.
//!
//! An instruction that loads the address of a symbol can refer to a map and an offset in its only
//! element (`BPF_PSEUDO_MAP_VALUE`, Linux 5.2), which saves the lookup. aya does so for an object's
//! sections (`.bss`, `.data`), but those maps can't be mmapped, and loading an object overwrites
//! them. So the symbols of these maps are undefined in our objects, which aya leaves alone, and this
//! module links them.

use std::{
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use aya::maps::MapData;
use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionKind,
    elf::FileHeader64, read::elf::ElfFile,
};

use super::{
    catalog::{MapSpec, name, part},
    error::{DataplaneError, MISMATCH_HINT, Result},
};

/// Size of an instruction in bytes; an address load takes two.
const INSTRUCTION: usize = 8;
/// Opcode of a 64-bit immediate load (`BPF_LD | BPF_DW | BPF_IMM`).
const LOAD_ADDRESS: u8 = 0x18;
/// Source register of a load of an address in a map (`BPF_PSEUDO_MAP_VALUE`).
const MAP_VALUE: u8 = 2;

const LINK_HINT: &str = "build controller and eBPF object from the same sources";

/// The maps. They must stay open until the program is loaded.
#[derive(Debug)]
pub(super) struct ExternalMaps(Vec<(MapSpec, MapData)>);

impl ExternalMaps {
    pub(super) fn create(specs: impl IntoIterator<Item = MapSpec>) -> Result<Self> {
        let create = |spec: MapSpec| {
            let map = spec.create()?;
            Ok((spec, map))
        };
        specs
            .into_iter()
            .map(create)
            .collect::<Result<_>>()
            .map(Self)
    }

    /// Opens the maps pinned in a folder and checks them.
    pub(super) fn open(specs: impl IntoIterator<Item = MapSpec>, folder: &Path) -> Result<Self> {
        let open = |spec: MapSpec| {
            let path = folder.join(spec.name);
            let map = MapData::from_pin(&path).map_err(|error| {
                DataplaneError::map("open pinned", spec.name, &error, MISMATCH_HINT)
            })?;
            spec.check(&path.display().to_string(), &map)?;
            Ok((spec, map))
        };
        specs.into_iter().map(open).collect::<Result<_>>().map(Self)
    }

    /// These and others.
    pub(super) fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    pub(super) fn get(&self, name: &'static str) -> Result<&MapData> {
        self.find(name)
            .ok_or(DataplaneError::Missing { kind: "map", name })
    }

    /// Number of CPUs with counters.
    pub(super) fn cpus(&self) -> Result<u32> {
        let counters = self.0.iter().find(|(spec, _)| spec.name == name::COUNTERS);
        let missing = DataplaneError::Missing {
            kind: "map",
            name: name::COUNTERS,
        };
        Ok(counters.ok_or(missing)?.0.places() as u32)
    }

    fn find(&self, name: &str) -> Option<&MapData> {
        let (_, map) = self.0.iter().find(|(spec, _)| spec.name == name)?;
        Some(map)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&MapSpec, &MapData)> {
        self.0.iter().map(|(spec, map)| (spec, map))
    }

    /// Links the undefined symbols of an object to the maps of the same names, or to the parts of
    /// [`name::TABLES`].
    pub(super) fn link(&self, object: &[u8]) -> Result<LinkedObject> {
        let mut linked = LinkedObject::copy(object);
        for (at, map, offset) in self.places(object).map_err(|error| link_error(&error))? {
            linked.patch(at, map.fd().as_fd().as_raw_fd(), offset)?;
        }
        Ok(linked)
    }

    /// Offsets of the instructions that load an address in a map, with the map and the symbol's offset
    /// in it.
    fn places(
        &self,
        object: &[u8],
    ) -> std::result::Result<Vec<(usize, &MapData, usize)>, object::Error> {
        let file = ElfFile::<FileHeader64<object::Endianness>>::parse(object)?;
        let mut places = Vec::new();
        for section in file
            .sections()
            .filter(|section| section.kind() == SectionKind::Text)
        {
            let begin = section.file_range().map_or(0, |(begin, _)| begin);
            for (offset, relocation) in section.relocations() {
                let RelocationTarget::Symbol(index) = relocation.target() else {
                    continue;
                };
                let symbol = file.symbol_by_index(index)?;
                let of_part = part::offset_of_symbol(symbol.name()?);
                let (map, at) = of_part.map_or((symbol.name()?, 0), |at| (name::TABLES, at));
                if symbol.is_undefined()
                    && let Some(map) = self.find(map)
                {
                    places.push(((begin + offset) as usize, map, at));
                }
            }
        }
        Ok(places)
    }
}

/// A linked object, aligned as the loader needs it.
#[derive(Debug)]
pub(super) struct LinkedObject {
    words: Vec<u64>,
    bytes: usize,
}

impl LinkedObject {
    fn copy(object: &[u8]) -> Self {
        let bytes = object.len();
        let mut words = vec![0; bytes.div_ceil(size_of::<u64>())];
        bytemuck::cast_slice_mut(&mut words)[..bytes].copy_from_slice(object);
        Self { words, bytes }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.bytes]
    }

    /// Turns the instruction at an offset into a load of an address in a map. Its current immediate is
    /// the offset from the symbol, which is at `symbol` in the map.
    fn patch(&mut self, at: usize, map: i32, symbol: usize) -> Result<()> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.words);
        let both = bytes.get_mut(at..at + 2 * INSTRUCTION);
        let Some([operation, registers, _, _, number @ ..]) = both else {
            return Err(link_error(&format!("no instruction at {at:#x}")));
        };
        if *operation != LOAD_ADDRESS {
            return Err(link_error(&format!(
                "instruction {operation:#x} at {at:#x} is not an address load"
            )));
        }
        *registers = *registers & 0xf | MAP_VALUE << 4;
        let mut addend = [0; 4];
        addend.copy_from_slice(&number[..4]);
        let offset = u32::from_ne_bytes(addend) + symbol as u32;
        number[INSTRUCTION..][..4].copy_from_slice(&offset.to_ne_bytes());
        number[..4].copy_from_slice(&map.to_ne_bytes());
        Ok(())
    }
}

fn link_error(error: &dyn std::fmt::Display) -> DataplaneError {
    DataplaneError::Load {
        kernel: format!("link its maps: {error}"),
        hint: LINK_HINT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_an_address_load() {
        // r8 = 0x80000 ll
        let mut object = vec![0; 3 * INSTRUCTION];
        object[8..16].copy_from_slice(&[0x18, 0x08, 0, 0, 0, 0, 8, 0]);
        let mut linked = LinkedObject::copy(&object);
        linked.patch(8, 7, 0x30).unwrap();
        object[8..24].copy_from_slice(&[0x18, 0x28, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0x30, 0, 8, 0]);
        assert_eq!(linked.bytes(), object);
    }

    #[test]
    fn rejects_other_instructions() {
        let object = [0xb7; 3 * INSTRUCTION];
        for at in [0, 8, 16, 400] {
            let mut linked = LinkedObject::copy(&object);
            linked.patch(at, 7, 0).unwrap_err();
            assert_eq!(linked.bytes(), object);
        }
    }

    #[test]
    fn rejects_invalid_objects() {
        let maps = ExternalMaps(Vec::new());
        for object in [&[][..], b"\x7fELF", &[0; 100]] {
            let error = maps.link(object).unwrap_err().to_string();
            assert!(error.contains("link its maps"), "{error}");
        }
    }
}

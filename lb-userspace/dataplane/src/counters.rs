//! Counters: the data path writes one block per CPU; reading adds the blocks up.

use std::{
    mem::offset_of,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::{
    maps::{MapData, PerCpuArray},
    util::nr_cpus,
};
use bytemuck::{Pod, Zeroable as _};
use lb_common::{
    counters::{CpuBlock, MemberCounters, NodeCounters, VipCounters},
    ring::{MAX_MEMBERS, MemberIndex},
    trace::Trace,
    vip::MAX_VIPS,
};

use super::{
    catalog::name,
    error::{DataplaneError, PRIVILEGE_HINT, Result},
    mapping::{Mapped, Plain},
};

/// Length of a CPU's block in words.
const BLOCK: usize = size_of::<CpuBlock>() / size_of::<u64>();

#[derive(Debug)]
pub struct Counters {
    words: Mapped<u64>,
}

/// The number of CPUs that the machine may have.
pub(super) fn possible_cpus() -> Result<u32> {
    let cpus = nr_cpus().map_err(|(file, error)| DataplaneError::Map {
        operation: "count the CPUs",
        map: name::COUNTERS.to_owned(),
        kernel: format!("{file}: {error}"),
        hint: "/sys must be mounted",
    })?;
    Ok(cpus as u32)
}

impl Counters {
    pub(super) fn of(map: &MapData) -> Result<Self> {
        let info = map.info().map_err(|error| {
            DataplaneError::map("describe", name::COUNTERS, &error, PRIVILEGE_HINT)
        })?;
        let words = info.value_size() / size_of::<u64>() as u32;
        Ok(Self {
            words: Mapped::of(name::COUNTERS, map.fd(), 0, words)?,
        })
    }

    /// Number of CPUs with counters.
    pub(super) fn cpus(&self) -> u32 {
        self.words.len() / BLOCK as u32
    }

    pub fn member(&self, member: MemberIndex) -> Result<MemberCounters> {
        self.sum(&MEMBERS, member.into())
    }

    /// Resets the counters of a member whose index belonged to another one before.
    pub fn reset_member(&mut self, member: MemberIndex) -> Result<()> {
        self.reset(&MEMBERS, member.into())
    }

    pub fn vip(&self, vip: u16) -> Result<VipCounters> {
        self.sum(&VIPS, vip.into())
    }

    /// Resets the counters of a VIP whose index belonged to another one before.
    pub fn reset_vip(&mut self, vip: u16) -> Result<()> {
        self.reset(&VIPS, vip.into())
    }

    /// Clears the traces of all CPUs.
    pub(super) fn clear_traces(&self) -> Result<()> {
        let empty = Trace::EMPTY;
        for block in self.words.words().chunks_exact(BLOCK) {
            let words = bytemuck::cast_slice::<_, u64>(std::slice::from_ref(&empty));
            for (to, from) in TRACE.entry::<Trace>(block, 0)?.iter().zip(words) {
                to.store(*from, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// The trace of the last packet on a CPU.
    pub(super) fn trace(&self, cpu: usize) -> Result<Trace> {
        let mut trace = Trace::zeroed();
        let blocks = self.words.words().chunks_exact(BLOCK);
        for block in blocks.skip(cpu).take(1) {
            add(&mut trace, TRACE.entry::<Trace>(block, 0)?);
        }
        Ok(trace)
    }

    pub fn node(&self) -> Result<NodeCounters> {
        self.sum(&NODE, 0)
    }

    fn sum<T: Pod>(&self, part: &Part, index: u32) -> Result<T> {
        let mut total = T::zeroed();
        for block in self.words.words().chunks_exact(BLOCK) {
            add(&mut total, part.entry::<T>(block, index)?);
        }
        Ok(total)
    }

    fn reset(&self, part: &Part, index: u32) -> Result<()> {
        for block in self.words.words().chunks_exact(BLOCK) {
            for word in part.entry::<MemberCounters>(block, index)? {
                word.store(0, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

/// A part of a CPU's block.
struct Part {
    name: &'static str,
    /// Offset in bytes.
    offset: usize,
    len: u32,
}

const NODE: Part = Part {
    name: "node counters",
    offset: offset_of!(CpuBlock, node),
    len: 1,
};
const VIPS: Part = Part {
    name: "VIP counters",
    offset: offset_of!(CpuBlock, vips),
    len: MAX_VIPS,
};
const MEMBERS: Part = Part {
    name: "member counters",
    offset: offset_of!(CpuBlock, members),
    len: MAX_MEMBERS,
};
const TRACE: Part = Part {
    name: "traces",
    offset: offset_of!(CpuBlock, trace),
    len: 1,
};
const _: () = assert!(size_of::<VipCounters>() == size_of::<MemberCounters>());

impl Part {
    fn entry<'a, T: Pod>(&self, block: &'a [AtomicU64], index: u32) -> Result<&'a [AtomicU64]> {
        let words = size_of::<T>() / size_of::<u64>();
        let begin = self.offset / size_of::<u64>() + index as usize * words;
        let entry = block.get(begin..begin + words).filter(|_| index < self.len);
        entry.ok_or(DataplaneError::OutOfRange {
            table: self.name,
            index,
            len: self.len,
        })
    }
}

/// Sum of an entry over all CPUs.
pub(super) fn sum<T: Pod>(
    map: &PerCpuArray<MapData, Plain<T>>,
    name: &'static str,
    index: u32,
) -> Result<T> {
    let values = map
        .get(&index, 0)
        .map_err(|error| DataplaneError::map("read", name, &error, PRIVILEGE_HINT))?;
    let mut total = T::zeroed();
    for value in values.iter() {
        let words: &[u64] = bytemuck::cast_slice(std::slice::from_ref(&value.0));
        add_words(&mut total, words.iter().copied());
    }
    Ok(total)
}

fn add<T: Pod>(total: &mut T, words: &[AtomicU64]) {
    add_words(total, words.iter().map(|word| word.load(Ordering::Relaxed)));
}

/// Adds word by word: counters consist of 64-bit words only.
fn add_words<T: Pod>(total: &mut T, words: impl Iterator<Item = u64>) {
    const { assert!(align_of::<T>() == align_of::<u64>()) };
    let totals: &mut [u64] = bytemuck::cast_slice_mut(std::slice::from_mut(total));
    for (total, word) in totals.iter_mut().zip(words) {
        *total = total.wrapping_add(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_each_counter_over_all_cpus() {
        let cpus = 3;
        let words = Mapped::anonymous("TEST", (cpus * BLOCK) as u32).unwrap();
        let mut counters = Counters { words };
        for cpu in 0..cpus {
            let store = |offset: usize, value| {
                let word = (cpu * size_of::<CpuBlock>() + offset) / size_of::<u64>();
                counters.words.words()[word].store(value, Ordering::Relaxed);
            };
            let cpu = cpu as u64 + 1;
            store(8 * 63, cpu);
            store(
                VIPS.offset + 64 * 1023 + offset_of!(VipCounters, nat_reused),
                10 * cpu,
            );
            store(
                MEMBERS.offset + 64 * 4095 + offset_of!(MemberCounters, bytes),
                100 * cpu,
            );
            store(MEMBERS.offset + 64 * 4094, 1000 * cpu);
        }
        assert_eq!(counters.node().unwrap().reasons[63], 6);
        assert_eq!(counters.vip(1023).unwrap().nat_reused, 60);
        assert_eq!(counters.member(4095).unwrap().bytes, 600);
        assert_eq!(counters.member(4095).unwrap().packets, 0);

        counters.reset_member(4095).unwrap();
        counters.reset_vip(1023).unwrap();
        assert_eq!(counters.member(4095).unwrap().bytes, 0);
        assert_eq!(counters.vip(1023).unwrap().nat_reused, 0);
        assert_eq!(counters.member(4094).unwrap().packets, 6000);

        let error = counters.member(4096).unwrap_err().to_string();
        assert!(
            error.contains("index 4096") && error.contains("member counters"),
            "{error}"
        );
        assert!(counters.reset_vip(1024).is_err());
    }
}

//! Counters: kept per CPU by the data path, added up here.

use aya::{
    maps::{MapData, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use bytemuck::Pod;
use lb_common::{
    counters::{MemberCounters, NodeCounters, VipCounters},
    ring::MemberIndex,
};

use super::{
    catalog::name,
    error::{DataplaneError, PRIVILEGE_HINT, Result},
    mapping::Plain,
};

/// All counters of the data path.
pub struct Counters {
    pub(super) members: PerCpuArray<MapData, Plain<MemberCounters>>,
    pub(super) vips: PerCpuArray<MapData, Plain<VipCounters>>,
    pub(super) node: PerCpuArray<MapData, Plain<NodeCounters>>,
}

impl Counters {
    /// What a member got.
    pub fn member(&self, member: MemberIndex) -> Result<MemberCounters> {
        sum(&self.members, name::MEMBER_COUNTS, member.into())
    }

    /// Starts the counters of a member anew: for an index that another member had before.
    pub fn reset_member(&mut self, member: MemberIndex) -> Result<()> {
        reset(&mut self.members, name::MEMBER_COUNTS, member.into())
    }

    /// Starts the counters of a VIP anew: for an index that another VIP had before.
    pub fn reset_vip(&mut self, vip: u16) -> Result<()> {
        reset(&mut self.vips, name::VIP_COUNTS, vip.into())
    }

    /// What happened to a VIP's packets.
    pub fn vip(&self, vip: u16) -> Result<VipCounters> {
        sum(&self.vips, name::VIP_COUNTS, vip.into())
    }

    /// What happened on the node.
    pub fn node(&self) -> Result<NodeCounters> {
        sum(&self.node, name::NODE_COUNTS, 0)
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
    Ok(total(values.iter().map(|value| value.0)))
}

fn reset<T: Pod>(
    map: &mut PerCpuArray<MapData, Plain<T>>,
    name: &'static str,
    index: u32,
) -> Result<()> {
    let failed = |kernel: String| DataplaneError::Map {
        operation: "reset counters",
        map: name.to_owned(),
        kernel,
        hint: PRIVILEGE_HINT,
    };
    let cpus = nr_cpus().map_err(|(_, error)| failed(error.to_string()))?;
    let zero = PerCpuValues::try_from(vec![Plain(T::zeroed()); cpus])
        .map_err(|error| failed(error.to_string()))?;
    map.set(index, zero, 0)
        .map_err(|error| DataplaneError::map("reset counters", name, &error, PRIVILEGE_HINT))
}

/// Adds values up, word by word: counters are nothing but 64-bit words.
fn total<T: Pod>(values: impl IntoIterator<Item = T>) -> T {
    const { assert!(align_of::<T>() == align_of::<u64>()) };
    let mut total = T::zeroed();
    for value in values {
        let words: &[u64] = bytemuck::cast_slice(std::slice::from_ref(&value));
        let totals: &mut [u64] = bytemuck::cast_slice_mut(std::slice::from_mut(&mut total));
        for (total, word) in totals.iter_mut().zip(words) {
            *total = total.wrapping_add(*word);
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_added_up_counter_by_counter() {
        let one = VipCounters {
            track_hits: 1,
            limited: 5,
            ..bytemuck::Zeroable::zeroed()
        };
        let two = VipCounters {
            track_hits: 2,
            no_member: 7,
            ..bytemuck::Zeroable::zeroed()
        };
        let sum = total([one, two]);
        assert_eq!((sum.track_hits, sum.no_member, sum.limited), (3, 7, 5));
    }
}

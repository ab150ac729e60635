//! Intended, table and observed shares of members.

use serde::Serialize;

use super::{error::Result, state::State};
use lb_dataplane::Dataplane;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MemberShare {
    pub vip: String,
    pub backend: String,
    pub packets: u64,
    pub bytes: u64,
    pub new_flows: u64,
    /// New flows of its slots that went to another member, which had room.
    pub spilled: u64,
    /// New flows that came from full members.
    pub received: u64,
    /// Weight over the sum of weights of the VIP's eligible members.
    pub intended_share: f64,
    /// Slots over ring size.
    pub table_share: f64,
    /// New flows over those of the VIP.
    pub observed_share: f64,
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

/// The shares of all members, by VIP and index.
pub(super) fn shares(state: &State, dataplane: &Dataplane) -> Result<Vec<MemberShare>> {
    let mut shares = Vec::new();
    for (&vip_index, vip) in &state.vips {
        let slots = vip.ring.slots_per_member();
        let ring_size = u64::from(vip.ring.size());
        let total_weight: u64 = vip.built_of.iter().map(|m| u64::from(m.weight)).sum();
        let mut counted = Vec::new();
        for (index, member) in state.members_of(vip_index) {
            counted.push((index, member, dataplane.counters.member(index)?));
        }
        let total_flows: u64 = counted
            .iter()
            .map(|(_, _, counters)| counters.new_flows)
            .sum();
        for (index, member, counters) in counted {
            let weight = if member.is_eligible(vip.panic) {
                member.ring_member(index, vip.panic).weight
            } else {
                0
            };
            let spills = dataplane.bounds.spills(index);
            shares.push(MemberShare {
                vip: vip.name.clone(),
                backend: member.name.clone(),
                packets: counters.packets,
                bytes: counters.bytes,
                new_flows: counters.new_flows,
                spilled: spills.spilled,
                received: spills.received,
                intended_share: ratio(weight.into(), total_weight),
                table_share: ratio(slots.get(&index).copied().unwrap_or(0).into(), ring_size),
                observed_share: ratio(counters.new_flows, total_flows),
            });
        }
    }
    Ok(shares)
}

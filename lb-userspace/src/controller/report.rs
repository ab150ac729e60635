//! How VIPs and members stand, for those who show it: no table is read.

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::{member::NextHop, ring::MemberIndex};

use super::{Controller, state::ServiceId};
use crate::{config::BackendState, ring::Identity, transition::SlotCounts};

/// How a VIP stands.
#[derive(Clone, Debug)]
pub struct VipReport {
    /// Its index in the tables.
    pub index: u16,
    /// Its name.
    pub name: String,
    /// Its address, port and protocol.
    pub service: ServiceId,
    /// Its way to forward, as the table has it.
    pub forward: u8,
    /// Whether too few are healthy and traffic is spread over all.
    pub panic: bool,
    /// Slots of its ring.
    pub slots: u32,
    /// How many of them are in which state.
    pub counts: SlotCounts,
    /// Its members, in the order of their indexes.
    pub members: Vec<MemberReport>,
}

/// How a member stands.
#[derive(Clone, Debug)]
pub struct MemberReport {
    /// Its index in the tables.
    pub index: MemberIndex,
    /// Name of the backend.
    pub name: String,
    /// Address and port.
    pub identity: Identity,
    /// What the operator wants of it.
    pub wanted: BackendState,
    /// Whether it counts as healthy.
    pub healthy: bool,
    /// Whether it is not in the configuration any more.
    pub leaving: bool,
    /// The configured weight.
    pub weight: u32,
    /// The weight in force; 0: no slots.
    pub effective_weight: u32,
    /// The way to it, if there is one.
    pub next_hop: Option<NextHop>,
    /// Weight over the sum of the eligible weights.
    pub intended_share: f64,
    /// Slots over ring size.
    pub table_share: f64,
}

impl Controller {
    /// How all VIPs stand, in the order of their indexes.
    #[must_use]
    pub fn report(&self) -> Vec<VipReport> {
        let mut members = self.members_by_vip();
        let vips = self.state.vips.iter();
        vips.map(|(&index, vip)| {
            let slots = vip.ring.slots().len() as u32;
            VipReport {
                index,
                name: vip.name.clone(),
                service: vip.service,
                forward: vip.entry.forward,
                panic: vip.panic,
                slots,
                counts: vip.ring.counts(),
                members: members.remove(&index).unwrap_or_default(),
            }
        })
        .collect()
    }

    fn members_by_vip(&self) -> BTreeMap<u16, Vec<MemberReport>> {
        let mut rings = BTreeMap::new();
        for (&index, vip) in &self.state.vips {
            let weights: u64 = vip.built_of.iter().map(|m| u64::from(m.weight)).sum();
            rings.insert(index, (vip.ring.slots_per_member(), weights, vip));
        }
        let mut grouped: BTreeMap<u16, Vec<MemberReport>> = BTreeMap::new();
        for (&index, member) in &self.state.members {
            let Some((slots, weights, vip)) = rings.get(&member.vip) else {
                continue;
            };
            let eligible = member.is_eligible(vip.panic);
            let effective_weight = if eligible {
                member.ring_member(index, vip.panic).weight
            } else {
                0
            };
            let owned = slots.get(&index).copied().unwrap_or(0);
            grouped.entry(member.vip).or_default().push(MemberReport {
                index,
                name: member.name.clone(),
                identity: member.identity,
                wanted: member.wanted,
                healthy: member.healthy,
                leaving: member.leaving,
                weight: member.weight,
                effective_weight,
                next_hop: NextHop::unpack(member.entry.next_hop),
                intended_share: f64::from(effective_weight) / (*weights).max(1) as f64,
                table_share: f64::from(owned) / vip.ring.slots().len().max(1) as f64,
            });
        }
        grouped
    }

    /// Whether anything sends to the address over a way that is known.
    #[must_use]
    pub fn has_way_to(&self, address: IpAddr) -> bool {
        self.ways.get(&address).is_some_and(Option::is_some)
    }
}

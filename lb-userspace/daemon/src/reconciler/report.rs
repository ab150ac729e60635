//! The state of VIPs and members for the rest of the controller. Reads no map.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use lb_common::{
    family,
    hash::{flow_hash_v4, flow_hash_v6, ports_word, slot_of},
    member::{Member, NextHop, control},
    ring::MemberIndex,
    sample::FlowKey,
    vip::{Vip, affinity, forward, limited},
};

use super::{
    Reconciler,
    state::{ServiceId, State, VipState},
};
use lb_dataplane::explain::Names;
use lb_model::{
    config::{self, BackendState},
    ring::Identity,
    transition::{RingState, SlotCounts},
};

#[derive(Clone, Debug)]
pub struct VipReport {
    pub index: u16,
    pub name: String,
    pub service: ServiceId,
    /// Forwarding mode, as in the table.
    pub forward: u8,
    pub is_limited: bool,
    /// None without a bound.
    pub assignment: Option<Assignment>,
    /// Whether it is in panic mode: too few members are healthy, and all get traffic.
    pub panic: bool,
    pub slots: u32,
    /// Slots by state.
    pub counts: SlotCounts,
    /// In the order of their indexes.
    pub members: Vec<MemberReport>,
}

/// Where the ring of a VIP with a bound assigns flows.
#[derive(Clone, Debug)]
pub struct Assignment {
    entry: Vip,
    ring: Arc<RingState>,
}

impl Assignment {
    fn of(vip: &VipState) -> Option<Self> {
        vip.entry.is_limited(limited::BOUND).then(|| Self {
            entry: vip.entry,
            ring: Arc::clone(&vip.ring),
        })
    }

    #[cfg(test)]
    pub(crate) const fn new(entry: Vip, ring: Arc<RingState>) -> Self {
        Self { entry, ring }
    }

    /// The member whose slot a flow has; none without a ring.
    pub(crate) fn member(&self, flow: &FlowKey) -> Option<MemberIndex> {
        let ports = match self.entry.affinity {
            affinity::SOURCE => 0,
            _ => ports_word(flow.source_be, flow.dest_be),
        };
        let key = &self.entry.hash_key;
        let hash = match flow.family {
            family::V4 => flow_hash_v4(key, flow.source[0] as u32, ports),
            _ => flow_hash_v6(key, &flow.source, ports),
        };
        let slot = slot_of(hash, self.ring.size()) as usize;
        self.ring.members().get(slot).copied()
    }
}

/// The VIPs of a configuration that have a report, with it, in the order of the configuration.
pub(crate) fn reported<'a>(
    vips: &'a [config::Vip],
    report: &'a [VipReport],
) -> impl Iterator<Item = (&'a config::Vip, &'a VipReport)> {
    let services = report.iter().map(|vip| (vip.service, vip));
    let by_service: BTreeMap<ServiceId, &VipReport> = services.collect();
    vips.iter().filter_map(move |vip| {
        let reported = by_service.get(&ServiceId::of(vip))?;
        Some((vip, *reported))
    })
}

#[derive(Clone, Debug)]
pub struct MemberReport {
    pub index: MemberIndex,
    pub generation: u32,
    pub name: String,
    /// Its name among those that are checked: differs from `name` if it is leaving.
    pub check_name: String,
    pub identity: Identity,
    /// Configured state.
    pub wanted: BackendState,
    pub healthy: bool,
    /// Whether there has been a health check result.
    pub proven: bool,
    /// Whether it was removed from the configuration.
    pub leaving: bool,
    /// Configured weight.
    pub weight: u32,
    /// Effective weight; 0: no slots.
    pub effective_weight: u32,
    /// None if there is no route.
    pub next_hop: Option<NextHop>,
    /// Index of the source address of `nat` sessions, and the number of its ports; none without ports.
    pub nat_source: Option<(u16, u16)>,
    /// Weight over the sum of the eligible weights.
    pub intended_share: f64,
    /// Slots over ring size.
    pub table_share: f64,
}

/// The newest report, with the version of the state that it describes, and the slots of each ring by
/// member: counting 65,537 slots takes longer than everything else in a report.
#[derive(Debug, Default)]
pub(super) struct Reports {
    newest: Option<(u64, Arc<[VipReport]>)>,
    rings: BTreeMap<u16, CountedRing>,
}

/// A ring, and its slots by member.
type CountedRing = (Arc<RingState>, BTreeMap<MemberIndex, u32>);

impl Reports {
    fn count_rings(&mut self, state: &State) {
        self.rings.retain(|index, _| state.vips.contains_key(index));
        for (&index, vip) in &state.vips {
            let known = self.rings.get(&index);
            if known.is_none_or(|(ring, _)| !Arc::ptr_eq(ring, &vip.ring)) {
                let (ring, slots) = (Arc::clone(&vip.ring), vip.ring.slots_per_member());
                self.rings.insert(index, (ring, slots));
            }
        }
    }
}

impl Reconciler {
    /// The state of all VIPs, in the order of their indexes. Computed once per change of the state;
    /// further calls share the result.
    #[must_use]
    pub fn report(&mut self) -> Arc<[VipReport]> {
        let version = self.state.version();
        if let Some((of, report)) = &self.reports.newest
            && *of == version
        {
            return Arc::clone(report);
        }
        self.reports.count_rings(&self.state);
        let report: Arc<[VipReport]> = self.report_vips().into();
        self.reports.newest = Some((version, Arc::clone(&report)));
        report
    }

    fn report_vips(&self) -> Vec<VipReport> {
        let mut members = self.members_by_vip();
        let vips = self.state.vips.iter();
        vips.map(|(&index, vip)| VipReport {
            index,
            name: vip.name.clone(),
            service: vip.service,
            forward: vip.entry.mode(),
            is_limited: vip.entry.is_limited(limited::ALL & !limited::BOUND),
            assignment: Assignment::of(vip),
            panic: vip.panic,
            slots: vip.ring.size(),
            counts: vip.ring.counts(),
            members: members.remove(&index).unwrap_or_default(),
        })
        .collect()
    }

    fn members_by_vip(&self) -> BTreeMap<u16, Vec<MemberReport>> {
        let mut weights = BTreeMap::new();
        for (&index, vip) in &self.state.vips {
            let sum: u64 = vip.built_of.iter().map(|m| u64::from(m.weight)).sum();
            weights.insert(index, sum.max(1) as f64);
        }
        let mut grouped: BTreeMap<u16, Vec<MemberReport>> = BTreeMap::new();
        for (&index, member) in self.state.members.iter() {
            let Some(vip) = self.state.vips.get(&member.vip) else {
                continue;
            };
            let effective_weight = if member.is_eligible(vip.panic) {
                member.ring_member(index, vip.panic).weight
            } else {
                0
            };
            let counted = self.reports.rings.get(&member.vip);
            let owned = counted.and_then(|(_, slots)| slots.get(&index).copied());
            grouped.entry(member.vip).or_default().push(MemberReport {
                index,
                generation: control::generation(member.entry.control),
                name: member.name.clone(),
                check_name: member.check_name(index),
                identity: member.identity,
                wanted: member.wanted,
                healthy: member.healthy,
                proven: member.proven,
                leaving: member.leaving,
                weight: member.weight,
                effective_weight,
                next_hop: NextHop::unpack(member.entry.next_hop),
                nat_source: self.nat_source(&member.entry, vip.entry.mode()),
                intended_share: f64::from(effective_weight)
                    / weights.get(&member.vip).copied().unwrap_or(1.0),
                table_share: f64::from(owned.unwrap_or(0)) / f64::from(vip.ring.size().max(1)),
            });
        }
        grouped
    }

    fn nat_source(&self, member: &Member, forward: u8) -> Option<(u16, u16)> {
        let source = self.state.sources.get(&member.nat_source)?;
        let has_ports = forward == forward::NAT && source.entry.ports > 0;
        has_ports.then_some((member.nat_source, source.entry.ports))
    }

    /// Whether there is a route to the address.
    #[must_use]
    pub fn has_route_to(&self, address: IpAddr) -> bool {
        self.routes.get(&address).is_some_and(Option::is_some)
    }
}

impl Names for Reconciler {
    fn vip(&self, index: u16) -> Option<String> {
        self.vip_name(index).map(str::to_owned)
    }

    fn member(&self, index: MemberIndex) -> Option<String> {
        self.member_name(index).map(str::to_owned)
    }
}

//! The state that the tables should hold: VIPs, members, NAT sources and their indexes.
//!
//! A [`State`] is a value. A change derives a new one from it ([`super::plan`]), which is then installed
//! in the kernel ([`super::install`]). If that fails, the old value is still there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use lb_common::{
    address_of,
    bound::{Candidates, MemberBound},
    limit::Limit,
    member::{Member, control},
    nat::NatSource,
    proto,
    ring::{MAX_MEMBERS, MemberIndex},
    vip::{Vip, VipKey, limited, target, track},
};

use super::{entry, limits::Lists, members::Members};
use lb_dataplane::RingName;
use lb_model::{
    config::{self, BackendState, Bound, Fraction, Protocol},
    ring::{Identity, RingMember},
    transition::RingState,
};

/// Identifies a VIP across configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId {
    pub address: IpAddr,
    /// 0 for any port.
    pub port: u16,
    pub protocol: Protocol,
}

impl ServiceId {
    #[must_use]
    pub const fn of(vip: &config::Vip) -> Self {
        Self {
            address: vip.address,
            port: vip.port,
            protocol: vip.protocol,
        }
    }

    fn key(&self) -> VipKey {
        let (address, family) = address_of(self.address);
        VipKey::new(&address, family, self.protocol.number(), self.port.to_be())
    }
}

/// A VIP in the tables.
#[derive(Clone, Debug)]
pub(super) struct VipState {
    pub(super) name: String,
    pub(super) service: ServiceId,
    /// Its entry, with its current ring.
    pub(super) entry: Vip,
    /// Its entry in the table of limits.
    pub(super) limit: Limit,
    /// How the load of its members is bounded.
    pub(super) bound: Bound,
    pub(super) ring: Arc<RingState>,
    /// The members that the ring was built for.
    pub(super) built_of: Vec<RingMember>,
    /// None without health checks: members count as up.
    pub(super) panic_threshold: Option<Fraction>,
    /// Whether it is in panic mode.
    pub(super) panic: bool,
    /// Whether the ring differs from the entry's image.
    pub(super) dirty: bool,
    /// Whether it is new, and its backends lack the first verdicts of their checks. What changes meanwhile is
    /// no past, unless packets come.
    pub(super) forming: bool,
}

impl VipState {
    pub(super) const fn image(&self) -> Option<RingName> {
        RingName::unpack(self.entry.ring)
    }

    /// Whether it has no bound, but members may still have spilled flows of the time when it had one.
    pub(super) const fn is_unbound(&self) -> bool {
        self.entry.track == track::ON_SPILL && !self.entry.is_limited(limited::BOUND)
    }
}

/// A member in the tables.
#[derive(Clone, Debug)]
pub(super) struct MemberState {
    pub(super) name: String,
    pub(super) vip: u16,
    pub(super) identity: Identity,
    pub(super) weight: u32,
    /// New flows per second that it can take.
    pub(super) capacity: Option<u32>,
    pub(super) wanted: BackendState,
    pub(super) healthy: bool,
    /// Whether its health is known: from a check, from the adopted tables, or because it served before
    /// checks were turned on.
    pub(super) proven: bool,
    /// Effective fraction of its weight: below 1 during slow start.
    pub(super) ramp: Fraction,
    /// Its next hop is gone: it has no slots until it is back, unless no member of the VIP has one.
    /// It still serves its flows, which a short interruption must not break.
    pub(super) cut_off: bool,
    /// Removed from the configuration: keeps its flows, and is freed when they have ended.
    pub(super) leaving: bool,
    /// How many times in a row it was found unreferenced.
    pub(super) unreferenced: u8,
    pub(super) entry: Member,
    /// What bounds its load.
    pub(super) bound: MemberBound,
}

impl MemberState {
    /// Whether it would have slots if healthy.
    pub(super) fn is_wanted(&self) -> bool {
        !self.leaving && self.wanted == BackendState::Up && self.weight > 0
    }

    /// Whether it should have slots; `panic`: its VIP is in panic mode.
    pub(super) fn is_eligible(&self, panic: bool) -> bool {
        self.is_wanted() && self.may_serve(panic) && !self.cut_off
    }

    /// A panic does not include newcomers before their checks have a result.
    const fn may_serve(&self, panic: bool) -> bool {
        self.healthy || panic && self.proven
    }

    /// The effective weight: at least one, unless the weight is 0.
    pub(super) fn effective_weight(&self) -> u32 {
        let part = u64::from(self.weight) * u64::from(self.ramp.millionths());
        let all = u64::from(Fraction::ALL.millionths());
        // At most the weight, which fits.
        (part.div_ceil(all) as u32).max(self.weight.min(1))
    }

    pub(super) fn ring_member(&self, member: MemberIndex, panic: bool) -> RingMember {
        RingMember {
            identity: self.identity,
            // Panic mode ignores slow start.
            weight: if panic {
                self.weight
            } else {
                self.effective_weight()
            },
            member,
        }
    }

    /// Its name among those that are checked. Several leaving members may have had one name, which a
    /// member of the configuration may have now.
    pub(super) fn check_name(&self, index: MemberIndex) -> String {
        let suffix = format!(" (member {index})");
        if !self.leaving || self.name.ends_with(&suffix) {
            return self.name.clone();
        }
        self.name.clone() + &suffix
    }

    /// The control word that it should have. A leaving member serves its flows while it is healthy.
    pub(super) fn control(&self, panic: bool) -> u64 {
        let now = self.entry.control;
        let serves = self.may_serve(panic) && self.wanted != BackendState::Disabled;
        let state = if serves {
            control::SERVING
        } else {
            control::DOWN
        };
        entry::with_state(now, state)
    }
}

/// A source address of `nat`.
#[derive(Clone, Debug)]
pub(super) struct SourceState {
    pub(super) address: IpAddr,
    /// Its entry; without ports it gets no new sessions.
    pub(super) entry: NatSource,
    pub(super) unreferenced: u8,
}

#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) vips: BTreeMap<u16, VipState>,
    pub(super) members: Members,
    pub(super) sources: BTreeMap<u16, SourceState>,
    /// The prefixes that limits refer to.
    pub(super) lists: Lists,
    /// Last generation at each member index.
    pub(super) generations: Vec<u32>,
    /// The indexes allocated last.
    pub(super) last_vip: Option<u16>,
    pub(super) last_member: Option<MemberIndex>,
}

/// A state that counts its changes: two equal versions of one reconciler are the same state.
#[derive(Debug, Default)]
pub(super) struct Versioned {
    state: State,
    version: u64,
}

impl Versioned {
    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn replace(&mut self, next: State) {
        *self.change() = next;
    }

    pub(super) const fn change(&mut self) -> &mut State {
        self.version += 1;
        &mut self.state
    }
}

impl std::ops::Deref for Versioned {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            vips: BTreeMap::new(),
            members: Members::default(),
            sources: BTreeMap::new(),
            lists: Lists::default(),
            generations: vec![0; MAX_MEMBERS as usize],
            last_vip: None,
            last_member: None,
        }
    }
}

impl State {
    pub(super) fn vip_of(&self, service: &ServiceId) -> Option<u16> {
        let found = self.vips.iter().find(|(_, vip)| vip.service == *service);
        found.map(|(index, _)| *index)
    }

    pub(super) fn members_of(
        &self,
        vip: u16,
    ) -> impl Iterator<Item = (MemberIndex, &MemberState)> + '_ {
        let indexes = self.members.of_vip(vip);
        indexes.filter_map(|index| Some((index, self.members.get(&index)?)))
    }

    /// Whether a VIP is in panic mode.
    pub(super) fn is_panicking(&self, vip: u16) -> bool {
        self.vips.get(&vip).is_some_and(|vip| vip.panic)
    }

    /// Whether a VIP must be in panic mode: fewer members are healthy than its threshold. It stays as it
    /// is while that depends on members without a result of their checks.
    pub(super) fn must_panic(&self, vip: u16) -> bool {
        let Some(state) = self.vips.get(&vip) else {
            return false;
        };
        let Some(threshold) = state.panic_threshold else {
            return false;
        };
        let (mut healthy, mut unknown, mut all) = (0u64, 0u64, 0u64);
        for (_, member) in self.members_of(vip).filter(|(_, m)| m.is_wanted()) {
            healthy += u64::from(member.proven && member.healthy);
            unknown += u64::from(!member.proven);
            all += 1;
        }
        let is_few = |healthy: u64| {
            healthy * u64::from(Fraction::ALL.millionths())
                < all * u64::from(threshold.millionths())
        };
        is_few(healthy) && (state.panic || is_few(healthy + unknown))
    }

    /// Makes the rings clean that are new, once the checks have judged all backends of their VIPs.
    pub(super) fn end_forming(
        &mut self,
        packets_of: impl Fn(MemberIndex) -> lb_dataplane::Result<u64>,
    ) -> lb_dataplane::Result<()> {
        let forming = self.vips.iter().filter(|(_, vip)| vip.forming);
        for index in forming.map(|(index, _)| *index).collect::<Vec<_>>() {
            let (mut is_judged, mut packets) = (true, 0);
            for (member, state) in self.members_of(index) {
                is_judged &= state.proven || !state.is_wanted();
                packets += packets_of(member)?;
            }
            let Some(vip) = self.vips.get_mut(&index) else {
                continue;
            };
            vip.forming = !is_judged && packets == 0;
            let counts = vip.ring.counts();
            if packets == 0 && is_judged && counts.in_transition + counts.settling > 0 {
                Arc::make_mut(&mut vip.ring).forget();
                vip.dirty = true;
            }
        }
        Ok(())
    }

    pub(super) fn member_of(&self, vip: u16, identity: &Identity) -> Option<MemberIndex> {
        self.members_of(vip)
            .find(|(_, member)| member.identity == *identity)
            .map(|(index, _)| index)
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let mut services = BTreeMap::<ServiceKey, u64>::new();
        for (&index, vip) in &self.vips {
            let address = ServiceKey::any(vip.service.address, 0);
            let bit = target::protocol_bit(vip.service.protocol.number());
            let target = services.entry(address).or_default();
            *target |= target::pack(target::ADDRESS, bit);
            services.insert(
                ServiceKey::from(vip.service.key()),
                target::pack(target::VIP, index),
            );
        }
        for (&index, source) in &self.sources {
            for protocol in [0, proto::TCP, proto::UDP] {
                let key = ServiceKey::any(source.address, protocol);
                services.insert(key, target::pack(target::NAT_SOURCE, index));
            }
        }
        let entries = |(index, vip): (&u16, &VipState)| (*index, vip.entry);
        Snapshot {
            services,
            vips: self.vips.iter().map(entries).collect(),
            limits: self.vips.iter().map(|(i, vip)| (*i, vip.limit)).collect(),
            lists: self.lists.clone(),
            members: self.members.iter().map(|(i, m)| (*i, m.entry)).collect(),
            bounds: self.members.iter().map(|(i, m)| (*i, m.bound)).collect(),
            candidates: self.candidates(),
            sources: self.sources.iter().map(|(i, s)| (*i, s.entry)).collect(),
        }
    }

    /// Addresses of all members.
    pub(super) fn backends(&self) -> BTreeSet<IpAddr> {
        let addresses = self.members.values().map(|member| member.identity.address);
        addresses.collect()
    }
}

/// The entries of the tables, by key or index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) services: BTreeMap<ServiceKey, u64>,
    pub(super) vips: BTreeMap<u16, Vip>,
    pub(super) limits: BTreeMap<u16, Limit>,
    pub(super) lists: Lists,
    pub(super) members: BTreeMap<MemberIndex, Member>,
    pub(super) bounds: BTreeMap<MemberIndex, MemberBound>,
    pub(super) candidates: BTreeMap<u16, Candidates>,
    pub(super) sources: BTreeMap<u16, NatSource>,
}

impl Snapshot {
    /// The lists of denied prefixes, a bit for each.
    pub(super) fn denying(&self) -> u64 {
        let lists = self.limits.values().map(|limit| limit.deny);
        lists.fold(0, |all, lists| all | lists)
    }
}

/// A [`VipKey`] that can be sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ServiceKey {
    high: u64,
    low: u64,
    service: u64,
}

impl ServiceKey {
    /// Key of an address with any port.
    fn any(ip: IpAddr, protocol: u8) -> Self {
        let (address, family) = address_of(ip);
        VipKey::new(&address, family, protocol, 0).into()
    }

    pub(super) const fn vip_key(self) -> VipKey {
        VipKey {
            high: self.high,
            low: self.low,
            service: self.service,
        }
    }

    pub(super) const fn address(self) -> lb_common::Address {
        [self.high, self.low]
    }

    pub(super) const fn port(self) -> u16 {
        u16::from_be(self.service as u16)
    }

    pub(super) const fn protocol(self) -> u8 {
        (self.service >> 16) as u8
    }

    pub(super) const fn family(self) -> u8 {
        (self.service >> 24) as u8
    }
}

impl From<VipKey> for ServiceKey {
    fn from(key: VipKey) -> Self {
        Self {
            high: key.high,
            low: key.low,
            service: key.service,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A member of a VIP.
    pub(in super::super) fn member_of(vip: u16) -> MemberState {
        MemberState {
            name: String::new(),
            vip,
            identity: Identity {
                address: IpAddr::from([10, 0, 0, 1]),
                port: 0,
            },
            weight: 1,
            capacity: None,
            wanted: BackendState::Up,
            healthy: true,
            proven: true,
            ramp: Fraction::ALL,
            cut_off: false,
            leaving: false,
            unreferenced: 0,
            entry: bytemuck::Zeroable::zeroed(),
            bound: MemberBound::NONE,
        }
    }

    /// A VIP without ring and members.
    pub(in super::super) fn vip() -> VipState {
        VipState {
            name: String::new(),
            service: ServiceId {
                address: IpAddr::from([203, 0, 113, 1]),
                port: 80,
                protocol: Protocol::Tcp,
            },
            entry: bytemuck::Zeroable::zeroed(),
            limit: bytemuck::Zeroable::zeroed(),
            bound: Bound::default(),
            ring: Arc::new(RingState::new_clean(&[])),
            built_of: Vec::new(),
            panic_threshold: None,
            panic: false,
            dirty: false,
            forming: false,
        }
    }
}

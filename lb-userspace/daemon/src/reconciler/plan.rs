//! Derives the next state from a configuration, health and routes. Does not touch the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use lb_common::{
    bound::MemberBound,
    family_of,
    member::{Member, control},
    ring::{MAX_MEMBERS, MemberIndex},
    vip::{MAX_VIPS, forward, track},
};

use super::{
    entry::{self, Routes, Source, forward_name},
    error::{ReconcilerError, Result},
    indexes::next_free,
    limits,
    rings::{RingBuilds, change_rings},
    state::{MemberState, ServiceId, State, VipState},
    summary::Summary,
};
use lb_model::{
    config::{self, Backend, BackendState, Config, Forward, Fraction, HashSeed},
    ring::{Identity, RingMember},
    transition::RingState,
};

mod sources;

pub(super) struct Plan<'a> {
    before: &'a State,
    /// VIPs before, by service.
    vips_before: BTreeMap<ServiceId, u16>,
    /// Addresses of the VIPs of [`Self::next`], once they are all there.
    vip_addresses: BTreeSet<IpAddr>,
    config: &'a Config,
    routes: &'a Routes,
    /// Whether new members count as up.
    presume_up: bool,
    pub(super) next: State,
    pub(super) summary: Summary,
}

impl<'a> Plan<'a> {
    pub(super) fn new(before: &'a State, config: &'a Config, routes: &'a Routes) -> Self {
        let by_service = |(index, vip): (&u16, &VipState)| (vip.service, *index);
        Self {
            before,
            vips_before: before.vips.iter().map(by_service).collect(),
            vip_addresses: BTreeSet::new(),
            config,
            routes,
            presume_up: false,
            next: before.clone(),
            summary: Summary::default(),
        }
    }

    /// New members count as up: for previews of what a change is meant to reach.
    pub(super) const fn presume_up(mut self) -> Self {
        self.presume_up = true;
        self
    }

    /// Updates VIPs and members to the configuration.
    pub(super) fn configure(mut self) -> Result<Self> {
        self.remove_vips();
        let limits = self.config.vips.iter().map(|vip| &vip.limit);
        self.next.lists = self.before.lists.next(limits)?;
        for vip in &self.config.vips {
            let index = self.place_vip(vip)?;
            self.place_members(index, vip)?;
        }
        Ok(self)
    }

    /// Updates entries and rings to VIPs and members.
    pub(super) fn finish(mut self, now_s: u32, rings: &mut RingBuilds) -> Result<(State, Summary)> {
        self.judge_panic();
        self.judge_routes();
        let vips = self.next.vips.values();
        self.vip_addresses = vips.map(|vip| vip.service.address).collect();
        self.place_sources()?;
        self.write_members();
        self.build_rings(now_s, rings)?;
        self.next.write_bounds();
        Ok((self.next, self.summary))
    }

    fn judge_panic(&mut self) {
        for index in self.next.vips.keys().copied().collect::<Vec<_>>() {
            let panic = self.next.must_panic(index);
            let Some(vip) = self.next.vips.get_mut(&index) else {
                continue;
            };
            if panic != vip.panic {
                vip.panic = panic;
                let changed = if panic {
                    &mut self.summary.panics_begun
                } else {
                    &mut self.summary.panics_ended
                };
                changed.push(vip.name.clone());
            }
        }
    }

    /// Finds the members whose next hops are gone. If those of all members of a VIP are, the node has lost
    /// its own link: the ring stays as it is.
    fn judge_routes(&mut self) {
        for vip in self.next.vips.keys().copied().collect::<Vec<_>>() {
            let panic = self.next.is_panicking(vip);
            let members: Vec<MemberIndex> = self.next.members.of_vip(vip).collect();
            let mut is_left = false;
            for &index in &members {
                let Some(member) = self.next.members.get_mut(index) else {
                    continue;
                };
                // Without an entry, the route is not known yet.
                member.cut_off = self.routes.get(&member.identity.address) == Some(&None);
                is_left |= member.is_eligible(panic);
            }
            for index in members {
                if let Some(member) = self.next.members.get_mut(index) {
                    member.cut_off &= is_left;
                }
            }
        }
    }

    fn remove_vips(&mut self) {
        let mut gone = BTreeSet::new();
        let wanted = self.config.vips.iter();
        let wanted: BTreeMap<_, _> = wanted.map(|vip| (ServiceId::of(vip), vip)).collect();
        for (&index, vip) in &self.before.vips {
            match wanted.get(&vip.service) {
                Some(c) => match replaced_for(vip, c, &self.config.node.hash_seed) {
                    Some(why) => {
                        let what = format!("{} ({why})", c.name);
                        self.summary.vips_replaced.push(what);
                    }
                    None => continue,
                },
                None => self.summary.vips_removed.push(vip.name.clone()),
            }
            gone.insert(index);
        }
        self.next.vips.retain(|index, _| !gone.contains(index));
        for vip in gone {
            self.next.members.remove_vip(vip);
        }
    }

    fn place_vip(&mut self, vip: &config::Vip) -> Result<u16> {
        let service = ServiceId::of(vip);
        let entry = entry::vip(vip, &self.config.node.hash_seed);
        // A VIP that is replaced is gone by now, and no other one has its service.
        if let Some(&index) = self.vips_before.get(&service)
            && let Some(live) = self.next.vips.get_mut(&index)
        {
            live.name.clone_from(&vip.name);
            live.entry.forward = entry.forward;
            // Flows that were spilled before are looked up until they have ended.
            let may_have_spilled = live.entry.mode() != forward::NAT
                && matches!(live.entry.track, track::ON_SPILL | track::ALWAYS);
            live.entry.track = if may_have_spilled && entry.track == track::ON_CHANGE {
                track::ON_SPILL
            } else {
                entry.track
            };
            live.bound = vip.bound;
            live.limit = limits::entry(&vip.limit, &self.next.lists);
            live.panic_threshold = vip.health.as_ref().map(|health| health.panic_threshold);
            return Ok(index);
        }
        let taken =
            |index| self.next.vips.contains_key(&index) || self.before.vips.contains_key(&index);
        let index = next_free(self.next.last_vip, MAX_VIPS, taken).ok_or_else(|| {
            ReconcilerError::Full {
                what: format!("VIP {}", vip.name),
                limit: MAX_VIPS,
                hint: "remove VIPs first, in a change of its own",
            }
        })?;
        self.next.last_vip = Some(index);
        let empty = vec![lb_common::ring::NO_MEMBER; vip.ring_size.get() as usize];
        let state = VipState {
            name: vip.name.clone(),
            service,
            entry,
            limit: limits::entry(&vip.limit, &self.next.lists),
            bound: vip.bound,
            ring: Arc::new(RingState::new_clean(&empty)),
            built_of: Vec::new(),
            panic_threshold: vip.health.as_ref().map(|health| health.panic_threshold),
            panic: false,
            dirty: true,
            forming: vip.health.is_some(),
        };
        self.next.vips.insert(index, state);
        self.summary.vips_added.push(vip.name.clone());
        Ok(index)
    }

    fn place_members(&mut self, index: u16, vip: &config::Vip) -> Result<()> {
        let listed = |member: &MemberState| {
            vip.backends
                .iter()
                .any(|backend| backend.identity() == member.identity)
        };
        let members: Vec<MemberIndex> = self.next.members.of_vip(index).collect();
        for member in members {
            let member = self.next.members.get_mut(member);
            let Some(member) = member.filter(|member| !listed(member)) else {
                continue;
            };
            self.summary.members_leaving += u32::from(!member.leaving);
            member.leaving = true;
            // There are no checks that would report it as up.
            member.healthy |= vip.health.is_none();
        }
        let had_no_checks = self.had_no_checks(vip);
        for backend in &vip.backends {
            let member = match self.next.member_of(index, &backend.identity()) {
                Some(member) => member,
                None => self.add_member(index, vip, backend)?,
            };
            if let Some(state) = self.next.members.get_mut(member) {
                if vip.health.is_none() {
                    // There are no checks that would report it as up.
                    (state.healthy, state.proven) = (true, false);
                    state.ramp = Fraction::ALL;
                } else if had_no_checks && !state.leaving {
                    // It serves, until the checks find it down.
                    state.proven = state.healthy;
                }
                if state.leaving && vip.health.is_some() {
                    // A backend that comes back is a newcomer.
                    (state.healthy, state.proven) = (false, false);
                }
                state.healthy |= self.presume_up && !state.proven;
                state.leaving = false;
                state.unreferenced = 0;
                state.name.clone_from(&backend.name);
                state.weight = backend.weight;
                state.capacity = backend.capacity;
                state.wanted = backend.state;
            }
        }
        Ok(())
    }

    fn add_member(
        &mut self,
        index_of_vip: u16,
        vip: &config::Vip,
        backend: &Backend,
    ) -> Result<MemberIndex> {
        let taken = |index| {
            self.next.members.contains_key(&index) || self.before.members.contains_key(&index)
        };
        let index = next_free(self.next.last_member, MAX_MEMBERS, taken).ok_or_else(|| {
            ReconcilerError::Full {
                what: format!("backend {} of VIP {}", backend.name, vip.name),
                limit: MAX_MEMBERS,
                hint: "removed backends keep their index until their last flow ends; wait for that, or \
                       remove some",
            }
        })?;
        self.next.last_member = Some(index);
        let generation = &mut self.next.generations[usize::from(index)];
        *generation = generation.wrapping_add(1);
        let word = control::pack(control::DOWN, family_of(backend.address), *generation);
        let identity = backend.identity();
        let known = self.known_member(vip, &identity);
        let state = MemberState {
            name: backend.name.clone(),
            vip: index_of_vip,
            identity,
            weight: 0,
            capacity: backend.capacity,
            wanted: BackendState::Up,
            // Down until its checks succeed.
            healthy: match known {
                Some(known) => known.healthy,
                None => vip.health.is_none() || self.presume_up,
            },
            proven: known.is_some_and(|known| known.proven || self.had_no_checks(vip)),
            ramp: known.map_or(Fraction::ALL, |known| known.ramp),
            cut_off: false,
            leaving: false,
            unreferenced: 0,
            entry: entry::member(index_of_vip, &identity, word, Source::Unknown, 0),
            bound: MemberBound::NONE,
        };
        self.next.members.insert(index, state);
        self.summary.members_added += 1;
        Ok(index)
    }

    /// Whether the VIP existed before, without health checks.
    fn had_no_checks(&self, vip: &config::Vip) -> bool {
        let before = self.vips_before.get(&ServiceId::of(vip));
        before.is_some_and(|index| self.before.vips[index].panic_threshold.is_none())
    }

    /// A member of the same VIP before: backends of a replaced VIP keep their health.
    fn known_member(&self, vip: &config::Vip, identity: &Identity) -> Option<&MemberState> {
        let before = self.vips_before.get(&ServiceId::of(vip))?;
        let index = self.before.member_of(*before, identity)?;
        let member = self.before.members.get(&index);
        member.filter(|_| vip.health.is_some())
    }

    fn forwards(&self, member: &MemberState, forward: Forward) -> bool {
        let vip = self.next.vips.get(&member.vip);
        vip.is_some_and(|vip| vip.entry.mode() == forward.code())
    }

    fn has_route(&self, member: &MemberState) -> bool {
        let route = self.routes.get(&member.identity.address);
        route.is_some_and(Option::is_some)
    }

    fn write_members(&mut self) {
        let members = self.next.members.iter();
        let written: Vec<_> = members
            .map(|(&index, member)| (index, self.member_entry(index, member)))
            .collect();
        for (index, entry) in written {
            if let Some(member) = self.next.members.get_mut(index) {
                member.entry = entry;
            }
        }
    }

    fn member_entry(&self, index: MemberIndex, member: &MemberState) -> Member {
        let old = &member.entry;
        let next_hop = match self.routes.get(&member.identity.address) {
            // `l2` keeps the VIP's address in the packet: a gateway would route it back here, in a loop.
            Some(route) => route
                .filter(|route| route.on_link || !self.forwards(member, Forward::L2))
                // Backends would be sent packets, and no client would get a reply.
                .filter(|route| route.replies_seen || !self.forwards(member, Forward::Nat))
                .map_or(0, |route| route.next_hop.pack()),
            None => old.next_hop,
        };
        let source = self.source(index, member);
        let new = entry::member(
            member.vip,
            &member.identity,
            member.control(self.next.is_panicking(member.vip)),
            source,
            next_hop,
        );
        if source != Source::Unknown || old.source == [0; 2] {
            return new;
        }
        // While the route is unknown, the source stays.
        Member {
            next_hop,
            source: old.source,
            vary_mask: old.vary_mask,
            outer_sum: old.outer_sum,
            nat_source: old.nat_source,
            ..new
        }
    }

    fn build_rings(&mut self, now_s: u32, rings: &mut RingBuilds) -> Result<()> {
        let vips = self.next.vips.keys();
        let wanted: Vec<Vec<RingMember>> = vips.map(|&vip| self.ring_members(vip)).collect();
        let pairs = self.next.vips.values_mut().zip(wanted);
        let changing = pairs.filter(|(vip, members)| *members != vip.built_of);
        self.summary.slots_moved += change_rings(changing, rings, now_s)?;
        let dirty = self.next.vips.values().filter(|vip| vip.dirty);
        self.summary.rings_changed = dirty.count() as u32;
        Ok(())
    }

    /// The members that should have slots of a VIP.
    fn ring_members(&self, vip: u16) -> Vec<RingMember> {
        let panic = self.next.is_panicking(vip);
        let members = self.next.members_of(vip);
        let eligible = members.filter(|(_, member)| member.is_eligible(panic));
        eligible
            .map(|(index, member)| member.ring_member(index, panic))
            .collect()
    }
}

/// Why a VIP must be replaced instead of changed, if so: its flows would be found or forwarded
/// differently.
fn replaced_for(live: &VipState, wanted: &config::Vip, seed: &HashSeed) -> Option<String> {
    let entry = entry::vip(wanted, seed);
    let (has, new) = (live.ring.size(), wanted.ring_size.get());
    if live.entry.mode() != entry.mode() {
        let names = [live.entry.mode(), entry.mode()].map(forward_name);
        return Some(format!("forward: {} → {}", names[0], names[1]));
    }
    if has != new {
        return Some(format!("ring_size: {has} → {new}"));
    }
    if live.entry.affinity != entry.affinity {
        return Some("affinity".to_owned());
    }
    (live.entry.hash_key != entry.hash_key).then(|| "hash_seed".to_owned())
}

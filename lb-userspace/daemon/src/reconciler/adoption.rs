//! Adopts the tables of the previous controller.
//!
//! Everything counts as leaving and has no name until a configuration is applied, which gives the same
//! VIPs, members and weights their names again and so finds nothing to change. Leftovers of an
//! interrupted change, which no service refers to, are cleared.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lb_common::{
    bound::MemberBound,
    ip_of,
    member::{Member, control},
    nat::MAX_NAT_SOURCES,
    proto,
    ring::{MAX_MEMBERS, MemberIndex},
    vip::{MAX_VIPS, target},
};

use super::{
    error::{ReconcilerError, Result},
    limits::Lists,
    state::{MemberState, ServiceId, ServiceKey, SourceState, State, VipState},
};
use lb_dataplane::Dataplane;
use lb_model::{
    config::{BackendState, Bound, Fraction, Protocol},
    ring::Identity,
    transition::RingState,
};

/// Reads the state back from the tables.
pub(super) fn read(dataplane: &Dataplane, now_s: u32) -> Result<State> {
    let mut state = State::default();
    for entry in dataplane.services.iter() {
        let key = ServiceKey::from(entry.key);
        match target::kind(entry.target) {
            target::VIP => {
                let index = target::index(entry.target);
                let vip = read_vip(dataplane, index, key, now_s)?;
                state.vips.insert(index, vip);
            }
            target::NAT_SOURCE => read_source(dataplane, &mut state, key, entry.target)?,
            _ => {}
        }
    }
    read_members(dataplane, &mut state)?;
    let limits = state.vips.values().map(|vip| &vip.limit);
    state.lists = Lists::adopted(limits, dataplane.limits.listed());
    state.last_vip = state.vips.keys().next_back().copied();
    state.last_member = state.members.keys().next_back().copied();
    Ok(state)
}

fn read_vip(dataplane: &Dataplane, index: u16, key: ServiceKey, now_s: u32) -> Result<VipState> {
    let entry = dataplane.vips.read(index)?;
    let protocol = match key.protocol() {
        proto::TCP => Protocol::Tcp,
        proto::UDP => Protocol::Udp,
        other => return Err(broken(format!("VIP {index} has protocol {other}"))),
    };
    let service = ServiceId {
        address: ip_of(&key.address(), key.family()),
        port: key.port(),
        protocol,
    };
    let name = format!("{} {protocol} port {}", service.address, service.port);
    let ring = lb_dataplane::RingName::unpack(entry.ring)
        .ok_or_else(|| broken(format!("VIP {name} has no ring")))?;
    let words = dataplane.rings.words(ring.image)?;
    let ring = RingState::from_image(&words, ring.size, now_s)?;
    Ok(VipState {
        name,
        service,
        entry,
        limit: dataplane.limits.read(index)?,
        bound: Bound::default(),
        ring: Arc::new(ring),
        built_of: Vec::new(),
        panic_threshold: None,
        panic: false,
        dirty: false,
        forming: false,
    })
}

fn read_source(
    dataplane: &Dataplane,
    state: &mut State,
    key: ServiceKey,
    target: u64,
) -> Result<()> {
    let index = target::index(target);
    let source = SourceState {
        address: ip_of(&key.address(), key.family()),
        entry: dataplane.nat_sources.read(index.into())?,
        unreferenced: 0,
    };
    state.sources.insert(index, source);
    Ok(())
}

fn read_members(dataplane: &Dataplane, state: &mut State) -> Result<()> {
    for index in 0..MAX_MEMBERS as MemberIndex {
        let entry = dataplane.members.read(index)?;
        state.generations[usize::from(index)] = control::generation(entry.control);
        if control::state(entry.control) != control::ABSENT && state.vips.contains_key(&entry.vip) {
            let bound = dataplane.bounds.read(index)?;
            state.members.insert(index, member(index, entry, bound));
        }
    }
    Ok(())
}

fn member(index: MemberIndex, entry: Member, bound: MemberBound) -> MemberState {
    let identity = Identity {
        address: ip_of(&entry.address, control::family(entry.control)),
        port: u16::from_be(entry.port_be),
    };
    MemberState {
        name: format!("{} (member {index})", identity.address),
        vip: entry.vip,
        identity,
        weight: 0,
        capacity: None,
        wanted: BackendState::Up,
        healthy: control::state(entry.control) == control::SERVING,
        proven: true,
        ramp: Fraction::ALL,
        cut_off: false,
        leaving: true,
        unreferenced: 0,
        entry,
        bound,
    }
}

/// Clears table entries that belong to nothing in `state`.
pub(super) fn sweep(dataplane: &mut Dataplane, state: &State) -> Result<()> {
    let stray: BTreeSet<MemberIndex> = dataplane
        .members
        .present()
        .map(|(index, _)| index)
        .filter(|index| !state.members.contains_key(index))
        .collect();
    if !stray.is_empty() {
        dataplane.rings.grace_period()?;
        dataplane.tracking.purge_members(&stray);
        dataplane.sessions.remove_members(&stray)?;
        for index in stray {
            dataplane.members.clear(index)?;
        }
    }
    for index in (0..MAX_VIPS as u16).filter(|index| !state.vips.contains_key(index)) {
        if let Some(ring) = dataplane.vips.ring(index)? {
            dataplane.vips.clear(index)?;
            dataplane.rings.retire(ring.image);
        }
    }
    for index in (0..MAX_NAT_SOURCES as u16).filter(|index| !state.sources.contains_key(index)) {
        let empty = bytemuck::Zeroable::zeroed();
        dataplane.nat_sources.write(index.into(), &empty)?;
    }
    sweep_services(dataplane, state)
}

fn sweep_services(dataplane: &mut Dataplane, state: &State) -> Result<()> {
    let wanted = state.snapshot().services;
    let there: BTreeMap<ServiceKey, u64> = dataplane
        .services
        .iter()
        .map(|entry| (entry.key.into(), entry.target))
        .collect();
    for key in there.keys().filter(|key| !wanted.contains_key(key)) {
        dataplane.services.remove(&key.vip_key())?;
    }
    for (key, target) in wanted
        .iter()
        .filter(|(key, target)| there.get(key) != Some(target))
    {
        dataplane.add_service(&key.vip_key(), *target)?;
    }
    Ok(())
}

fn broken(what: String) -> ReconcilerError {
    ReconcilerError::Adoption { what }
}

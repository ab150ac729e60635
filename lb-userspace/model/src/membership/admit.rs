//! Makes the members of a source backends of VIPs, by the rules of `[[vip.backend]]`.

use std::{collections::HashSet, net::IpAddr};

use lb_common::ring::MAX_MEMBERS;

use super::{Known, Member, MemberKey, SourceKey, Stage};
use crate::{
    config::{Backend, BackendState, Config, Forward, Vip, address_problem, is_name},
    ring::Identity,
};

/// Why members can't be backends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inadmissible {
    /// One member is wrong.
    #[error("member {member}: {what}")]
    Member {
        /// Its name and place.
        member: String,
        /// What is wrong.
        what: String,
    },
    /// There is no room for one member beside the others.
    #[error("member {member}: {what}")]
    Room {
        /// Its name and place.
        member: String,
        /// What is full.
        what: String,
    },
    /// One member is the same backend as another one.
    #[error(
        "member {member}: VIP {vip} has another backend of this name, or of this address and port"
    )]
    Twin {
        /// Its name and place.
        member: String,
        /// The VIP.
        vip: String,
    },
    /// All of them together are wrong.
    #[error("{0}")]
    All(String),
}

/// Its place, with its name if that says more.
fn described(member: &Member) -> String {
    let place = member.place();
    match member.name == super::name_of(member.address, member.port) {
        true => place,
        false => format!("{} ({place})", member.name),
    }
}

fn wrong<T>(member: &Member, what: impl Into<String>) -> Result<T, Inadmissible> {
    let (member, what) = (described(member), what.into());
    Err(Inadmissible::Member { member, what })
}

fn no_room<T>(member: &Member, what: impl Into<String>) -> Result<T, Inadmissible> {
    let (member, what) = (described(member), what.into());
    Err(Inadmissible::Room { member, what })
}

/// Checks members by themselves, whichever VIP they are for.
///
/// # Errors
///
/// The first that is wrong.
pub fn check_members(members: &[Member]) -> Result<(), Inadmissible> {
    if members.len() > MAX_MEMBERS as usize {
        let count = members.len();
        let message = format!("{count} members: at most {MAX_MEMBERS} are possible on a node");
        return Err(Inadmissible::All(message));
    }
    let mut checked = MemberCheck::default();
    members.iter().try_for_each(|member| checked.add(member))
}

/// Checks members one after the other.
#[derive(Default)]
pub struct MemberCheck<'a> {
    names: HashSet<&'a str>,
    keys: HashSet<MemberKey>,
}

impl<'a> MemberCheck<'a> {
    /// Adds a member to those before.
    ///
    /// # Errors
    ///
    /// It is wrong by itself, or beside one of them.
    pub fn add(&mut self, member: &'a Member) -> Result<(), Inadmissible> {
        if !is_name(&member.name) {
            let what = "the name must be 1 to 63 of the characters A-Z, a-z, 0-9, `.`, `_` and `-`";
            return wrong(member, what);
        }
        if let Some((what, _)) = address_problem(member.address) {
            return wrong(member, what);
        }
        if member.port == Some(0) || member.weight > MAX_WEIGHT {
            let what =
                format!("the port must be from 1 to 65535, and the weight from 0 to {MAX_WEIGHT}");
            return wrong(member, what);
        }
        if !self.names.insert(&member.name) {
            return wrong(member, "another member has the same name");
        }
        if !self.keys.insert(member.key()) {
            return wrong(member, "another member has the same address and port");
        }
        Ok(())
    }
}

const MAX_WEIGHT: u32 = 65_535;

/// Gives the VIPs of a configuration the members of their sources; `members_of` returns those of a source.
///
/// # Errors
///
/// The first member that can't be a backend of a VIP. The configuration is then half changed.
pub fn admit<'a>(
    config: &mut Config,
    members_of: impl Fn(&SourceKey) -> &'a [Known],
) -> Result<(), Inadmissible> {
    admit_required(config, members_of, |_, _, _| true).map(drop)
}

/// As [`admit`], without the members that can't be backends. Returns why they are not.
pub fn admit_what_fits<'a>(
    config: &mut Config,
    members_of: impl Fn(&SourceKey) -> &'a [Known],
) -> Vec<Inadmissible> {
    let admitted = admit_required(config, members_of, |_, _, _| false);
    // Nothing is required.
    admitted.unwrap_or_default()
}

/// As [`admit`], but members of a VIP are left out if they can't be backends for a reason that does not
/// count. Returns why they are not.
///
/// Of two members for the same place in a VIP, the one that was named last has it; before those that are
/// leaving, also if there is no room for all.
///
/// # Errors
///
/// The first member that can't be a backend for a reason that counts. The configuration is then half changed.
pub fn admit_required<'a>(
    config: &mut Config,
    members_of: impl Fn(&SourceKey) -> &'a [Known],
    counts: impl Fn(&Vip, &Known, &Inadmissible) -> bool,
) -> Result<Vec<Inadmissible>, Inadmissible> {
    let vips = config.vips.iter();
    let vip_addresses: HashSet<IpAddr> = vips.map(|vip| vip.address).collect();
    let nat_source = &config.node.nat_source;
    let (sourced, listed): (Vec<_>, Vec<_>) = config
        .vips
        .iter_mut()
        .partition(|vip| vip.backends_from.is_some());
    let listed: usize = listed.iter().map(|vip| vip.backends.len()).sum();
    let mut room = (MAX_MEMBERS as usize).saturating_sub(listed);
    let mut left_out = Vec::new();
    for vip in sourced {
        let Some(key) = SourceKey::of(vip) else {
            continue;
        };
        let members = members_of(&key);
        let mut order: Vec<usize> = (0..members.len()).collect();
        order.sort_by_key(|index| members[*index].stage.rank());
        let mut backends = Backends::default();
        for index in order {
            let known = &members[index];
            let member = &known.member;
            let added = if vip_addresses.contains(&member.address) {
                wrong(member, "the address is that of a VIP")
            } else if nat_source.contains(&member.address) {
                wrong(member, "the address is in `node.nat_source`")
            } else if room == 0 {
                no_room(
                    member,
                    format!("at most {MAX_MEMBERS} backends are possible on a node"),
                )
            } else {
                let backend = backend_of(vip, known);
                backend.and_then(|backend| backends.add(vip, member, (index, backend)))
            };
            match added {
                Ok(()) => room -= 1,
                Err(why) if counts(vip, known, &why) => return Err(why),
                Err(Inadmissible::Twin { .. }) if known.stage != Stage::Present => {}
                Err(why) => left_out.push(why),
            }
        }
        vip.backends = backends.in_order();
    }
    Ok(left_out)
}

fn backend_of(vip: &Vip, known: &Known) -> Result<Backend, Inadmissible> {
    let member = &known.member;
    let port = member.identity_in(vip).port;
    let is_of_family = member.address.is_ipv4() == vip.address.is_ipv4();
    if vip.forward != Forward::Ipip && !is_of_family {
        let what = format!("VIP {} needs backends of its own address family", vip.name);
        return wrong(member, what);
    }
    if vip.port == 0 && member.port.is_some() {
        let what = format!(
            "VIP {} is for any port, so its backends can't have one",
            vip.name
        );
        return wrong(member, what);
    }
    if vip.forward != Forward::Nat && port != vip.port {
        let what = format!(
            "only `forward = \"nat\"` can change the port, and VIP {} has port {}",
            vip.name, vip.port
        );
        return wrong(member, what);
    }
    // What was set for a backend holds also when its name is that of another one.
    let name = known.former_name.as_ref().unwrap_or(&member.name);
    let set = vip.overrides.iter().find(|it| it.name == *name);
    // To enable a backend does not bring one back that its source no longer names.
    let state = set
        .and_then(|set| set.state)
        .filter(|state| *state != BackendState::Up || !known.is_leaving());
    Ok(Backend {
        name: member.name.clone(),
        address: member.address,
        port,
        weight: set.and_then(|set| set.weight).unwrap_or(member.weight),
        capacity: None,
        state: state.unwrap_or_else(|| known.state()),
    })
}

/// The backends of a VIP so far, with the index of each member.
#[derive(Default)]
struct Backends {
    all: Vec<(usize, Backend)>,
    names: HashSet<String>,
    identities: HashSet<Identity>,
}

impl Backends {
    fn add(
        &mut self,
        vip: &Vip,
        member: &Member,
        (index, backend): (usize, Backend),
    ) -> Result<(), Inadmissible> {
        // Two members may differ only in that one names the VIP's port.
        if self.names.contains(&backend.name) || self.identities.contains(&backend.identity()) {
            let (member, vip) = (described(member), vip.name.clone());
            return Err(Inadmissible::Twin { member, vip });
        }
        let slots = vip.ring_size.get() as usize;
        if self.all.len() == slots {
            let what = format!("the ring of VIP {} has only {slots} slots", vip.name);
            return no_room(member, what);
        }
        self.identities.insert(backend.identity());
        self.names.insert(backend.name.clone());
        self.all.push((index, backend));
        Ok(())
    }

    /// In the order of the members.
    fn in_order(mut self) -> Vec<Backend> {
        self.all.sort_by_key(|(index, _)| *index);
        self.all.into_iter().map(|(_, backend)| backend).collect()
    }
}

//! SRV records, and the members that they and the addresses of their targets make.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use hickory_resolver::proto::rr::rdata::SRV;
use lb_common::ring::MAX_MEMBERS;
use lb_model::{
    config::BackendState,
    membership::{Member, name_of},
};

use super::{AskError, at_most};

/// Ports of a target, with the sum of the weights of their records.
pub(super) type Ports = BTreeMap<u16, u32>;

/// Targets of the SRV records with the lowest priority number.
pub(super) struct Targets(pub(super) BTreeMap<String, Ports>);

impl Targets {
    pub(super) fn of(name: &str, records: &[&SRV]) -> Result<Self, AskError> {
        let lowest = records.iter().map(|srv| srv.priority).min();
        let lowest = lowest.ok_or_else(|| AskError::failed(name, "no SRV records"))?;
        let used = || records.iter().filter(|srv| srv.priority == lowest);
        if used().any(|srv| srv.target.is_root()) {
            let why = "the service is not offered (SRV target \".\")";
            return Err(AskError::failed(name, why));
        }
        at_most(name, used().count(), "SRV records")?;
        let mut targets: BTreeMap<String, Ports> = BTreeMap::new();
        for srv in used() {
            // RFC 2782: a target with weight 0 has a very small chance of being selected.
            let weight = u32::from(srv.weight.max(1));
            let ports = targets.entry(target_of(srv)).or_default();
            add(ports.entry(srv.port).or_default(), weight);
        }
        Ok(Self(targets))
    }
}

fn target_of(srv: &SRV) -> String {
    let target = srv.target.to_ascii().to_ascii_lowercase();
    target.trim_end_matches('.').to_owned()
}

fn add(sum: &mut u32, weight: u32) {
    *sum = (*sum + weight).min(u16::MAX.into());
}

/// Addresses and ports with their weights, never more than a node can have. Records that lead to the same
/// address and port are one member with the sum of their weights.
#[derive(Default)]
pub(super) struct Weighted(BTreeMap<(IpAddr, u16), u32>);

impl Weighted {
    /// Adds the addresses of a target.
    pub(super) fn add(
        &mut self,
        target: &str,
        ports: &Ports,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<(), AskError> {
        let (most, members) = (MAX_MEMBERS as usize, ports.len() * addresses.len());
        if members > most {
            let (ports, addresses) = (ports.len(), addresses.len());
            let what = format!("SRV records with {ports} ports for {addresses} addresses");
            return Err(AskError::too_many(target, &what));
        }
        for (port, weight) in ports {
            for address in addresses {
                add(self.0.entry((*address, *port)).or_default(), *weight);
            }
        }
        match self.0.len() > most {
            true => Err(AskError::too_many(
                target,
                &format!("with this SRV target, {} members", self.0.len()),
            )),
            false => Ok(()),
        }
    }

    pub(super) fn into_members(self) -> Vec<Member> {
        let members = self.0.into_iter();
        members
            .map(|((address, port), weight)| Member {
                name: name_of(address, Some(port)),
                address,
                port: Some(port),
                weight,
                state: BackendState::Up,
            })
            .collect()
    }
}

//! Source addresses: of `nat`, and of the outer header of `ipip`.

use std::{collections::BTreeSet, net::IpAddr};

use lb_common::{address_of, nat::NatSource, ring::MemberIndex};

use super::Plan;
use crate::reconciler::{
    entry::{NO_NAT_SOURCE, Source},
    error::{ReconcilerError, Result},
    indexes::next_free,
    state::{MemberState, SourceState},
};
use lb_model::config::{self, Forward, Node};

impl Plan<'_> {
    /// Configured source addresses of `nat` for a backend.
    fn configured_sources(node: &Node, backend: IpAddr) -> Vec<IpAddr> {
        let all = node.nat_source.iter().copied();
        all.filter(|source| source.is_ipv4() == backend.is_ipv4())
            .collect()
    }

    /// The source address of `nat` for a member. Members are spread over the configured addresses.
    fn nat_source(&self, index: MemberIndex, member: &MemberState) -> Option<IpAddr> {
        let backend = member.identity.address;
        let configured = Self::configured_sources(&self.config.node, backend);
        match configured.len() {
            0 => self.route_source(backend),
            n => configured.get(usize::from(index) % n).copied(),
        }
    }

    /// The host's own address on the route to a backend, unless it is a VIP: replies to that would be
    /// taken for requests.
    fn route_source(&self, backend: IpAddr) -> Option<IpAddr> {
        let source = self.routes.get(&backend)?.as_ref()?.source?;
        let is_vip = self.vip_addresses.contains(&source);
        (!is_vip && source.is_ipv4() == backend.is_ipv4()).then_some(source)
    }

    /// Allocates an index for every source address of `nat`.
    pub(super) fn place_sources(&mut self) -> Result<()> {
        let mut wanted = self.wanted_sources();
        let ports = &self.config.node.nat_ports;
        let (first_port, count) = (*ports.start(), ports.end() - ports.start());
        let ports = count.saturating_add(1);
        let draws = draws_for(self.config.node.nat_source_share.as_f64(), ports);
        for state in self.next.sources.values_mut() {
            let is_wanted = wanted.remove(&state.address);
            state.entry.first_port = first_port;
            state.entry.ports = if is_wanted { ports } else { 0 };
            state.entry.draws = draws;
            if is_wanted {
                state.unreferenced = 0;
            }
        }
        for address in wanted {
            let entry = NatSource {
                address: address_of(address).0,
                first_port,
                ports,
                draws,
            };
            self.add_source(address, entry)?;
        }
        Ok(())
    }

    fn wanted_sources(&self) -> BTreeSet<IpAddr> {
        let mut wanted = BTreeSet::new();
        for (&index, member) in self.next.members.iter() {
            if self.forwards(member, Forward::Nat) {
                wanted.extend(self.nat_source(index, member));
                // A member whose route is unknown for the moment keeps its source.
                if !self.has_route(member)
                    && let Some(source) = self.next.sources.get(&member.entry.nat_source)
                    && member.entry.source != [0; 2]
                {
                    wanted.insert(source.address);
                }
            }
        }
        wanted
    }

    fn add_source(&mut self, address: IpAddr, entry: NatSource) -> Result<()> {
        let taken = |index| self.next.sources.contains_key(&index);
        let index = next_free(None, u32::from(NO_NAT_SOURCE), taken).ok_or_else(|| {
            ReconcilerError::Full {
                what: format!("NAT source {address}"),
                limit: u32::from(NO_NAT_SOURCE),
                hint: "use fewer addresses in node.nat_source",
            }
        })?;
        let state = SourceState {
            address,
            entry,
            unreferenced: 0,
        };
        self.next.sources.insert(index, state);
        Ok(())
    }

    pub(super) fn source(&self, index: MemberIndex, member: &MemberState) -> Source {
        let backend = member.identity.address;
        if self.forwards(member, Forward::L2) {
            return Source::None;
        }
        if self.forwards(member, Forward::Ipip) {
            let configured = self.config.node.encap_prefix(backend);
            let own = || {
                let source = self.route_source(backend)?;
                Some(config::Prefix::containing(source, 128))
            };
            return configured
                .or_else(own)
                .map_or(Source::Unknown, Source::Encap);
        }
        let source = self.nat_source(index, member).and_then(|address| {
            let mut all = self.next.sources.iter();
            let (&index, _) = all.find(|(_, state)| state.address == address)?;
            let vip = self.next.vips.get(&member.vip)?.service.address;
            Some(Source::Nat { vip, index })
        });
        source.unwrap_or(Source::Unknown)
    }
}

/// How many times ports are drawn, with repetition, for a client that may use this share of them: each port stays
/// undrawn with probability (1 − 1/ports)^draws. 0, without a limit, for a share of 1.
fn draws_for(share: f64, ports: u16) -> u32 {
    let undrawn = 1.0 - share;
    if undrawn <= 0.0 {
        return 0;
    }
    let draws = -undrawn.ln() * f64::from(ports);
    (draws.round() as u32).max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use lb_common::{hash::HashKey, nat::PortChoice, vip::Vip};

    use super::*;

    /// The ports that a client with this address may use.
    fn drawn(client: u64, share: f64, ports: u16) -> BTreeSet<u16> {
        let source = NatSource {
            ports,
            draws: draws_for(share, ports),
            ..bytemuck::Zeroable::zeroed()
        };
        let hash_key = HashKey {
            k0: 1,
            k1: 0x2d35_8dcc_aa6c_78a5,
            k2: 0x8bb8_4b93_962e_acc9,
            k3: 4,
        };
        let vip = Vip {
            hash_key,
            ..bytemuck::Zeroable::zeroed()
        };
        let choice = PortChoice::new(&source, &vip, &[client, 0], 0);
        (0..4 * u32::from(ports)).map(|n| choice.nth(n)).collect()
    }

    #[test]
    fn a_client_may_use_its_share_of_the_ports() {
        for ports in [256, 1000, 16_384, 65_535] {
            for share in [0.01, 0.25, 0.5, 0.9, 1.0] {
                let drawn = drawn(7, share, ports);
                assert!(drawn.iter().all(|&port| port < ports));
                let off = drawn.len() as f64 / f64::from(ports) - share;
                let deviation = (share * (1.0 - share) / f64::from(ports)).sqrt();
                assert!(off.abs() <= 5.0 * deviation, "{ports} {share}: {off}");
            }
        }
    }

    /// What two clients have in common is what chance explains, also if their addresses are neighbours.
    #[test]
    fn clients_have_different_ports() {
        const PORTS: u16 = 16_384;
        for client in 1..100 {
            let [one, other] = [client, client + 1].map(|client| drawn(client, 0.5, PORTS));
            let common = one.intersection(&other).count() as f64 / f64::from(PORTS);
            assert!((common - 0.25).abs() < 0.02, "{client}: {common}");
        }
    }
}

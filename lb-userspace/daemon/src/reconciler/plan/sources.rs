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
use lb_model::{
    config::{self, Forward, Node},
    nat_draws::nat_draws,
};

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
        let draws = nat_draws(self.config.node.nat_source_share.as_f64(), ports);
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

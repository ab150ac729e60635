//! The host's ports that `nat` uses: checked before a configuration may use more of them, and
//! periodically. How many of them have sessions.
//!
//! Any process on the host can bind such a port. A conflict therefore blocks only changes that need
//! new ports, never what keeps packets flowing: next hops, other changes, rollbacks.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::ring::MemberIndex;
use lb_dataplane::{Established, PortCounts};

use crate::{
    alerts::{Condition, Severity},
    node::PortUse,
    reconciler::{
        Routes, VipReport,
        ports::{self, PortError, PortRange},
    },
};
use lb_model::config::{Config, Forward};

/// The ports and addresses that `nat` uses.
struct NatPorts {
    sources: BTreeSet<IpAddr>,
    range: PortRange,
}

impl NatPorts {
    /// None without `nat` VIPs.
    fn of(config: &Config, routes: &Routes) -> Option<Self> {
        let nat = config.vips.iter().filter(|vip| vip.forward == Forward::Nat);
        let backends: BTreeSet<IpAddr> = nat
            .flat_map(|vip| &vip.backends)
            .map(|backend| backend.address)
            .collect();
        if backends.is_empty() {
            return None;
        }
        let configured = &config.node.nat_source;
        let mut sources: BTreeSet<IpAddr> = configured.iter().copied().collect();
        for backend in backends {
            if !configured.iter().any(|s| s.is_ipv4() == backend.is_ipv4()) {
                let route = routes.get(&backend).copied().flatten();
                sources.extend(route.and_then(|route| route.source));
            }
        }
        let range = config.node.nat_ports.clone();
        Some(Self { sources, range })
    }

    fn is_part_of(&self, other: &Self) -> bool {
        let has = |port| other.range.contains(port);
        self.sources.is_subset(&other.sources) && has(self.range.start()) && has(self.range.end())
    }

    fn check(&self) -> Result<(), PortError> {
        let sources: Vec<IpAddr> = self.sources.iter().copied().collect();
        ports::check_sockets(&sources, &self.range)
    }
}

/// Reserves the ports that `nat` will use with a configuration but does not use with the one in `used`,
/// unless a socket has one of them.
pub(super) fn guard(
    config: &Config,
    used: Option<&Config>,
    routes: &Routes,
) -> Result<(), PortError> {
    let Some(wanted) = NatPorts::of(config, routes) else {
        return Ok(());
    };
    let used = used.and_then(|used| NatPorts::of(used, routes));
    if used.is_some_and(|used| wanted.is_part_of(&used)) {
        return Ok(());
    }
    wanted.check()?;
    ports::reserve(&wanted.range)
}

/// Why a port that `nat` uses can't be distinguished from a socket's.
pub(super) fn conflict(config: &Config, routes: &Routes) -> Option<String> {
    let used = NatPorts::of(config, routes)?;
    // Reserved first, so that no further socket gets one.
    let checked = ports::reserve(&used.range).and_then(|()| used.check());
    Some(checked.err()?.to_string())
}

/// The condition for a socket on a port of `nat`.
pub(super) fn condition(conflict: &str) -> Condition {
    let key = "data_path:nat_ports";
    let condition = Condition::new(key, "data_path", Severity::Warning, conflict);
    condition.cause(
        "a program on this host has bound the port; forwarding continues, but packets of that socket and of \
         a `nat` session with the same addresses and ports can't be told apart",
    )
}

/// The use of the ports of each member of `nat`, by its index. Of a member that keeps the port of its
/// packets: the port of the backend with most sessions.
pub(super) fn usage(
    report: &[VipReport],
    sessions: &Established,
) -> BTreeMap<MemberIndex, PortUse> {
    let members = || {
        report
            .iter()
            .flat_map(|vip| vip.members.iter().map(move |m| (vip, m)))
    };
    let backends: BTreeMap<_, _> = members()
        .map(|(vip, member)| {
            (
                member.index,
                (member.identity.address, vip.service.protocol),
            )
        })
        .collect();
    let mut pools = BTreeMap::<_, PortCounts>::new();
    for (pool, counts) in &sessions.ports {
        if let Some(backend) = backends.get(&pool.member) {
            let sum = pools
                .entry((backend, pool.source, pool.backend_port))
                .or_default();
            sum.in_use += counts.in_use;
            sum.over += counts.over;
        }
    }
    let usage = members().filter_map(|(_, member)| {
        let (source, total) = member.nat_source?;
        let backend = backends.get(&member.index)?;
        let (first, last) = match member.identity.port {
            0 => (0, u16::MAX),
            port => (port, port),
        };
        let pools = pools.range((backend, source, first)..=(backend, source, last));
        let most = pools
            .map(|(_, counts)| *counts)
            .max_by_key(|c| (c.in_use, c.over));
        let PortCounts { in_use, over } = most.unwrap_or_default();
        let total = total.into();
        Some((
            member.index,
            PortUse {
                in_use,
                over,
                total,
            },
        ))
    });
    usage.collect()
}

#[cfg(test)]
mod tests {
    use lb_dataplane::PortPool;
    use lb_model::{
        config::{BackendState, Protocol},
        ring::Identity,
        transition::SlotCounts,
    };

    use super::*;
    use crate::reconciler::{MemberReport, ServiceId};

    /// Source addresses have 1000 ports, except 9, which has none.
    fn member(index: MemberIndex, address: u8, port: u16, source: u16) -> MemberReport {
        MemberReport {
            index,
            generation: 0,
            name: format!("b{index}"),
            check_name: String::new(),
            identity: Identity {
                address: [10, 0, 0, address].into(),
                port,
            },
            wanted: BackendState::Up,
            healthy: true,
            proven: true,
            leaving: false,
            weight: 1,
            effective_weight: 1,
            next_hop: None,
            nat_source: (source != 9).then_some((source, 1000)),
            intended_share: 0.0,
            table_share: 0.0,
        }
    }

    fn vip(index: u16, protocol: Protocol, members: Vec<MemberReport>) -> VipReport {
        VipReport {
            is_limited: false,
            assignment: None,
            index,
            name: format!("v{index}"),
            service: ServiceId {
                address: [192, 0, 2, 1].into(),
                port: index,
                protocol,
            },
            forward: Forward::Nat.code(),
            panic: false,
            slots: 0,
            counts: SlotCounts::default(),
            members,
        }
    }

    /// By member, NAT source and backend port: ports in use, and ports of connections that are over.
    fn sessions(pools: &[(MemberIndex, u16, u16, u32, u32)]) -> Established {
        let ports = pools
            .iter()
            .map(|&(member, source, backend_port, in_use, over)| {
                let pool = PortPool {
                    vip: 0,
                    member,
                    source,
                    backend_port,
                };
                (pool, PortCounts { in_use, over })
            });
        Established {
            ports: ports.collect(),
            ..Established::default()
        }
    }

    #[test]
    fn members_with_the_same_backend_protocol_and_source_share_ports() {
        let report = [
            vip(
                1,
                Protocol::Tcp,
                vec![member(1, 1, 80, 0), member(2, 2, 80, 0)],
            ),
            vip(
                2,
                Protocol::Tcp,
                vec![
                    member(3, 1, 80, 0),
                    member(4, 1, 81, 0),
                    member(5, 2, 80, 3),
                ],
            ),
            vip(
                3,
                Protocol::Udp,
                vec![member(6, 1, 80, 0), member(7, 3, 80, 9)],
            ),
        ];
        let sessions = sessions(&[
            (1, 0, 80, 100, 7),
            (3, 0, 80, 20, 0),
            (4, 0, 81, 3, 0),
            (5, 3, 80, 4, 0),
            // On the source address that it had before.
            (5, 2, 80, 50, 0),
            (6, 0, 80, 6, 0),
            // Of no VIP any more.
            (8, 0, 80, 500, 0),
        ]);
        let usage = usage(&report, &sessions);
        let brief: Vec<_> = usage
            .iter()
            .map(|(i, p)| (*i, p.in_use, p.over, p.total))
            .collect();
        let all = 1000;
        assert_eq!(
            brief,
            [
                (1, 120, 7, all),
                (2, 0, 0, all),
                (3, 120, 7, all),
                (4, 3, 0, all),
                (5, 4, 0, all),
                (6, 6, 0, all)
            ]
        );
    }

    #[test]
    fn each_port_of_a_backend_has_ports_of_its_own() {
        let report = [vip(0, Protocol::Tcp, vec![member(1, 1, 0, 0)])];
        let sessions = sessions(&[(1, 0, 80, 5, 0), (1, 0, 443, 8, 1), (1, 0, 22, 7, 9)]);
        let ports = usage(&report, &sessions)[&1];
        assert_eq!((ports.in_use, ports.over), (8, 1));
    }
}

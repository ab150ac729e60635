//! The next hop of a backend, derived from the kernel's links, neighbours and routes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

/// The next hop of each backend.
pub type NextHops = BTreeMap<IpAddr, NextHopState>;

/// MAC addresses that interfaces accept frames for, by interface index.
pub type Stations = BTreeSet<(u32, [u8; 6])>;

/// A resolved next hop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedNextHop {
    pub ifindex: u32,
    pub ifname: String,
    /// MAC address of the next hop.
    pub mac: [u8; 6],
    /// MAC address of the interface.
    pub own_mac: [u8; 6],
    /// `None` if the backend is on the link.
    pub gateway: Option<IpAddr>,
    /// MTU of the route, or of the interface if that is smaller.
    pub mtu: u32,
    /// Source address of the route; `None` if the interface has no address.
    pub source: Option<IpAddr>,
    /// Where native XDP transmits.
    pub native: NativeEgress,
    /// Interfaces by which packets from the next hop may come in.
    pub receivers: Vec<String>,
}

/// Where native XDP transmits the frames of a next hop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NativeEgress {
    /// On the interface of the route.
    #[default]
    Same,
    /// On an interface below it.
    Below { ifindex: u32, ifname: String },
    /// Nowhere.
    None(UnresolvedReason),
}

impl ResolvedNextHop {
    /// Returns why `l2` cannot forward to this next hop, if so.
    #[must_use]
    pub fn obstacle_to_l2(&self) -> Option<UnresolvedReason> {
        self.gateway.map(|gateway| UnresolvedReason::BehindGateway {
            ifname: self.ifname.clone(),
            gateway,
        })
    }

    /// Returns the interface on which frames are transmitted, in native or generic mode.
    pub fn egress(&self, is_native: bool) -> Result<u32, UnresolvedReason> {
        match &self.native {
            NativeEgress::Below { ifindex, .. } if is_native => Ok(*ifindex),
            NativeEgress::None(reason) if is_native => Err(reason.clone()),
            _ => Ok(self.ifindex),
        }
    }

    /// Returns why `nat` cannot forward to this next hop, if so: the program is attached to these
    /// interfaces, and must see the replies.
    #[must_use]
    pub fn obstacle_to_nat(&self, attached: &[String]) -> Option<UnresolvedReason> {
        let is_seen = self.receivers.iter().any(|name| attached.contains(name));
        (!is_seen).then(|| UnresolvedReason::RepliesUnseen {
            ifname: self.ifname.clone(),
        })
    }
}

/// Whether the next hop is resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextHopState {
    Resolved(ResolvedNextHop),
    Unresolved(UnresolvedReason),
}

impl NextHopState {
    /// Returns the next hop if it is resolved.
    #[must_use]
    pub const fn resolved(&self) -> Option<&ResolvedNextHop> {
        match self {
            Self::Resolved(resolved) => Some(resolved),
            Self::Unresolved(_) => None,
        }
    }
}

/// Why the next hop is unresolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnresolvedReason {
    /// The kernel has no route to the address.
    NoRoute {
        /// The kernel's message.
        kernel: String,
    },
    /// The address belongs to this host.
    Local,
    /// The interface is down or has no carrier.
    InterfaceDown {
        ifname: String,
    },
    NotEthernet {
        ifname: String,
    },
    /// Native mode only: XDP can't transmit on interfaces of this kind.
    Stacked {
        ifname: String,
        kind: String,
    },
    /// `nat` only: the program is not attached to the interface by which replies come in.
    RepliesUnseen {
        ifname: String,
    },
    /// The kernel is resolving the neighbour.
    Resolving {
        ifname: String,
        /// The gateway, or the backend itself.
        neighbour: IpAddr,
    },
    /// The neighbour does not answer.
    NoAnswer {
        ifname: String,
        /// The gateway, or the backend itself.
        neighbour: IpAddr,
    },
    /// `l2` only: the gateway routes by the destination, which is still the VIP, and would send the
    /// packet back until its TTL expires.
    BehindGateway {
        ifname: String,
        gateway: IpAddr,
    },
}

impl fmt::Display for UnresolvedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoute { kernel } => write!(f, "no route ({kernel}); see `ip route get`"),
            Self::Local => f.write_str(
                "the address belongs to this host, and the balancer cannot send frames to itself; run \
                 the backend on another host, or in a network namespace with its own address",
            ),
            Self::InterfaceDown { ifname } => {
                write!(
                    f,
                    "interface {ifname} is down or has no carrier; see `ip link`"
                )
            }
            Self::NotEthernet { ifname } => {
                write!(
                    f,
                    "interface {ifname} is not Ethernet and cannot be used for forwarding"
                )
            }
            Self::Stacked { ifname, kind } => write!(
                f,
                "native XDP can't transmit on {ifname} ({kind}); route the backend through the interface \
                 below it, or set xdp_mode = \"generic\" (slow)"
            ),
            Self::RepliesUnseen { ifname } => write!(
                f,
                "replies come in by {ifname}, which is not in node.interfaces, and would not be \
                 translated; add {ifname} to node.interfaces, or use forward = \"l2\" or \"ipip\""
            ),
            Self::Resolving { ifname, neighbour } => {
                write!(f, "resolving {neighbour} on {ifname}")
            }
            Self::NoAnswer { ifname, neighbour } => write!(
                f,
                "{neighbour} does not answer on {ifname} (ARP or neighbour discovery); check that it \
                 is up and in the same subnet"
            ),
            Self::BehindGateway { ifname, gateway } => write!(
                f,
                "only reachable through gateway {gateway} on {ifname}, which would send packets back; \
                 l2 needs the backend on the same link: use forward = \"ipip\" or \"nat\""
            ),
        }
    }
}

/// The kernel's route to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Via {
        ifindex: u32,
        neighbour: IpAddr,
        source: Option<IpAddr>,
        mtu: Option<u32>,
    },
    /// The address belongs to this host.
    Local,
    None {
        kernel: String,
    },
}

/// An interface of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) usable: bool,
    /// `None` if it is not Ethernet.
    pub(super) mac: Option<[u8; 6]>,
    pub(super) mtu: u32,
    /// The bridge, bond or other interface that it is a port of.
    pub(super) master: Option<u32>,
    /// Kind of a virtual interface: `vlan`, `bridge`, …
    pub(super) kind: Option<String>,
    /// The interface below a VLAN or macvlan interface, in this network namespace.
    pub(super) lower: Option<u32>,
}

/// The kernel's state of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Neighbour {
    /// The MAC address is known, whether or not it was confirmed recently.
    Known([u8; 6]),
    /// The MAC address was configured, or the interface does not resolve addresses.
    Permanent([u8; 6]),
    /// The kernel is resolving it.
    Incomplete,
    Failed,
}

/// Derives the state of a backend's next hop. `before` is its last state: when the kernel drops a
/// neighbour entry to save memory, the last MAC address stays valid until resolving it fails.
pub(super) fn decide(
    backend: IpAddr,
    route: &Route,
    link: Option<&Link>,
    neighbour: Option<Neighbour>,
    before: Option<&NextHopState>,
) -> NextHopState {
    match resolve(backend, route, link, neighbour, before) {
        Ok(resolved) => NextHopState::Resolved(resolved),
        Err(reason) => NextHopState::Unresolved(reason),
    }
}

fn resolve(
    backend: IpAddr,
    route: &Route,
    link: Option<&Link>,
    neighbour: Option<Neighbour>,
    before: Option<&NextHopState>,
) -> Result<ResolvedNextHop, UnresolvedReason> {
    let (ifindex, address, source, mtu) = match route {
        Route::Via {
            ifindex,
            neighbour,
            source,
            mtu,
        } => (*ifindex, *neighbour, *source, *mtu),
        Route::Local => return Err(UnresolvedReason::Local),
        Route::None { kernel } => {
            let kernel = kernel.clone();
            return Err(UnresolvedReason::NoRoute { kernel });
        }
    };
    let link = link.ok_or_else(|| UnresolvedReason::NoRoute {
        kernel: format!("interface {ifindex} is gone"),
    })?;
    let ifname = link.name.clone();
    if !link.usable {
        return Err(UnresolvedReason::InterfaceDown { ifname });
    }
    let Some(own_mac) = link.mac else {
        return Err(UnresolvedReason::NotEthernet { ifname });
    };
    Ok(ResolvedNextHop {
        mac: mac(ifindex, &ifname, address, neighbour, before)?,
        ifindex,
        receivers: vec![ifname.clone()],
        native: NativeEgress::Same,
        ifname,
        own_mac,
        gateway: (address != backend).then_some(address),
        mtu: mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)),
        source,
    })
}

/// Returns the MAC address of a neighbour.
fn mac(
    ifindex: u32,
    ifname: &str,
    address: IpAddr,
    neighbour: Option<Neighbour>,
    before: Option<&NextHopState>,
) -> Result<[u8; 6], UnresolvedReason> {
    let ifname = ifname.to_owned();
    match (neighbour, before) {
        (Some(Neighbour::Known(mac) | Neighbour::Permanent(mac)), _) => Ok(mac),
        (Some(Neighbour::Failed), _) => Err(UnresolvedReason::NoAnswer {
            ifname,
            neighbour: address,
        }),
        (_, Some(NextHopState::Resolved(before))) if before.ifindex == ifindex => Ok(before.mac),
        // The reason stays while the kernel retries.
        (
            _,
            Some(NextHopState::Unresolved(reason @ UnresolvedReason::NoAnswer { neighbour, .. })),
        ) if *neighbour == address => Err(reason.clone()),
        _ => Err(UnresolvedReason::Resolving {
            ifname,
            neighbour: address,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    const BACKEND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9));

    fn route() -> Route {
        Route::Via {
            ifindex: 3,
            neighbour: GATEWAY,
            source: None,
            mtu: Some(1400),
        }
    }

    fn link() -> Link {
        Link {
            name: "eth0".into(),
            usable: true,
            mac: Some([2; 6]),
            mtu: 1500,
            master: None,
            kind: None,
            lower: None,
        }
    }

    fn reason(state: NextHopState) -> UnresolvedReason {
        match state {
            NextHopState::Unresolved(reason) => reason,
            NextHopState::Resolved(resolved) => panic!("{resolved:?}"),
        }
    }

    #[test]
    fn a_known_neighbour_resolves_the_next_hop() {
        let state = decide(
            BACKEND,
            &route(),
            Some(&link()),
            Some(Neighbour::Known([9; 6])),
            None,
        );
        let route = state.resolved().unwrap();
        assert_eq!(
            (route.mac, route.own_mac, route.mtu, route.ifindex),
            ([9; 6], [2; 6], 1400, 3)
        );
    }

    #[test]
    fn l2_needs_a_backend_on_the_link() {
        let known = Some(Neighbour::Known([9; 6]));
        for (backend, expected) in [(BACKEND, Some(GATEWAY)), (GATEWAY, None)] {
            let state = decide(backend, &route(), Some(&link()), known, None);
            let route = state.resolved().unwrap();
            assert_eq!(route.gateway, expected);
            let obstacle = route.obstacle_to_l2().map(|reason| reason.to_string());
            assert_eq!(obstacle.is_some(), expected.is_some());
            if let Some(obstacle) = obstacle {
                assert!(obstacle.contains("192.0.2.1 on eth0"), "{obstacle}");
                assert!(
                    obstacle.contains("use forward = \"ipip\" or \"nat\""),
                    "{obstacle}"
                );
            }
        }
    }

    #[test]
    fn nat_needs_the_replies() {
        let known = Some(Neighbour::Known([9; 6]));
        let state = decide(BACKEND, &route(), Some(&link()), known, None);
        let hop = state.resolved().unwrap();
        assert_eq!(hop.obstacle_to_nat(&["eth1".into(), "eth0".into()]), None);
        let obstacle = hop.obstacle_to_nat(&["eth1".into()]).unwrap().to_string();
        assert!(
            obstacle.contains("add eth0 to node.interfaces"),
            "{obstacle}"
        );
    }

    #[test]
    fn a_dropped_neighbour_entry_is_valid_until_it_fails() {
        let before = decide(
            BACKEND,
            &route(),
            Some(&link()),
            Some(Neighbour::Known([9; 6])),
            None,
        );
        for neighbour in [None, Some(Neighbour::Incomplete)] {
            let now = decide(BACKEND, &route(), Some(&link()), neighbour, Some(&before));
            assert_eq!(now, before);
        }
        let failed = decide(
            BACKEND,
            &route(),
            Some(&link()),
            Some(Neighbour::Failed),
            Some(&before),
        );
        let asked = decide(
            BACKEND,
            &route(),
            Some(&link()),
            Some(Neighbour::Incomplete),
            Some(&failed),
        );
        assert_eq!(
            asked, failed,
            "the reason does not flap while the kernel retries"
        );
        assert!(
            matches!(reason(failed), UnresolvedReason::NoAnswer { neighbour, .. } if neighbour == GATEWAY)
        );
        // Nothing is known on another interface.
        let elsewhere = Route::Via {
            ifindex: 4,
            neighbour: GATEWAY,
            source: None,
            mtu: None,
        };
        let moved = decide(BACKEND, &elsewhere, Some(&link()), None, Some(&before));
        assert!(matches!(reason(moved), UnresolvedReason::Resolving { .. }));
    }

    #[test]
    fn each_obstacle_has_its_reason() {
        let known = Some(Neighbour::Known([9; 6]));
        let down = Link {
            usable: false,
            ..link()
        };
        let tunnel = Link {
            mac: None,
            ..link()
        };
        let none = Route::None {
            kernel: "unreachable".into(),
        };
        assert_eq!(
            reason(decide(BACKEND, &Route::Local, None, None, None)),
            UnresolvedReason::Local
        );
        assert!(matches!(
            reason(decide(BACKEND, &none, None, known, None)),
            UnresolvedReason::NoRoute { .. }
        ));
        assert!(matches!(
            reason(decide(BACKEND, &route(), None, known, None)),
            UnresolvedReason::NoRoute { .. }
        ));
        let state = decide(BACKEND, &route(), Some(&down), known, None);
        assert!(matches!(
            reason(state),
            UnresolvedReason::InterfaceDown { .. }
        ));
        let state = decide(BACKEND, &route(), Some(&tunnel), known, None);
        assert!(matches!(
            reason(state),
            UnresolvedReason::NotEthernet { .. }
        ));
    }
}

//! What is known about the way to a backend, and how that follows from what the kernel says.

use std::{collections::BTreeMap, fmt, net::IpAddr};

/// What is known about each backend.
pub type Table = BTreeMap<IpAddr, State>;

/// The way to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Interface that frames leave through.
    pub ifindex: u32,
    /// Its name.
    pub ifname: String,
    /// MAC address that frames go to.
    pub mac: [u8; 6],
    /// The interface's own MAC address.
    pub own_mac: [u8; 6],
    /// The gateway that frames go to. `None`: they go to the backend itself.
    pub gateway: Option<IpAddr>,
    /// Largest IP packet on the way, as far as the kernel knows.
    pub mtu: u32,
    /// Address that the kernel would send from. `None` when the interface has none.
    pub source: Option<IpAddr>,
}

impl Resolved {
    /// Why packets can't go this way with the addresses that they came with (`l2`), if so.
    #[must_use]
    pub fn obstacle_to_l2(&self) -> Option<Reason> {
        self.gateway.map(|gateway| Reason::BehindGateway {
            ifname: self.ifname.clone(),
            gateway,
        })
    }
}

/// Whether the way is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is.
    Resolved(Resolved),
    /// It is not.
    Unresolved(Reason),
}

impl State {
    /// The way, if it is known.
    #[must_use]
    pub const fn resolved(&self) -> Option<&Resolved> {
        match self {
            Self::Resolved(resolved) => Some(resolved),
            Self::Unresolved(_) => None,
        }
    }
}

/// Why it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The kernel has no route to the address.
    NoRoute {
        /// The kernel's words.
        kernel: String,
    },
    /// The address is one of this host's own.
    Local,
    /// The interface is down or has no carrier.
    InterfaceDown {
        /// The interface.
        ifname: String,
    },
    /// The interface does not carry Ethernet frames.
    NotEthernet {
        /// The interface.
        ifname: String,
    },
    /// The kernel is asking for the neighbour's MAC address.
    Asking {
        /// Interface that it asks on.
        ifname: String,
        /// Whom it asks for: the gateway, or the backend itself.
        neighbour: IpAddr,
    },
    /// The neighbour does not answer.
    NoAnswer {
        /// Interface that it was asked on.
        ifname: String,
        /// The gateway, or the backend itself.
        neighbour: IpAddr,
    },
    /// For `l2` alone: a gateway looks at the packet's address, which is the VIP's still, and sends it
    /// back here, until its TTL ends.
    BehindGateway {
        /// Interface that the gateway is on.
        ifname: String,
        /// The gateway.
        gateway: IpAddr,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoute { kernel } => write!(f, "no route ({kernel}); see `ip route get`"),
            Self::Local => f.write_str(
                "the address is this host's own; a balancer can't send frames to itself: run the \
                 backend on another host, or in a network namespace with an address of its own",
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
                    "interface {ifname} is not Ethernet; frames can't be sent through it"
                )
            }
            Self::Asking { ifname, neighbour } => {
                write!(f, "asking for {neighbour} on {ifname}")
            }
            Self::NoAnswer { ifname, neighbour } => write!(
                f,
                "{neighbour} does not answer on {ifname} (ARP or neighbour discovery); is it up, \
                 and in the same network?"
            ),
            Self::BehindGateway { ifname, gateway } => write!(
                f,
                "it is behind the gateway {gateway} on {ifname}, which would send its packets \
                 back: l2 needs the backend on the same link; use forward = \"ipip\" or \"nat\""
            ),
        }
    }
}

/// What the kernel says about the route to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// It goes through an interface.
    Via {
        ifindex: u32,
        neighbour: IpAddr,
        source: Option<IpAddr>,
        mtu: Option<u32>,
    },
    /// It ends here.
    Local,
    /// There is none.
    None { kernel: String },
}

/// What the kernel says about an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) usable: bool,
    /// `None`: not an Ethernet interface.
    pub(super) mac: Option<[u8; 6]>,
    pub(super) mtu: u32,
}

/// What the kernel says about a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Neighbour {
    /// Its MAC address is known; whether it was confirmed lately does not matter.
    Known([u8; 6]),
    /// Its MAC address was set by hand, or is not asked for on this kind of interface.
    Fixed([u8; 6]),
    /// The kernel is asking.
    Asking,
    /// It did not answer.
    Failed,
}

/// The way to a backend, by all that the kernel says. `before` is what was known before: an entry
/// that the kernel cleared away to save memory is asked for again, and good until that fails.
pub(super) fn decide(
    backend: IpAddr,
    route: &Route,
    link: Option<&Link>,
    neighbour: Option<Neighbour>,
    before: Option<&State>,
) -> State {
    let (ifindex, address, gateway, source, mtu) = match route {
        Route::Via {
            ifindex,
            neighbour,
            source,
            mtu,
        } => {
            let gateway = (*neighbour != backend).then_some(*neighbour);
            (*ifindex, *neighbour, gateway, *source, *mtu)
        }
        Route::Local => return State::Unresolved(Reason::Local),
        Route::None { kernel } => {
            return State::Unresolved(Reason::NoRoute {
                kernel: kernel.clone(),
            });
        }
    };
    let Some(link) = link else {
        let kernel = format!("interface {ifindex} is gone");
        return State::Unresolved(Reason::NoRoute { kernel });
    };
    let ifname = link.name.clone();
    if !link.usable {
        return State::Unresolved(Reason::InterfaceDown { ifname });
    }
    let Some(own_mac) = link.mac else {
        return State::Unresolved(Reason::NotEthernet { ifname });
    };
    let mac = match neighbour {
        Some(Neighbour::Known(mac) | Neighbour::Fixed(mac)) => mac,
        Some(Neighbour::Failed) => {
            return State::Unresolved(Reason::NoAnswer {
                ifname,
                neighbour: address,
            });
        }
        None | Some(Neighbour::Asking) => match before {
            Some(State::Resolved(before)) if before.ifindex == ifindex => before.mac,
            // It stays silent until it answers.
            Some(State::Unresolved(reason @ Reason::NoAnswer { neighbour, .. }))
                if *neighbour == address =>
            {
                return State::Unresolved(reason.clone());
            }
            _ => {
                return State::Unresolved(Reason::Asking {
                    ifname,
                    neighbour: address,
                });
            }
        },
    };
    let mtu = mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu));
    State::Resolved(Resolved {
        ifindex,
        ifname,
        mac,
        own_mac,
        gateway,
        mtu,
        source,
    })
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
        }
    }

    fn reason(state: State) -> Reason {
        match state {
            State::Unresolved(reason) => reason,
            State::Resolved(resolved) => panic!("{resolved:?}"),
        }
    }

    #[test]
    fn a_known_neighbour_is_a_way() {
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
    fn only_a_backend_on_the_link_is_a_way_for_l2() {
        let known = Some(Neighbour::Known([9; 6]));
        for (backend, expected) in [(BACKEND, Some(GATEWAY)), (GATEWAY, None)] {
            let state = decide(backend, &route(), Some(&link()), known, None);
            let route = state.resolved().unwrap();
            assert_eq!(route.gateway, expected);
            let said = route.obstacle_to_l2().map(|reason| reason.to_string());
            assert_eq!(said.is_some(), expected.is_some());
            if let Some(said) = said {
                assert!(said.contains("192.0.2.1 on eth0"), "{said}");
                assert!(said.contains("use forward = \"ipip\" or \"nat\""), "{said}");
            }
        }
    }

    #[test]
    fn a_forgotten_neighbour_is_good_until_it_fails_to_answer() {
        let before = decide(
            BACKEND,
            &route(),
            Some(&link()),
            Some(Neighbour::Known([9; 6])),
            None,
        );
        for neighbour in [None, Some(Neighbour::Asking)] {
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
            Some(Neighbour::Asking),
            Some(&failed),
        );
        assert_eq!(
            asked, failed,
            "the reason does not flap while the kernel asks again"
        );
        assert!(
            matches!(reason(failed), Reason::NoAnswer { neighbour, .. } if neighbour == GATEWAY)
        );
        // Another interface: nothing is known there.
        let elsewhere = Route::Via {
            ifindex: 4,
            neighbour: GATEWAY,
            source: None,
            mtu: None,
        };
        let moved = decide(BACKEND, &elsewhere, Some(&link()), None, Some(&before));
        assert!(matches!(reason(moved), Reason::Asking { .. }));
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
            Reason::Local
        );
        assert!(matches!(
            reason(decide(BACKEND, &none, None, known, None)),
            Reason::NoRoute { .. }
        ));
        assert!(matches!(
            reason(decide(BACKEND, &route(), None, known, None)),
            Reason::NoRoute { .. }
        ));
        let state = decide(BACKEND, &route(), Some(&down), known, None);
        assert!(matches!(reason(state), Reason::InterfaceDown { .. }));
        let state = decide(BACKEND, &route(), Some(&tunnel), known, None);
        assert!(matches!(reason(state), Reason::NotEthernet { .. }));
    }
}

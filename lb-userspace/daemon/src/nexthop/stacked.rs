//! Interfaces on top of others: where native XDP has to transmit instead, and where replies come in.

use super::{
    kernel::Links,
    state::{Link, NativeEgress, ResolvedNextHop, Stations, UnresolvedReason},
};

/// Kinds of interfaces that native XDP can't transmit on: they have no `ndo_xdp_xmit`, and the
/// kernel drops redirected frames.
const WITHOUT_XDP: [&str; 12] = [
    "batadv", "bridge", "geneve", "hsr", "ipvlan", "ipvtap", "macsec", "macvlan", "macvtap",
    "team", "vlan", "vxlan",
];

/// Interfaces stacked on one another, at most.
const MAX_LEVELS: usize = 8;

/// Returns where native XDP transmits the frames of a next hop. The header of a macvlan interface's
/// frames is complete, so they are transmitted on the interface below.
pub(super) fn native_egress(
    links: &Links,
    stations: &Stations,
    hop: &ResolvedNextHop,
) -> NativeEgress {
    let mut ifindex = hop.ifindex;
    let mut moved = false;
    for _ in 0..MAX_LEVELS {
        let Some(link) = links.get(&ifindex) else {
            break;
        };
        let kind = link.kind.as_deref().unwrap_or_default();
        if !WITHOUT_XDP.contains(&kind) {
            return if moved {
                NativeEgress::Below {
                    ifindex,
                    ifname: link.name.clone(),
                }
            } else {
                NativeEgress::Same
            };
        }
        let is_macvlan = matches!(kind, "macvlan" | "macvtap");
        // Between macvlan interfaces of one host, the kernel delivers frames itself.
        let below = link.lower.filter(|lower| {
            is_macvlan && !stations.contains(&(*lower, hop.mac)) && links.contains_key(lower)
        });
        let Some(below) = below else {
            return NativeEgress::None(UnresolvedReason::Stacked {
                ifname: link.name.clone(),
                kind: kind.to_owned(),
            });
        };
        (ifindex, moved) = (below, true);
    }
    NativeEgress::Same
}

/// Returns the names of the interfaces by which packets from the next hop may come in: its own, those
/// below it, and their ports.
pub(super) fn receivers(links: &Links, ifindex: u32) -> Vec<String> {
    let mut all = vec![ifindex];
    let mut next = 0;
    while let Some(&upper) = all.get(next) {
        let below = links.get(&upper).and_then(|link| link.lower);
        let is_port = |link: &&Link| link.master == Some(upper);
        let ports = links.iter().filter(|(_, link)| is_port(link));
        let mut new: Vec<u32> = ports.map(|(&port, _)| port).chain(below).collect();
        new.retain(|index| !all.contains(index));
        new.sort_unstable();
        all.extend(new);
        next += 1;
    }
    let names = all.iter().filter_map(|index| links.get(index));
    names.map(|link| link.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, kind: Option<&str>, lower: Option<u32>, master: Option<u32>) -> Link {
        Link {
            name: name.into(),
            usable: true,
            mac: Some([2; 6]),
            mtu: 1500,
            master,
            kind: kind.map(str::to_owned),
            lower,
        }
    }

    fn links() -> Links {
        [
            (1, link("eth0", None, None, None)),
            (2, link("mac0", Some("macvlan"), Some(1), None)),
            (3, link("mac1", Some("macvlan"), Some(2), None)),
            (4, link("eth0.10", Some("vlan"), Some(1), None)),
            (5, link("mac2", Some("macvlan"), Some(4), None)),
            (6, link("br0", Some("bridge"), None, None)),
            (7, link("port", Some("veth"), None, Some(6))),
            // Its lower interface is in another namespace.
            (8, link("mac3", Some("macvlan"), None, None)),
            (9, link("bond0", Some("bond"), None, None)),
        ]
        .into()
    }

    fn egress(ifindex: u32, stations: &Stations) -> NativeEgress {
        let hop = ResolvedNextHop {
            ifindex,
            mac: [9; 6],
            ..ResolvedNextHop::default()
        };
        native_egress(&links(), stations, &hop)
    }

    #[test]
    fn frames_of_macvlan_interfaces_are_transmitted_below() {
        let none = Stations::new();
        let below = NativeEgress::Below {
            ifindex: 1,
            ifname: "eth0".into(),
        };
        for ifindex in [1, 7, 9] {
            assert_eq!(egress(ifindex, &none), NativeEgress::Same, "{ifindex}");
        }
        for ifindex in [2, 3] {
            assert_eq!(egress(ifindex, &none), below, "{ifindex}");
        }
        for (ifindex, ifname, kind) in [
            (4, "eth0.10", "vlan"),
            (5, "eth0.10", "vlan"),
            (6, "br0", "bridge"),
            (8, "mac3", "macvlan"),
        ] {
            let reason = UnresolvedReason::Stacked {
                ifname: ifname.into(),
                kind: kind.into(),
            };
            assert_eq!(egress(ifindex, &none), NativeEgress::None(reason));
        }
        // The next hop is a macvlan interface of this host.
        let local = Stations::from([(1, [9; 6])]);
        assert!(matches!(egress(2, &local), NativeEgress::None(_)));
        assert_eq!(egress(1, &local), NativeEgress::Same);
    }

    #[test]
    fn replies_come_in_by_lower_interfaces_and_ports() {
        assert_eq!(receivers(&links(), 1), ["eth0"]);
        assert_eq!(receivers(&links(), 5), ["mac2", "eth0.10", "eth0"]);
        assert_eq!(receivers(&links(), 6), ["br0", "port"]);
    }
}

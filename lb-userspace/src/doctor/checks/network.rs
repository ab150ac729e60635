//! Checks on the network: next hops of the backends, MTUs, addresses, sysctls.

use std::net::IpAddr;

use super::HOST;
use crate::doctor::{Findings, Host, xdp_feature};
use lb_daemon::nexthop::{NativeEgress, NextHopState, ResolvedNextHop};
use lb_model::config::{Config, Forward, Via, Vip, XdpMode};

/// MTU of the Internet and most networks.
const USUAL_MTU: u32 = 1500;

pub(in super::super) fn network(host: &Host, config: &Config, findings: &mut Findings) {
    next_hops(host, config, findings);
    for vip in &config.vips {
        mtu(host, config, vip, findings);
        vip_address(host, vip, findings);
    }
    egress(host, config, findings);
    forwarding(host, findings);
    reverse_path(host, config, findings);
}

fn route(host: &Host, backend: IpAddr) -> Option<&ResolvedNextHop> {
    host.next_hops.get(&backend)?.resolved()
}

fn next_hops(host: &Host, config: &Config, findings: &mut Findings) {
    let mut resolved = 0;
    for (address, state) in &host.next_hops {
        let backends = |forwards: fn(Forward) -> bool| {
            let vips = config.vips.iter().filter(|vip| forwards(vip.forward));
            vips.flat_map(|vip| vip.backends.iter().map(move |backend| (vip, backend)))
                .filter(|(_, backend)| backend.address == *address)
                .map(|(vip, backend)| format!("{} of VIP {}", backend.name, vip.name))
                .collect::<Vec<String>>()
        };
        let (reason, names) = match state {
            NextHopState::Unresolved(reason) => (Some(reason.clone()), backends(|_| true)),
            NextHopState::Resolved(route) => {
                let is_native = config.node.xdp_mode != XdpMode::Generic;
                match (route.egress(is_native), route.obstacle_to_l2()) {
                    (Err(reason), _) => (Some(reason), backends(|_| true)),
                    (Ok(_), Some(reason)) => (Some(reason), backends(|f| f == Forward::L2)),
                    (Ok(_), None) => (
                        route.obstacle_to_nat(&config.node.interfaces),
                        backends(|f| f == Forward::Nat),
                    ),
                }
            }
        };
        let Some(reason) = reason.filter(|_| !names.is_empty()) else {
            resolved += 1;
            continue;
        };
        findings.problem(
            "next hop",
            &address.to_string(),
            format!("no route to {}: {reason}", names.join(", ")),
            "fix the route or the neighbour (`ip route get`, `ip neigh`); until then packets to it are \
             dropped (NO_NEXT_HOP)",
        );
    }
    if resolved > 0 {
        let text = format!("resolved backend addresses: {resolved}");
        findings.ok("next hop", HOST, text);
    }
}

/// Whether received packets fit the routes to the backends, with their outer headers.
fn mtu(host: &Host, config: &Config, vip: &Vip, findings: &mut Findings) {
    let incoming = config
        .node
        .interfaces
        .iter()
        .filter_map(|name| host.interface(name));
    let Some(incoming) = incoming.map(|interface| interface.mtu).max() else {
        return;
    };
    let smallest = vip
        .backends
        .iter()
        .filter_map(|backend| Some((route(host, backend.address)?, backend)))
        .map(|(route, backend)| {
            let overhead = match (vip.forward, backend.address) {
                (Forward::Ipip, IpAddr::V4(_)) => 20,
                (Forward::Ipip, IpAddr::V6(_)) => 40,
                _ => 0,
            };
            (route.mtu.saturating_sub(overhead), overhead, route, backend)
        })
        .min_by_key(|(fits, ..)| *fits);
    let Some((fits, overhead, route, backend)) = smallest else {
        return;
    };
    if fits >= incoming {
        let text = format!("packets of {incoming} bytes fit the route to every backend");
        findings.ok("mtu", &vip.name, text);
        return;
    }
    if fits >= USUAL_MTU {
        let text = format!(
            "packets of up to {fits} bytes fit the route to every backend; larger ones, which only local \
             clients can send, are answered with ICMP (fragmentation needed, packet too big)"
        );
        findings.ok("mtu", &vip.name, text);
        return;
    }
    let finding = format!(
        "MTU {} to {} leaves {fits} bytes (outer header: {overhead}), but packets of up to {incoming} \
         bytes are received",
        route.mtu, backend.name
    );
    let advice = format!(
        "raise the MTU of the route to the backends to {} (`ip link set {} mtu {0}`, also on switches \
         and backends), or lower the MSS that backends announce to {}",
        incoming + overhead,
        route.ifname,
        fits.saturating_sub(if vip.address.is_ipv4() { 40 } else { 60 }),
    );
    let least = if vip.address.is_ipv4() { 576 } else { 1280 };
    if fits < least {
        // The minimum MTU of the protocol.
        findings.problem("mtu", &vip.name, finding, advice);
    } else {
        findings.warn("mtu", &vip.name, finding, advice);
    }
}

/// Whether the VIP's address is an address of this host.
fn vip_address(host: &Host, vip: &Vip, findings: &mut Findings) {
    let holder = host.addresses.iter().find(|(_, ip)| *ip == vip.address);
    let checked_through = vip.health.as_ref().is_some_and(|h| h.via == Via::Vip);
    match holder {
        Some((interface, _)) if checked_through && vip.forward != Forward::Nat => findings.warn(
            "vip address",
            &vip.name,
            format!(
                "{} is an address of this host ({interface}), and backends answer health checks from it",
                vip.address
            ),
            "the kernel drops packets from its own address (martian source), so health checks through the \
             VIP may fail: remove the address from the interface and route it here, or set health.via = \
             \"direct\"",
        ),
        Some((interface, _)) => findings.ok(
            "vip address",
            &vip.name,
            format!(
                "{} is an address of this host ({interface}): the host answers ARP and gets packets for \
                 ports without a VIP",
                vip.address
            ),
        ),
        None => findings.ok(
            "vip address",
            &vip.name,
            format!(
                "{} is not an address of this host: the network must route it here",
                vip.address
            ),
        ),
    }
}

/// Whether frames can be redirected to the interfaces of the backends.
fn egress(host: &Host, config: &Config, findings: &mut Findings) {
    let routes = host.next_hops.values().filter_map(NextHopState::resolved);
    let mut names: Vec<&str> = routes
        .filter_map(|route| match &route.native {
            NativeEgress::Same => Some(route.ifname.as_str()),
            NativeEgress::Below { ifname, .. } => Some(ifname.as_str()),
            // Reported as a missing next hop.
            NativeEgress::None(_) => None,
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        if config.node.interfaces.len() == 1 && config.node.interfaces[0] == name {
            // Frames are transmitted on the interface that received them.
            continue;
        }
        let Some(interface) = host.interface(name) else {
            continue;
        };
        match interface.xdp_features {
            Some(features) if features & xdp_feature::NDO_XMIT == 0 => findings.warn(
                "egress",
                name,
                "frames cannot be redirected to it in its current state",
                format!(
                    "add {name} to node.interfaces: many drivers accept redirected frames only while a \
                     program is attached (for a veth: `ethtool -K PEER gro on`)"
                ),
            ),
            _ => findings.ok("egress", name, "frames can be redirected to it"),
        }
    }
}

fn forwarding(host: &Host, findings: &mut Findings) {
    let on = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"]
        .into_iter()
        .filter(|name| host.sysctls.get(*name).is_some_and(|value| value != "0"))
        .collect::<Vec<_>>();
    let text = if on.is_empty() {
        "off; not needed, as the program forwards by itself".to_owned()
    } else {
        format!("{} on; not needed by the program", on.join(" and "))
    };
    findings.ok("ip_forward", HOST, text);
}

/// A strict filter drops responses to health checks through the VIP: they come from the VIP's
/// address, to which the host has no route through that interface. Traffic is not affected.
fn reverse_path(host: &Host, config: &Config, findings: &mut Findings) {
    let mut names: Vec<&str> = config
        .vips
        .iter()
        .filter(|vip| vip.address.is_ipv4() && vip.forward != Forward::Nat)
        .filter(|vip| vip.health.as_ref().is_some_and(|h| h.via == Via::Vip))
        .flat_map(|vip| &vip.backends)
        .filter_map(|backend| Some(route(host, backend.address)?.ifname.as_str()))
        .collect();
    names.sort_unstable();
    names.dedup();
    let value = |of: &str| {
        let name = format!("net.ipv4.conf.{of}.rp_filter");
        host.sysctls.get(&name).and_then(|v| v.parse::<u8>().ok())
    };
    for name in names {
        // The larger value applies (ip-sysctl.txt).
        let Some(effective) = value("all").max(value(name)) else {
            continue;
        };
        if effective == 1 {
            findings.warn(
                "rp_filter",
                name,
                "strict (1): responses to health checks through the VIP may be dropped",
                format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2 (loose), or 0"),
            );
        } else {
            findings.ok("rp_filter", name, format!("{effective}: not strict"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;
    use crate::doctor::Level::Ok as Fine;
    use crate::doctor::Level::Problem;
    use crate::doctor::Level::Warning;
    use crate::doctor::checks::sample::config;
    use crate::doctor::checks::sample::host;
    use crate::doctor::checks::sample::level;
    use lb_daemon::nexthop::UnresolvedReason;

    fn found(check: &str, change: impl Fn(&mut Host), forward: &str) -> Level {
        let mut host = host();
        change(&mut host);
        let mut config = config("");
        config.vips[0].forward = match forward {
            "l2" => Forward::L2,
            "nat" => Forward::Nat,
            _ => Forward::Ipip,
        };
        level(check, |findings| network(&host, &config, findings))
    }

    #[test]
    fn accepts_a_good_network() {
        let mut findings = Findings::default();
        network(&host(), &config(""), &mut findings);
        assert!(findings.0.iter().all(|f| f.level == Fine), "{findings:#?}");
    }

    #[test]
    fn names_backends_without_a_route() {
        let mut host = host();
        let address: IpAddr = "10.0.1.11".parse().unwrap();
        let reason = UnresolvedReason::NoAnswer {
            ifname: "eth0".into(),
            neighbour: address,
        };
        host.next_hops
            .insert(address, NextHopState::Unresolved(reason));
        let mut findings = Findings::default();
        network(&host, &config(""), &mut findings);
        let finding = findings.0.iter().find(|f| f.level == Problem).unwrap();
        assert_eq!(finding.subject, "10.0.1.11");
        assert!(finding.finding.contains("one of VIP web"), "{finding:?}");
    }

    #[test]
    fn a_gateway_is_a_problem_for_l2_only() {
        let behind_gateway = |host: &mut Host| {
            for state in host.next_hops.values_mut() {
                if let NextHopState::Resolved(route) = state {
                    route.gateway = Some([10, 0, 0, 1].into());
                    route.receivers = vec!["eth0".into()];
                }
            }
        };
        assert_eq!(found("next hop", behind_gateway, "l2"), Problem);
        assert_eq!(found("next hop", behind_gateway, "ipip"), Fine);
        assert_eq!(found("next hop", behind_gateway, "nat"), Fine);
        assert_eq!(found("next hop", |_| {}, "l2"), Fine);
    }

    #[test]
    fn replies_that_the_program_does_not_see_are_a_problem_for_nat_only() {
        let unseen = |_: &mut Host| {};
        assert_eq!(found("next hop", unseen, "nat"), Problem);
        assert_eq!(found("next hop", unseen, "ipip"), Fine);
    }

    #[test]
    fn interfaces_without_native_transmission_are_a_problem() {
        let stacked = |host: &mut Host| {
            for state in host.next_hops.values_mut() {
                if let NextHopState::Resolved(route) = state {
                    let (ifname, kind) = ("br0".into(), "bridge".into());
                    let reason = UnresolvedReason::Stacked { ifname, kind };
                    route.native = NativeEgress::None(reason);
                }
            }
        };
        assert_eq!(found("next hop", stacked, "l2"), Problem);
        assert_eq!(found("next hop", stacked, "ipip"), Problem);
    }

    fn with_mtu(mtu: u32) -> impl Fn(&mut Host) {
        move |host| {
            for state in host.next_hops.values_mut() {
                if let NextHopState::Resolved(route) = state {
                    route.mtu = mtu;
                }
            }
        }
    }

    #[test]
    fn checks_the_mtu_with_the_outer_header() {
        assert_eq!(found("mtu", with_mtu(1520), "ipip"), Fine);
        assert_eq!(found("mtu", with_mtu(1519), "ipip"), Warning);
        assert_eq!(found("mtu", with_mtu(595), "ipip"), Problem);
        assert_eq!(found("mtu", with_mtu(1500), "l2"), Fine);
        assert_eq!(found("mtu", with_mtu(1400), "nat"), Warning);
        let one_arm = |host: &mut Host| {
            with_mtu(9000)(host);
            host.interfaces[0].mtu = 9000;
        };
        assert_eq!(found("mtu", one_arm, "ipip"), Fine, "clients send 1500");
        let six = |host: &mut Host| {
            with_mtu(1520)(host);
            let (_, route) = host.next_hops.pop_first().unwrap();
            host.next_hops.insert("fd00::11".parse().unwrap(), route);
        };
        let mut host = host();
        six(&mut host);
        let mut config = config("");
        config.vips[0].backends[0].address = "fd00::11".parse().unwrap();
        assert_eq!(level("mtu", |f| network(&host, &config, f)), Warning);
        with_mtu(1540)(&mut host);
        assert_eq!(level("mtu", |f| network(&host, &config, f)), Fine);
    }

    #[test]
    fn warns_of_checks_through_a_vip_that_the_host_has() {
        let mut host = host();
        let mut config = config("");
        let vip = config.vips[0].address;
        host.addresses.push(("lo".into(), vip));
        let check = |host: &Host, config: &Config| {
            level("vip address", |findings| network(host, config, findings))
        };
        assert_eq!(check(&host, &config), Warning);
        config.vips[0].health = None;
        assert_eq!(check(&host, &config), Fine);
        host.addresses.clear();
        assert_eq!(check(&host, &config), Fine);
    }

    #[test]
    fn warns_of_checks_through_a_vip_with_strict_rp_filter() {
        let set = |name: &'static str, value: &'static str| {
            move |host: &mut Host| drop(host.sysctls.insert(name.into(), value.into()))
        };
        let (all, one) = (
            "net.ipv4.conf.all.rp_filter",
            "net.ipv4.conf.eth1.rp_filter",
        );
        assert_eq!(found("rp_filter", set(all, "1"), "ipip"), Warning);
        assert_eq!(found("rp_filter", set(one, "1"), "l2"), Warning);
        let both = |host: &mut Host| {
            set(all, "1")(host);
            set(one, "2")(host);
        };
        assert_eq!(found("rp_filter", both, "l2"), Fine);
    }

    #[test]
    fn warns_of_interfaces_that_accept_no_redirects() {
        let set = |features| move |host: &mut Host| host.interfaces[1].xdp_features = features;
        assert_eq!(found("egress", set(Some(3)), "l2"), Warning);
        assert_eq!(found("egress", set(Some(7)), "l2"), Fine);
        assert_eq!(found("egress", set(None), "l2"), Fine);
    }
}

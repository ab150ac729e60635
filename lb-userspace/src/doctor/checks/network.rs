//! The network around the host: ways to the backends, room for outer headers, addresses, sysctls.

use std::net::IpAddr;

use super::HOST;
use crate::doctor::{Findings, Host, xdp_feature};
use lb_daemon::nexthop::{NextHopState, ResolvedNextHop};
use lb_model::config::{Config, Forward, Via, Vip};

/// What the Internet and most networks carry.
const USUAL_MTU: u32 = 1500;

pub(in super::super) fn network(host: &Host, config: &Config, findings: &mut Findings) {
    next_hops(host, config, findings);
    for vip in &config.vips {
        room(host, config, vip, findings);
        vip_address(host, vip, findings);
    }
    egress(host, config, findings);
    forwarding(host, findings);
    reverse_path(host, config, findings);
}

fn way(host: &Host, backend: IpAddr) -> Option<&ResolvedNextHop> {
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
            NextHopState::Resolved(way) => (way.obstacle_to_l2(), backends(|f| f == Forward::L2)),
        };
        let Some(reason) = reason.filter(|_| !names.is_empty()) else {
            resolved += 1;
            continue;
        };
        findings.problem(
            "next hop",
            &address.to_string(),
            format!("no route to {}: {reason}", names.join(", ")),
            "packets to it are dropped (NO_NEXT_HOP) until that is mended; `ip route get` and \
             `ip neigh` show what the kernel knows",
        );
    }
    if resolved > 0 {
        let text = format!("{resolved} backend addresses have a next hop that answers");
        findings.ok("next hop", HOST, text);
    }
}

/// Room on the way to the backends for what comes in.
fn room(host: &Host, config: &Config, vip: &Vip, findings: &mut Findings) {
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
        .filter_map(|backend| Some((way(host, backend.address)?, backend)))
        .map(|(way, backend)| {
            let overhead = match (vip.forward, backend.address) {
                (Forward::Ipip, IpAddr::V4(_)) => 20,
                (Forward::Ipip, IpAddr::V6(_)) => 40,
                _ => 0,
            };
            (way.mtu.saturating_sub(overhead), overhead, way, backend)
        })
        .min_by_key(|(fits, ..)| *fits);
    let Some((fits, overhead, way, backend)) = smallest else {
        return;
    };
    if fits >= incoming {
        let text = format!("packets of {incoming} bytes fit the way to every backend");
        findings.ok("mtu", &vip.name, text);
        return;
    }
    if fits >= USUAL_MTU {
        let text = format!(
            "packets of up to {fits} bytes fit the way to every backend; larger ones, which only \
             local clients can send, are answered with the size that fits"
        );
        findings.ok("mtu", &vip.name, text);
        return;
    }
    let finding = format!(
        "MTU {} towards {} leaves {fits} bytes (outer header: {overhead}), while packets of up to \
         {incoming} come in",
        way.mtu, backend.name
    );
    let advice = format!(
        "raise the MTU on the way to the backends to {} (`ip link set {} mtu {0}`, switches and \
         backends as well); or lower the MSS that backends announce to {}",
        incoming + overhead,
        way.ifname,
        fits.saturating_sub(if vip.address.is_ipv4() { 40 } else { 60 }),
    );
    let least = if vip.address.is_ipv4() { 576 } else { 1280 };
    if fits < least {
        // No sender goes below that.
        findings.problem("mtu", &vip.name, finding, advice);
    } else {
        findings.warn("mtu", &vip.name, finding, advice);
    }
}

/// Who has the VIP's address.
fn vip_address(host: &Host, vip: &Vip, findings: &mut Findings) {
    let holder = host.addresses.iter().find(|(_, ip)| *ip == vip.address);
    let checked_through = vip.health.as_ref().is_some_and(|h| h.via == Via::Vip);
    match holder {
        Some((interface, _)) if checked_through && vip.forward != Forward::Nat => findings.warn(
            "vip address",
            &vip.name,
            format!(
                "{} is an address of this host ({interface}), and its backends answer checks \
                 from it",
                vip.address
            ),
            "the host takes packets from its own address for forged, so checks through the VIP's \
             path may fail: let the network route the address here instead of giving it to an \
             interface, or set health.via = \"direct\"",
        ),
        Some((interface, _)) => findings.ok(
            "vip address",
            &vip.name,
            format!(
                "{} is an address of this host ({interface}): it answers ARP, and gets the \
                 packets for ports that no VIP has",
                vip.address
            ),
        ),
        None => findings.ok(
            "vip address",
            &vip.name,
            format!(
                "{} is no address of this host: the network must route it here",
                vip.address
            ),
        ),
    }
}

/// Interfaces that frames are redirected to.
fn egress(host: &Host, config: &Config, findings: &mut Findings) {
    let ways = host.next_hops.values().filter_map(NextHopState::resolved);
    let mut names: Vec<&str> = ways.map(|way| way.ifname.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        if config.node.interfaces.len() == 1 && config.node.interfaces[0] == name {
            // What comes in there leaves there: nothing is redirected.
            continue;
        }
        let Some(interface) = host.interface(name) else {
            continue;
        };
        match interface.xdp_features {
            Some(features) if features & xdp_feature::NDO_XMIT == 0 => findings.warn(
                "egress",
                name,
                "frames can't be redirected to it as it is now",
                format!(
                    "name {name} in node.interfaces: many drivers take redirected frames only \
                     while a program is attached there as well (a veth: `gro on` at its peer)"
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
        "off, and not needed: the program forwards by itself".to_owned()
    } else {
        format!("{} on; the program does not need it", on.join(" and "))
    };
    findings.ok("ip_forward", HOST, text);
}

/// The strict filter drops the answers to checks that take the VIP's path: they come from the VIP's
/// address, which the host would not send to by that interface. Traffic never meets it.
fn reverse_path(host: &Host, config: &Config, findings: &mut Findings) {
    let mut names: Vec<&str> = config
        .vips
        .iter()
        .filter(|vip| vip.address.is_ipv4() && vip.forward != Forward::Nat)
        .filter(|vip| vip.health.as_ref().is_some_and(|h| h.via == Via::Vip))
        .flat_map(|vip| &vip.backends)
        .filter_map(|backend| Some(way(host, backend.address)?.ifname.as_str()))
        .collect();
    names.sort_unstable();
    names.dedup();
    let value = |of: &str| {
        let name = format!("net.ipv4.conf.{of}.rp_filter");
        host.sysctls.get(&name).and_then(|v| v.parse::<u8>().ok())
    };
    for name in names {
        // The kernel takes the larger of the two (ip-sysctl.txt).
        let Some(effective) = value("all").max(value(name)) else {
            continue;
        };
        if effective == 1 {
            findings.warn(
                "rp_filter",
                name,
                "strict (1): answers to checks through the VIP's path may be dropped",
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
    fn a_good_network_has_nothing_to_mend() {
        let mut findings = Findings::default();
        network(&host(), &config(""), &mut findings);
        assert!(findings.0.iter().all(|f| f.level == Fine), "{findings:#?}");
    }

    #[test]
    fn a_backend_without_a_way_is_named() {
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
    fn a_gateway_is_in_the_way_of_l2_alone() {
        let behind_gateway = |host: &mut Host| {
            for state in host.next_hops.values_mut() {
                if let NextHopState::Resolved(way) = state {
                    way.gateway = Some([10, 0, 0, 1].into());
                }
            }
        };
        assert_eq!(found("next hop", behind_gateway, "l2"), Problem);
        assert_eq!(found("next hop", behind_gateway, "ipip"), Fine);
        assert_eq!(found("next hop", behind_gateway, "nat"), Fine);
        assert_eq!(found("next hop", |_| {}, "l2"), Fine);
    }

    fn with_mtu(mtu: u32) -> impl Fn(&mut Host) {
        move |host| {
            for state in host.next_hops.values_mut() {
                if let NextHopState::Resolved(way) = state {
                    way.mtu = mtu;
                }
            }
        }
    }

    #[test]
    fn the_outer_header_needs_room() {
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
            let (_, way) = host.next_hops.pop_first().unwrap();
            host.next_hops.insert("fd00::11".parse().unwrap(), way);
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
    fn a_vip_that_the_host_has_hinders_checks_through_it() {
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
    fn strict_filters_hinder_checks_through_the_vip() {
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
    fn an_egress_that_takes_no_frames_is_found() {
        let set = |features| move |host: &mut Host| host.interfaces[1].xdp_features = features;
        assert_eq!(found("egress", set(Some(3)), "l2"), Warning);
        assert_eq!(found("egress", set(Some(7)), "l2"), Fine);
        assert_eq!(found("egress", set(None), "l2"), Fine);
    }
}

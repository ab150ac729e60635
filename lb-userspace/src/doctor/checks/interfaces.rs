//! Checks on the interfaces that the program is attached to.

use super::veth::veth;
use crate::doctor::{Findings, Host, Interface, xdp_feature};
use lb_model::config::{Config, XdpMode};

/// Drivers with native XDP, for kernels whose drivers do not report features (before Linux 6.3).
const NATIVE_DRIVERS: &str = "atlantic bnxt_en cpsw dpaa2-eth ena enetc fec fsl_dpa gve hv_netvsc \
     i40e iavf ice igb igc ixgbe ixgbevf mana mlx4_en mlx5_core mvneta mvpp2 nfp qede sfc veth \
     virtio_net";

/// Kinds of interfaces on top of others, without native XDP.
const STACKED: [&str; 5] = ["vlan", "bridge", "team", "macvlan", "ipvlan"];

/// Largest MTU at which a frame and its headroom fit a page, as programs without multi-buffer
/// support need. Drivers differ by a few bytes.
const MAX_MTU: u32 = 3498;

pub(in super::super) fn interfaces(host: &Host, config: Option<&Config>, findings: &mut Findings) {
    let mode = config.map_or(XdpMode::Native, |config| config.node.xdp_mode);
    match config {
        Some(config) => {
            for name in &config.node.interfaces {
                match host.interface(name) {
                    Some(interface) => check(host, interface, mode, findings),
                    None => findings.problem(
                        "interface",
                        name,
                        "no such interface",
                        "correct node.interfaces; `ip link` lists the interfaces",
                    ),
                }
            }
        }
        None => {
            for interface in &host.interfaces {
                if interface.ethernet && interface.usable {
                    check(host, interface, mode, findings);
                }
            }
        }
    }
}

fn check(host: &Host, interface: &Interface, mode: XdpMode, findings: &mut Findings) {
    let name = &interface.name;
    if !interface.ethernet {
        let advice = "name an Ethernet interface in node.interfaces";
        findings.problem("interface", name, "not an Ethernet interface", advice);
        return;
    }
    if interface.usable {
        findings.ok("interface", name, "up");
    } else {
        let advice = format!("ip link set {name} up; if it is up, check the cable");
        findings.problem("interface", name, "down, or no carrier", advice);
    }
    structure(interface, mode, findings);
    occupied(host, interface, findings);
    native(interface, mode, findings);
    queues(host, interface, findings);
    receive_offloads(host, interface, mode, findings);
    if !is_generic(interface, mode) {
        veth(interface, findings);
        vlan_tags(host, interface, findings);
    }
    frame_size(interface, mode, findings);
}

/// Adds a finding about missing native XDP: a problem unless the mode allows generic XDP.
fn without_native(
    mode: XdpMode,
    check: &'static str,
    interface: &Interface,
    finding: String,
    advice: &str,
    findings: &mut Findings,
) {
    let name = &interface.name;
    match mode {
        XdpMode::Native => findings.problem(check, name, finding, advice),
        XdpMode::Auto => findings.warn(check, name, finding, advice),
        XdpMode::Generic => findings.ok(check, name, finding),
    }
}

/// Bonds, VLANs, bridges.
fn structure(interface: &Interface, mode: XdpMode, findings: &mut Findings) {
    let name = &interface.name;
    match interface.kind.as_deref() {
        Some(kind) if STACKED.contains(&kind) => {
            let advice = "name its lower interface in node.interfaces (up to two VLAN tags are parsed \
                          and kept; backends must be routed through the lower interface, too), or set \
                          xdp_mode = \"generic\" (slow)";
            let finding = format!("{kind} interfaces have no native XDP");
            without_native(mode, "structure", interface, finding, advice, findings);
            return;
        }
        Some("bond") => findings.warn(
            "structure",
            name,
            "bond: native XDP needs Linux 5.15, mode active-backup, balance-rr, balance-xor or 802.3ad, \
             and native XDP on all ports",
            "check that the driver of every port has native XDP (`evenkeel doctor` without --config)",
        ),
        _ => {}
    }
    match &interface.master {
        Some(master) if master.kind == "bond" || master.kind == "team" => findings.problem(
            "structure",
            name,
            format!("port of {} {}", master.kind, master.name),
            format!("name {} in node.interfaces instead of its ports", master.name),
        ),
        Some(master) if master.kind == "bridge" => findings.warn(
            "structure",
            name,
            format!("port of bridge {}", master.name),
            "packets for VIPs bypass the bridge, and backends behind it cannot be reached by redirect: \
             connect the backends to an interface outside the bridge",
        ),
        Some(_) | None if interface.kind.as_deref() != Some("bond") => {
            findings.ok(
                "structure",
                name,
                "not a VLAN, bond or bridge, nor a port of one",
            );
        }
        _ => {}
    }
}

fn occupied(host: &Host, interface: &Interface, findings: &mut Findings) {
    let name = &interface.name;
    match interface.xdp_program {
        None => findings.ok("xdp slot", name, "no XDP program attached"),
        Some(id) if host.pinned.contains(name) => {
            findings.ok("xdp slot", name, format!("Evenkeel's program attached (id {id})"));
        }
        Some(id) => findings.problem(
            "xdp slot",
            name,
            format!("another XDP program attached (id {id})"),
            format!(
                "identify it with `bpftool prog show id {id}` and detach it (`ip link set {name} xdp off`); \
                 if it is Evenkeel's, name its mount point with --bpffs"
            ),
        ),
    }
}

fn native(interface: &Interface, mode: XdpMode, findings: &mut Findings) {
    let name = &interface.name;
    let driver = interface.driver.as_deref().unwrap_or("unknown driver");
    let needs = xdp_feature::BASIC | xdp_feature::REDIRECT;
    let advice = "use a NIC whose driver has native XDP, or set xdp_mode = \"generic\" (slow)";
    match interface.xdp_features {
        Some(features) if features & needs == needs => {
            findings.ok("native xdp", name, format!("{driver} supports native XDP"));
        }
        // Some drivers support redirect only in some states.
        Some(features) if features & xdp_feature::BASIC != 0 => {
            let finding = format!("{driver} supports native XDP, but currently no redirect");
            let advice = "none needed if the backends are reached through this interface; otherwise use another NIC";
            findings.warn("native xdp", name, finding, advice);
        }
        Some(_) => {
            let finding = format!("{driver} reports no native XDP");
            without_native(mode, "native xdp", interface, finding, advice, findings);
        }
        None if is_native_driver(driver) => {
            let finding = format!("{driver} is known to support native XDP");
            findings.ok("native xdp", name, finding);
        }
        None => {
            let finding = format!("{driver} is not known to support native XDP");
            without_native(mode, "native xdp", interface, finding, advice, findings);
        }
    }
}

fn queues(host: &Host, interface: &Interface, findings: &mut Findings) {
    let name = &interface.name;
    let Some(channels) = interface.channels else {
        return;
    };
    let (queues, cpus) = (channels.current, host.cpus);
    let possible = channels.max.min(cpus);
    if queues < possible {
        findings.warn(
            "queues",
            name,
            format!(
                "{queues} of {} receive queues used, {cpus} CPUs",
                channels.max
            ),
            format!(
                "ethtool -L {name} combined {possible} (or rx {possible}): one CPU handles all packets \
                 of a queue"
            ),
        );
    } else if queues < cpus {
        let text = format!("{queues} receive queues (maximum), {cpus} CPUs");
        findings.ok("queues", name, text);
    } else {
        let text = format!("{queues} receive queues, {cpus} CPUs");
        findings.ok("queues", name, text);
    }
}

fn is_native_driver(driver: &str) -> bool {
    NATIVE_DRIVERS.split(' ').any(|native| native == driver)
}

/// Whether the program will run in generic mode.
fn is_generic(interface: &Interface, mode: XdpMode) -> bool {
    let is_stacked = (interface.kind.as_deref()).is_some_and(|kind| STACKED.contains(&kind));
    let driver = interface.driver.as_deref().unwrap_or_default();
    let has_native = match interface.xdp_features {
        Some(features) => features & xdp_feature::BASIC != 0,
        None => is_native_driver(driver),
    };
    match mode {
        XdpMode::Native => false,
        XdpMode::Auto => is_stacked || !has_native,
        XdpMode::Generic => true,
    }
}

/// The lowest interfaces below an interface, where packets are merged; itself if it has none.
fn lowest<'a>(host: &'a Host, interface: &'a Interface) -> Vec<&'a Interface> {
    let mut seen = vec![interface];
    let mut next = 0;
    while let Some(upper) = seen.get(next) {
        let lower = upper.lower.iter().filter_map(|name| host.interface(name));
        let new: Vec<_> = lower.filter(|lower| !seen.contains(lower)).collect();
        seen.extend(new);
        next += 1;
    }
    seen.retain(|interface| interface.lower.is_empty());
    seen
}

/// LRO and GRO merge packets: if they run before the program, it sees packets that are too long.
fn receive_offloads(host: &Host, interface: &Interface, mode: XdpMode, findings: &mut Findings) {
    let name = &interface.name;
    let generic = is_generic(interface, mode);
    let receivers = match generic {
        true => lowest(host, interface),
        false => vec![interface],
    };
    for receiver in &receivers {
        let name = &receiver.name;
        match receiver.lro {
            Some(true) => findings.problem(
                "lro",
                name,
                "on: the NIC merges received packets",
                format!("ethtool -K {name} lro off"),
            ),
            Some(false) => findings.ok("lro", name, "off"),
            None => {}
        }
    }
    if generic {
        for receiver in receivers {
            gro_before_generic(interface, receiver, findings);
        }
    } else if let Some(state) = interface.gro {
        let state = if state { "on" } else { "off" };
        let text = format!("{state}; native XDP runs before GRO");
        findings.ok("gro", name, text);
    }
}

/// GRO of the interface that receives the packets of a generic program on `interface`.
fn gro_before_generic(interface: &Interface, receiver: &Interface, findings: &mut Findings) {
    let lower = &receiver.name;
    let is_stacked = (receiver.kind.as_deref()).is_some_and(|kind| STACKED.contains(&kind));
    match receiver.gro {
        _ if is_stacked => findings.warn(
            "gro",
            lower,
            format!(
                "the lower interface of this {} is not visible: if it has GRO on, packets are merged before \
                 the program in generic mode",
                receiver.kind.as_deref().unwrap_or_default()
            ),
            "in the namespace of the lower interface: ethtool -K LOWER gro off",
        ),
        Some(true) => findings.warn(
            "gro",
            lower,
            format!(
                "on: in generic mode the program on {} gets merged packets and rejects them as too long; \
                 uploads stall",
                interface.name
            ),
            format!("ethtool -K {lower} gro off"),
        ),
        Some(false) => findings.ok("gro", lower, "off, as generic mode requires"),
        None => {}
    }
}

/// A tag that the NIC takes out of a received frame is invisible to native XDP, and missing in the
/// frame that is transmitted.
fn vlan_tags(host: &Host, interface: &Interface, findings: &mut Findings) {
    let name = &interface.name;
    match interface.rx_vlan {
        Some(true) if host.pinned.contains(name) => findings.warn(
            "vlan tags",
            name,
            "rx-vlan-offload is on: frames with VLAN tags are transmitted without them",
            format!("ethtool -K {name} rxvlan off; if it is [fixed], frames must arrive untagged"),
        ),
        Some(true) => {
            let text =
                "rx-vlan-offload is on; `run` switches it off, so that frames keep their tags";
            findings.ok("vlan tags", name, text);
        }
        Some(false) => findings.ok("vlan tags", name, "kept in received frames"),
        None => {}
    }
}

fn frame_size(interface: &Interface, mode: XdpMode, findings: &mut Findings) {
    let mtu = interface.mtu;
    if mtu > MAX_MTU {
        let finding = format!("MTU {mtu} is too large: with native XDP a frame must fit a page");
        let advice = format!(
            "ip link set {} mtu {MAX_MTU} (or less; drivers differ by a few bytes)",
            interface.name
        );
        without_native(mode, "frame size", interface, finding, &advice, findings);
    } else {
        let text = format!("MTU {mtu}: a frame fits a page");
        findings.ok("frame size", &interface.name, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Channels,
        Level::{self, Ok as Fine, Problem, Warning},
        MasterLink,
        checks::sample::{config, host, level},
    };

    fn found(check: &str, change: impl Fn(&mut Interface), more: &str) -> Level {
        let mut host = host();
        change(&mut host.interfaces[0]);
        let config = config(more);
        level(check, |findings| interfaces(&host, Some(&config), findings))
    }

    #[test]
    fn accepts_a_good_interface() {
        for config in [None, Some(&config(""))] {
            let mut findings = Findings::default();
            interfaces(&host(), config, &mut findings);
            assert!(findings.0.len() >= 8, "{findings:#?}");
            assert!(findings.0.iter().all(|f| f.level == Fine), "{findings:#?}");
        }
    }

    #[test]
    fn finds_unsuitable_interfaces() {
        assert_eq!(found("interface", |i| i.name = "other".into(), ""), Problem);
        assert_eq!(found("interface", |i| i.usable = false, ""), Problem);
        assert_eq!(found("interface", |i| i.ethernet = false, ""), Problem);
        let kind = |kind: &'static str| move |i: &mut Interface| i.kind = Some(kind.into());
        assert_eq!(found("structure", kind("vlan"), ""), Problem);
        assert_eq!(
            found("structure", kind("bridge"), "xdp_mode = \"auto\""),
            Warning
        );
        assert_eq!(
            found("structure", kind("vlan"), "xdp_mode = \"generic\""),
            Fine
        );
        assert_eq!(found("structure", kind("bond"), ""), Warning);
        assert_eq!(found("structure", kind("veth"), ""), Fine);
        let port_of = |kind: &'static str| {
            move |i: &mut Interface| {
                i.master = Some(MasterLink {
                    name: "up0".into(),
                    kind: kind.into(),
                });
            }
        };
        assert_eq!(found("structure", port_of("bond"), ""), Problem);
        assert_eq!(found("structure", port_of("bridge"), ""), Warning);
        assert_eq!(found("structure", port_of("vrf"), ""), Fine);
        assert_eq!(found("xdp slot", |i| i.xdp_program = Some(7), ""), Problem);
        let mut host = host();
        host.interfaces[0].xdp_program = Some(7);
        host.pinned = vec!["eth0".into()];
        let config = config("");
        assert_eq!(
            level("xdp slot", |f| interfaces(&host, Some(&config), f)),
            Fine
        );
    }

    #[test]
    fn detects_native_xdp_by_features_or_driver() {
        let driver = |driver: &'static str, features| {
            move |i: &mut Interface| {
                (i.driver, i.xdp_features) = (Some(driver.into()), features);
            }
        };
        assert_eq!(found("native xdp", driver("ice", None), ""), Fine);
        assert_eq!(found("native xdp", driver("r8169", None), ""), Problem);
        assert_eq!(found("native xdp", driver("r8169", Some(3)), ""), Fine);
        assert_eq!(found("native xdp", driver("ice", Some(0)), ""), Problem);
        assert_eq!(found("native xdp", driver("veth", Some(1)), ""), Warning);
        let auto = "xdp_mode = \"auto\"";
        assert_eq!(found("native xdp", driver("r8169", None), auto), Warning);
    }

    #[test]
    fn checks_queues_offloads_and_mtu() {
        let channels =
            |current, max| move |i: &mut Interface| i.channels = Some(Channels { current, max });
        assert_eq!(found("queues", channels(1, 8), ""), Warning);
        assert_eq!(found("queues", channels(2, 2), ""), Fine);
        assert_eq!(found("queues", channels(4, 8), ""), Fine);
        assert_eq!(found("lro", |i| i.lro = Some(true), ""), Problem);
        assert_eq!(found("lro", |i| i.lro = Some(false), ""), Fine);
        assert_eq!(found("gro", |i| i.gro = Some(true), ""), Fine);
        let generic = "xdp_mode = \"generic\"";
        assert_eq!(found("gro", |i| i.gro = Some(true), generic), Warning);
        let auto = "xdp_mode = \"auto\"";
        let without = |i: &mut Interface| i.xdp_features = Some(0);
        assert_eq!(
            found("gro", without, auto),
            Warning,
            "falls back to generic"
        );
        assert_eq!(found("gro", |_| (), auto), Fine);
        assert_eq!(found("frame size", |i| i.mtu = 9000, ""), Problem);
        assert_eq!(found("frame size", |i| i.mtu = 9000, generic), Fine);
    }

    #[test]
    fn a_vlan_offload_that_is_still_on_loses_tags() {
        assert_eq!(found("vlan tags", |i| i.rx_vlan = Some(true), ""), Fine);
        let mut host = host();
        host.interfaces[0].rx_vlan = Some(true);
        host.pinned = vec!["eth0".into()];
        let config = config("");
        let found = level("vlan tags", |f| interfaces(&host, Some(&config), f));
        assert_eq!(found, Warning);
    }

    /// A macvlan on a VLAN on `eth1`.
    fn stacked(gro: bool, lro: bool, mode: &str) -> Vec<(String, Level, Option<String>)> {
        let mut host = host();
        host.interfaces[1].gro = Some(gro);
        host.interfaces[1].lro = Some(lro);
        let upper = |name: &str, kind: &str, lower: &str| Interface {
            name: name.into(),
            kind: Some(kind.into()),
            lower: vec![lower.into()],
            xdp_features: Some(0),
            ..host.interfaces[0].clone()
        };
        let uppers = [upper("mv0", "macvlan", "v0"), upper("v0", "vlan", "eth1")];
        host.interfaces.extend(uppers);
        let mut config = config(&format!("xdp_mode = \"{mode}\""));
        config.node.interfaces = vec!["mv0".into()];
        let mut findings = Findings::default();
        interfaces(&host, Some(&config), &mut findings);
        let is_offload = |check: &str| check == "gro" || check == "lro";
        let found = findings.0.into_iter().filter(|f| is_offload(f.check));
        found.map(|f| (f.subject, f.level, f.advice)).collect()
    }

    #[test]
    fn in_generic_mode_offloads_of_the_lowest_interface_matter() {
        let fine = |subject: &str| (subject.to_owned(), Fine, None);
        let eth1 = |level, feature: &str| {
            let advice = format!("ethtool -K eth1 {feature} off");
            ("eth1".to_owned(), level, Some(advice))
        };
        for mode in ["auto", "generic"] {
            let bad = [fine("eth1"), eth1(Warning, "gro")];
            assert_eq!(stacked(true, false, mode), bad);
            let worse = [eth1(Problem, "lro"), eth1(Warning, "gro")];
            assert_eq!(stacked(true, true, mode), worse);
            assert_eq!(stacked(false, false, mode), [fine("eth1"), fine("eth1")]);
        }
        let elsewhere = |i: &mut Interface| i.kind = Some("macvlan".into());
        let generic = "xdp_mode = \"generic\"";
        assert_eq!(found("gro", elsewhere, generic), Warning);
    }
}

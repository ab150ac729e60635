//! Probes through the VIP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use lab::{
    balancer::{binary, start_decap},
    configuration::Forward,
    link::ip,
    nginx::Nginx,
    service::FAMILIES,
    stats::damage,
    topology::{Family, Lab, Layout, Plan},
};
use lb_model::config::HealthKind;

use crate::probing::{Prober, Way, can_run, page_of};

fn start_nginx(lab: &Lab) -> Vec<Nginx> {
    let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let listen = any.map(|any| SocketAddr::new(any, 80));
    let start = |host| Nginx::start(host, &listen).unwrap();
    lab.backends.iter().map(start).collect()
}

fn hold_vips(lab: &Lab, backend: usize) {
    for family in FAMILIES {
        lab.backends[backend].hold_vip(lab.vip(family, 1)).unwrap();
    }
}

/// Replies to datagrams for port 80 of the backend's own addresses and the VIPs, with "pong " and the content,
/// from their destination address, as direct server return requires.
fn reply_to_datagrams(lab: &Lab, backend: usize) {
    let host = &lab.backends[backend];
    for family in FAMILIES {
        for address in [lab.vip(family, 1), host.address(family)] {
            let bind = || UdpSocket::bind((address, 80)).unwrap();
            let socket = host.ns.enter(bind);
            std::thread::spawn(move || {
                let mut packet = [0; 100];
                while let Ok((length, from)) = socket.recv_from(&mut packet) {
                    let text = [b"pong ", &packet[..length]].concat();
                    let _ = socket.send_to(&text, from);
                }
            });
        }
    }
}

/// Checks that a serving backend is healthy directly and through the VIP, by TCP, HTTP and UDP.
fn assert_healthy(prober: &Prober<'_>, backend: usize) {
    let name = &prober.lab.backends[backend].name;
    let packet = HealthKind::Udp {
        send: Some(b"ping".to_vec()),
        expect: Some(b"pong ping".to_vec()),
    };
    for family in FAMILIES {
        for way in [Way::Direct, Way::Vip] {
            for kind in [HealthKind::Tcp, page_of(name), packet.clone()] {
                let met = prober.probe(backend, family, way, kind.clone(), 0);
                assert_eq!(met, Ok(()), "{name} {family:?} {way:?} {kind:?}");
            }
        }
    }
}

/// Checks that only probes through the VIP find a fault.
fn assert_only_direct(prober: &Prober<'_>, backend: usize, family: Family, fault: &str) {
    let name = &prober.lab.backends[backend].name;
    let direct = prober.probe(backend, family, Way::Direct, page_of(name), 0);
    assert_eq!(direct, Ok(()), "{fault}, {family:?}");
    let met = prober.probe(backend, family, Way::Vip, page_of(name), 0);
    let met = met.expect_err(fault);
    let vip = prober.lab.vip(family, 1);
    // For a foreign address, a host is silent over IPv4 but may send an error over IPv6.
    let is_lost = met.starts_with("no reply from ") || met.contains("cannot reach");
    assert!(is_lost, "{fault}: {met}");
    assert!(met.contains(&vip.to_string()), "{fault}: {met}");
    println!("{fault}, {family:?}: {met}");
}

/// Checks that, without a server, the TCP reset and the ICMP error from the VIP reach the socket.
fn assert_refusals(prober: &Prober<'_>, backend: usize) {
    let udp = HealthKind::Udp {
        send: None,
        expect: None,
    };
    for family in FAMILIES {
        for way in [Way::Direct, Way::Vip] {
            let tcp = prober.probe(backend, family, way, HealthKind::Tcp, 9);
            let tcp = tcp.expect_err("nobody listens");
            assert!(tcp.starts_with("connection refused by"), "{way:?}: {tcp}");
            let udp = prober.probe(backend, family, way, udp.clone(), 9);
            let udp = udp.expect_err("nobody listens");
            assert!(
                udp.contains("port unreachable"),
                "{family:?} {way:?}: {udp}"
            );
        }
    }
}

fn assert_counted(prober: &Prober<'_>) {
    let counters = prober.paths.counters().unwrap();
    assert!(counters.sent > 0 && counters.answers > 0, "{counters:?}");
    assert!(counters.errors > 0, "{counters:?}");
    assert_eq!(
        (counters.failed, counters.no_next_hop),
        (0, 0),
        "{counters:?}"
    );
    assert_eq!(damage(prober.lab).unwrap(), []);
}

#[test]
fn l2_finds_a_missing_loopback_address_and_strict_rp_filter() {
    if !can_run("l2") {
        return;
    }
    let lab = Lab::build(Plan::new(Layout::OneArm)).unwrap();
    let _nginx = start_nginx(&lab);
    hold_vips(&lab, 0);
    hold_vips(&lab, 2);
    reply_to_datagrams(&lab, 0);
    reply_to_datagrams(&lab, 2);
    let prober = Prober::start(&lab, Forward::L2);
    assert_healthy(&prober, 0);
    assert_refusals(&prober, 0);
    for family in FAMILIES {
        assert_only_direct(&prober, 1, family, "no VIP on the loopback");
    }
    assert_healthy(&prober, 2);
    send_replies_of_the_vip_elsewhere(&lab);
    let backend = &lab.backends[2];
    assert_healthy(&prober, 2);
    backend
        .ns
        .set_sysctl("net.ipv4.conf.all.rp_filter", "1")
        .unwrap();
    assert_only_direct(&prober, 2, Family::V4, "strict rp_filter");
    backend
        .ns
        .set_sysctl("net.ipv4.conf.all.rp_filter", "0")
        .unwrap();
    assert_healthy(&prober, 2);
    assert_counted(&prober);
}

/// Adds a second link to the last backend, on which it replies for the VIP.
fn send_replies_of_the_vip_elsewhere(lab: &Lab) {
    let (backend, node) = (&lab.backends[2], &lab.balancers[0]);
    ip(
        &lab.switch,
        &[
            format!(
                "link add name second mtu 1600 type veth peer name eth1 mtu 1600 netns {}",
                backend.ns.name()
            ),
            "link set second master front".to_owned(),
            "link set second up".to_owned(),
        ],
    )
    .unwrap();
    let vip = lab.vip(Family::V4, 1);
    ip(
        &backend.ns,
        &[
            "link set eth1 up".to_owned(),
            format!("route add {}/32 dev eth1 table 100", node.ports[0].ipv4),
            format!("rule add from {vip} lookup 100"),
        ],
    )
    .unwrap();
}

#[test]
fn ipip_finds_a_missing_decapsulation() {
    if !can_run("ipip") {
        return;
    }
    let lab = Lab::build(Plan::new(Layout::OneArm)).unwrap();
    let _nginx = start_nginx(&lab);
    hold_vips(&lab, 0);
    hold_vips(&lab, 2);
    reply_to_datagrams(&lab, 0);
    let binary = binary().unwrap();
    let _decap: Vec<_> = lab.backends[..2]
        .iter()
        .map(|host| start_decap(host, &binary).unwrap())
        .collect();
    let prober = Prober::start(&lab, Forward::Ipip);
    assert_healthy(&prober, 0);
    assert_refusals(&prober, 0);
    for family in FAMILIES {
        assert_only_direct(&prober, 1, family, "no VIP on the loopback");
        assert_only_direct(&prober, 2, family, "no decapsulation");
    }
    assert_counted(&prober);
}

#[test]
fn a_node_that_holds_the_vip_can_probe() {
    if !can_run("vip on the node") {
        return;
    }
    // Replies arrive on the other arm than the clients' packets, and the node has both VIPs on its loopback.
    let lab = Lab::build(Plan::new(Layout::TwoArm)).unwrap();
    let _nginx = start_nginx(&lab);
    hold_vips(&lab, 0);
    reply_to_datagrams(&lab, 0);
    for family in FAMILIES {
        lab.balancers[0].hold_vip(lab.vip(family, 1)).unwrap();
    }
    let prober = Prober::start(&lab, Forward::L2);
    assert_healthy(&prober, 0);
    assert_refusals(&prober, 0);
    assert_only_direct(&prober, 1, Family::V4, "no VIP on the loopback");
    assert_counted(&prober);
}

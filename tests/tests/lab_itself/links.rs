//! Hosts reach each other as the topology specifies, in both families.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lab::host::Host;
use lab::link::{XdpMode, ip, ip_output, xdp_mode};
use lab::nginx::Nginx;
use lab::stats::{checksum_errors, damage, xdp_statistics};
use lab::topology::{Family, Lab, Layout, Plan};
use lab::traffic::echo::EchoServer;
use lab::traffic::flows::{FlowLoad, FlowPlan, Transport};
use lab::traffic::http::{HttpPlan, request};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
const LIMIT: Duration = Duration::from_secs(20);

fn everywhere(port: u16) -> [SocketAddr; 2] {
    [
        ([0, 0, 0, 0], port).into(),
        (std::net::Ipv6Addr::UNSPECIFIED, port).into(),
    ]
}

fn get(client: &Host, address: IpAddr, requests: u32) -> lab::traffic::http::HttpReport {
    let url = format!("http://{}/", SocketAddr::new(address, 80));
    request(client, &HttpPlan::new(url, requests)).unwrap()
}

#[test]
fn one_arm_routes_a_vip_to_a_backend() {
    let lab = Lab::build(Plan::new(Layout::OneArm)).unwrap();
    let servers: Vec<Nginx> = lab
        .backends
        .iter()
        .map(|backend| Nginx::start(backend, &everywhere(80)).unwrap())
        .collect();
    for family in FAMILIES {
        let vip = lab.vip(family, 1);
        for backend in &lab.backends {
            backend.hold_vip(vip).unwrap();
        }
        for backend in &lab.backends {
            lab.route_vip_via(vip, backend.address(family)).unwrap();
            let report = get(&lab.clients[0], vip, 50);
            assert_eq!(report.per_backend, [(backend.name.clone(), 50)].into());
        }
    }
    assert_eq!(damage(&lab).unwrap(), []);
    drop(servers);
}

#[test]
fn backends_do_not_answer_for_the_vip_they_hold() {
    let lab = Lab::build(Plan::new(Layout::OneArm)).unwrap();
    for family in FAMILIES {
        let vip = lab.vip(family, 1);
        for backend in &lab.backends {
            backend.hold_vip(vip).unwrap();
        }
        let client = &lab.clients[0];
        let bits = if vip.is_ipv4() { 32 } else { 128 };
        // On-link: the client sends ARP requests to the whole segment.
        ip(
            &client.ns,
            &[format!("route replace {vip}/{bits} dev eth0")],
        )
        .unwrap();
        let report = request(
            client,
            &HttpPlan {
                limit: Duration::from_millis(200),
                ..HttpPlan::new(format!("http://{}/", SocketAddr::new(vip, 80)), 1)
            },
        );
        assert_eq!(report.unwrap().failed, 1);
        let neighbours = ip_output(&client.ns, "neigh show").unwrap();
        let answered = neighbours
            .lines()
            .any(|line| line.starts_with(&format!("{vip} ")) && line.contains("lladdr"));
        assert!(!answered, "{neighbours}");
    }
}

#[test]
fn two_arms_route_through_the_node_and_not_around_it() {
    let lab = Lab::build(Plan::new(Layout::TwoArm)).unwrap();
    let _server = Nginx::start(&lab.backends[0], &everywhere(80)).unwrap();
    let node = &lab.balancers[0];
    for family in FAMILIES {
        let backend = lab.backends[0].address(family);
        let report = get(&lab.clients[0], backend, 100);
        assert_eq!(
            (report.failed, report.requests),
            (0, 100),
            "{:?}",
            report.errors
        );
        let (key, file) = match family {
            Family::V4 => ("net.ipv4.ip_forward", "ipv4"),
            Family::V6 => ("net.ipv6.conf.all.forwarding", "ipv6"),
        };
        node.ns.set_sysctl(key, "0").unwrap();
        let plan = HttpPlan {
            limit: Duration::from_millis(300),
            ..HttpPlan::new(format!("http://{}/", SocketAddr::new(backend, 80)), 3)
        };
        let report = request(&lab.clients[0], &plan).unwrap();
        assert_eq!(report.failed, 3, "{file} without forwarding");
    }
    assert_eq!(damage(&lab).unwrap(), []);
}

#[test]
fn flows_continue_when_the_route_moves_to_another_node() {
    for layout in [Layout::OneArm, Layout::TwoArm] {
        let plan = Plan {
            balancers: 2,
            ..Plan::new(layout)
        };
        let lab = Lab::build(plan).unwrap();
        // In place of the balancer, the nodes route the VIP to a backend that holds it.
        let vip = lab.vip(Family::V4, 1);
        let backend = &lab.backends[1];
        backend.hold_vip(vip).unwrap();
        for node in &lab.balancers {
            node.ns.set_sysctl("net.ipv4.ip_forward", "1").unwrap();
            node.ns
                .set_sysctl("net.ipv4.conf.all.send_redirects", "0")
                .unwrap();
            let arm = node.ports.last().unwrap();
            let route = format!(
                "route add {vip} via {} dev {}",
                backend.address(Family::V4),
                arm.interface
            );
            ip(&node.ns, &[route]).unwrap();
        }
        let to = SocketAddr::new(vip, 7000);
        let _server = EchoServer::start(backend, &[to]).unwrap();
        let plan = FlowPlan::new(Transport::Tcp, to, 20);
        let load = FlowLoad::start(&lab.clients[0], &plan).unwrap();
        load.wait_answers(5, LIMIT).unwrap();
        let received = |node: usize| {
            let port = &lab.balancers[node].ports[0].switch_port;
            let text = ip_output(&lab.switch, &format!("-json -s link show {port}"));
            let value: serde_json::Value = serde_json::from_str(&text.unwrap()).unwrap();
            value[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
        };
        let before = received(1);
        lab.route_vips_via(1).unwrap();
        load.wait_answers(5, LIMIT).unwrap();
        assert!(received(1) >= before + 100, "the second node carries them");
        let report = load.stop();
        assert_eq!(report.faults(), [].into(), "{layout:?}");
        assert_eq!(report.per_backend(), [("backend-1".to_owned(), 20)].into());
    }
}

#[test]
fn the_switch_end_of_a_balancers_link_is_ready_for_xdp() {
    let lab = Lab::build(Plan::new(Layout::TwoArm)).unwrap();
    for port in &lab.balancers[0].ports {
        let mode = xdp_mode(&lab.switch, &port.switch_port).unwrap();
        assert_eq!(mode, Some(XdpMode::Native), "{}", port.switch_port);
        let counters = xdp_statistics(&lab.switch, &port.switch_port).unwrap();
        assert!(counters.contains_key("xdp_tx_errors"), "{counters:?}");
        assert_eq!(
            xdp_mode(&lab.balancers[0].ns, &port.interface).unwrap(),
            None
        );
    }
    for protocol in ["Tcp", "Udp", "Icmp", "Udp6", "Icmp6"] {
        let errors = checksum_errors(&lab.clients[0].ns).unwrap();
        assert_eq!(errors.get(protocol), Some(&0), "{errors:?}");
    }
}

#[test]
fn labs_with_the_same_addresses_run_in_parallel() {
    let labs =
        [Layout::OneArm, Layout::OneArm].map(|layout| Lab::build(Plan::new(layout)).unwrap());
    let _server = Nginx::start(&labs[0].backends[0], &everywhere(80)).unwrap();
    for family in FAMILIES {
        let address = labs[0].backends[0].address(family);
        assert_eq!(get(&labs[0].clients[0], address, 5).failed, 0);
        assert_eq!(get(&labs[1].clients[0], address, 5).failed, 5);
    }
}

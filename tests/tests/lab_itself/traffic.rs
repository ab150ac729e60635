//! Loads count successes and detect faults.

use std::net::SocketAddr;
use std::time::Duration;

use lab::deadline::until;
use lab::host::Host;
use lab::link::ip;
use lab::nginx::Nginx;
use lab::stats::damage;
use lab::topology::{Family, Lab, Layout, Plan};
use lab::traffic::echo::EchoServer;
use lab::traffic::flows::{Fault, FlowLoad, FlowPlan, Transport};
use lab::traffic::http::{HttpLoad, HttpPlan, request};
use lab::traffic::iperf::{IperfServer, measure};

const LIMIT: Duration = Duration::from_secs(20);

fn lab() -> Lab {
    Lab::build(Plan {
        balancers: 0,
        ..Plan::new(Layout::OneArm)
    })
    .unwrap()
}

fn at(host: &Host, family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(host.address(family), port)
}

#[test]
fn nginx_replies_to_200_requests_and_more() {
    let lab = lab();
    let backend = &lab.backends[0];
    let addresses = [at(backend, Family::V4, 80), at(backend, Family::V6, 80)];
    let mut nginx = Nginx::start(backend, &addresses).unwrap();
    for address in addresses {
        let pages = [("", 10), ("healthz", 3), ("1k", 1 << 10), ("1m", 1 << 20)];
        for (page, bytes) in pages {
            for keep_alive in [false, true] {
                let plan = HttpPlan {
                    body_bytes: Some(bytes),
                    keep_alive,
                    ..HttpPlan::new(format!("http://{address}/{page}"), 200)
                };
                let report = request(&lab.clients[0], &plan).unwrap();
                assert_eq!(report.errors, [].into(), "/{page} of {address}");
                let want = [("backend-0".to_owned(), 200)].into();
                assert_eq!((report.failed, report.per_backend), (0, want));
            }
        }
        let plan = HttpPlan::new(format!("http://{address}/nowhere"), 5);
        let report = request(&lab.clients[0], &plan).unwrap();
        assert_eq!(report.errors, [("status 404".to_owned(), 5)].into());
    }
    nginx.daemon().check_running().unwrap();
    assert_eq!(damage(&lab).unwrap(), []);
}

#[test]
fn counts_requests_to_a_killed_server_as_failed() {
    let lab = lab();
    let address = at(&lab.backends[0], Family::V4, 80);
    let mut nginx = Nginx::start(&lab.backends[0], &[address]).unwrap();
    let plan = HttpPlan {
        parallel: 4,
        ..HttpPlan::new(format!("http://{address}/1m"), 2000)
    };
    let load = HttpLoad::start(&lab.clients[0], &plan).unwrap();
    until("the load has begun", LIMIT, || {
        let sockets = lab.clients[0].ns.read_proc_net("tcp")?;
        Ok(sockets.lines().count() > 1)
    })
    .unwrap();
    nginx.daemon().kill();
    let report = load.finish().unwrap();
    assert!(report.failed > 0, "{report:?}");
    let good: u64 = report.per_backend.values().sum();
    let told: u64 = report.errors.values().sum();
    assert_eq!(report.failed, told);
    assert_eq!(report.failed + good, 2000, "{report:?}");
}

#[test]
fn detects_flows_broken_by_a_killed_server() {
    let lab = lab();
    for family in [Family::V4, Family::V6] {
        let to = at(&lab.backends[0], family, 7000);
        let server = EchoServer::start(&lab.backends[0], &[to]).unwrap();
        let mut plan = FlowPlan::new(Transport::Tcp, to, 200);
        plan.text_bytes = 3000;
        let load = FlowLoad::start(&lab.clients[0], &plan).unwrap();
        load.wait_answers(5, LIMIT).unwrap();
        let report = load.snapshot();
        assert_eq!(report.faults(), [].into());
        assert!(report.answers() >= 1000);
        assert_eq!(report.per_backend(), [("backend-0".to_owned(), 200)].into());

        server.kill();
        until("all are broken", LIMIT, || {
            Ok(load.snapshot().broken().count() == 200)
        })
        .unwrap();
        for flow in load.stop().broken() {
            let fault = flow.fault.as_ref().unwrap();
            assert!(matches!(fault, Fault::Closed | Fault::Reset(_)), "{fault}");
        }
    }
}

#[test]
fn stopped_flows_are_not_broken() {
    let lab = lab();
    let to = at(&lab.backends[0], Family::V4, 7000);
    let _server = EchoServer::start(&lab.backends[0], &[to]).unwrap();
    let plan = FlowPlan::new(Transport::Tcp, to, 50);
    let load = FlowLoad::start(&lab.clients[0], &plan).unwrap();
    load.wait_answers(3, LIMIT).unwrap();
    let report = load.stop();
    assert_eq!(report.broken().count(), 0, "{:?}", report.faults());
}

#[test]
fn detects_flows_broken_by_a_link_failure() {
    let lab = lab();
    let to = at(&lab.backends[0], Family::V6, 7000);
    let _server = EchoServer::start(&lab.backends[0], &[to]).unwrap();
    let mut plan = FlowPlan::new(Transport::Tcp, to, 10);
    plan.answer_limit = Duration::from_millis(300);
    let load = FlowLoad::start(&lab.clients[0], &plan).unwrap();
    load.wait_answers(3, LIMIT).unwrap();
    ip(&lab.switch, &["link set backend-0.0 nomaster"]).unwrap();
    until("all are broken", LIMIT, || {
        Ok(load.snapshot().broken().count() == 10)
    })
    .unwrap();
    let faults = load.stop().faults();
    assert_eq!(faults, [(Fault::Silent.to_string(), 10)].into());
}

#[test]
fn reports_flows_without_a_server() {
    let lab = lab();
    let to = at(&lab.backends[0], Family::V4, 7000);
    let plan = FlowPlan::new(Transport::Tcp, to, 3);
    let load = FlowLoad::start(&lab.clients[0], &plan).unwrap();
    load.wait_answers(1, LIMIT).unwrap();
    for flow in &load.stop().flows {
        assert!(matches!(flow.fault, Some(Fault::NotOpened(_))), "{flow:?}");
    }
}

#[test]
fn counts_lost_datagrams_and_detects_moved_flows() {
    let lab = lab();
    for family in [Family::V4, Family::V6] {
        let vip = lab.vip(family, 1);
        let to = SocketAddr::new(vip, 7000);
        let mut servers: Vec<EchoServer> = Vec::new();
        for backend in &lab.backends[..2] {
            backend.hold_vip(vip).unwrap();
            servers.push(EchoServer::start(backend, &[to]).unwrap());
        }
        lab.route_vip_via(vip, lab.backends[0].address(family))
            .unwrap();
        let plan = FlowPlan::new(Transport::Udp, to, 50);
        let load = FlowLoad::start(&lab.clients[0], &plan).unwrap();
        load.wait_answers(5, LIMIT).unwrap();
        let report = load.snapshot();
        assert_eq!((report.faults(), report.lost()), ([].into(), 0));
        assert_eq!(report.per_backend(), [("backend-0".to_owned(), 50)].into());

        servers.remove(0).kill();
        until("datagrams are lost", LIMIT, || {
            Ok(load.snapshot().lost() >= 50)
        })
        .unwrap();
        assert_eq!(load.snapshot().faults(), [].into(), "a loss is no fault");

        lab.route_vip_via(vip, lab.backends[1].address(family))
            .unwrap();
        until("all have moved", LIMIT, || {
            Ok(load.snapshot().broken().count() == 50)
        })
        .unwrap();
        let faults = load.stop().faults();
        assert_eq!(faults, [("moved to backend-1".to_owned(), 50)].into());
    }
}

#[test]
fn iperf_measures_throughput() {
    let lab = lab();
    let _server = IperfServer::start(&lab.backends[0], 5201).unwrap();
    for family in [Family::V4, Family::V6] {
        let report = measure(&lab.clients[0], at(&lab.backends[0], family, 5201), 1).unwrap();
        assert!(report.received_bytes > 1 << 20, "{report:?}");
        assert!(report.received_bits_per_second > 1e6, "{report:?}");
    }
}

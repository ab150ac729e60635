//! The probe program on interfaces: attached once and removed, also with the hooks of old kernels.

use std::net::TcpStream;
use std::time::Duration;

use lab::{
    configuration::Forward,
    deadline::until,
    link::ip,
    nginx::Nginx,
    process::output,
    tool,
    topology::{Family, Lab, Layout, Plan},
};
use lb_dataplane::{Pins, ProbePaths};
use lb_model::config::HealthKind;

use crate::probing::{Prober, Way, can_run};

/// Builds a lab with one backend, which serves the VIP.
fn build() -> (Lab, Nginx) {
    let lab = Lab::build(Plan {
        backends: 1,
        ..Plan::new(Layout::OneArm)
    })
    .unwrap();
    let backend = &lab.backends[0];
    let nginx = Nginx::start(backend, &["0.0.0.0:80".parse().unwrap()]).unwrap();
    backend.hold_vip(lab.vip(Family::V4, 1)).unwrap();
    (lab, nginx)
}

fn filters(lab: &Lab) -> usize {
    let ns = &lab.balancers[0].ns;
    let list = |side: &str| {
        let mut command = tool::command("tc").unwrap();
        command.args(["filter", "show", "dev", "eth0", side]);
        let text = output(&ns.entry(), command, "").unwrap();
        text.matches("probe_").count()
    };
    list("ingress") + list("egress")
}

#[test]
fn replaces_and_removes_filters_of_a_killed_controller() {
    if !can_run("filters") {
        return;
    }
    let (lab, _nginx) = build();
    let mut prober = Prober::start(&lab, Forward::L2);
    let ns = &lab.balancers[0].ns;
    let load = || {
        let pins = Pins::at(prober.node.balancer.bpffs());
        ProbePaths::load(&pins).unwrap().with_filters()
    };
    // A killed process runs no destructors.
    let mut killed = std::mem::ManuallyDrop::new(load());
    let mut next = load();
    ns.enter(|| killed.attach("eth0").unwrap());
    let with_one = filters(&lab);
    assert!(with_one > 0, "tc does not list the filters");
    ns.enter(|| {
        next.attach("eth0").unwrap();
        next.attach("eth0").unwrap();
    });
    assert_eq!(filters(&lab), with_one, "they are there twice");
    prober.use_instead(next, Forward::L2);
    let met = prober.probe(0, Family::V4, Way::Vip, HealthKind::Tcp, 0);
    assert_eq!(met, Ok(()), "by filters");
    assert!(prober.paths.counters().unwrap().answers > 0);
    ns.enter(|| {
        ProbePaths::unload("eth0").unwrap();
        ProbePaths::unload("eth0").unwrap();
        ProbePaths::unload("lo").unwrap();
    });
    assert_eq!(filters(&lab), 0, "unload leaves some");
}

#[test]
fn links_end_with_the_process() {
    if !can_run("links") {
        return;
    }
    let (lab, _nginx) = build();
    let mut prober = Prober::start(&lab, Forward::L2);
    let probe = |prober: &Prober<'_>| prober.probe(0, Family::V4, Way::Vip, HealthKind::Tcp, 0);
    assert_eq!(probe(&prober), Ok(()));
    assert!(prober.paths.counters().unwrap().sent > 0);
    assert_eq!(prober.paths.interfaces().collect::<Vec<_>>(), ["eth0"]);
    assert!(prober.paths.detach("eth0"));
    assert!(!prober.paths.detach("eth0"));
    // Without the program, a marked packet goes directly to the backend. A process that another test forks
    // at this moment holds the links until it executes its program.
    until("the program is gone", Duration::from_secs(5), || {
        let sent = prober.paths.counters()?.sent;
        let met = probe(&prober);
        Ok(met.is_ok() && prober.paths.counters()?.sent == sent)
    })
    .unwrap();
    lab.balancers[0].ns.enter(|| {
        prober.paths.attach("eth0").unwrap();
        let missing = prober.paths.attach("eth7").unwrap_err().to_string();
        assert!(missing.contains("interface eth7"), "{missing}");
    });
    let sent = prober.paths.counters().unwrap().sent;
    assert_eq!(probe(&prober), Ok(()));
    assert!(prober.paths.counters().unwrap().sent > sent);
}

#[test]
fn reports_a_missing_data_path() {
    if !can_run("no data path") {
        return;
    }
    let folder = lab::directory::Directory::new("empty").unwrap();
    let error = ProbePaths::load(&Pins::at(folder.path())).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("load the data path first"), "{text}");
    assert!(!folder.path().join("evenkeel").exists());
}

/// With only four local ports, the host's own connections get ports of finished checks.
#[test]
fn does_not_mistake_own_connections_for_checks() {
    if !can_run("own connections") {
        return;
    }
    let (lab, _nginx) = build();
    let vip = lab.vip(Family::V4, 1);
    let prober = Prober::start(&lab, Forward::L2);
    let ns = &lab.balancers[0].ns;
    ns.set_sysctl("net.ipv4.ip_local_port_range", "40000 40003")
        .unwrap();
    let route = format!("route add {vip}/32 via {}", lab.backends[0].ports[0].ipv4);
    ip(ns, &[route]).unwrap();
    for _ in 0..40 {
        let met = prober.probe(0, Family::V4, Way::Vip, HealthKind::Tcp, 0);
        assert_eq!(met, Ok(()));
    }
    let limit = Duration::from_secs(5);
    let connect = || TcpStream::connect_timeout(&(vip, 80).into(), limit).map(drop);
    for _ in 0..4 {
        ns.enter(connect).unwrap();
    }
}

/// On an interface on top of another, a frame passes the program twice. Frames of the balancer leave by the lower
/// interface.
#[test]
fn works_on_an_interface_above_another() {
    if !can_run("stacked") {
        return;
    }
    let (lab, _nginx) = build();
    let ns = &lab.balancers[0].ns;
    let backend = lab.backends[0].address(Family::V4);
    let commands = [
        "link add st0 link eth0 type macvlan mode private".to_owned(),
        "link set st0 up".to_owned(),
        format!(
            "route add {backend}/32 dev st0 src {}",
            lab.balancers[0].address(Family::V4)
        ),
    ];
    lab::link::ip(ns, &commands).unwrap();
    let mut prober = Prober::start(&lab, Forward::L2);
    ns.enter(|| prober.paths.attach("st0").unwrap());
    let done = prober.probe(0, Family::V4, Way::Vip, HealthKind::Tcp, 0);
    assert_eq!(done, Ok(()));
    let counters = prober.paths.counters().unwrap();
    assert!(counters.sent > 0 && counters.answers > 0, "{counters:?}");
    assert_eq!(counters.direct, 0, "{counters:?}");
    let eth0 = ns.enter(|| nix::net::if_::if_nametoindex("eth0").unwrap());
    let view = prober.node.view().unwrap();
    let egress: Vec<u32> = view
        .egress
        .iter()
        .map(|(_, egress)| egress.ifindex)
        .collect();
    assert_eq!(egress, [eth0], "native XDP can't transmit on a macvlan");
}

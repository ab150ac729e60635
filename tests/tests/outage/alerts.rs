//! Each kind of alert that is not about shares, caused for real: it arrives at a real Alertmanager.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use lab::{
    deadline::until,
    link::ip,
    outage::site::{self, Site, Terms},
    pass_program::attach_pass,
};
use lb_dataplane::Pins;

use crate::can_run;

/// Capacity must be short for half a minute before it is told; the machine may be busy.
const LIMIT: Duration = Duration::from_secs(90);

/// Waits until an alert of this kind is on, and returns what it says.
fn await_kind(site: &Site<'_>, kind: &str) -> String {
    let mut told = Vec::new();
    let mut said = None;
    let arrived = until(kind, LIMIT, || {
        told = site.alertmanager.alerts()?;
        said = told
            .iter()
            .find(|alert| alert.labels.alertname == kind)
            .cloned();
        Ok(said.is_some())
    });
    arrived.unwrap_or_else(|error| panic!("{error:#}\n{told:#?}\n{}", site.balancer.log()));
    let said = said.expect("it arrived").annotations;
    format!("{}; {}", said.summary, said.cause.unwrap_or_default())
}

fn start<'lab>(lab: &'lab lab::topology::Lab, edit: fn(String) -> String) -> Site<'lab> {
    let binary = lab::balancer::binary().unwrap();
    let terms = Terms {
        edit,
        ..Terms::default()
    };
    Site::start(lab, &binary, terms).unwrap()
}

#[test]
fn too_little_capacity_and_too_few_backends_are_told() {
    if !can_run("too_little_capacity_and_too_few_backends_are_told") {
        return;
    }
    let lab = site::build().unwrap();
    // 200 new flows a second for four backends that can take 50 each.
    let mut site = start(&lab, |text| {
        text.replace("max_share = 0.4", "max_share = 0.9\nmin_backends = 3")
            .replace("weight = 100", "weight = 100\ncapacity = 50")
    });
    let said = await_kind(&site, "EvenkeelCapacity");
    assert!(
        said.contains("of what its 4 eligible backends can take"),
        "{said}"
    );
    site.nginx[3].daemon().kill();
    let said = await_kind(&site, "EvenkeelBackendDown");
    assert!(said.contains("backend-3"), "{said}");
    site.nginx[2].daemon().kill();
    let said = await_kind(&site, "EvenkeelFewBackends");
    assert!(said.contains("2 eligible, minimum is 3"), "{said}");
}

#[test]
fn panic_is_told() {
    if !can_run("panic_is_told") {
        return;
    }
    let lab = site::build().unwrap();
    let mut site = start(&lab, |text| {
        text.replace("max_share = 0.4", "max_share = 0.9")
    });
    for nginx in &mut site.nginx[1..] {
        nginx.daemon().kill();
    }
    let said = await_kind(&site, "EvenkeelPanic");
    assert!(said.contains("3 of 4 backends of api are down"), "{said}");
}

#[test]
fn another_program_on_the_interface_is_told() {
    if !can_run("another_program_on_the_interface_is_told") {
        return;
    }
    let lab = site::build().unwrap();
    let site = start(&lab, std::convert::identity);
    // Somebody removes the pin of the link, which takes our program off, and attaches another.
    let links = Pins::at(site.balancer.bpffs()).folder().join("links");
    std::fs::remove_file(links.join("eth0")).unwrap();
    let ns = &lab.balancers[0].ns;
    let mut other = None;
    until("our program is gone", LIMIT, || {
        other = attach_pass(ns, "eth0").ok();
        Ok(other.is_some())
    })
    .unwrap();
    let said = await_kind(&site, "EvenkeelDataPath");
    assert!(said.contains("eth0 does not run it"), "{said}");
}

#[test]
fn a_fall_back_to_the_slow_mode_is_told() {
    if !can_run("a_fall_back_to_the_slow_mode_is_told") {
        return;
    }
    let lab = site::build().unwrap();
    // A veth runs XDP in native mode only while its peer's packets fit into a page.
    let port = &lab.balancers[0].ports[0].switch_port;
    ip(&lab.switch, &[format!("link set {port} mtu 9000")]).unwrap();
    let site = start(&lab, |text| text.replace("\"native\"", "\"auto\""));
    let said = await_kind(&site, "EvenkeelGenericXdp");
    assert!(said.contains("generic mode on eth0"), "{said}");
}

/// A second VIP at the same address, whose backend is nobody.
fn with_a_lost_vip(text: String) -> String {
    let address = text.lines().find(|line| line.starts_with("address"));
    let address = address.expect("the VIP has one").to_owned();
    text + "\n[[vip]]\nname = \"lost\"\n"
        + &address
        + "\nport = 81\nprotocol = \"tcp\"\nforward = \"l2\"\n\
           [[vip.backend]]\nname = \"nobody\"\naddress = \"192.0.2.250\"\n"
}

#[test]
fn a_backend_without_a_way_is_told_and_a_packet_that_met_it_is_logged() {
    if !can_run("a_backend_without_a_way_is_told_and_a_packet_that_met_it_is_logged") {
        return;
    }
    let lab = site::build().unwrap();
    let site = start(&lab, with_a_lost_vip);
    let said = await_kind(&site, "EvenkeelNoNextHop");
    assert!(said.contains("no route to nobody of lost"), "{said}");
    let to = SocketAddr::new(site.vip.ip(), 81);
    let connect = || TcpStream::connect_timeout(&to, Duration::from_millis(300));
    assert!(lab.clients[0].ns.enter(connect).is_err());
    let packet = format!("to {} port 81, protocol 6", to.ip());
    until("the packet is in the log", LIMIT, || {
        let log = site.balancer.log();
        let mut lines = log.lines();
        Ok(lines.any(|line| line.contains("NO_NEXT_HOP") && line.contains(&packet)))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", site.balancer.log()));
}

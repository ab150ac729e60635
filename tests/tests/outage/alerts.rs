//! Alerts that are not about shares: each is caused in the lab and arrives at an Alertmanager.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use lab::{
    deadline::until,
    link::ip,
    outage::site::{self, Options, Site},
    pass_program::attach_pass,
};
use lb_dataplane::Pins;

use crate::can_run;

/// A lack of capacity is alerted after half a minute, and the machine may be busy.
const LIMIT: Duration = Duration::from_secs(90);

/// Waits for an alert of this kind and returns its summary and cause.
fn await_kind(site: &Site<'_>, kind: &str) -> String {
    let mut alerts = Vec::new();
    let mut alert = None;
    let arrived = until(kind, LIMIT, || {
        alerts = site.alertmanager.alerts()?;
        alert = alerts
            .iter()
            .find(|alert| alert.labels.alertname == kind)
            .cloned();
        Ok(alert.is_some())
    });
    arrived.unwrap_or_else(|error| panic!("{error:#}\n{alerts:#?}\n{}", site.balancer.log()));
    let text = alert.expect("it arrived").annotations;
    format!("{}; {}", text.summary, text.cause.unwrap_or_default())
}

fn start<'lab>(lab: &'lab lab::topology::Lab, edit: fn(String) -> String) -> Site<'lab> {
    let binary = lab::balancer::binary().unwrap();
    let options = Options {
        edit,
        ..Options::default()
    };
    Site::start(lab, &binary, options).unwrap()
}

#[test]
fn alerts_on_low_capacity_and_few_backends() {
    if !can_run("alerts_on_low_capacity_and_few_backends") {
        return;
    }
    let lab = site::build().unwrap();
    // 200 new flows per second for four backends with a capacity of 50 each.
    let mut site = start(&lab, |text| {
        text.replace("affinity", "guard.min_backends = 3\naffinity")
            .replace("weight = 100", "weight = 100\ncapacity = 50")
    });
    let alert = await_kind(&site, "EvenkeelCapacity");
    assert!(
        alert.contains("of the capacity of its 4 eligible backends"),
        "{alert}"
    );
    site.nginx[3].daemon().kill();
    let alert = await_kind(&site, "EvenkeelBackendDown");
    assert!(alert.contains("backend-3"), "{alert}");
    site.nginx[2].daemon().kill();
    let alert = await_kind(&site, "EvenkeelFewBackends");
    assert!(alert.contains("2 eligible, minimum is 3"), "{alert}");
}

#[test]
fn alerts_on_panic_mode() {
    if !can_run("alerts_on_panic_mode") {
        return;
    }
    let lab = site::build().unwrap();
    let mut site = start(&lab, std::convert::identity);
    for nginx in &mut site.nginx[1..] {
        nginx.daemon().kill();
    }
    let alert = await_kind(&site, "EvenkeelPanic");
    assert!(alert.contains("3 of 4 backends of api are down"), "{alert}");
}

#[test]
fn alerts_on_another_program_on_the_interface() {
    if !can_run("alerts_on_another_program_on_the_interface") {
        return;
    }
    let lab = site::build().unwrap();
    let site = start(&lab, std::convert::identity);
    // Removing the pin of the link detaches our program; then another one is attached.
    let links = Pins::at(site.balancer.bpffs()).folder().join("links");
    std::fs::remove_file(links.join("eth0")).unwrap();
    let ns = &lab.balancers[0].ns;
    let mut other = None;
    until("our program is gone", LIMIT, || {
        other = attach_pass(ns, "eth0").ok();
        Ok(other.is_some())
    })
    .unwrap();
    let alert = await_kind(&site, "EvenkeelDataPath");
    assert!(alert.contains("eth0 does not run it"), "{alert}");
}

#[test]
fn alerts_on_generic_xdp_mode() {
    if !can_run("alerts_on_generic_xdp_mode") {
        return;
    }
    let lab = site::build().unwrap();
    // A veth supports native XDP only if the packets of its peer fit into a page.
    let port = &lab.balancers[0].ports[0].switch_port;
    ip(&lab.switch, &[format!("link set {port} mtu 9000")]).unwrap();
    let site = start(&lab, |text| text.replace("\"native\"", "\"auto\""));
    let alert = await_kind(&site, "EvenkeelGenericXdp");
    assert!(alert.contains("generic mode on eth0"), "{alert}");
}

/// Adds a second VIP at the same address, whose backend does not exist.
fn with_a_lost_vip(text: String) -> String {
    let address = text.lines().find(|line| line.starts_with("address"));
    let address = address.expect("the VIP has one").to_owned();
    text + "\n[[vip]]\nname = \"lost\"\n"
        + &address
        + "\nport = 81\nprotocol = \"tcp\"\nforward = \"l2\"\n\
           [[vip.backend]]\nname = \"nobody\"\naddress = \"192.0.2.250\"\n"
}

#[test]
fn alerts_on_a_backend_without_next_hop_and_logs_its_packets() {
    if !can_run("alerts_on_a_backend_without_next_hop_and_logs_its_packets") {
        return;
    }
    let lab = site::build().unwrap();
    let site = start(&lab, with_a_lost_vip);
    let alert = await_kind(&site, "EvenkeelNoNextHop");
    assert!(alert.contains("no route to nobody of lost"), "{alert}");
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

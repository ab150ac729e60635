//! When a member's next hop changes, the next packet uses it.

use lab::{
    bytecode::{
        Expect,
        tables::{SERVICES, Service},
    },
    packet::{ACK, Frame, Mac, OWN, SYN},
};
use lb_common::{member::NextHop, reason::Reason, vip::forward};

use crate::{
    forwarding::output,
    nat::begin,
    stage::{Client, PORT, PORT_MAC, bench},
};

const NEIGHBOUR: Mac = [2, 7, 7, 7, 7, 7];

/// Returns a service per forwarding mode and family.
fn services() -> impl Iterator<Item = Service> {
    [0, 1, 4, 5, 9, 10, 11, 13]
        .into_iter()
        .map(|at| SERVICES[at])
}

#[test]
fn uses_a_changed_next_hop_at_once() {
    let mut bench = bench();
    let client = Client::new(1);
    let elsewhere = nix::net::if_::if_nametoindex(PORT).unwrap();
    let here = bench.dataplane.egress.find(1).unwrap().unwrap();
    let there = bench.dataplane.egress.find(elsewhere).unwrap().unwrap();
    for service in services() {
        let index = service.index;
        let syn = client.to(&service, 500, SYN);
        let session = (service.forward == forward::NAT).then(|| begin(&mut bench, &service, &syn));
        let frame = client.to(&service, 500, ACK).payload(vec![5; 50]);
        let out = |to: Mac, from: Mac| -> Frame {
            let out = match &session {
                Some(session) => session.request(&frame),
                None => output(&service, &frame),
            };
            out.link(to, from)
        };
        let mut check = |what: &str, mac: Mac, egress: Option<u16>, expect: &Expect| {
            let hop = egress.map(|egress| NextHop { mac, egress });
            bench.dataplane.members.set_next_hop(index, hop).unwrap();
            bench.check(&format!("{what} for {service:?}"), &frame, expect);
        };
        let sent = |out: &Frame| Expect::forwarded(index, &frame, out);
        let (mac, own) = (service.mac(), OWN);
        check("as it was", mac, Some(here), &sent(&out(mac, own)));
        check(
            "another neighbour",
            NEIGHBOUR,
            Some(here),
            &sent(&out(NEIGHBOUR, own)),
        );
        check(
            "another interface",
            NEIGHBOUR,
            Some(there),
            &sent(&out(NEIGHBOUR, PORT_MAC)).redirected(),
        );
        check("no neighbour", mac, None, &Expect::of(Reason::NoNextHop));
        check("back", mac, Some(here), &sent(&out(mac, own)));
    }
    bench.conclude();
}

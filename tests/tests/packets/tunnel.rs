//! Path MTUs that routers between the node and the backends of `ipip` report.

use std::net::IpAddr;

use lab::{
    bytecode::{Bench, Expect, tables::Service},
    packet::{ACK, Frame, Ip, icmp, icmp6},
};
use lb_common::{member::control, reason::Reason, vip::forward};

use crate::{
    forwarding::{direct, expect, output},
    icmp::{overhead, own_error},
    icmp_errors::errors_about,
    stage::{Client, bench},
};

/// MTU that the router reports, see [`errors_about`].
const MTU: u32 = 1400;

fn tunnels() -> impl Iterator<Item = Service> {
    direct().filter(|service| service.forward == forward::IPIP)
}

/// "Fragmentation needed" or "packet too big" about a packet that the node has sent.
fn report(sent: &Frame, mtu: u32) -> Frame {
    let [first, ..] = &errors_about(sent, 1000)[..] else {
        unreachable!()
    };
    first.clone().with_transport(match sent.ip {
        Ip::V4(_) => icmp(3, 4, mtu),
        Ip::V6(_) => icmp6(2, 0, mtu),
    })
}

/// A frame whose IP packet has this length.
fn of_length(client: Client, service: &Service, length: u32) -> Frame {
    let empty = client.to(service, 2600, ACK).payload([]);
    let headers = empty.packet().len();
    empty.payload(vec![5; length as usize - headers])
}

/// Expects that a packet is answered: it must not be longer than this.
fn too_big(frame: &Frame, mtu: u32) -> Expect {
    let reason = if frame.ip.source().is_ipv4() {
        Reason::FragmentationNeeded
    } else {
        Reason::PacketTooBig
    };
    Expect::sent(reason, &own_error(frame, icmp(3, 4, mtu), icmp6(2, 0, mtu)))
}

fn is_large(bench: &mut Bench, name: &str, service: &Service, frame: &Frame, mtu: Option<u32>) {
    let expect = match mtu {
        Some(mtu) => too_big(frame, mtu),
        None => expect(service, frame, true),
    };
    // Answering a packet of a tracked flow looks the flow up, too.
    let expect = match mtu {
        Some(_) if service.track == lb_common::vip::track::ALWAYS => {
            expect.plus(&format!("v{}.track_hits", service.index), 1)
        }
        _ => expect,
    };
    bench.check(&format!("{name}: {service:?}"), frame, &expect);
}

#[test]
fn a_reported_mtu_is_told_to_clients() {
    let mut bench = bench();
    let client = Client::new(1);
    for service in tunnels() {
        let room = MTU - overhead(&service);
        let (large, fits) = (
            of_length(client, &service, room + 1),
            of_length(client, &service, room),
        );
        // Makes the flow known where flows are tracked.
        bench.check("first", &large, &expect(&service, &large, false));
        let sent = output(&service, &large);
        forged(&mut bench, client, &service, &large);
        is_large(&mut bench, "before", &service, &large, None);
        bench.check_by("report", &report(&sent, MTU).bytes(), |_| {
            looked_up(&service, Reason::TunnelMtu)
        });
        is_large(&mut bench, "after", &service, &large, Some(room));
        is_large(&mut bench, "fits", &service, &fits, None);
        // A router on another path allows more.
        let larger = output(&service, &of_length(client, &service, room + 50));
        bench.check_by("report", &report(&larger, MTU + 10).bytes(), |_| {
            looked_up(&service, Reason::TunnelMtu)
        });
        is_large(&mut bench, "still", &service, &large, Some(room));
        // An old router states no MTU.
        bench.check_by("report", &report(&sent, 0).bytes(), |_| {
            looked_up(&service, Reason::TunnelMtu)
        });
        let least = if service.backend_v6 { 1280 } else { 576 } - overhead(&service);
        if service.address.is_ipv4() {
            is_large(&mut bench, "smallest", &service, &fits, Some(least));
        }
        // The index belongs to another backend now.
        let family = if service.backend_v6 { 6 } else { 4 };
        let other = control::pack(control::SERVING, family, 2);
        bench
            .dataplane
            .members
            .set_control(service.index, other)
            .unwrap();
        is_large(&mut bench, "another backend", &service, &large, None);
    }
    bench.conclude();
}

/// The report is passed; finding the flow's member counts a lookup where flows are tracked.
fn looked_up(service: &Service, reason: Reason) -> Expect {
    let expect = Expect::of(reason);
    if service.track == lb_common::vip::track::ALWAYS {
        expect.plus(&format!("v{}.track_hits", service.index), 1)
    } else {
        expect
    }
}

/// Reports that are not about a packet of this node change nothing.
fn forged(bench: &mut Bench, client: Client, service: &Service, large: &Frame) {
    let sent = output(service, large);
    // The varied bits of the source are not those of the flow.
    let mut guessed = sent.clone();
    let (source, dest) = (guessed.ip.source(), guessed.ip.dest());
    let other: IpAddr = match source {
        IpAddr::V4(v4) => (u32::from(v4) ^ 1).to_be_bytes().into(),
        IpAddr::V6(v6) => (u128::from(v6) ^ 1).to_be_bytes().into(),
    };
    guessed.ip.set_addresses(other, dest);
    // Another backend.
    let mut elsewhere = sent.clone();
    let other: IpAddr = match dest {
        IpAddr::V4(v4) => (u32::from(v4) ^ 1).to_be_bytes().into(),
        IpAddr::V6(v6) => (u128::from(v6) ^ 1).to_be_bytes().into(),
    };
    elsewhere.ip.set_addresses(source, other);
    // A packet that fits.
    let small = output(service, &of_length(client, service, 100));
    for quoted in [&guessed, &elsewhere, &small] {
        bench.check_by("forged", &report(quoted, MTU).bytes(), |_| {
            looked_up_if(quoted, &small, service)
        });
    }
    // Other errors about the tunnel, and a quote without the ports.
    for error in &errors_about(&sent, 1000)[1..] {
        bench.check("another error", error, &Expect::of(Reason::NoVip));
    }
    let headers = overhead(service) as usize + if service.address.is_ipv4() { 20 } else { 40 };
    let short = &errors_about(&sent, headers + 3)[0];
    bench.check("a short quote", short, &Expect::of(Reason::NoVip));
}

/// A report about a packet that fits is not looked up.
fn looked_up_if(quoted: &Frame, small: &Frame, service: &Service) -> Expect {
    if std::ptr::eq(quoted, small) {
        Expect::of(Reason::NoVip)
    } else {
        looked_up(service, Reason::NoVip)
    }
}

//! `nat`: requests, replies, errors in both directions, fragments.

use std::net::IpAddr;

use lab::{
    bytecode::{
        Bench, Expect,
        tables::{MTU, NAT_DOWN, NAT_PORTS, NAT4, NAT6, SERVICES, Service},
    },
    packet::{ACK, Extension, FIN, Frame, Ip, OUTSIDE, OWN, RST, SYN, Transport},
};
use lb_common::{reason::Reason, vip::forward};

use crate::{
    fragments::part,
    icmp::martian_sources,
    nat_errors,
    stage::{Client, bench},
};

#[test]
fn translates_sessions_both_ways() {
    let mut bench = bench();
    all(&mut bench, Client::new(1));
    bench.conclude();
}

pub(crate) fn services() -> impl Iterator<Item = Service> {
    SERVICES
        .into_iter()
        .filter(|service| service.forward == forward::NAT)
}

pub(crate) fn all(bench: &mut Bench, client: Client) {
    for service in services() {
        session(bench, client, &service);
        without_checksum(bench, client, &service);
        fragmented(bench, client, &service);
        options(bench, client, &service);
    }
    refused(bench, client);
}

/// A session and the port that the data path chose for it.
pub(crate) struct Session {
    pub(crate) service: Service,
    pub(crate) client: IpAddr,
    pub(crate) client_port: u16,
    pub(crate) node: IpAddr,
    pub(crate) node_port: u16,
}

fn set_ports(frame: &mut Frame, from: u16, to: u16) {
    if let Transport::Tcp { source, dest, .. } | Transport::Udp { source, dest, .. } =
        &mut frame.transport
    {
        (*source, *dest) = (from, to);
    }
}

impl Session {
    /// Reads the port that the data path chose from its output.
    pub(crate) fn of(service: Service, frame: &Frame, output: &[u8]) -> Self {
        let (Transport::Tcp { source, .. } | Transport::Udp { source, .. }) = frame.transport
        else {
            panic!("no ports")
        };
        let l4 = frame.bytes().len()
            - frame.payload.len()
            - frame.padding.len()
            - match &frame.transport {
                Transport::Tcp { options, .. } => 20 + options.len(),
                _ => 8,
            };
        Self {
            service,
            client: frame.ip.source(),
            client_port: source,
            node: if service.address.is_ipv4() {
                NAT4.into()
            } else {
                NAT6.into()
            },
            node_port: u16::from_be_bytes([output[l4], output[l4 + 1]]),
        }
    }

    /// Returns a client's packet as the backend receives it.
    pub(crate) fn request(&self, frame: &Frame) -> Frame {
        let mut frame = self.service.delivered(frame);
        frame.ip.set_addresses(self.node, self.service.backend());
        set_ports(&mut frame, self.node_port, self.service.backend_port());
        frame
    }

    /// Returns the backend's answer to a packet, with the same flags and payload, and the same as the
    /// client receives it.
    pub(crate) fn reply(&self, like: &Frame) -> (Frame, Frame) {
        let mut frame = like.clone().link(OWN, self.service.mac());
        frame.ip.set_addresses(self.service.backend(), self.node);
        if let Transport::Tcp {
            flags, seq, ack, ..
        } = &mut frame.transport
        {
            let is = |flag| u32::from(*flags & flag != 0);
            let end = *seq + frame.payload.len() as u32 + (is(SYN) | is(FIN));
            (*seq, *ack) = (*ack - is(SYN), end);
            if is(SYN) != 0 {
                *flags |= ACK;
            }
        }
        set_ports(&mut frame, self.service.backend_port(), self.node_port);
        let mut out = frame.clone().link(OUTSIDE, OWN);
        *out.ip.ttl_mut() -= 1;
        out.ip.set_addresses(self.service.address, self.client);
        set_ports(&mut out, self.service.port, self.client_port);
        (frame, out)
    }
}

pub(crate) fn forwarded(session: &Session, frame: &Frame) -> Expect {
    Expect::forwarded(session.service.index, frame, &session.request(frame))
}

pub(crate) fn replied(session: &Session, frame: &Frame, out: &Frame) -> Expect {
    let index = session.service.index;
    Expect::sent(Reason::NatReply, out)
        .plus(&format!("m{index}.reply_packets"), 1)
        .plus(&format!("m{index}.reply_bytes"), frame.bytes().len())
}

/// Runs the first packet of a session, which gets a free port.
pub(crate) fn begin(bench: &mut Bench, service: &Service, frame: &Frame) -> Session {
    begin_on(bench, service, frame, false)
}

/// The same for a session that gets the port of a connection that is over if `reused`.
pub(crate) fn begin_on(
    bench: &mut Bench,
    service: &Service,
    frame: &Frame,
    reused: bool,
) -> Session {
    let output = bench.check_by(
        &format!("first for {service:?}"),
        &frame.bytes(),
        |output| {
            let session = Session::of(*service, frame, output);
            let count = |counter| format!("v{}.{counter}", service.index);
            let expect = forwarded(&session, frame)
                .new_flow(service.index)
                .plus(&count("nat_sessions"), 1);
            if reused {
                expect.plus(&count("nat_reused"), 1)
            } else {
                expect
            }
        },
    );
    let session = Session::of(*service, frame, &output);
    if !NAT_PORTS.contains(&session.node_port) {
        bench.fail(format!("port {} is none of the node's", session.node_port));
    }
    session
}

/// Runs the backend's answer to the first packet of a session.
pub(crate) fn answer(bench: &mut Bench, session: &Session, first: &Frame) {
    let (reply, out) = session.reply(first);
    bench.check("answer", &reply, &replied(session, &reply, &out));
}

fn session(bench: &mut Bench, client: Client, service: &Service) {
    let name = |what: &str| format!("{what} for {service:?}");
    let syn = client.to(service, 3000, SYN);
    let session = begin(bench, service, &syn);
    let frame = |flags, len| client.to(service, 3000, flags).payload(vec![0xc3; len]);
    if service.protocol == 6 {
        let expect = forwarded(&session, &syn).new_flow(service.index);
        bench.check(&name("SYN again"), &syn, &expect);
        answer(bench, &session, &syn);
    }
    for len in [0, 1, 2, 300, 301] {
        let request = frame(ACK, len).padding(&[1; 6]);
        bench.check(&name("request"), &request, &forwarded(&session, &request));
        let (reply, out) = session.reply(&request);
        bench.check(&name("reply"), &reply, &replied(&session, &reply, &out));
    }
    let (reply, _) = session.reply(&syn);
    let late = reply.ttl(1);
    bench.check(
        &name("reply at its last hop"),
        &late,
        &Expect::of(Reason::HopLimit),
    );
    nat_errors::errors(bench, &session, &frame(ACK, 100));
    if service.address.is_ipv6() {
        nat_errors::errors_behind_extensions(bench, &session, &frame(ACK, 100));
    }
    nat_errors::large_error(bench, &session, &frame(ACK, 1400));
    let index = service.index;
    let room = MTU as usize - frame(ACK, 0).packet().len();
    bench.check(
        &name("large"),
        &frame(ACK, room),
        &forwarded(&session, &frame(ACK, room)),
    );
    if service.protocol == 6 {
        for flags in [FIN | ACK, RST] {
            let mut expect = forwarded(&session, &frame(flags, 0));
            if flags & RST != 0 {
                expect = expect.plus(&format!("m{index}.resets"), 1);
            }
            bench.check(&name("closing"), &frame(flags, 0), &expect);
            let (reply, out) = session.reply(&frame(flags, 0));
            bench.check(
                &name("closing reply"),
                &reply,
                &replied(&session, &reply, &out),
            );
        }
        // The backend sees the next connection from the port that it knows from this client.
        let expect = forwarded(&session, &syn).new_flow(index);
        bench.check(&name("the next connection"), &syn, &expect);
    }
}

/// UDP without a checksum stays without; a checksum that becomes 0 is sent as 0xffff.
fn without_checksum(bench: &mut Bench, client: Client, service: &Service) {
    if service.protocol != 17 {
        return;
    }
    let mut frame = client.to(service, 3100, 0);
    if let (Transport::Udp { has_checksum, .. }, Ip::V4(_)) = (&mut frame.transport, &frame.ip) {
        *has_checksum = false;
    }
    let session = begin(bench, service, &frame);
    let (reply, out) = session.reply(&frame);
    let expect = replied(&session, &reply, &out);
    bench.check("reply without checksum", &reply, &expect);
    bench.check("and again", &frame, &forwarded(&session, &frame));
    let words =
        (0..=0xffff_u16).map(|word| client.to(service, 3100, 0).payload(word.to_be_bytes()));
    let comes_out_as_0 = |out: &Frame| {
        let packet = out.packet();
        packet[packet.len() - 4..packet.len() - 2] == [0xff, 0xff]
    };
    let (mut requests, mut replies) = (0, 0);
    for frame in words {
        if comes_out_as_0(&session.request(&frame)) {
            requests += 1;
            bench.check("checksum 0", &frame, &forwarded(&session, &frame));
        }
        let (reply, out) = session.reply(&frame);
        if comes_out_as_0(&out) {
            replies += 1;
            let expect = replied(&session, &reply, &out);
            bench.check("checksum 0 of a reply", &reply, &expect);
        }
    }
    if requests == 0 || replies == 0 {
        bench.fail("no payload gives the checksum 0".to_owned());
    }
}

fn fragmented(bench: &mut Bench, client: Client, service: &Service) {
    let whole = client.to(service, 3200, SYN).payload(vec![0x3c; 300]);
    let total = 300 + if service.protocol == 6 { 20 } else { 8 };
    let session = begin(bench, service, &whole);
    let whole = client.to(service, 3200, ACK).payload(vec![0x3c; 300]);
    let name = |what: &str| format!("{what} for {service:?}");
    let id = 3200 + service.index;
    let last = part(&whole, id, 120, total - 120, false);
    bench.check(&name("orphan"), &last, &Expect::of(Reason::FragmentOrphan));
    let first = part(&whole, id, 0, 120, true);
    let sent_id = requested(bench, &name("first fragment"), &session, &first);
    bench.check(
        &name("last fragment"),
        &last,
        &forwarded_as(&session, &last, sent_id),
    );
    // Exceeds the MTU to the backend; no error is sent about a later fragment.
    let header = last.packet().len() - (total - 120);
    let room = (MTU as usize - header) & !7;
    let long = whole.clone().payload(vec![0x3c; 2000]);
    let fits = part(&long, id, 120, room, true);
    bench.check(
        &name("long fragment"),
        &fits,
        &forwarded_as(&session, &fits, sent_id),
    );
    let larger = part(&long, id, 120, room + 8, true);
    bench.check(&name("too long"), &larger, &Expect::of(Reason::TooBig));
    let (first, first_out) = session.reply(&first);
    let (last, last_out) = session.reply(&last);
    let sent_id = answered(
        bench,
        &name("first of the reply"),
        &session,
        &first,
        first_out,
    );
    bench.check(
        &name("last of the reply"),
        &last,
        &replied(&session, &last, &with_id(last_out, sent_id)),
    );
}

/// Returns the identification of a datagram without tags, or of its first extension header.
fn id_of(frame: &[u8]) -> u32 {
    if frame[12..14] == [0x08, 0x00] {
        u16::from_be_bytes([frame[18], frame[19]]).into()
    } else {
        u32::from_be_bytes(frame[58..62].try_into().unwrap())
    }
}

fn with_id(frame: Frame, id: u32) -> Frame {
    frame.with_ip(|ip| match ip {
        Ip::V4(ip) => ip.id = id as u16,
        Ip::V6(ip) => {
            for extension in &mut ip.extensions {
                if let Extension::Fragment(_, old) = extension {
                    *old = id;
                }
            }
        }
    })
}

/// Like [`forwarded`], with this identification.
fn forwarded_as(session: &Session, frame: &Frame, id: u32) -> Expect {
    let output = with_id(session.request(frame), id);
    Expect::forwarded(session.service.index, frame, &output)
}

/// Runs a client's datagram, and returns the identification that the data path chose.
fn requested(bench: &mut Bench, name: &str, session: &Session, frame: &Frame) -> u32 {
    let output = bench.check_by(name, &frame.bytes(), |output| {
        forwarded_as(session, frame, id_of(output))
    });
    id_of(&output)
}

/// The same for the backend's datagram, which the client receives as `out`.
fn answered(bench: &mut Bench, name: &str, session: &Session, frame: &Frame, out: Frame) -> u32 {
    let output = bench.check_by(name, &frame.bytes(), |output| {
        replied(session, frame, &with_id(out, id_of(output)))
    });
    id_of(&output)
}

/// Datagrams that can be fragmented get identifications that no other one to the same destination has,
/// whatever the clients and the backends choose (RFC 6864 §5.3).
#[test]
fn datagrams_of_two_clients_have_different_identifications() {
    const ID: u16 = 4242;
    let mut bench = bench();
    for service in services() {
        let (mut requests, mut replies) = (Vec::new(), Vec::new());
        for (number, port) in [(201, 3600), (202, 3600), (202, 3601)] {
            let client = Client::new(number);
            let syn = client.to(&service, port, SYN);
            let session = begin(&mut bench, &service, &syn);
            if service.protocol == 6 {
                answer(&mut bench, &session, &syn);
            }
            let whole = client.to(&service, port, ACK).payload(vec![0x3c; 300]);
            let first = part(&whole, ID, 0, 120, true);
            let id = requested(&mut bench, "first fragment", &session, &first);
            requests.push((0, id));
            let (reply, out) = session.reply(&first);
            let id = answered(&mut bench, "first of reply", &session, &reply, out);
            replies.push((number, id));
            if service.address.is_ipv4() {
                let may_be_fragmented = whole.clone().with_ip(|ip| {
                    if let Ip::V4(ip) = ip {
                        (ip.id, ip.dont_fragment) = (ID, false);
                    }
                });
                let id = requested(&mut bench, "without DF", &session, &may_be_fragmented);
                requests.push((0, id));
                // An atomic datagram keeps whatever it has (RFC 6864 §4.1).
                let atomic = with_id(whole, ID.into());
                bench.check("with DF", &atomic, &forwarded(&session, &atomic));
            }
        }
        for mut ids in [requests, replies] {
            let count = ids.len();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), count, "{service:?}: {ids:?}");
        }
    }
    bench.conclude();
}

fn options(bench: &mut Bench, client: Client, service: &Service) {
    let with = |flags| {
        client
            .to(service, 3300, flags)
            .tags(&[(0x88a8, 3), (0x8100, 4)])
            .with_ip(|ip| match ip {
                Ip::V4(ip) => ip.options = vec![1; 12],
                Ip::V6(ip) => ip.extensions = vec![Extension::Options(60, 24)],
            })
    };
    let session = begin(bench, service, &with(SYN));
    let request = with(ACK);
    bench.check("options, tags", &request, &forwarded(&session, &request));
    let (reply, out) = session.reply(&request);
    bench.check(
        "reply with options, tags",
        &reply,
        &replied(&session, &reply, &out),
    );
}

fn refused(bench: &mut Bench, client: Client) {
    for service in services() {
        for source in martian_sources(service.address) {
            let mut forged = client.to(&service, 3400, SYN);
            forged.ip.set_addresses(source, service.address);
            let name = format!("from {source} for {service:?}");
            bench.check(&name, &forged, &Expect::of(Reason::MartianSource));
        }
        let frame = client.to(&service, 3400, ACK);
        if service.protocol == 6 {
            bench.check("of no session", &frame, &Expect::of(Reason::NatNoFlow));
        }
        let node: IpAddr = if service.address.is_ipv4() {
            NAT4.into()
        } else {
            NAT6.into()
        };
        let mut stray = frame.clone();
        stray.ip.set_addresses(service.backend(), node);
        set_ports(&mut stray, service.backend_port(), 59_999);
        bench.check(
            "reply of no session",
            &stray,
            &Expect::of(Reason::NatNoSession),
        );
    }
    // Repeatedly, without using up a session or a port.
    for _ in 0..20 {
        let frame = client.to(&NAT_DOWN, 3400, SYN);
        bench.check("down", &frame, &Expect::of(Reason::MemberDown));
    }
}

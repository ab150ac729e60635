//! The first packet of a flow, as bytes.

use std::net::IpAddr;

use lb_common::checksum;

use super::OWN_MAC;
use lb_model::config::Protocol;

/// Source MAC address.
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

const TTL: u8 = 64;
const DONT_FRAGMENT: u8 = 0x40;
const SYN: u8 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Flow {
    pub(super) protocol: Protocol,
    pub(super) source: IpAddr,
    pub(super) dest: IpAddr,
    pub(super) source_port: u16,
    pub(super) dest_port: u16,
}

/// A SYN, or a datagram of 18 bytes: the minimum frame length of Ethernet.
pub(super) fn first_frame(flow: &Flow) -> Vec<u8> {
    let mut transport = match flow.protocol {
        Protocol::Tcp => tcp_syn(flow),
        Protocol::Udp => udp(flow),
    };
    let at = match flow.protocol {
        Protocol::Tcp => 16,
        Protocol::Udp => 6,
    };
    let sum = pseudo_sum(flow, transport.len()) + sum_of(&transport);
    let checksum = match (checksum::finish(sum), flow.protocol) {
        // Zero means no checksum.
        (0, Protocol::Udp) => 0xffff,
        (checksum, _) => checksum,
    };
    transport[at..at + 2].copy_from_slice(&checksum.to_ne_bytes());
    let mut frame = [OWN_MAC, CLIENT_MAC].concat();
    match (flow.source, flow.dest) {
        (IpAddr::V4(_), _) => {
            frame.extend([0x08, 0x00]);
            frame.extend(ipv4(flow, transport.len()));
        }
        (IpAddr::V6(_), _) => {
            frame.extend([0x86, 0xdd]);
            frame.extend(ipv6(flow, transport.len()));
        }
    }
    frame.extend(transport);
    frame
}

fn ports(flow: &Flow) -> Vec<u8> {
    [flow.source_port, flow.dest_port]
        .map(u16::to_be_bytes)
        .concat()
}

fn tcp_syn(flow: &Flow) -> Vec<u8> {
    let mut header = ports(flow);
    header.extend([0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, SYN, 0xff, 0xff, 0, 0, 0, 0]);
    header
}

fn udp(flow: &Flow) -> Vec<u8> {
    const PAYLOAD: &[u8] = b"evenkeel simulate\n";
    let mut datagram = ports(flow);
    datagram.extend((8 + PAYLOAD.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(PAYLOAD);
    datagram
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// Sum of 16-bit words in memory order; all parts but the last must have even lengths.
fn sum_of(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(2).map(|pair| {
        let second = pair.get(1).copied().unwrap_or(0);
        u64::from(u16::from_ne_bytes([pair[0], second]))
    });
    words.sum()
}

fn pseudo_sum(flow: &Flow, length: usize) -> u64 {
    let addresses = sum_of(&octets(flow.source)) + sum_of(&octets(flow.dest));
    let length = u64::from((length as u16).to_be());
    addresses + length + u64::from(u16::from(flow.protocol.number()).to_be())
}

fn ipv4(flow: &Flow, length: usize) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend((20 + length as u16).to_be_bytes());
    header.extend([0, 0, DONT_FRAGMENT, 0, TTL, flow.protocol.number(), 0, 0]);
    header.extend(octets(flow.source));
    header.extend(octets(flow.dest));
    let checksum = checksum::finish(sum_of(&header));
    header[10..12].copy_from_slice(&checksum.to_ne_bytes());
    header
}

fn ipv6(flow: &Flow, length: usize) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend((length as u16).to_be_bytes());
    header.extend([flow.protocol.number(), TTL]);
    header.extend(octets(flow.source));
    header.extend(octets(flow.dest));
    header
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    fn flow(protocol: Protocol, source: &str, dest: &str) -> Flow {
        Flow {
            protocol,
            source: source.parse().unwrap(),
            dest: dest.parse().unwrap(),
            source_port: 1234,
            dest_port: 443,
        }
    }

    #[test]
    fn etherparse_finds_the_flow_and_correct_checksums() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for (source, dest) in [("198.18.0.1", "203.0.113.1"), ("2001:2::1", "2001:db8::1")] {
                let flow = flow(protocol, source, dest);
                let frame = first_frame(&flow);
                let packet = SlicedPacket::from_ethernet(&frame).unwrap();
                match (packet.net.unwrap(), packet.transport.unwrap()) {
                    (NetSlice::Ipv4(ip), TransportSlice::Tcp(tcp)) => {
                        let ip = ip.header().to_header();
                        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                        let sum = tcp.calc_checksum_ipv4(ip.source, ip.destination).unwrap();
                        assert_eq!((tcp.checksum(), tcp.syn(), tcp.ack()), (sum, true, false));
                    }
                    (NetSlice::Ipv6(ip), TransportSlice::Tcp(tcp)) => {
                        let ip = ip.header().to_header();
                        let sum = tcp.calc_checksum_ipv6(ip.source, ip.destination).unwrap();
                        assert_eq!((tcp.checksum(), tcp.destination_port()), (sum, 443));
                    }
                    (NetSlice::Ipv4(ip), TransportSlice::Udp(udp)) => {
                        let ip = ip.header().to_header();
                        let sum = udp
                            .to_header()
                            .calc_checksum_ipv4(&ip, udp.payload())
                            .unwrap();
                        assert_eq!((udp.checksum(), udp.source_port()), (sum, 1234));
                    }
                    (NetSlice::Ipv6(ip), TransportSlice::Udp(udp)) => {
                        let ip = ip.header().to_header();
                        let sum = udp
                            .to_header()
                            .calc_checksum_ipv6(&ip, udp.payload())
                            .unwrap();
                        assert_eq!(udp.checksum(), sum);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

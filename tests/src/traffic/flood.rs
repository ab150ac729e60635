//! Floods of forged flows with spoofed source addresses.
//!
//! A packet socket sends whole frames, so the network stack of the sending host is not involved.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use etherparse::PacketBuilder;
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use crate::host::{Host, Port};

/// Packets of each flow of a flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forged {
    Syn,
    /// SYNs of one address (IPv4: 198.18.0.1).
    OneSource,
    /// A SYN and an acknowledgement, as if the handshake had been completed.
    Handshake,
    TwoDatagrams,
}

impl Forged {
    const fn packets(self) -> u64 {
        match self {
            Self::Syn | Self::OneSource => 1,
            Self::Handshake | Self::TwoDatagrams => 2,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct FloodReport {
    pub sent: u64,
    pub took: Duration,
}

/// Sends `count` packets of `forged` flows to `to` from a host's first interface to `gateway`, or as
/// many as possible within `limit`. Floods with different seeds have different flows.
pub fn flood(
    host: &Host,
    gateway: &Port,
    (to, forged): (SocketAddr, Forged),
    seed: u32,
    count: u64,
    limit: Duration,
) -> Result<FloodReport> {
    let port = &host.ports[0];
    let macs = (parse_mac(&port.mac)?, parse_mac(&gateway.mac)?);
    host.ns.enter(|| {
        let socket = packet_socket(&port.interface)?;
        let begun = Instant::now();
        let mut frame = Vec::with_capacity(128);
        let mut sent = 0;
        while sent < count && begun.elapsed() < limit {
            for _ in 0..256.min(count - sent) {
                write_packet(&mut frame, macs, (to, forged), seed, sent)?;
                match socket.send(&frame) {
                    Ok(_) => {}
                    // The interface's queue is full: the packet is lost, as in a real flood.
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                    Err(error) => return Err(error).context("send a packet of a flood"),
                }
                sent += 1;
            }
        }
        Ok(FloodReport {
            sent,
            took: begun.elapsed(),
        })
    })
}

type Mac = [u8; 6];

fn parse_mac(text: &str) -> Result<Mac> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()
        .with_context(|| format!("hardware address {text}"))?;
    match bytes.try_into() {
        Ok(mac) => Ok(mac),
        Err(_) => bail!("hardware address {text}"),
    }
}

/// Writes the packet with this number. There are 2¹⁷ addresses, each with several ports.
fn write_packet(
    frame: &mut Vec<u8>,
    (from_mac, to_mac): (Mac, Mac),
    (to, forged): (SocketAddr, Forged),
    seed: u32,
    number: u64,
) -> Result<()> {
    let is_first = number.is_multiple_of(forged.packets());
    let number = (number / forged.packets()) as u32;
    // The ports of one source come round after 64,000 flows.
    let number = if forged == Forged::OneSource {
        number << 17 | 1
    } else {
        number
    };
    let host = number & 0x1_ffff;
    let port = 1024 + (number >> 17).wrapping_add(seed.wrapping_mul(1024)) as u16 % 64_000;
    let ethernet = PacketBuilder::ethernet2(from_mac, to_mac);
    let packet = match to.ip() {
        IpAddr::V4(to) => {
            // Reserved for benchmarks (RFC 2544), not routed.
            let from = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) | host);
            ethernet.ipv4(from.octets(), to.octets(), 64)
        }
        IpAddr::V6(to) => {
            let net = u128::from(Ipv6Addr::new(0x2001, 0xdb8, 0xf100, 0, 0, 0, 0, 0));
            let from = Ipv6Addr::from(net | u128::from(host));
            ethernet.ipv6(from.octets(), to.octets(), 64)
        }
    };
    frame.clear();
    match forged {
        Forged::TwoDatagrams => packet.udp(port, to.port()).write(frame, b"forged"),
        _ if is_first => {
            let syn = packet.tcp(port, to.port(), number, 65_535).syn();
            syn.write(frame, &[])
        }
        _ => {
            let ack = packet.tcp(port, to.port(), number.wrapping_add(1), 65_535);
            ack.ack(number).write(frame, &[])
        }
    }
    .context("build a packet of a flood")
}

/// Returns a socket that sends frames from an interface of the calling thread's namespace and receives
/// none.
pub fn packet_socket(interface: &str) -> Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None::<Protocol>)
        .context("a packet socket (needs root)")?;
    let ifindex = if_nametoindex(interface).with_context(|| interface.to_owned())?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: the storage is larger than a `sockaddr_ll`, aligned for any address, and all zero is a
    // valid one.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = ifindex.cast_signed();
    // SAFETY: the storage holds a `sockaddr_ll` of this length.
    let address =
        unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) };
    socket
        .bind(&address)
        .with_context(|| format!("bind to {interface}"))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flow_has_its_packets() {
        for forged in [Forged::Syn, Forged::Handshake, Forged::TwoDatagrams] {
            let mut seen = std::collections::HashMap::new();
            let to = "192.0.2.1:80".parse().unwrap();
            let mut frame = Vec::new();
            for first in (0..1 << 20).step_by(508) {
                for number in first..first + forged.packets() {
                    write_packet(&mut frame, ([2; 6], [4; 6]), (to, forged), 1, number).unwrap();
                    *seen.entry(frame[26..36].to_vec()).or_insert(0) += 1;
                }
            }
            assert!(seen.values().all(|&packets| packets == forged.packets()));
        }
    }
}

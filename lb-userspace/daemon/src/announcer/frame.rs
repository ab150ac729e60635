//! Frames for VIPs, as a client's first packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::PacketBuilder;
use lb_common::proto;

use super::facts::Service;

/// Clients that can't exist (RFC 5737, RFC 2544; RFC 3849, RFC 5180). Several, because in a lab one may be
/// the address of a VIP, from which no packet is forwarded.
const CLIENTS_V4: [Ipv4Addr; 4] = [
    Ipv4Addr::new(192, 0, 2, 1),
    Ipv4Addr::new(198, 51, 100, 1),
    Ipv4Addr::new(203, 0, 113, 1),
    Ipv4Addr::new(198, 18, 0, 1),
];
const CLIENTS_V6: [Ipv6Addr; 4] = [
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 1),
];

/// The client of each family that frames come from: none of these addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clients {
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

impl Clients {
    pub(super) fn none_of(taken: impl Fn(IpAddr) -> bool) -> Self {
        let v4 = CLIENTS_V4.into_iter().find(|it| !taken((*it).into()));
        let v6 = CLIENTS_V6.into_iter().find(|it| !taken((*it).into()));
        Self {
            v4: v4.unwrap_or(CLIENTS_V4[0]),
            v6: v6.unwrap_or(CLIENTS_V6[0]),
        }
    }

    /// A packet to a service: a SYN, or a datagram. Each `turn` is from another port, so that they try all
    /// slots of the ring in time. `mac`: of the interface that receives it.
    pub(super) fn frame(
        self,
        mac: [u8; 6],
        (address, port, protocol): Service,
        turn: u32,
    ) -> Vec<u8> {
        // Any locally administered address.
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], mac);
        // Spread evenly, however few they are (golden ratio).
        let source_port = (turn.wrapping_mul(0x9e37_79b9) >> 16) as u16 | 1;
        // A VIP of any port has port 0.
        let port = if port == 0 { 9 } else { port };
        let network = match address {
            IpAddr::V4(address) => ethernet.ipv4(self.v4.octets(), address.octets(), 64),
            IpAddr::V6(address) => ethernet.ipv6(self.v6.octets(), address.octets(), 64),
        };
        let payload = [0; 8];
        let mut frame = Vec::with_capacity(128);
        let written = if protocol == proto::UDP {
            network.udp(source_port, port).write(&mut frame, &payload)
        } else {
            let syn = network.tcp(source_port, port, turn, 64_240).syn();
            syn.write(&mut frame, &[])
        };
        // A vector takes all that is written.
        debug_assert!(written.is_ok());
        frame
    }
}

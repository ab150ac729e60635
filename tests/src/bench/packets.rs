//! The packets of a workload, as the wrapper program creates them.

use bytemuck::Zeroable as _;
use lb_common::{Address, bench::Plan, checksum, family, proto};

/// TCP flags.
pub mod flags {
    pub const SYN: u8 = 0x02;
    pub const ACK: u8 = 0x10;
}

/// Length of IPv4 frames: the minimum of Ethernet.
const FRAME_V4: u32 = 64;
/// Length of IPv6 frames with the same payload.
const FRAME_V6: u32 = 84;
const ETHERNET: u32 = 14;
const TTL: u8 = 64;

/// Destination MAC address of the frames.
pub const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Destination port.
pub const PORT: u16 = 443;
/// Number of flows of a workload in which no flow repeats.
pub const ALL_DISTINCT: u32 = u32::MAX;

/// Addresses of the VIPs: 203.0.113.0, or 2001:db8::1.
pub const VIP_V4: u32 = 0xcb00_7100;
/// See [`VIP_V4`].
pub const VIP_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// An address without a VIP.
pub const ELSEWHERE_V4: u32 = 0xc633_6401;

/// Payload of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// TCP with these flags.
    Tcp(u8),
    Udp,
    /// ICMP echo request (IPv4).
    Echo,
    Arp,
}

impl Payload {
    /// Returns the IP protocol.
    #[must_use]
    pub const fn protocol(self) -> u8 {
        match self {
            Self::Tcp(_) => proto::TCP,
            Self::Udp => proto::UDP,
            Self::Echo | Self::Arp => proto::ICMP,
        }
    }
}

/// The packets of a workload.
#[derive(Clone, Copy, Debug)]
pub struct Packets {
    pub family: u8,
    pub payload: Payload,
    /// Flows, a power of two, or [`ALL_DISTINCT`].
    pub flows: u32,
    /// IPv4: the first destination.
    pub dest: u32,
    /// IPv4: number of destinations, a power of two.
    pub dests: u32,
}

impl Packets {
    /// Creates TCP packets to one VIP.
    #[must_use]
    pub const fn tcp(family: u8, flags: u8, flows: u32) -> Self {
        Self {
            family,
            payload: Payload::Tcp(flags),
            flows,
            dest: VIP_V4,
            dests: 1,
        }
    }

    /// Returns flows minus one.
    #[must_use]
    pub const fn flow_mask(&self) -> u32 {
        if self.flows == ALL_DISTINCT {
            u32::MAX
        } else {
            self.flows - 1
        }
    }

    /// Returns the plan for the wrapper.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let plan = Plan {
            family: self.family.into(),
            flow_mask: self.flow_mask(),
            port_mask: match self.payload {
                Payload::Tcp(_) | Payload::Udp => 0xffff,
                Payload::Echo | Payload::Arp => 0,
            },
            ..Plan::zeroed()
        };
        if self.family == family::V4 {
            self.plan_v4(plan)
        } else {
            self.plan_v6(plan)
        }
    }

    fn plan_v4(&self, plan: Plan) -> Plan {
        let length = FRAME_V4 - ETHERNET;
        let [high, low] = (length as u16).to_be_bytes();
        let ip = u64::from_ne_bytes([0x45, 0, high, low, 0, 0, 0x40, 0]);
        let third = u32::from_ne_bytes([TTL, self.payload.protocol(), 0, 0]);
        let sum = (ip & 0xffff_ffff) + (ip >> 32) + u64::from(third);
        Plan {
            frame_len: FRAME_V4,
            dest_mask: self.dests - 1,
            ethernet: self.ethernet(0x0800),
            ip,
            source: [third.into(), 0],
            dest: [self.dest.into(), sum],
            transport: self.transport(length as u16 - 20),
            ..plan
        }
    }

    fn plan_v6(&self, plan: Plan) -> Plan {
        let payload = (FRAME_V6 - ETHERNET - 40) as u16;
        let [high, low] = payload.to_be_bytes();
        let protocol = self.payload.protocol();
        Plan {
            frame_len: FRAME_V6,
            ethernet: self.ethernet(0x86dd),
            ip: u64::from_ne_bytes([0x60, 0, 0, 0, high, low, protocol, TTL]),
            source: source_v6(),
            dest: lb_common::address_v6(VIP_V6),
            transport: self.transport(payload),
            ..plan
        }
    }

    fn ethernet(&self, ip: u16) -> [u64; 2] {
        let kind = if self.payload == Payload::Arp {
            0x0806
        } else {
            ip
        };
        let [high, low] = u16::to_be_bytes(kind);
        [
            u64::from_ne_bytes([2, 0, 0, 0, 0, 1, 2, 0]),
            u64::from_ne_bytes([0, 0, 0, 2, high, low, 0, 0]),
        ]
    }

    /// Returns the transport header. `len` is its length with the payload.
    fn transport(&self, len: u16) -> [u64; 3] {
        let [p, q] = PORT.to_be_bytes();
        let [high, low] = len.to_be_bytes();
        match self.payload {
            Payload::Tcp(flags) => [
                u64::from_ne_bytes([0, 0, p, q, 0, 0, 0, 1]),
                u64::from_ne_bytes([0, 0, 0, 1, 0x50, flags, 0xff, 0xff]),
                0,
            ],
            Payload::Udp => [u64::from_ne_bytes([0, 0, p, q, high, low, 0, 0]), 0, 0],
            Payload::Echo => {
                let [kind, id] = [u16::from_ne_bytes([8, 0]), 0x1234];
                let sum = checksum::finish(u64::from(kind) + u64::from(id));
                let word = u64::from(kind) | u64::from(sum) << 16 | u64::from(id) << 32;
                [word, 0, 0]
            }
            Payload::Arp => [0; 3],
        }
    }
}

/// Returns the base of the IPv6 source addresses: 2001:db8:1::.
fn source_v6() -> Address {
    lb_common::address_v6([0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
}

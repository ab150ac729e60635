//! Ethernet frames.

use super::{Ip, Transport};

/// A MAC address.
pub type Mac = [u8; 6];

/// Source of incoming frames.
pub const OUTSIDE: Mac = [2, 0, 0, 0, 0, 1];
/// The node's own MAC address.
pub const OWN: Mac = [2, 0, 0, 0, 0, 2];

/// An Ethernet frame.
#[derive(Clone, Debug)]
pub struct Frame {
    pub to: Mac,
    pub from: Mac,
    /// VLAN tags, outermost first: EtherType and TCI.
    pub tags: Vec<(u16, u16)>,
    pub ip: Ip,
    pub transport: Transport,
    pub payload: Vec<u8>,
    /// Bytes after the IP packet.
    pub padding: Vec<u8>,
}

impl Frame {
    /// Creates a frame from outside to the node.
    #[must_use]
    pub fn new(ip: impl Into<Ip>, transport: Transport) -> Self {
        Self {
            to: OWN,
            from: OUTSIDE,
            tags: Vec::new(),
            ip: ip.into(),
            transport,
            payload: b"as steady as she goes".to_vec(),
            padding: Vec::new(),
        }
    }

    /// Sets destination and source MAC address.
    #[must_use]
    pub fn link(mut self, to: Mac, from: Mac) -> Self {
        (self.to, self.from) = (to, from);
        self
    }

    #[must_use]
    pub fn payload(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.payload = payload.into();
        self
    }

    #[must_use]
    pub fn tags(mut self, tags: &[(u16, u16)]) -> Self {
        self.tags = tags.to_vec();
        self
    }

    #[must_use]
    pub fn padding(mut self, padding: &[u8]) -> Self {
        self.padding = padding.to_vec();
        self
    }

    #[must_use]
    pub fn with_ip(mut self, change: impl FnOnce(&mut Ip)) -> Self {
        change(&mut self.ip);
        self
    }

    #[must_use]
    pub fn with_transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// Sets TTL or hop limit.
    #[must_use]
    pub fn ttl(self, ttl: u8) -> Self {
        self.with_ip(|ip| *ip.ttl_mut() = ttl)
    }

    /// Encodes the IP packet without padding.
    #[must_use]
    pub fn packet(&self) -> Vec<u8> {
        let datagram = self.transport.bytes(&self.ip, &self.payload);
        self.ip.bytes(self.transport.protocol(), &datagram)
    }

    /// Encodes the frame.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.to);
        bytes.extend(self.from);
        for (ether_type, tag) in &self.tags {
            bytes.extend(ether_type.to_be_bytes());
            bytes.extend(tag.to_be_bytes());
        }
        bytes.extend(self.ip.ether_type().to_be_bytes());
        bytes.extend(self.packet());
        bytes.extend(&self.padding);
        bytes
    }

    /// Encapsulates this frame's packet. Tags and padding stay outside.
    #[must_use]
    pub fn inside(&self, outer: impl Into<Ip>) -> Self {
        let protocol = match self.ip {
            Ip::V4(_) => 4,
            Ip::V6(_) => 41,
        };
        Self {
            ip: outer.into(),
            transport: Transport::Raw { protocol },
            payload: self.packet(),
            ..self.clone()
        }
    }
}

//! Ethernet frames.

use super::{Ip, Transport};

/// A link-layer address.
pub type Mac = [u8; 6];

/// The client's side of the link, in frames that come in.
pub const OUTSIDE: Mac = [2, 0, 0, 0, 0, 1];
/// The node's own address.
pub const OWN: Mac = [2, 0, 0, 0, 0, 2];

/// A frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Destination.
    pub to: Mac,
    /// Source.
    pub from: Mac,
    /// VLAN tags, outermost first: ether type and tag.
    pub tags: Vec<(u16, u16)>,
    /// The IP header.
    pub ip: Ip,
    /// The transport header.
    pub transport: Transport,
    /// What follows it.
    pub payload: Vec<u8>,
    /// What follows the IP packet.
    pub padding: Vec<u8>,
}

impl Frame {
    /// A frame from outside to the node.
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

    /// With other link addresses: destination, source.
    #[must_use]
    pub fn link(mut self, to: Mac, from: Mac) -> Self {
        (self.to, self.from) = (to, from);
        self
    }

    /// With another payload.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.payload = payload.into();
        self
    }

    /// With VLAN tags.
    #[must_use]
    pub fn tags(mut self, tags: &[(u16, u16)]) -> Self {
        self.tags = tags.to_vec();
        self
    }

    /// With bytes after the IP packet.
    #[must_use]
    pub fn padding(mut self, padding: &[u8]) -> Self {
        self.padding = padding.to_vec();
        self
    }

    /// With a changed IP header.
    #[must_use]
    pub fn with_ip(mut self, change: impl FnOnce(&mut Ip)) -> Self {
        change(&mut self.ip);
        self
    }

    /// With another transport header.
    #[must_use]
    pub fn with_transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// With another hop count.
    #[must_use]
    pub fn hops(self, hops: u8) -> Self {
        self.with_ip(|ip| *ip.hops_mut() = hops)
    }

    /// The IP packet without padding.
    #[must_use]
    pub fn packet(&self) -> Vec<u8> {
        let datagram = self.transport.bytes(&self.ip, &self.payload);
        self.ip.bytes(self.transport.protocol(), &datagram)
    }

    /// The bytes on the wire.
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

    /// This frame's packet inside an outer header; tags and padding stay outside.
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

//! IP headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum;

#[derive(Clone, Debug)]
pub enum Ip {
    V4(V4),
    V6(V6),
}

#[derive(Clone, Debug)]
pub struct V4 {
    pub source: Ipv4Addr,
    pub dest: Ipv4Addr,
    pub ttl: u8,
    /// DSCP and ECN.
    pub class: u8,
    pub id: u16,
    pub dont_fragment: bool,
    /// Padded to whole words.
    pub options: Vec<u8>,
    pub fragment: Option<Fragment>,
}

#[derive(Clone, Debug)]
pub struct V6 {
    pub source: Ipv6Addr,
    pub dest: Ipv6Addr,
    pub hop_limit: u8,
    pub class: u8,
    pub flow_label: u32,
    pub extensions: Vec<Extension>,
}

/// The part of a datagram in a fragment.
#[derive(Clone, Copy, Debug)]
pub struct Fragment {
    /// In bytes, a multiple of 8.
    pub offset: u16,
    /// In bytes.
    pub len: usize,
    /// More fragments follow.
    pub more: bool,
}

/// An IPv6 extension header.
#[derive(Clone, Debug)]
pub enum Extension {
    /// Hop-by-hop (0) or destination options (60), with the length in bytes.
    Options(u8, usize),
    /// Routing, with segments left.
    Routing(u8),
    /// Authentication header, with the length in bytes.
    Auth(usize),
    /// Fragment header with identification.
    Fragment(Fragment, u32),
}

impl Extension {
    const fn kind(&self) -> u8 {
        match self {
            Self::Options(kind, _) => *kind,
            Self::Routing(_) => 43,
            Self::Auth(_) => 51,
            Self::Fragment(..) => 44,
        }
    }

    fn bytes(&self, next: u8) -> Vec<u8> {
        match *self {
            Self::Options(_, len) => {
                let mut bytes = vec![next, (len / 8 - 1) as u8, 1, (len - 4) as u8];
                bytes.resize(len, 0);
                bytes
            }
            Self::Routing(left) => vec![next, 0, 4, left, 0, 0, 0, 0],
            Self::Auth(len) => {
                let mut bytes = vec![next, (len / 4 - 2) as u8];
                bytes.resize(len, 7);
                bytes
            }
            Self::Fragment(fragment, id) => {
                let bits = fragment.offset | u16::from(fragment.more);
                let mut bytes = vec![next, 0];
                bytes.extend(bits.to_be_bytes());
                bytes.extend(id.to_be_bytes());
                bytes
            }
        }
    }
}

impl V4 {
    /// Creates a header without options.
    #[must_use]
    pub const fn new(source: Ipv4Addr, dest: Ipv4Addr) -> Self {
        Self {
            source,
            dest,
            ttl: 64,
            class: 0,
            id: 0x4711,
            dont_fragment: true,
            options: Vec::new(),
            fragment: None,
        }
    }

    fn bytes(&self, protocol: u8, datagram: &[u8]) -> Vec<u8> {
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        let part = part(datagram, self.fragment);
        let header_len = 20 + options.len();
        let flags = u16::from(self.dont_fragment) << 14
            | self.fragment.map_or(0, |fragment| {
                (u16::from(fragment.more) << 13) | (fragment.offset / 8)
            });
        let mut bytes = vec![0x40 | (header_len / 4) as u8, self.class];
        bytes.extend(((header_len + part.len()) as u16).to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(flags.to_be_bytes());
        bytes.extend([self.ttl, protocol, 0, 0]);
        bytes.extend(self.source.octets());
        bytes.extend(self.dest.octets());
        bytes.extend(options);
        let sum = checksum(&[&bytes]).to_be_bytes();
        bytes[10..12].copy_from_slice(&sum);
        bytes.extend(part);
        bytes
    }
}

impl V6 {
    /// Creates a header without options.
    #[must_use]
    pub const fn new(source: Ipv6Addr, dest: Ipv6Addr) -> Self {
        Self {
            source,
            dest,
            hop_limit: 64,
            class: 0,
            flow_label: 0,
            extensions: Vec::new(),
        }
    }

    fn bytes(&self, protocol: u8, datagram: &[u8]) -> Vec<u8> {
        let fragment = self
            .extensions
            .iter()
            .find_map(|extension| match extension {
                Extension::Fragment(fragment, _) => Some(*fragment),
                _ => None,
            });
        let mut extensions = Vec::new();
        for (at, extension) in self.extensions.iter().enumerate() {
            let next = self
                .extensions
                .get(at + 1)
                .map_or(protocol, Extension::kind);
            extensions.extend(extension.bytes(next));
        }
        let part = part(datagram, fragment);
        let first = 6 << 28 | u32::from(self.class) << 20 | self.flow_label;
        let mut bytes = first.to_be_bytes().to_vec();
        bytes.extend(((extensions.len() + part.len()) as u16).to_be_bytes());
        bytes.push(self.extensions.first().map_or(protocol, Extension::kind));
        bytes.push(self.hop_limit);
        bytes.extend(self.source.octets());
        bytes.extend(self.dest.octets());
        bytes.extend(extensions);
        bytes.extend(part);
        bytes
    }
}

fn part(datagram: &[u8], fragment: Option<Fragment>) -> &[u8] {
    match fragment {
        None => datagram,
        Some(Fragment { offset, len, .. }) => &datagram[usize::from(offset)..][..len],
    }
}

impl From<V4> for Ip {
    fn from(header: V4) -> Self {
        Self::V4(header)
    }
}

impl From<V6> for Ip {
    fn from(header: V6) -> Self {
        Self::V6(header)
    }
}

impl Ip {
    /// Creates a header without options.
    ///
    /// # Panics
    /// If the addresses are of different families.
    #[must_use]
    pub fn new(source: IpAddr, dest: IpAddr) -> Self {
        match (source, dest) {
            (IpAddr::V4(source), IpAddr::V4(dest)) => V4::new(source, dest).into(),
            (IpAddr::V6(source), IpAddr::V6(dest)) => V6::new(source, dest).into(),
            _ => panic!("{source} and {dest} are not of one family"),
        }
    }

    #[must_use]
    pub fn source(&self) -> IpAddr {
        match self {
            Self::V4(header) => header.source.into(),
            Self::V6(header) => header.source.into(),
        }
    }

    #[must_use]
    pub fn dest(&self) -> IpAddr {
        match self {
            Self::V4(header) => header.dest.into(),
            Self::V6(header) => header.dest.into(),
        }
    }

    /// Replaces both addresses.
    pub fn set_addresses(&mut self, new_source: IpAddr, new_dest: IpAddr) {
        match (self, new_source, new_dest) {
            (Self::V4(header), IpAddr::V4(source), IpAddr::V4(dest)) => {
                (header.source, header.dest) = (source, dest);
            }
            (Self::V6(header), IpAddr::V6(source), IpAddr::V6(dest)) => {
                (header.source, header.dest) = (source, dest);
            }
            _ => panic!("{new_source} and {new_dest} are not of the packet's family"),
        }
    }

    /// TTL or hop limit.
    pub const fn ttl_mut(&mut self) -> &mut u8 {
        match self {
            Self::V4(header) => &mut header.ttl,
            Self::V6(header) => &mut header.hop_limit,
        }
    }

    /// DSCP and ECN.
    pub const fn class_mut(&mut self) -> &mut u8 {
        match self {
            Self::V4(header) => &mut header.class,
            Self::V6(header) => &mut header.class,
        }
    }

    pub(super) const fn ether_type(&self) -> u16 {
        match self {
            Self::V4(_) => 0x0800,
            Self::V6(_) => 0x86dd,
        }
    }

    pub(super) fn bytes(&self, protocol: u8, datagram: &[u8]) -> Vec<u8> {
        match self {
            Self::V4(header) => header.bytes(protocol, datagram),
            Self::V6(header) => header.bytes(protocol, datagram),
        }
    }

    /// Returns the pseudo-header of transport checksums.
    pub(super) fn pseudo_header(&self, protocol: u8, len: usize) -> Vec<u8> {
        let mut bytes = match self {
            Self::V4(header) => [header.source.octets(), header.dest.octets()].concat(),
            Self::V6(header) => [header.source.octets(), header.dest.octets()].concat(),
        };
        bytes.extend((len as u32).to_be_bytes());
        bytes.extend(u32::from(protocol).to_be_bytes());
        bytes
    }
}

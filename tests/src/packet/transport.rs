//! Transport headers.

use super::{Ip, checksum};

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;
pub const PSH: u8 = 0x08;

/// A transport header.
#[derive(Clone, Debug)]
pub enum Transport {
    Tcp {
        source: u16,
        dest: u16,
        flags: u8,
        seq: u32,
        ack: u32,
        /// A multiple of 4 bytes.
        options: Vec<u8>,
    },
    Udp {
        source: u16,
        dest: u16,
        has_checksum: bool,
    },
    /// ICMP or ICMPv6.
    Icmp {
        protocol: u8,
        /// Type and code.
        kind: (u8, u8),
        /// Rest of the header.
        rest: u32,
    },
    /// No header, only the payload.
    Raw { protocol: u8 },
}

/// Sequence number of a client's SYN, and of a backend's.
pub const CLIENT_ISN: u32 = 0x100;
pub const BACKEND_ISN: u32 = 0x1ff;

/// A client's segment: a SYN, or the first one after the handshake.
#[must_use]
pub const fn tcp(source: u16, dest: u16, flags: u8) -> Transport {
    Transport::Tcp {
        source,
        dest,
        flags,
        seq: CLIENT_ISN + (flags & SYN == 0) as u32,
        ack: BACKEND_ISN + 1,
        options: Vec::new(),
    }
}

#[must_use]
pub const fn udp(source: u16, dest: u16) -> Transport {
    Transport::Udp {
        source,
        dest,
        has_checksum: true,
    }
}

#[must_use]
pub const fn icmp(kind: u8, code: u8, rest: u32) -> Transport {
    Transport::Icmp {
        protocol: 1,
        kind: (kind, code),
        rest,
    }
}

#[must_use]
pub const fn icmp6(kind: u8, code: u8, rest: u32) -> Transport {
    Transport::Icmp {
        protocol: 58,
        kind: (kind, code),
        rest,
    }
}

impl Transport {
    pub(super) const fn protocol(&self) -> u8 {
        match self {
            Self::Tcp { .. } => 6,
            Self::Udp { .. } => 17,
            Self::Icmp { protocol, .. } | Self::Raw { protocol } => *protocol,
        }
    }

    /// Encodes header and payload.
    pub(super) fn bytes(&self, ip: &Ip, payload: &[u8]) -> Vec<u8> {
        let (mut bytes, sum_at) = match self {
            Self::Tcp {
                source,
                dest,
                flags,
                seq,
                ack,
                options,
            } => {
                let words = 5 + options.len() / 4;
                let mut bytes = [source.to_be_bytes(), dest.to_be_bytes()].concat();
                bytes.extend([seq.to_be_bytes(), ack.to_be_bytes()].concat());
                bytes.extend([(words as u8) << 4, *flags, 0x20, 0, 0, 0, 0, 0]);
                bytes.extend(options);
                (bytes, Some(16))
            }
            Self::Udp {
                source,
                dest,
                has_checksum,
            } => {
                let mut bytes = [source.to_be_bytes(), dest.to_be_bytes()].concat();
                bytes.extend((payload.len() as u16 + 8).to_be_bytes());
                bytes.extend([0, 0]);
                (bytes, has_checksum.then_some(6))
            }
            Self::Icmp { kind, rest, .. } => {
                let mut bytes = vec![kind.0, kind.1, 0, 0];
                bytes.extend(rest.to_be_bytes());
                (bytes, Some(2))
            }
            Self::Raw { .. } => (Vec::new(), None),
        };
        bytes.extend(payload);
        if let Some(at) = sum_at {
            let protocol = self.protocol();
            let pseudo = if protocol == 1 {
                Vec::new()
            } else {
                ip.pseudo_header(protocol, bytes.len())
            };
            let mut sum = checksum(&[&pseudo, &bytes]);
            if protocol == 17 && sum == 0 {
                sum = 0xffff;
            }
            bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        bytes
    }
}

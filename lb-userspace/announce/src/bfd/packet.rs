//! Codec of BFD control packets (RFC 5880, section 4.1). All numbers are in network byte order.

use std::fmt;

/// Length of a packet without authentication.
pub const LENGTH: usize = 24;

const VERSION: u8 = 1;
const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const AUTHENTICATED: u8 = 0x04;
const MULTIPOINT: u8 = 0x01;

/// State of a BFD session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BfdState {
    /// Disabled by the operator; says nothing about the path.
    AdminDown,
    #[default]
    Down,
    /// The peer is heard, but does not hear us yet.
    Init,
    Up,
}

/// Why a session went down (RFC 5880, section 4.1). Other values are kept as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Diagnostic(pub u8);

/// A control packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub diagnostic: Diagnostic,
    pub state: BfdState,
    pub poll: bool,
    pub is_final: bool,
    pub multiplier: u8,
    /// Of the sender; not 0.
    pub my_discriminator: u32,
    /// Of the receiver; 0 if the sender does not know it yet.
    pub your_discriminator: u32,
    /// Microseconds.
    pub desired_min_tx_us: u32,
    /// Microseconds; 0 means that the sender wants no periodic packets.
    pub required_min_rx_us: u32,
}

/// Why a packet must be discarded (RFC 5880, section 6.8.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    #[error("wrong length")]
    Length,
    #[error("version is not 1")]
    Version,
    #[error("detection multiplier is 0")]
    Multiplier,
    #[error("multipoint bit is set")]
    Multipoint,
    #[error("authentication is not supported")]
    Authenticated,
    #[error("discriminator is 0")]
    Discriminator,
}

impl Diagnostic {
    pub const NONE: Self = Self(0);
    pub const DETECTION_EXPIRED: Self = Self(1);
    pub const NEIGHBOR_DOWN: Self = Self(3);
}

impl Packet {
    pub fn encode(&self) -> [u8; LENGTH] {
        let state = match self.state {
            BfdState::AdminDown => 0,
            BfdState::Down => 1,
            BfdState::Init => 2,
            BfdState::Up => 3,
        };
        let mut flags = state << 6;
        if self.poll {
            flags |= POLL;
        }
        if self.is_final {
            flags |= FINAL;
        }
        let mut bytes = [0; LENGTH];
        bytes[0] = VERSION << 5 | self.diagnostic.0 & 0x1f;
        bytes[1] = flags;
        bytes[2] = self.multiplier;
        bytes[3] = LENGTH as u8;
        let words = [
            self.my_discriminator,
            self.your_discriminator,
            self.desired_min_tx_us,
            self.required_min_rx_us,
            // Required Min Echo RX Interval: echo is not supported.
            0,
        ];
        for (place, word) in bytes[4..].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    /// Decodes the payload of a UDP datagram.
    pub fn decode(bytes: &[u8]) -> Result<Self, PacketError> {
        let Some((&[first, flags, multiplier, length], rest)) = bytes.split_first_chunk() else {
            return Err(PacketError::Length);
        };
        if first >> 5 != VERSION {
            return Err(PacketError::Version);
        }
        let length = usize::from(length);
        if length < LENGTH || length > bytes.len() {
            return Err(PacketError::Length);
        }
        if multiplier == 0 {
            return Err(PacketError::Multiplier);
        }
        if flags & MULTIPOINT != 0 {
            return Err(PacketError::Multipoint);
        }
        if flags & AUTHENTICATED != 0 {
            return Err(PacketError::Authenticated);
        }
        let word = |index: usize| {
            let bytes = rest[4 * index..].first_chunk();
            bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
        };
        let packet = Self {
            diagnostic: Diagnostic(first & 0x1f),
            state: match flags >> 6 {
                0 => BfdState::AdminDown,
                1 => BfdState::Down,
                2 => BfdState::Init,
                _ => BfdState::Up,
            },
            poll: flags & POLL != 0,
            is_final: flags & FINAL != 0,
            multiplier,
            my_discriminator: word(0),
            your_discriminator: word(1),
            desired_min_tx_us: word(2),
            required_min_rx_us: word(3),
        };
        let may_be_unknown = matches!(packet.state, BfdState::Down | BfdState::AdminDown);
        if packet.my_discriminator == 0 || (packet.your_discriminator == 0 && !may_be_unknown) {
            return Err(PacketError::Discriminator);
        }
        Ok(packet)
    }
}

impl fmt::Display for BfdState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AdminDown => "AdminDown",
            Self::Down => "Down",
            Self::Init => "Init",
            Self::Up => "Up",
        })
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 9] = [
            "no diagnostic",
            "control detection time expired",
            "echo function failed",
            "neighbor signaled session down",
            "forwarding plane reset",
            "path down",
            "concatenated path down",
            "administratively down",
            "reverse concatenated path down",
        ];
        match NAMES.get(usize::from(self.0)) {
            Some(name) => f.write_str(name),
            None => write!(f, "diagnostic {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet() -> Packet {
        Packet {
            diagnostic: Diagnostic::DETECTION_EXPIRED,
            state: BfdState::Up,
            poll: true,
            is_final: false,
            multiplier: 3,
            my_discriminator: 0x0102_0304,
            your_discriminator: 0x0506_0708,
            desired_min_tx_us: 100_000,
            required_min_rx_us: 100_000,
        }
    }

    #[test]
    fn encodes_by_the_rfc() {
        let expected = [
            0x21, 0xe0, 3, 24, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0x86, 0xa0, 0, 1, 0x86, 0xa0, 0, 0, 0,
            0,
        ];
        assert_eq!(packet().encode(), expected);
        assert_eq!(Packet::decode(&expected), Ok(packet()));
    }

    #[test]
    fn rejects_what_the_rfc_rejects() {
        let broken = |at: usize, value: u8| {
            let mut bytes = packet().encode();
            bytes[at] = value;
            Packet::decode(&bytes).unwrap_err()
        };
        assert_eq!(broken(0, 0x40), PacketError::Version);
        assert_eq!(broken(1, 0xc1), PacketError::Multipoint);
        assert_eq!(broken(1, 0xc4), PacketError::Authenticated);
        assert_eq!(broken(2, 0), PacketError::Multiplier);
        assert_eq!(broken(3, 23), PacketError::Length);
        assert_eq!(broken(3, 25), PacketError::Length);
        let mut unknown = packet();
        unknown.your_discriminator = 0;
        let decode = |packet: Packet| Packet::decode(&packet.encode());
        assert_eq!(decode(unknown), Err(PacketError::Discriminator));
        unknown.state = BfdState::Down;
        assert_eq!(decode(unknown), Ok(unknown));
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_rejected(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(packet) = Packet::decode(&bytes) {
                prop_assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
            }
        }
    }
}

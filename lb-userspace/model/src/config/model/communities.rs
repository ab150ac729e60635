//! BGP communities.

use std::fmt;

/// A community (RFC 1997): the AS number in the upper 16 bits, the value in the lower ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(u32);

impl Community {
    /// The well-known communities that have a name in the file.
    pub(in crate::config) const NAMED: [(&'static str, Self); 5] = [
        ("no-export", Self(0xFFFF_FF01)),
        ("no-advertise", Self(0xFFFF_FF02)),
        ("no-peer", Self(0xFFFF_FF04)),
        ("graceful-shutdown", Self::GRACEFUL_SHUTDOWN),
        ("blackhole", Self(0xFFFF_029A)),
    ];
    /// Routers give routes with it the lowest preference (RFC 8326).
    pub const GRACEFUL_SHUTDOWN: Self = Self(0xFFFF_0000);

    /// Makes a community of its number, in host byte order.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number, in host byte order.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::NAMED.iter().find(|(_, community)| community == self);
        match named {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}:{}", self.0 >> 16, self.0 & 0xFFFF),
        }
    }
}

/// A large community (RFC 8092): global administrator and two local parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity([u32; 3]);

impl LargeCommunity {
    /// Makes a large community of its parts, in host byte order.
    #[must_use]
    pub const fn new(parts: [u32; 3]) -> Self {
        Self(parts)
    }

    /// Global administrator and local parts, in host byte order.
    #[must_use]
    pub const fn parts(self) -> [u32; 3] {
        self.0
    }
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [global, first, second] = self.0;
        write!(f, "{global}:{first}:{second}")
    }
}

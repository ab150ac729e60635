//! Types of single values.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    path::PathBuf,
};

/// The secret from which the keys of the flow hash are derived. `Debug` does not show it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashSeed([u8; 16]);

impl HashSeed {
    /// Makes a seed of 16 secret bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The secret bytes.
    #[must_use]
    pub const fn bytes(&self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Debug for HashSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashSeed(secret)")
    }
}

/// An address prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// The prefix of this length that contains the address; the length is cut to the family's.
    #[must_use]
    pub fn containing(address: IpAddr, length: u8) -> Self {
        match address {
            IpAddr::V4(v4) => {
                let length = length.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                Self {
                    address: Ipv4Addr::from(u32::from(v4) & mask).into(),
                    length,
                }
            }
            IpAddr::V6(v6) => {
                let length = length.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                Self {
                    address: Ipv6Addr::from(u128::from(v6) & mask).into(),
                    length,
                }
            }
        }
    }

    /// Whether it contains all addresses of another one.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.length <= other.length && Self::containing(other.address, self.length) == *self
    }

    /// The first address.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// The length in bits.
    #[must_use]
    pub const fn length(&self) -> u8 {
        self.length
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// A secret string. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Makes a secret of a string.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Certificates of authorities, with the file that they come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CaFile {
    /// The file.
    pub path: PathBuf,
    /// Its content (PEM).
    pub pem: String,
}

/// Ranges of HTTP status codes, as in `200-299,401`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusSet(Vec<RangeInclusive<u16>>);

impl StatusSet {
    /// Makes a set of ranges.
    #[must_use]
    pub const fn new(ranges: Vec<RangeInclusive<u16>>) -> Self {
        Self(ranges)
    }

    /// Whether a status is in one of the ranges.
    #[must_use]
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

impl Default for StatusSet {
    fn default() -> Self {
        Self(vec![200..=399])
    }
}

impl fmt::Display for StatusSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match (range.start(), range.end()) {
                (first, last) if first == last => write!(f, "{comma}{first}")?,
                (first, last) => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

/// A share of a whole, from 0 to 1, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fraction(u32);

impl Fraction {
    /// The whole.
    pub const ALL: Self = Self(1_000_000);
    /// A tenth.
    pub const TENTH: Self = Self(100_000);
    /// Half.
    pub const HALF: Self = Self(500_000);

    /// Rounds to millionths; `None` outside of 0 to 1.
    #[must_use]
    pub fn new(value: f64) -> Option<Self> {
        (0.0..=1.0)
            .contains(&value)
            .then(|| Self((value * 1e6).round() as u32))
    }

    pub(super) const fn from_millionths(millionths: u32) -> Self {
        Self(millionths)
    }

    /// The share in millionths.
    #[must_use]
    pub const fn millionths(self) -> u32 {
        self.0
    }

    /// The share as a number from 0 to 1.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / 1e6
    }
}

/// A factor, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Factor(u32);

impl Factor {
    /// Rounds to thousandths; `None` below 0 and above 1,000,000.
    #[must_use]
    pub fn new(value: f64) -> Option<Self> {
        (0.0..=1e6)
            .contains(&value)
            .then(|| Self((value * 1e3).round() as u32))
    }

    pub(super) const fn from_thousandths(thousandths: u32) -> Self {
        Self(thousandths)
    }

    /// The factor as a number.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / 1e3
    }
}

/// A multiple of a backend's share of new flows that it may get, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BoundFactor(u32);

impl BoundFactor {
    /// The smallest one: the shares of even traffic vary too, and less would spill flows of it.
    pub const MIN: Self = Self(1050);
    /// The largest one.
    pub const MAX: Self = Self(10_000);

    /// `None` outside of [`Self::MIN`] to [`Self::MAX`], and with more than three decimals.
    #[must_use]
    pub fn new(value: f64) -> Option<Self> {
        let thousandths = (value * 1e3).round();
        let factor = Self(thousandths as u32);
        let is_exact = (value * 1e3 - thousandths).abs() < 1e-6;
        (is_exact && factor >= Self::MIN && factor <= Self::MAX).then_some(factor)
    }

    /// The factor in thousandths.
    #[must_use]
    pub const fn thousandths(self) -> u32 {
        self.0
    }

    /// The factor as a number.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / 1e3
    }
}

impl fmt::Display for BoundFactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_f64().fmt(f)
    }
}

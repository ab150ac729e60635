//! UPDATEs from peers: only checked, since we announce and do not learn.

use super::{
    Family, Notification,
    attributes::{EXTENDED_LENGTH, MP_REACH, MP_UNREACH},
};

/// An UPDATE of a peer, in numbers. Its routes are ignored.
///
/// In the spirit of RFC 7606, an error in path attributes is counted and the routes of the message are
/// ignored like all others: closing the session would withdraw our routes because of routes that we do
/// not use. The session is closed only where the prefixes can't be told apart (RFC 7606, 5.3), because
/// then the peer and we disagree about the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceivedUpdate {
    /// Prefixes that the peer announces.
    pub announced: usize,
    /// Prefixes that the peer withdraws.
    pub withdrawn: usize,
    /// The lengths of the path attributes contradict each other.
    pub malformed: bool,
}

impl ReceivedUpdate {
    /// # Errors
    /// Malformed Attribute List: the lengths of the parts do not fit into the message. Invalid Network
    /// Field, Optional Attribute Error: prefixes are longer than addresses or cut.
    pub(super) fn decode(body: &[u8]) -> Result<Self, Notification> {
        let (withdrawn, rest) = part(body).ok_or(Notification::MALFORMED_ATTRIBUTES)?;
        let (attributes, reachable) = part(rest).ok_or(Notification::MALFORMED_ATTRIBUTES)?;
        let count = |bytes| count(Family::V4, bytes).ok_or(Notification::INVALID_NETWORK);
        let mut update = Self {
            withdrawn: count(withdrawn)?,
            announced: count(reachable)?,
            malformed: false,
        };
        update.read_attributes(attributes)?;
        Ok(update)
    }

    fn read_attributes(&mut self, mut rest: &[u8]) -> Result<(), Notification> {
        while !rest.is_empty() {
            let Some((code, value, after)) = attribute(rest) else {
                self.malformed = true;
                return Ok(());
            };
            let counted = match code {
                MP_REACH => reachable(value).map(|count| self.announced += count),
                MP_UNREACH => unreachable(value).map(|count| self.withdrawn += count),
                _ => Some(()),
            };
            counted.ok_or(Notification::OPTIONAL_ATTRIBUTE)?;
            rest = after;
        }
        Ok(())
    }
}

/// Splits off a part that begins with its length (two bytes).
fn part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(u16::from_be_bytes(*length).into())
}

/// Splits off an attribute; returns its code, its value and what follows.
fn attribute(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[flags, code], rest) = bytes.split_first_chunk()?;
    let (value, rest) = if flags & EXTENDED_LENGTH == 0 {
        let (length, rest) = rest.split_first()?;
        rest.split_at_checked((*length).into())?
    } else {
        part(rest)?
    };
    Some((code, value, rest))
}

/// Counts the prefixes of an MP_REACH_NLRI; 0 for families that we did not offer.
fn reachable(value: &[u8]) -> Option<usize> {
    let (&[high, low, safi, next_hop], rest) = value.split_first_chunk()?;
    let Some(family) = Family::from_mp([high, low, safi]) else {
        return Some(0);
    };
    // The next hop is followed by a reserved byte.
    let prefixes = rest.get(usize::from(next_hop) + 1..)?;
    count(family, prefixes)
}

/// Counts the prefixes of an MP_UNREACH_NLRI.
fn unreachable(value: &[u8]) -> Option<usize> {
    let (family, prefixes) = value.split_first_chunk()?;
    match Family::from_mp(*family) {
        Some(family) => count(family, prefixes),
        None => Some(0),
    }
}

/// Counts prefixes; `None` if one is too long or cut.
fn count(family: Family, mut bytes: &[u8]) -> Option<usize> {
    let mut count = 0;
    while let Some((&bits, rest)) = bytes.split_first() {
        if bits > family.bits() {
            return None;
        }
        bytes = rest.get(usize::from(bits.div_ceil(8))..)?;
        count += 1;
    }
    Some(count)
}

//! Codec of BGP messages (RFC 4271, section 4). All numbers are in network byte order.

mod attributes;
mod notification;
mod open;
mod received;
mod update;

use std::fmt;

pub(crate) use attributes::{NextHops, PathContext};
pub use notification::{Cease, Notification};
pub use open::Open;
pub use received::ReceivedUpdate;
pub(crate) use update::{announce, end_of_rib, withdraw};

/// Length of the header: marker (16), length (2), type (1).
pub const HEADER: usize = 19;
/// Most bytes of a message, header included. Extended messages (RFC 8654) are not offered.
pub const LONGEST: usize = 4096;

const OPEN: u8 = 1;
const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
const KEEPALIVE: u8 = 4;
const ROUTE_REFRESH: u8 = 5;

/// Address families that can be announced. SAFI is unicast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

/// A message from a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Open(Open),
    Update(ReceivedUpdate),
    Notification(Notification),
    Keepalive,
    /// ROUTE-REFRESH (RFC 2918), with the family if it is one of ours.
    RouteRefresh(Option<Family>),
}

impl Family {
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// AFI (2 bytes) and, for the capability and ROUTE-REFRESH, a reserved byte, and SAFI.
    fn afi_safi(self) -> [u8; 4] {
        match self {
            Self::V4 => [0, 1, 0, 1],
            Self::V6 => [0, 2, 0, 1],
        }
    }

    /// AFI and SAFI as in MP_REACH_NLRI.
    fn from_mp(bytes: [u8; 3]) -> Option<Self> {
        match bytes {
            [0, 1, 1] => Some(Self::V4),
            [0, 2, 1] => Some(Self::V6),
            _ => None,
        }
    }

    /// Most bits of a prefix.
    fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Decodes the first message in `bytes` and returns it with its length, or `None` if it is incomplete.
///
/// # Errors
/// The NOTIFICATION that RFC 4271, section 6, requires; the session must be closed. Errors in path
/// attributes are no errors here: see [`ReceivedUpdate`].
pub fn decode(bytes: &[u8]) -> Result<Option<(Message, usize)>, Notification> {
    // A wrong marker is reported before the message is complete: its length means nothing then.
    let marker = &bytes[..bytes.len().min(16)];
    if marker.iter().any(|byte| *byte != 0xff) {
        return Err(Notification::NOT_SYNCHRONIZED);
    }
    let Some(header) = bytes.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let (length, kind) = ([header[16], header[17]], header[18]);
    let least = HEADER
        + match kind {
            OPEN => 10,
            UPDATE => 4,
            NOTIFICATION => 2,
            KEEPALIVE => 0,
            ROUTE_REFRESH => 4,
            _ => return Err(Notification::bad_type(kind)),
        };
    let most = match kind {
        KEEPALIVE => HEADER,
        _ => LONGEST,
    };
    let whole = usize::from(u16::from_be_bytes(length));
    if !(least..=most).contains(&whole) {
        return Err(Notification::bad_length(length));
    }
    let Some(body) = bytes.get(HEADER..whole) else {
        return Ok(None);
    };
    let message = match kind {
        OPEN => Message::Open(Open::decode(body)?),
        UPDATE => Message::Update(ReceivedUpdate::decode(body)?),
        NOTIFICATION => Message::Notification(Notification::decode(body)),
        ROUTE_REFRESH => Message::RouteRefresh(route_refresh(body, length)?),
        _ => Message::Keepalive,
    };
    Ok(Some((message, whole)))
}

fn route_refresh(body: &[u8], length: [u8; 2]) -> Result<Option<Family>, Notification> {
    match *body {
        // The third byte is the subtype of enhanced route refresh (RFC 7313), which we do not offer.
        [high, low, 0, safi] => Ok(Family::from_mp([high, low, safi])),
        [_, _, _, _] => Ok(None),
        _ => Err(Notification::bad_length(length)),
    }
}

/// Returns a KEEPALIVE.
pub fn keepalive() -> Vec<u8> {
    message(KEEPALIVE, &[])
}

/// Adds the header to a body, which must not be longer than `LONGEST - HEADER`.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = HEADER + body.len();
    debug_assert!(length <= LONGEST, "message of {length} bytes");
    let mut bytes = Vec::with_capacity(length);
    bytes.extend([0xff; 16]);
    bytes.extend((length as u16).to_be_bytes());
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

#[cfg(test)]
mod tests;

//! NOTIFICATION: why a session ends, in numbers and in words.

use std::fmt;

use super::{LONGEST, NOTIFICATION, message};

/// A NOTIFICATION (RFC 4271, sections 4.5 and 6). `Display` gives IANA's names of code and subcode, and the
/// text of an administrative shutdown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    pub code: u8,
    pub subcode: u8,
    pub data: Vec<u8>,
}

/// Subcodes of Cease (RFC 4486, 9384) that we send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cease {
    AdministrativeShutdown = 2,
    BfdDown = 10,
}

/// Most bytes of a shutdown communication (RFC 9003).
const LONGEST_TEXT: usize = 255;

const HEADER_ERROR: u8 = 1;
const OPEN_ERROR: u8 = 2;
const UPDATE_ERROR: u8 = 3;
const FSM_ERROR: u8 = 5;
const CEASE: u8 = 6;

impl Notification {
    pub(crate) const NOT_SYNCHRONIZED: Self = Self::plain(HEADER_ERROR, 1);
    pub(crate) const BAD_PEER_AS: Self = Self::plain(OPEN_ERROR, 2);
    pub(crate) const BAD_IDENTIFIER: Self = Self::plain(OPEN_ERROR, 3);
    pub(crate) const UNSUPPORTED_PARAMETER: Self = Self::plain(OPEN_ERROR, 4);
    pub(crate) const UNACCEPTABLE_HOLD_TIME: Self = Self::plain(OPEN_ERROR, 6);
    pub(crate) const MALFORMED_OPEN: Self = Self::plain(OPEN_ERROR, 0);
    pub(crate) const MALFORMED_ATTRIBUTES: Self = Self::plain(UPDATE_ERROR, 1);
    pub(crate) const OPTIONAL_ATTRIBUTE: Self = Self::plain(UPDATE_ERROR, 9);
    pub(crate) const INVALID_NETWORK: Self = Self::plain(UPDATE_ERROR, 10);
    pub(crate) const HOLD_TIMER_EXPIRED: Self = Self::plain(4, 0);

    const fn plain(code: u8, subcode: u8) -> Self {
        Self {
            code,
            subcode,
            data: Vec::new(),
        }
    }

    pub(crate) fn bad_length(length_be: [u8; 2]) -> Self {
        Self {
            data: length_be.to_vec(),
            ..Self::plain(HEADER_ERROR, 2)
        }
    }

    pub(crate) fn bad_type(kind: u8) -> Self {
        Self {
            data: vec![kind],
            ..Self::plain(HEADER_ERROR, 3)
        }
    }

    /// The data are the version that we support.
    pub(crate) fn unsupported_version() -> Self {
        Self {
            data: vec![0, 4],
            ..Self::plain(OPEN_ERROR, 1)
        }
    }

    /// The data are the capability that the peer should have (RFC 5492).
    pub(crate) fn unsupported_capability(capability: &[u8]) -> Self {
        Self {
            data: capability.to_vec(),
            ..Self::plain(OPEN_ERROR, 7)
        }
    }

    /// A message that is not allowed in this state; the subcode (RFC 6608) is that of the state.
    pub(crate) const fn unexpected(subcode: u8) -> Self {
        Self::plain(FSM_ERROR, subcode)
    }

    /// Cease. A shutdown carries a text for the peer's log (RFC 9003), cut to 255 bytes.
    pub fn cease(reason: Cease, text: &str) -> Self {
        let mut data = Vec::new();
        if reason == Cease::AdministrativeShutdown {
            let text = &text[..text.floor_char_boundary(LONGEST_TEXT)];
            data.push(text.len() as u8);
            data.extend(text.bytes());
        }
        Self {
            data,
            ..Self::plain(CEASE, reason as u8)
        }
    }

    /// Returns the message. Data that do not fit are cut.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = vec![self.code, self.subcode];
        body.extend(&self.data);
        body.truncate(LONGEST - super::HEADER);
        message(NOTIFICATION, &body)
    }

    /// `body` has at least two bytes.
    pub(super) fn decode(body: &[u8]) -> Self {
        Self {
            code: body[0],
            subcode: body[1],
            data: body[2..].to_vec(),
        }
    }

    /// Returns the text of an administrative shutdown or reset (RFC 9003), without control characters.
    fn shutdown_text(&self) -> Option<String> {
        if self.code != CEASE || !matches!(self.subcode, 2 | 4) {
            return None;
        }
        let (length, text) = self.data.split_first()?;
        let text = text.get(..usize::from(*length))?;
        let text: String = String::from_utf8_lossy(text)
            .chars()
            .filter(|character| !character.is_control())
            .collect();
        (!text.is_empty()).then_some(text)
    }

    fn names(&self) -> (&'static str, Option<&'static str>) {
        let subcodes: &[&str] = match self.code {
            HEADER_ERROR => &HEADER_ERRORS,
            OPEN_ERROR => &OPEN_ERRORS,
            UPDATE_ERROR => &UPDATE_ERRORS,
            FSM_ERROR => &FSM_ERRORS,
            CEASE => &CEASES,
            _ => &[],
        };
        let code = CODES.get(usize::from(self.code));
        let subcode = subcodes.get(usize::from(self.subcode)).copied();
        let subcode = subcode.filter(|name| !name.is_empty());
        (code.copied().unwrap_or("unknown code"), subcode)
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (code, subcode) = self.names();
        f.write_str(code)?;
        if let Some(subcode) = subcode {
            write!(f, ": {subcode}")?;
        }
        write!(f, " ({}/{})", self.code, self.subcode)?;
        match self.shutdown_text() {
            Some(text) => write!(f, " \"{text}\""),
            None => Ok(()),
        }
    }
}

/// IANA's registry "BGP Error (Notification) Codes", by code; the others by subcode.
const CODES: [&str; 8] = [
    "unknown code",
    "Message Header Error",
    "OPEN Message Error",
    "UPDATE Message Error",
    "Hold Timer Expired",
    "Finite State Machine Error",
    "Cease",
    "ROUTE-REFRESH Message Error",
];
const HEADER_ERRORS: [&str; 4] = [
    "",
    "Connection Not Synchronized",
    "Bad Message Length",
    "Bad Message Type",
];
const OPEN_ERRORS: [&str; 12] = [
    "",
    "Unsupported Version Number",
    "Bad Peer AS",
    "Bad BGP Identifier",
    "Unsupported Optional Parameter",
    "",
    "Unacceptable Hold Time",
    "Unsupported Capability",
    "",
    "",
    "",
    "Role Mismatch",
];
const UPDATE_ERRORS: [&str; 12] = [
    "",
    "Malformed Attribute List",
    "Unrecognized Well-known Attribute",
    "Missing Well-known Attribute",
    "Attribute Flags Error",
    "Attribute Length Error",
    "Invalid ORIGIN Attribute",
    "",
    "Invalid NEXT_HOP Attribute",
    "Optional Attribute Error",
    "Invalid Network Field",
    "Malformed AS_PATH",
];
const FSM_ERRORS: [&str; 4] = [
    "",
    "Unexpected Message in OpenSent State",
    "Unexpected Message in OpenConfirm State",
    "Unexpected Message in Established State",
];
const CEASES: [&str; 11] = [
    "",
    "Maximum Number of Prefixes Reached",
    "Administrative Shutdown",
    "Peer De-configured",
    "Administrative Reset",
    "Connection Rejected",
    "Other Configuration Change",
    "Connection Collision Resolution",
    "Out of Resources",
    "Hard Reset",
    "BFD Down",
];

//! OPEN with capabilities (RFC 4271, 4.2; RFC 5492).

use std::net::Ipv4Addr;

use super::{Family, Notification, OPEN, message};

/// AS number in the two-octet field if the real one does not fit (RFC 6793).
const AS_TRANS: u16 = 23456;
const VERSION: u8 = 4;

/// Optional parameter: capabilities.
const CAPABILITIES: u8 = 2;
/// Marks the long form of optional parameters (RFC 9072), as length and as type.
const EXTENDED: u8 = 255;

const MULTIPROTOCOL: u8 = 1;
const REFRESH: u8 = 2;
const FOUR_OCTET_AS: u8 = 65;

/// An OPEN, with the capabilities that matter to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// From the capability if there is one, else from the two-octet field.
    pub asn: u32,
    /// Seconds. 0 means that neither side sends keepalives.
    pub hold_time_s: u16,
    pub router_id: Ipv4Addr,
    /// Families of the multiprotocol capability (RFC 4760); `None` without that capability, which means
    /// IPv4 unicast.
    pub families: Option<Vec<Family>>,
    /// Route refresh (RFC 2918).
    pub route_refresh: bool,
    /// Four-octet AS numbers (RFC 6793).
    pub four_octet_as: bool,
}

impl Open {
    /// Returns the message.
    pub fn encode(&self) -> Vec<u8> {
        let mut capabilities = Vec::new();
        for family in self.families.iter().flatten() {
            capabilities.extend([MULTIPROTOCOL, 4]);
            capabilities.extend(family.afi_safi());
        }
        if self.route_refresh {
            capabilities.extend([REFRESH, 0]);
        }
        if self.four_octet_as {
            capabilities.extend([FOUR_OCTET_AS, 4]);
            capabilities.extend(self.asn.to_be_bytes());
        }
        let mut body = vec![VERSION];
        let short = u16::try_from(self.asn).unwrap_or(AS_TRANS);
        body.extend(short.to_be_bytes());
        body.extend(self.hold_time_s.to_be_bytes());
        body.extend(self.router_id.octets());
        if capabilities.is_empty() {
            body.push(0);
        } else {
            let length = capabilities.len() as u8;
            body.extend([length + 2, CAPABILITIES, length]);
            body.extend(capabilities);
        }
        message(OPEN, &body)
    }

    /// Whether routes of the family may be sent to the sender of this OPEN.
    pub(crate) fn supports(&self, family: Family) -> bool {
        match &self.families {
            Some(families) => families.contains(&family),
            None => family == Family::V4,
        }
    }

    /// `body` has at least 10 bytes.
    pub(super) fn decode(body: &[u8]) -> Result<Self, Notification> {
        let Some((&[version, as_1, as_2, hold_1, hold_2, id @ .., length], parameters)) =
            body.split_first_chunk::<10>()
        else {
            return Err(Notification::MALFORMED_OPEN);
        };
        if version != VERSION {
            return Err(Notification::unsupported_version());
        }
        let [a, b, c, d] = id;
        let mut open = Self {
            asn: u16::from_be_bytes([as_1, as_2]).into(),
            hold_time_s: u16::from_be_bytes([hold_1, hold_2]),
            router_id: Ipv4Addr::new(a, b, c, d),
            families: None,
            route_refresh: false,
            four_octet_as: false,
        };
        open.read_parameters(length, parameters)?;
        Ok(open)
    }

    fn read_parameters(&mut self, length: u8, bytes: &[u8]) -> Result<(), Notification> {
        let extended = match *bytes {
            [EXTENDED, high, low, ref rest @ ..] if length == EXTENDED => {
                Some((u16::from_be_bytes([high, low]).into(), rest))
            }
            _ => None,
        };
        let (wanted, mut rest) = extended.unwrap_or((usize::from(length), bytes));
        if rest.len() != wanted {
            return Err(Notification::MALFORMED_OPEN);
        }
        while let Some((&kind, after)) = rest.split_first() {
            let value;
            (value, rest) = if extended.is_some() {
                let (length, after) = after
                    .split_first_chunk()
                    .ok_or(Notification::MALFORMED_OPEN)?;
                split(after, u16::from_be_bytes(*length).into())?
            } else {
                let (length, after) = after.split_first().ok_or(Notification::MALFORMED_OPEN)?;
                split(after, (*length).into())?
            };
            if kind != CAPABILITIES {
                return Err(Notification::UNSUPPORTED_PARAMETER);
            }
            self.read_capabilities(value)?;
        }
        Ok(())
    }

    fn read_capabilities(&mut self, mut rest: &[u8]) -> Result<(), Notification> {
        while !rest.is_empty() {
            let (&[code, length], after) = rest
                .split_first_chunk()
                .ok_or(Notification::MALFORMED_OPEN)?;
            let value;
            (value, rest) = split(after, length.into())?;
            match (code, value) {
                (MULTIPROTOCOL, &[high, low, _, safi]) => {
                    let families = self.families.get_or_insert_default();
                    if let Some(family) = Family::from_mp([high, low, safi])
                        && !families.contains(&family)
                    {
                        families.push(family);
                    }
                }
                (REFRESH, _) => self.route_refresh = true,
                (FOUR_OCTET_AS, &[a, b, c, d]) => {
                    self.asn = u32::from_be_bytes([a, b, c, d]);
                    self.four_octet_as = true;
                }
                (MULTIPROTOCOL | FOUR_OCTET_AS, _) => return Err(Notification::MALFORMED_OPEN),
                // Capabilities that we do not know are ignored (RFC 5492, section 3).
                _ => {}
            }
        }
        Ok(())
    }
}

fn split(bytes: &[u8], at: usize) -> Result<(&[u8], &[u8]), Notification> {
    bytes
        .split_at_checked(at)
        .ok_or(Notification::MALFORMED_OPEN)
}

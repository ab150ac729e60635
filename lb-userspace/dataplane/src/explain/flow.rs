//! The text form of a flow.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use lb_common::{Address, address_of, hash, hash::HashKey};

use lb_model::config::Protocol;

const EXAMPLE: &str = "use the form `tcp 198.51.100.7:40000 > 203.0.113.10:443` or \
     `udp [2001:db8::7]:5353 > [2001:db8::10]:53`";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub protocol: Protocol,
    pub source: SocketAddr,
    pub dest: SocketAddr,
}

/// A text that is not a flow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    #[error("{text:?} is not a flow; {EXAMPLE}")]
    Shape { text: String },
    #[error("protocol must be tcp or udp, not {word:?}; {EXAMPLE}")]
    Protocol { word: String },
    /// `side` is `source` or `destination`.
    #[error("{side} {text:?} is not an IP address with a port; {EXAMPLE}")]
    Address { side: &'static str, text: String },
    #[error("{flow}: source and destination have different address families; {EXAMPLE}")]
    Families { flow: String },
    #[error("{flow}: only TCP packets have a SYN flag; leave it out for UDP")]
    Syn { flow: String },
}

impl FromStr for Flow {
    type Err = FlowError;

    fn from_str(text: &str) -> Result<Self, FlowError> {
        let shape = || FlowError::Shape {
            text: text.to_owned(),
        };
        let (left, dest) = text.split_once('>').ok_or_else(shape)?;
        let (word, source) = left
            .trim()
            .split_once(char::is_whitespace)
            .ok_or_else(shape)?;
        let protocol = match word.to_ascii_lowercase().as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => {
                return Err(FlowError::Protocol {
                    word: word.to_owned(),
                });
            }
        };
        let flow = Self {
            protocol,
            source: address("source", source)?,
            dest: address("destination", dest)?,
        };
        if flow.source.is_ipv4() != flow.dest.is_ipv4() {
            return Err(FlowError::Families {
                flow: flow.to_string(),
            });
        }
        Ok(flow)
    }
}

fn address(side: &'static str, text: &str) -> Result<SocketAddr, FlowError> {
    let text = text.trim();
    let wrong = |_| FlowError::Address {
        side,
        text: text.to_owned(),
    };
    text.parse().map_err(wrong)
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} > {}", self.protocol, self.source, self.dest)
    }
}

impl Flow {
    /// Source address as a map key.
    pub(super) fn source_address(&self) -> Address {
        address_of(self.source.ip()).0
    }

    /// Destination address and family as in a map key.
    pub(super) fn dest_address(&self) -> (Address, u8) {
        address_of(self.dest.ip())
    }

    /// Hash of the 5-tuple under a VIP's key.
    pub(super) fn flow_hash(&self, key: &HashKey) -> u64 {
        let (source, dest) = (self.source.port().to_be(), self.dest.port().to_be());
        self.hash_with(key, hash::ports_word(source, dest))
    }

    /// Hash of the source address.
    pub(super) fn source_hash(&self, key: &HashKey) -> u64 {
        self.hash_with(key, 0)
    }

    fn hash_with(&self, key: &HashKey, ports: u64) -> u64 {
        let source = self.source_address();
        match self.source.ip() {
            IpAddr::V4(_) => hash::flow_hash_v4(key, source[0] as u32, ports),
            IpAddr::V6(_) => hash::flow_hash_v6(key, &source, ports),
        }
    }

    /// Length in bytes of the smallest IP packet of the flow.
    pub(super) fn length(&self) -> u32 {
        let ip = if self.dest.is_ipv4() { 20 } else { 40 };
        ip + match self.protocol {
            Protocol::Tcp => 20,
            Protocol::Udp => 8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_display_prints() {
        for text in [
            "tcp 198.51.100.7:40000 > 203.0.113.10:443",
            "udp [2001:db8::7]:5353 > [2001:db8::10]:53",
        ] {
            assert_eq!(text.parse::<Flow>().unwrap().to_string(), text);
        }
        let loose: Flow = " TCP  198.51.100.7:1>203.0.113.10:443 ".parse().unwrap();
        assert_eq!(loose.to_string(), "tcp 198.51.100.7:1 > 203.0.113.10:443");
    }

    #[test]
    fn rejects_invalid_flows_with_an_example() {
        for (text, expected) in [
            ("", "\"\" is not a flow"),
            ("tcp 1.2.3.4:5 6.7.8.9:10", "is not a flow"),
            ("1.2.3.4:5>6.7.8.9:10", "is not a flow"),
            (
                "sctp 1.2.3.4:5 > 6.7.8.9:10",
                "must be tcp or udp, not \"sctp\"",
            ),
            ("tcp 1.2.3.4 > 6.7.8.9:10", "source \"1.2.3.4\""),
            (
                "tcp 1.2.3.4:5 > 6.7.8.9:99999",
                "destination \"6.7.8.9:99999\"",
            ),
            (
                "tcp 2001:db8::1:80 > [2001:db8::2]:80",
                "source \"2001:db8::1:80\"",
            ),
            ("tcp 1.2.3.4:5 > [::1]:10", "different address families"),
        ] {
            let error = text.parse::<Flow>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(error.contains("use the form `tcp "), "{error}");
        }
    }
}

//! Parts of a flow, written like the flows of `explain`.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use lb_common::proto;

const EXAMPLE: &str = "use the form of `explain` or parts of it: `tcp 198.51.100.7:40000 > 203.0.113.10:443`, \
     `198.51.100.7 >`, `> [2001:db8::10]:53` or `udp > :53`";

/// The given parts of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pattern {
    pub(crate) protocol: Option<u8>,
    pub(crate) source: End,
    pub(crate) dest: End,
}

/// The given parts of an end of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) address: Option<IpAddr>,
    /// 0: any.
    pub(crate) port: u16,
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shape = || format!("{text:?} is not a part of a flow; {EXAMPLE}");
        let (left, right) = text.split_once('>').ok_or_else(shape)?;
        let left = left.trim();
        let (word, source) = left.split_once(char::is_whitespace).unwrap_or_else(|| {
            if left.starts_with(|c: char| c.is_ascii_alphabetic()) && !left.contains(':') {
                (left, "")
            } else {
                ("", left)
            }
        });
        let protocol = match word.to_ascii_lowercase().as_str() {
            "" => None,
            "tcp" => Some(proto::TCP),
            "udp" => Some(proto::UDP),
            _ => {
                return Err(format!(
                    "protocol must be tcp or udp, not {word:?}; {EXAMPLE}"
                ));
            }
        };
        let end = |text| {
            parse_end(text)
                .ok_or_else(|| format!("{text:?} is neither an address nor a port; {EXAMPLE}"))
        };
        let pattern = Self {
            protocol,
            source: end(source.trim())?,
            dest: end(right.trim())?,
        };
        if pattern == Self::default() {
            return Err(shape());
        }
        if let (Some(source), Some(dest)) = (pattern.source.address, pattern.dest.address)
            && source.is_ipv4() != dest.is_ipv4()
        {
            return Err(format!(
                "{text:?}: source and destination have different address families; {EXAMPLE}"
            ));
        }
        Ok(pattern)
    }
}

/// An address, a port, both or nothing.
fn parse_end(text: &str) -> Option<End> {
    if text.is_empty() || text == "*" {
        return Some(End::default());
    }
    if let Some(port) = text.strip_prefix(':').or_else(|| text.strip_prefix("*:")) {
        let port = port.parse().ok().filter(|&port| port != 0)?;
        return Some(End {
            address: None,
            port,
        });
    }
    if let Ok(end) = text.parse::<SocketAddr>() {
        let (address, port) = (Some(end.ip()), end.port());
        return (port != 0).then_some(End { address, port });
    }
    let inside = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let address = inside.unwrap_or(text).parse().ok()?;
    Some(End {
        address: Some(address),
        port: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(address: &str, port: u16) -> End {
        let address = (!address.is_empty()).then(|| address.parse().unwrap());
        End { address, port }
    }

    #[test]
    fn parses_a_flow_or_parts_of_it() {
        let (tcp, udp) = (Some(proto::TCP), Some(proto::UDP));
        let nothing = End::default();
        for (text, protocol, source, dest) in [
            (
                "tcp 198.51.100.7:40000 > 203.0.113.10:443",
                tcp,
                end("198.51.100.7", 40000),
                end("203.0.113.10", 443),
            ),
            ("198.51.100.7 >", None, end("198.51.100.7", 0), nothing),
            ("198.51.100.7>", None, end("198.51.100.7", 0), nothing),
            ("> :443", None, nothing, end("", 443)),
            ("* > *:443", None, nothing, end("", 443)),
            ("UDP > :53", udp, nothing, end("", 53)),
            ("udp >", udp, nothing, nothing),
            ("2001:db8::7 >", None, end("2001:db8::7", 0), nothing),
            ("abcd::7 >", None, end("abcd::7", 0), nothing),
            (
                "udp [2001:db8::7]:5353 > [2001:db8::10]",
                udp,
                end("2001:db8::7", 5353),
                end("2001:db8::10", 0),
            ),
            (
                ":40000 > 203.0.113.10",
                None,
                end("", 40000),
                end("203.0.113.10", 0),
            ),
        ] {
            let pattern = Pattern {
                protocol,
                source,
                dest,
            };
            assert_eq!(text.parse(), Ok(pattern), "{text}");
        }
    }

    #[test]
    fn rejects_other_texts_with_an_example() {
        for text in [
            "",
            ">",
            "* > *",
            "198.51.100.7",
            "tcp 198.51.100.7:0 >",
            "> :0",
            "> :65536",
            "sctp > :1",
            "> 203.0.113.10:x",
            "tcp 198.51.100.7 203.0.113.10",
            "198.51.100.7 > 2001:db8::1",
        ] {
            let error = text.parse::<Pattern>().unwrap_err();
            assert!(
                error.contains("use the form of `explain`"),
                "{text}: {error}"
            );
        }
    }
}

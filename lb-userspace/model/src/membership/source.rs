//! What a source is called, and what it names.

use std::{fmt, net::IpAddr, str::FromStr};

use super::MemberKey;
use crate::{
    config::{BackendState, Forward, Vip},
    ring::Identity,
};

/// Where the members of a VIP come from: a value of `backends_from`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberSource {
    /// The addresses of a name.
    Dns {
        /// The name, without a dot at its end.
        name: String,
        /// The port of all members; `None`: the VIP's.
        port: Option<u16>,
    },
    /// The targets of a name's SRV records, with their ports and weights.
    Srv {
        /// The name, without a dot at its end.
        name: String,
    },
    /// What was last set by `PUT /v1/sources/NAME`.
    Api {
        /// The name.
        name: String,
    },
}

/// Why a text is not a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidSource {
    /// What is wrong.
    pub label: String,
    /// What is expected.
    pub help: &'static str,
}

const FORMS: &str = "must be as in \"dns:api.example.com:8080\" (addresses of a name, perhaps with a port), \
                     \"srv:_api._tcp.example.com\" (SRV records) or \"api:NAME\" (set by `evenkeel source set`)";

fn invalid<T>(label: impl Into<String>, help: &'static str) -> Result<T, InvalidSource> {
    Err(InvalidSource {
        label: label.into(),
        help,
    })
}

impl FromStr for MemberSource {
    type Err = InvalidSource;

    fn from_str(text: &str) -> Result<Self, InvalidSource> {
        match text.split_once(':') {
            Some(("dns", rest)) => dns(rest),
            Some(("srv", name)) => Ok(Self::Srv {
                name: dns_name(name)?,
            }),
            Some(("api", name)) => Ok(Self::Api {
                name: api_name(name)?,
            }),
            _ => invalid("not a source of backends", FORMS),
        }
    }
}

/// The name of a source that is set: `NAME` or `api:NAME`.
///
/// # Errors
///
/// The text is no name, or a source of another kind.
pub fn name_of_set(text: &str) -> Result<String, InvalidSource> {
    if text.starts_with("dns:") || text.starts_with("srv:") {
        let help = "only the backends of `api:NAME` can be set; change what the DNS server answers";
        return invalid(format!("{text} is asked, not set"), help);
    }
    api_name(text.strip_prefix("api:").unwrap_or(text))
}

fn dns(text: &str) -> Result<MemberSource, InvalidSource> {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if text.parse::<IpAddr>().is_err() => (name, Some(port)),
        _ => (text, None),
    };
    let port = match port.map(str::parse::<u16>) {
        None => None,
        Some(Ok(port)) if port > 0 => Some(port),
        Some(_) => return invalid("the port is not a number from 1 to 65535", FORMS),
    };
    Ok(MemberSource::Dns {
        name: dns_name(name)?,
        port,
    })
}

fn dns_name(text: &str) -> Result<String, InvalidSource> {
    const HELP: &str = "must be a whole DNS name: search domains are not used";
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        let help = "an address needs no source: use `[[vip.backend]]`";
        return invalid("an address, not a name", help);
    }
    if name.len() > 253 {
        return invalid(format!("a name of {} characters", name.len()), HELP);
    }
    for label in name.split('.') {
        let odd = label
            .chars()
            .find(|c| !c.is_ascii_alphanumeric() && !"-_".contains(*c));
        match (odd, label.len()) {
            (Some(odd), _) => {
                return invalid(format!("{odd:?} is not allowed in a DNS name"), HELP);
            }
            (None, 0) => return invalid("a part of the DNS name is empty", HELP),
            (None, 64..) => return invalid(format!("\"{label}\" is too long"), HELP),
            _ => {}
        }
    }
    Ok(name.to_ascii_lowercase())
}

fn api_name(text: &str) -> Result<String, InvalidSource> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if (1..=63).contains(&text.len()) && text.chars().all(is_name) {
        return Ok(text.to_owned());
    }
    let help = "must be `api:` and 1 to 63 of the characters A-Z, a-z, 0-9, `.`, `_` and `-`";
    invalid("not a name of a source", help)
}

impl fmt::Display for MemberSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns { name, port: None } => write!(f, "dns:{name}"),
            Self::Dns {
                name,
                port: Some(port),
            } => write!(f, "dns:{name}:{port}"),
            Self::Srv { name } => write!(f, "srv:{name}"),
            Self::Api { name } => write!(f, "api:{name}"),
        }
    }
}

/// Which addresses of a name are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Families {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// Whatever there is.
    Both,
}

impl Families {
    /// Whether an address is of them.
    #[must_use]
    pub const fn contain(self, address: IpAddr) -> bool {
        match self {
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
            Self::Both => true,
        }
    }
}

/// What has a set of members of its own: the same name has other members for another address family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceKey {
    /// The source.
    pub source: MemberSource,
    /// What is asked for; [`Families::Both`] for sources that are not asked.
    pub families: Families,
}

impl SourceKey {
    /// The source of a VIP's members; none if the configuration lists them.
    #[must_use]
    pub fn of(vip: &Vip) -> Option<Self> {
        let source = vip.backends_from.clone()?;
        let families = match (&source, vip.forward, vip.address) {
            (MemberSource::Api { .. }, ..) | (_, Forward::Ipip, _) => Families::Both,
            (_, Forward::L2 | Forward::Nat, IpAddr::V4(_)) => Families::V4,
            (_, Forward::L2 | Forward::Nat, IpAddr::V6(_)) => Families::V6,
        };
        Some(Self { source, families })
    }
}

impl fmt::Display for SourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

/// A backend as its source names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The name in metrics and commands.
    pub name: String,
    /// The address.
    pub address: IpAddr,
    /// The port; `None`: the VIP's.
    pub port: Option<u16>,
    /// As of a configured backend.
    pub weight: u32,
    /// As of a configured backend.
    pub state: BackendState,
}

impl Member {
    /// What makes it the same member in another answer.
    #[must_use]
    pub const fn key(&self) -> MemberKey {
        (self.address, self.port)
    }

    /// What it is as a backend of a VIP.
    #[must_use]
    pub fn identity_in(&self, vip: &Vip) -> Identity {
        Identity {
            address: self.address,
            port: self.port.unwrap_or(vip.port),
        }
    }

    /// Its address, with its port if it has one of its own.
    #[must_use]
    pub fn place(&self) -> String {
        match self.port {
            Some(port) => std::net::SocketAddr::new(self.address, port).to_string(),
            None => self.address.to_string(),
        }
    }
}

/// The name of a member that its source gives none: the same on all nodes, and possible in metrics and
/// shells. `10.0.0.7`, `10.0.0.7-8080`, `fd00--7`.
#[must_use]
pub fn name_of(address: IpAddr, port: Option<u16>) -> String {
    let address = address.to_string().replace(':', "-");
    match port {
        Some(port) => format!("{address}-{port}"),
        None => address,
    }
}

#[cfg(test)]
mod tests {
    use super::name_of_set;

    #[test]
    fn a_source_is_set_by_its_name_or_as_it_is_configured() {
        for text in ["web", "api:web"] {
            assert_eq!(name_of_set(text).as_deref(), Ok("web"));
        }
        for (text, has) in [
            ("dns:web.lab", "dns:web.lab is asked, not set"),
            ("srv:_web._tcp.lab", "is asked, not set"),
            ("api:api:web", "not a name of a source"),
            ("api:", "not a name of a source"),
            ("we b", "not a name of a source"),
        ] {
            let label = name_of_set(text).unwrap_err().label;
            assert!(label.contains(has), "{label}");
        }
    }
}

//! Arguments that are more than a word or a number.

use std::net::IpAddr;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::view::words::GUARDS;
use lb_api::{BackendSpec, Guard};

/// Reads a length of time, as in `30s`, `5m` or `1h30m`, as whole seconds.
pub(super) fn seconds(text: &str) -> Result<u32, String> {
    let help = "a length of time has units, as in 30s, 5m or 1h30m";
    let length: jiff::SignedDuration = match text {
        "0" => return Ok(0),
        text => text.parse().map_err(|_| help.to_owned())?,
    };
    if length.subsec_nanos() != 0 {
        return Err("give whole seconds".into());
    }
    u32::try_from(length.as_secs()).map_err(|_| help.into())
}

/// The same, at least a second.
pub(super) fn some_seconds(text: &str) -> Result<u32, String> {
    match seconds(text)? {
        0 => Err("give one second at least".into()),
        seconds => Ok(seconds),
    }
}

/// Reads the name of a guard.
pub(super) fn guards() -> impl TypedValueParser<Value = Guard> {
    let names = GUARDS.map(|(name, _)| name);
    PossibleValuesParser::new(names).try_map(|name| {
        let found = GUARDS.iter().find(|(known, _)| *known == name);
        found.map(|(_, guard)| *guard).ok_or("no such guard")
    })
}

/// A backend, of one VIP or of all: `api-1`, `web/api-1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BackendPath {
    pub(super) vip: Option<String>,
    pub(super) backend: String,
}

impl BackendPath {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (vip, backend) = match text.split_once('/') {
            Some((vip, backend)) => (Some(vip), backend),
            None => (None, text),
        };
        if backend.is_empty() || vip.is_some_and(str::is_empty) || backend.contains('/') {
            return Err("write VIP/BACKEND, or BACKEND".into());
        }
        Ok(Self {
            vip: vip.map(str::to_owned),
            backend: backend.into(),
        })
    }
}

/// Reads an address with or without a port: `10.0.1.11`, `10.0.1.11:8080`, `fd00::1`, `[fd00::1]:80`.
pub(super) fn address(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    if let Ok(address) = bare.unwrap_or(text).parse() {
        return Ok((address, None));
    }
    match text.parse::<std::net::SocketAddr>() {
        Ok(place) => Ok((place.ip(), Some(place.port()))),
        Err(_) => Err(format!(
            "`{text}` is no address, as in 10.0.1.11, 10.0.1.11:8080, fd00::1 or [fd00::1]:8080"
        )),
    }
}

/// Where clients connect to: `203.0.113.10:443/tcp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) protocol: String,
}

impl Service {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let example = "as in 203.0.113.10:443/tcp or [2001:db8::10]:53/udp; port 0 is any port";
        let (place, protocol) = text.split_once('/').ok_or(example)?;
        match (address(place), protocol) {
            (Ok((address, Some(port))), "tcp" | "udp") => Ok(Self {
                address,
                port,
                protocol: protocol.into(),
            }),
            _ => Err(example.into()),
        }
    }
}

/// Reads a backend: `api-1=10.0.1.11:8080,weight=50,capacity=5000`.
pub(super) fn backend(text: &str) -> Result<BackendSpec, String> {
    let mut parts = text.split(',');
    let example = "as in api-1=10.0.1.11 or api-1=10.0.1.11:8080,weight=50,capacity=5000";
    let (name, place) = parts
        .next()
        .and_then(|first| first.split_once('='))
        .ok_or(example)?;
    let (address, port) = address(place)?;
    let mut spec = BackendSpec {
        name: name.into(),
        address,
        port,
        weight: None,
        capacity: None,
    };
    for part in parts {
        let (key, value) = part.split_once('=').ok_or(example)?;
        let number = value
            .parse()
            .map_err(|_| format!("`{value}` is no number"))?;
        match key {
            "weight" => spec.weight = Some(number),
            "capacity" => spec.capacity = Some(number),
            _ => return Err(format!("`{key}` is not known: weight and capacity are")),
        }
    }
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_have_units() {
        assert_eq!(seconds("5m"), Ok(300));
        assert_eq!(seconds("1h30m"), Ok(5400));
        assert_eq!(seconds("0"), Ok(0));
        for wrong in ["5", "soon", "-5m", "1500ms", "", "200000h"] {
            if wrong != "200000h" {
                seconds(wrong).unwrap_err();
            }
        }
        some_seconds("0s").unwrap_err();
    }

    #[test]
    fn a_backend_is_named_with_or_without_its_vip() {
        let path = BackendPath::parse("web/api-1").unwrap();
        assert_eq!(
            (path.vip.as_deref(), path.backend.as_str()),
            (Some("web"), "api-1")
        );
        assert_eq!(BackendPath::parse("api-1").unwrap().vip, None);
        for wrong in ["", "/", "web/", "/api", "a/b/c"] {
            BackendPath::parse(wrong).unwrap_err();
        }
    }

    #[test]
    fn addresses_services_and_backends_are_read() {
        assert_eq!(address("fd00::1"), Ok(("fd00::1".parse().unwrap(), None)));
        assert_eq!(address("[fd00::1]"), address("fd00::1"));
        assert_eq!(
            address("[fd00::1]:80"),
            Ok(("fd00::1".parse().unwrap(), Some(80)))
        );
        address("api.example").unwrap_err();
        let service = Service::parse("203.0.113.10:443/tcp").unwrap();
        assert_eq!((service.port, service.protocol.as_str()), (443, "tcp"));
        for wrong in [
            "203.0.113.10:443",
            "203.0.113.10/tcp",
            "203.0.113.10:1/sctp",
        ] {
            Service::parse(wrong).unwrap_err();
        }
        let spec = backend("a=10.0.0.1:80,weight=5,capacity=7").unwrap();
        assert_eq!(
            (spec.port, spec.weight, spec.capacity),
            (Some(80), Some(5), Some(7))
        );
        for wrong in [
            "a",
            "a=b",
            "a=10.0.0.1,weight",
            "a=10.0.0.1,color=1",
            "a=10.0.0.1,weight=x",
        ] {
            backend(wrong).unwrap_err();
        }
    }
}

//! Parsers of arguments.

use std::net::IpAddr;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use lb_api::{BackendSpec, Guard, VariantArray as _};

/// Parses a duration of whole seconds: `30s`, `5m`, `1h30m` or `0`.
pub(super) fn seconds(text: &str) -> Result<u32, String> {
    let help = "expected a duration with units, as in 30s, 5m or 1h30m";
    let length: jiff::SignedDuration = match text {
        "0" => return Ok(0),
        text => text.parse().map_err(|_| help.to_owned())?,
    };
    if length.subsec_nanos() != 0 {
        return Err("must be whole seconds".into());
    }
    u32::try_from(length.as_secs()).map_err(|_| help.into())
}

/// Parses a duration of at least one second.
pub(super) fn nonzero_seconds(text: &str) -> Result<u32, String> {
    match seconds(text)? {
        0 => Err("must be at least one second".into()),
        seconds => Ok(seconds),
    }
}

/// Parses the name of a guard.
pub(super) fn guards() -> impl TypedValueParser<Value = Guard> {
    PossibleValuesParser::new(Guard::VARIANTS.iter().map(Guard::as_str)).try_map(|name| {
        let mut guards = Guard::VARIANTS.iter();
        let found = guards.find(|guard| guard.as_str() == name);
        found.copied().ok_or("unknown guard")
    })
}

/// Parses an address with or without a port: `10.0.1.11`, `10.0.1.11:8080`, `fd00::1`, `[fd00::1]:80`.
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
            "`{text}` is not an address, as in 10.0.1.11, 10.0.1.11:8080, fd00::1 or [fd00::1]:8080"
        )),
    }
}

/// The address of a VIP: `203.0.113.10:443/tcp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) protocol: String,
}

impl Service {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let example =
            "expected ADDRESS:PORT/PROTOCOL, as in 203.0.113.10:443/tcp or [2001:db8::10]:53/udp";
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

/// Parses a backend: `api-1=10.0.1.11:8080,weight=50,capacity=5000`.
pub(super) fn backend(text: &str) -> Result<BackendSpec, String> {
    let mut parts = text.split(',');
    let example =
        "expected a backend, as in api-1=10.0.1.11 or api-1=10.0.1.11:8080,weight=50,capacity=5000";
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
            .map_err(|_| format!("`{value}` is not a number"))?;
        match key {
            "weight" => spec.weight = Some(number),
            "capacity" => spec.capacity = Some(number),
            _ => {
                return Err(format!(
                    "unknown key `{key}`; known are weight and capacity"
                ));
            }
        }
    }
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_durations_with_units() {
        assert_eq!(seconds("5m"), Ok(300));
        assert_eq!(seconds("1h30m"), Ok(5400));
        assert_eq!(seconds("0"), Ok(0));
        for wrong in ["5", "soon", "-5m", "1500ms", ""] {
            seconds(wrong).unwrap_err();
        }
        nonzero_seconds("0s").unwrap_err();
    }

    #[test]
    fn parses_addresses_services_and_backends() {
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

//! Values: from what TOML has (strings, integers, floats, lists) to what the keys mean.
//!
//! Every parser says what it wanted to see, so that a mistake can be answered with what is right.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use toml::de::DeValue;

use super::model::{Factor, Fraction, HashSeed, Prefix, Secret, StatusSet};
use crate::ring::RingSize;

/// Why a value is not right, and what would be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) label: String,
    pub(super) help: String,
}

pub(super) type Parsed<T> = Result<T, Wrong>;

pub(super) fn wrong<T>(label: impl Into<String>, help: impl Into<String>) -> Parsed<T> {
    Err(Wrong {
        label: label.into(),
        help: help.into(),
    })
}

fn wrong_type<T>(value: &DeValue<'_>, wanted: &str, example: &str) -> Parsed<T> {
    let kind = value.type_str();
    let a = if matches!(value, DeValue::Integer(_) | DeValue::Array(_)) {
        "an"
    } else {
        "a"
    };
    wrong(
        format!("this is {a} {kind}"),
        format!("{wanted} is needed, as in `{example}`"),
    )
}

/// A string.
pub(super) fn string(value: &DeValue<'_>) -> Parsed<String> {
    match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => wrong_type(value, "a string", "\"…\""),
    }
}

/// An integer in a range.
pub(super) fn integer(range: RangeInclusive<u32>) -> impl Fn(&DeValue<'_>) -> Parsed<u32> {
    move |value| {
        let (min, max) = (range.start(), range.end());
        let Some(number) = value.as_integer() else {
            return wrong_type(
                value,
                &format!("an integer from {min} to {max}"),
                &max.to_string(),
            );
        };
        match u32::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => wrong(
                format!("{number} is out of range"),
                format!("{min} to {max} is possible"),
            ),
        }
    }
}

/// A port number that fits the type.
pub(super) fn port(min: u16) -> impl Fn(&DeValue<'_>) -> Parsed<u16> {
    move |value| integer(u32::from(min)..=u32::from(u16::MAX))(value).map(|port| port as u16)
}

/// A power of two in a range.
pub(super) fn power_of_two(range: RangeInclusive<u32>) -> impl Fn(&DeValue<'_>) -> Parsed<u32> {
    move |value| {
        let number = integer(range.clone())(value)?;
        if number.is_power_of_two() {
            return Ok(number);
        }
        let above = number.next_power_of_two();
        let near = format!(
            "a power of two is needed; the nearest are {} and {above}",
            above / 2
        );
        wrong(format!("{number} is not a power of two"), near)
    }
}

/// The size of a ring.
pub(super) fn ring_size(value: &DeValue<'_>) -> Parsed<RingSize> {
    let Some(number) = value.as_integer() else {
        return wrong_type(value, "a prime number", "65537");
    };
    let slots = i64::from_str_radix(number.as_str(), number.radix()).unwrap_or(i64::MAX);
    if let Some(size) = u32::try_from(slots).ok().and_then(RingSize::new) {
        return Ok(size);
    }
    let near = match RingSize::around(slots) {
        (Some(below), Some(above)) => format!("the next are {} and {}", below.get(), above.get()),
        (Some(size), None) | (None, Some(size)) => format!("the next is {}", size.get()),
        (None, None) => String::new(),
    };
    let (min, max) = (RingSize::MIN, RingSize::MAX);
    let label = if (i64::from(min)..=i64::from(max)).contains(&slots) {
        format!("{number} is not a prime")
    } else {
        format!("{number} is out of range")
    };
    wrong(
        label,
        format!("a prime from {min} to {max} is needed; {near}"),
    )
}

/// A share of a whole, above 0 and at most 1 (0 only where it has a meaning).
pub(super) fn fraction(zero: bool) -> impl Fn(&DeValue<'_>) -> Parsed<Fraction> {
    move |value| {
        let text = match value {
            DeValue::Float(number) => number.as_str().to_owned(),
            DeValue::Integer(number) => number.to_string(),
            _ => return wrong_type(value, "a number from 0 to 1", "0.25"),
        };
        let range = if zero {
            "0 to 1"
        } else {
            "more than 0, and 1 at most,"
        };
        let number = text.parse::<f64>().ok().and_then(Fraction::new);
        match number {
            Some(fraction) if zero || fraction.millionths() > 0 => Ok(fraction),
            _ => wrong(
                format!("{text} is out of range"),
                format!("{range} is possible"),
            ),
        }
    }
}

/// A number of times, in a range.
pub(super) fn factor(range: RangeInclusive<f64>) -> impl Fn(&DeValue<'_>) -> Parsed<Factor> {
    move |value| {
        let text = match value {
            DeValue::Float(number) => number.as_str().to_owned(),
            DeValue::Integer(number) => number.to_string(),
            _ => return wrong_type(value, "a number", "2.5"),
        };
        let number = text.parse().ok().filter(|number| range.contains(number));
        match number.and_then(Factor::new) {
            Some(factor) => Ok(factor),
            None => wrong(
                format!("{text} is out of range"),
                format!("{} to {} is possible", range.start(), range.end()),
            ),
        }
    }
}

/// One of several words.
pub(super) fn one_of<T: Copy>(words: &[(&str, T)]) -> impl Fn(&DeValue<'_>) -> Parsed<T> {
    move |value| {
        let list: Vec<String> = words
            .iter()
            .map(|(word, _)| format!("\"{word}\""))
            .collect();
        let list = list.join(", ");
        let Some(text) = value.as_str() else {
            return wrong_type(
                value,
                &format!("one of {list}"),
                &format!("\"{}\"", words[0].0),
            );
        };
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, meaning)) => Ok(*meaning),
            None => wrong(
                "not a word that this key knows",
                format!("it can be one of {list}"),
            ),
        }
    }
}

/// A length of time such as `500ms`, `15m` or `1h30m`, in a range.
pub(super) fn duration(
    range: RangeInclusive<Duration>,
) -> impl Fn(&DeValue<'_>) -> Parsed<Duration> {
    move |value| {
        let Some(text) = value.as_str() else {
            return wrong_type(value, "a length of time with its unit", "\"5s\"");
        };
        let (min, max) = (show_duration(*range.start()), show_duration(*range.end()));
        match parse_duration(text) {
            Some(duration) if range.contains(&duration) => Ok(duration),
            Some(_) => wrong("out of range", format!("{min} to {max} is possible")),
            None => wrong(
                "not a length of time",
                "whole numbers with the units ms, s, m and h, as in \"500ms\", \"15m\" or \"1h30m\"",
            ),
        }
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u32 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let one = match &rest[..unit] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return None,
        };
        total = total.checked_add(one.checked_mul(number)?)?;
        rest = &rest[unit..];
    }
    (!text.is_empty()).then_some(total)
}

/// A duration in the largest unit that divides it.
pub(crate) fn show_duration(duration: Duration) -> String {
    match duration.as_millis() {
        ms if ms % 1000 != 0 || ms == 0 => format!("{ms}ms"),
        ms if ms % 60_000 != 0 => format!("{}s", ms / 1000),
        ms if ms % 3_600_000 != 0 => format!("{}m", ms / 60_000),
        ms => format!("{}h", ms / 3_600_000),
    }
}

/// A name that people, labels of metrics and shells can live with.
pub(super) fn name(value: &DeValue<'_>) -> Parsed<String> {
    const HELP: &str = "1 to 63 of the characters A-Z, a-z, 0-9, `.`, `_` and `-`";
    let text = string(value)?;
    let odd = text
        .chars()
        .find(|c| !c.is_ascii_alphanumeric() && !"._-".contains(*c));
    match (odd, text.len()) {
        (Some(odd), _) => wrong(format!("{odd:?} can't be in a name"), HELP),
        (None, 0) => wrong("the name is empty", HELP),
        (None, 1..=63) => Ok(text),
        (None, length) => wrong(format!("a name of {length} characters is too long"), HELP),
    }
}

/// The name of an interface, as the kernel allows it.
pub(super) fn interface(value: &DeValue<'_>) -> Parsed<String> {
    const HELP: &str = "1 to 15 characters without spaces, `/` and `:`, as `ip link` lists them";
    let text = string(value)?;
    let odd = text
        .chars()
        .find(|c| c.is_whitespace() || c.is_control() || "/:".contains(*c));
    match (odd, text.len()) {
        (Some(odd), _) => wrong(format!("{odd:?} can't be in an interface's name"), HELP),
        (None, 1..=15) if text != "." && text != ".." => Ok(text),
        (None, 16..) => wrong(format!("{} bytes are too long", text.len()), HELP),
        _ => wrong("not an interface's name", HELP),
    }
}

/// An address that packets of one host can be sent to.
pub(super) fn address(value: &DeValue<'_>) -> Parsed<IpAddr> {
    const HELP: &str = "the address of one host, as in \"10.0.1.11\" or \"2001:db8::11\"";
    let Some(text) = value.as_str() else {
        return wrong_type(value, "an address as a string", "\"10.0.1.11\"");
    };
    let Ok(address) = text.parse::<IpAddr>() else {
        return wrong(
            "not an IPv4 or IPv6 address",
            format!("{HELP}; no port, no prefix length"),
        );
    };
    let kind = match address {
        _ if address.is_unspecified() => "the unspecified address",
        _ if address.is_multicast() => "a multicast address",
        _ if address.is_loopback() => "a loopback address",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        IpAddr::V4(v4) if v4.octets()[0] == 0 => "an address of \"this network\" (0.0.0.0/8)",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "a link-local address",
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => return wrong("an IPv4 address written as IPv6", format!("write \"{v4}\"")),
            None => return Ok(address),
        },
        IpAddr::V4(_) => return Ok(address),
    };
    wrong(format!("this is {kind}"), HELP)
}

/// A prefix such as `10.200.0.0/16`, without bits beyond its length.
pub(super) fn prefix(value: &DeValue<'_>) -> Parsed<Prefix> {
    const HELP: &str = "an address and a length, as in \"10.200.0.0/16\" or \"fd00:1::/64\"";
    let text = string(value)?;
    let parts = text.split_once('/').and_then(|(address, length)| {
        Some((address.parse::<IpAddr>().ok()?, length.parse::<u8>().ok()?))
    });
    let Some((address, length)) = parts else {
        return wrong("not a prefix", HELP);
    };
    let bits = if address.is_ipv4() { 32 } else { 128 };
    if length > bits {
        return wrong(
            format!("/{length} is too long"),
            format!("/0 to /{bits} is possible"),
        );
    }
    let prefix = Prefix::containing(address, length);
    if prefix.address() != address {
        return wrong(
            format!("bits beyond /{length} are set"),
            format!("write \"{prefix}\""),
        );
    }
    match prefix.address() {
        first if first.is_loopback() || first.is_multicast() || first.is_unspecified() => {
            wrong("no host sends from such an address", HELP)
        }
        IpAddr::V6(first) if first.to_ipv4_mapped().is_some() => {
            wrong("IPv4 addresses written as IPv6", HELP)
        }
        IpAddr::V6(first) if first.is_unicast_link_local() => {
            wrong("no router forwards packets from link-local addresses", HELP)
        }
        _ => Ok(prefix),
    }
}

/// A range of ports for `nat`.
pub(super) fn port_range(value: &DeValue<'_>) -> Parsed<RangeInclusive<u16>> {
    const HELP: &str = "first and last port, 256 at least, from 1024 to 65535: \"16384-32767\"";
    let text = string(value)?;
    let parts = text.split_once('-').and_then(|(first, last)| {
        Some((
            first.trim().parse::<u32>().ok()?,
            last.trim().parse::<u32>().ok()?,
        ))
    });
    let Some((first, last)) = parts else {
        return wrong("not a range of ports", HELP);
    };
    if first > last {
        return wrong(
            "the range ends before it begins",
            format!("write \"{last}-{first}\""),
        );
    }
    if first < 1024 || last > 65_535 {
        return wrong("out of range", HELP);
    }
    match last - first + 1 {
        ports @ ..256 => wrong(format!("{ports} ports are too few"), HELP),
        _ => Ok(first as u16..=last as u16),
    }
}

/// A path; a relative one begins at the folder of the configuration file.
pub(super) fn path(value: &DeValue<'_>) -> Parsed<PathBuf> {
    match string(value)? {
        text if text.is_empty() => wrong("the path is empty", "the path of a file"),
        text => Ok(PathBuf::from(text)),
    }
}

/// An absolute path.
pub(super) fn absolute_path(value: &DeValue<'_>) -> Parsed<PathBuf> {
    let path = PathBuf::from(string(value)?);
    if path.is_absolute() {
        return Ok(path);
    }
    wrong("not an absolute path", "a path that begins with `/`")
}

/// The path of a Unix socket. The kernel's names have room for 107 bytes; four are for the name that it is made
/// under.
pub(super) fn socket_path(value: &DeValue<'_>) -> Parsed<PathBuf> {
    const LONGEST: usize = 103;
    let path = absolute_path(value)?;
    match path.as_os_str().len() {
        ..=LONGEST => Ok(path),
        length => wrong(
            format!("{length} bytes are too long for a socket"),
            format!("{LONGEST} bytes at most"),
        ),
    }
}

/// The name of a group.
pub(super) fn group(value: &DeValue<'_>) -> Parsed<String> {
    match string(value)? {
        text if text.is_empty() => wrong("the name is empty", "leave the key out instead"),
        text => Ok(text),
    }
}

/// A program or one of its arguments, as the kernel takes them.
pub(super) fn word(value: &DeValue<'_>) -> Parsed<String> {
    match string(value)? {
        text if text.contains('\0') => wrong("'\\0' can't be in a command", "leave it out"),
        text => Ok(text),
    }
}

/// An address and port to listen on.
pub(super) fn socket_address(value: &DeValue<'_>) -> Parsed<SocketAddr> {
    match string(value)?.parse() {
        Ok(address) => Ok(address),
        Err(_) => wrong(
            "not an address with a port",
            "as in \"127.0.0.1:9477\" or \"[::1]:9477\"; names are not looked up",
        ),
    }
}

/// An `http` or `https` URL.
pub(super) fn url(value: &DeValue<'_>) -> Parsed<String> {
    const HELP: &str = "as in \"http://127.0.0.1:9093\"";
    let text = string(value)?;
    if !text.starts_with("http://") && !text.starts_with("https://") {
        return wrong("not an HTTP URL", HELP);
    }
    if let Some(odd) = text.chars().find(|c| c.is_whitespace() || c.is_control()) {
        let label = format!("{odd:?} can't be in a URL");
        return wrong(label, "write it as %20 or the like");
    }
    match url::Url::parse(&text) {
        Ok(url) if url.port() == Some(0) => wrong("no server has the port 0", HELP),
        Ok(url) if url.host_str().is_some_and(|host| !host.is_empty()) => Ok(text),
        Ok(_) => wrong("not an HTTP URL", HELP),
        Err(error) => wrong(format!("not an HTTP URL: {error}"), HELP),
    }
}

/// The path of an HTTP request.
pub(super) fn http_path(value: &DeValue<'_>) -> Parsed<String> {
    let text = string(value)?;
    if text.starts_with('/') && text.chars().all(|c| c.is_ascii_graphic()) {
        return Ok(text);
    }
    wrong(
        "not the path of a request",
        "a path such as \"/healthz\", without spaces",
    )
}

/// Yes or no.
pub(super) fn yes_or_no(value: &DeValue<'_>) -> Parsed<bool> {
    match value {
        DeValue::Boolean(value) => Ok(*value),
        _ => wrong_type(value, "`true` or `false`", "true"),
    }
}

/// A text that is not empty.
pub(super) fn some_text(value: &DeValue<'_>) -> Parsed<String> {
    match string(value)? {
        text if text.is_empty() => wrong("the text is empty", "leave the key out instead"),
        text => Ok(text),
    }
}

/// A share that intervals may differ by.
pub(super) fn jitter(value: &DeValue<'_>) -> Parsed<Fraction> {
    let share = fraction(true)(value)?;
    if share > Fraction::HALF {
        return wrong("more than a half", "0 to 0.5 is possible");
    }
    Ok(share)
}

/// The name of a host, for `Host` and certificates; a port may follow.
pub(super) fn host(value: &DeValue<'_>) -> Parsed<String> {
    const HELP: &str = "a host's name or address, as in \"api.example\", \"api.example:8443\" or \
                        \"[2001:db8::1]:8443\"";
    let text = string(value)?;
    let odd = text
        .chars()
        .find(|c| !c.is_ascii_alphanumeric() && !"._-:[]".contains(*c));
    // What follows the last colon outside of brackets is the port.
    let port = text.rsplit_once(':').map(|(_, port)| port);
    let port = port.filter(|port| !port.ends_with(']') && text.parse::<IpAddr>().is_err());
    if let Some(port) = port.filter(|port| port.parse::<u16>().ok().is_none_or(|port| port == 0)) {
        return wrong(format!("{port:?} is no port"), HELP);
    }
    match (odd, text.len()) {
        (Some(odd), _) => wrong(format!("{odd:?} can't be in a host's name"), HELP),
        (None, 1..=260) => Ok(text),
        (None, length) => wrong(format!("a name of {length} characters can't be"), HELP),
    }
}

/// Status codes of HTTP such as `200`, or ranges of them as in `200-299,401`.
pub(super) fn status_set(value: &DeValue<'_>) -> Parsed<StatusSet> {
    const HELP: &str = "status codes from 100 to 599 and ranges of them, as in \"200-299,401\"";
    let text = match value.as_integer() {
        Some(number) => number.to_string(),
        None => string(value)?,
    };
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((
            first.trim().parse::<u16>().ok()?,
            last.trim().parse::<u16>().ok()?,
        ))
    };
    let mut ranges = Vec::new();
    for part in text.split(',') {
        match range(part) {
            Some((first, last)) if (100..=last).contains(&first) && last <= 599 => {
                ranges.push(first..=last);
            }
            _ => return wrong(format!("{:?} is no status", part.trim()), HELP),
        }
    }
    Ok(StatusSet::new(ranges))
}

/// What a packet carries: a text, or bytes as in `hex:00ff`.
pub(super) fn payload(value: &DeValue<'_>) -> Parsed<Vec<u8>> {
    const HELP: &str = "a text, or bytes in hex digits, as in \"hex:0001ff\"";
    const LONGEST: usize = 1200;
    let text = some_text(value)?;
    let bytes = match text.strip_prefix("hex:") {
        None => text.into_bytes(),
        Some(digits) => {
            if digits.is_empty() || !digits.chars().all(|c| c.is_ascii_hexdigit()) {
                return wrong("not hex digits", HELP);
            }
            if !digits.len().is_multiple_of(2) {
                return wrong("half a byte is missing", HELP);
            }
            let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap_or_default();
            (0..digits.len()).step_by(2).map(byte).collect()
        }
    };
    if bytes.len() > LONGEST {
        let label = format!("{} bytes are too long", bytes.len());
        return wrong(label, format!("{LONGEST} bytes at most fit into a packet"));
    }
    Ok(bytes)
}

/// The secret seed.
pub(super) fn hash_seed(value: &DeValue<'_>) -> Parsed<HashSeed> {
    parse_hash_seed(&string(value)?)
}

/// The secret seed, from a string.
pub(super) fn parse_hash_seed(text: &str) -> Parsed<HashSeed> {
    const HELP: &str = "32 hex digits, secret, the same on all nodes: `openssl rand -hex 16`";
    if !text.chars().all(|c| c.is_ascii_hexdigit()) {
        return wrong("there are other characters than hex digits in it", HELP);
    }
    if text.len() != 32 {
        return wrong(format!("this has {} digits", text.len()), HELP);
    }
    match u128::from_str_radix(text, 16) {
        Ok(0) | Err(_) => wrong("a seed of zeros is no secret", HELP),
        Ok(seed) => Ok(HashSeed::new(seed.to_be_bytes())),
    }
}

/// The secret of webhooks, from the text of its file.
pub(super) fn parse_webhook_secret(text: &str) -> Parsed<Secret> {
    const HELP: &str = "16 characters at least, as from `openssl rand -hex 32`";
    match text.chars().count() {
        length @ ..16 => wrong(format!("it has {length} characters"), HELP),
        _ => Ok(Secret::new(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_shown() {
        for (text, ms) in [
            ("500ms", 500),
            ("1s", 1000),
            ("15m", 900_000),
            ("1h30m", 5_400_000),
            ("12h", 43_200_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Some(Duration::from_millis(ms)),
                "{text}"
            );
        }
        for text in [
            "",
            "5",
            "s",
            "1.5s",
            "-1s",
            "1 s",
            "1d",
            "99999999999s",
            "5s3",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        let shown = [250, 1000, 90_000, 900_000, 43_200_000];
        let shown = shown.map(|ms| show_duration(Duration::from_millis(ms)));
        assert_eq!(shown, ["250ms", "1s", "90s", "15m", "12h"]);
    }

    #[test]
    fn a_seed_is_32_hex_digits_and_not_zero() {
        let seed = parse_hash_seed("000102030405060708090a0b0c0d0e0F").unwrap();
        assert_eq!(
            seed.bytes(),
            [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
        );
        assert_eq!(format!("{seed:?}"), "HashSeed(secret)");
        for text in [
            "",
            "00",
            &"0".repeat(32),
            &"f".repeat(33),
            "+0102030405060708090a0b0c0d0e0f1",
        ] {
            assert!(parse_hash_seed(text).is_err(), "{text}");
        }
    }
}

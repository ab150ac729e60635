//! Names, paths, URLs and other strings.

use std::{net::IpAddr, path::PathBuf};

use toml::de::DeValue;

use super::{Parsed, string, wrong};
use crate::{
    config::model::{HashSeed, Secret, StatusSet},
    membership::{InvalidSource, MemberSource},
    secrets,
    text::is_control,
};

/// A name that is safe in metric labels and shells.
pub(in crate::config) fn name(value: &DeValue<'_>) -> Parsed<String> {
    const HELP: &str = "must be 1 to 63 of the characters A-Z, a-z, 0-9, `.`, `_` and `-`";
    let text = string(value)?;
    let odd = text
        .chars()
        .find(|c| !c.is_ascii_alphanumeric() && !"._-".contains(*c));
    match (odd, text.len()) {
        (Some(odd), _) => wrong(format!("{odd:?} is not allowed in a name"), HELP),
        (None, 0) => wrong("the name is empty", HELP),
        (None, 1..=63) => Ok(text),
        (None, length) => wrong(format!("a name of {length} characters is too long"), HELP),
    }
}

/// Whether a text is a [`name`].
pub(crate) fn is_name(text: &str) -> bool {
    let is_possible = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=63).contains(&text.len()) && text.chars().all(is_possible)
}

/// A source of backends.
pub(in crate::config) fn member_source(value: &DeValue<'_>) -> Parsed<MemberSource> {
    string(value)?
        .parse()
        .or_else(|InvalidSource { label, help }| wrong(label, help))
}

/// An interface name, by the kernel's rules.
pub(in crate::config) fn interface(value: &DeValue<'_>) -> Parsed<String> {
    const HELP: &str =
        "must be 1 to 15 characters without spaces, `/` and `:`, as `ip link` lists them";
    let text = string(value)?;
    let odd = text
        .chars()
        .find(|c| c.is_whitespace() || is_control(*c) || "/:".contains(*c));
    match (odd, text.len()) {
        (Some(odd), _) => wrong(format!("{odd:?} is not allowed in an interface name"), HELP),
        (None, 1..=15) if text != "." && text != ".." => Ok(text),
        (None, 16..) => wrong(format!("{} bytes are too long", text.len()), HELP),
        _ => wrong("not an interface name", HELP),
    }
}

pub(in crate::config) fn path(value: &DeValue<'_>) -> Parsed<PathBuf> {
    match string(value)? {
        text if text.is_empty() => wrong("the path is empty", "must be the path of a file"),
        text => Ok(PathBuf::from(text)),
    }
}

pub(in crate::config) fn absolute_path(value: &DeValue<'_>) -> Parsed<PathBuf> {
    let path = PathBuf::from(string(value)?);
    if path.is_absolute() {
        return Ok(path);
    }
    wrong("not an absolute path", "must begin with `/`")
}

/// Bytes of a Unix socket's path. The kernel allows 107; the socket is created under a temporary
/// name that is four longer.
pub(in crate::config) const LONGEST_SOCKET_PATH: usize = 103;

pub(in crate::config) fn socket_path(value: &DeValue<'_>) -> Parsed<PathBuf> {
    let path = absolute_path(value)?;
    match path.as_os_str().len() {
        ..=LONGEST_SOCKET_PATH => Ok(path),
        length => wrong(
            format!("{length} bytes are too long for a socket"),
            format!("must be at most {LONGEST_SOCKET_PATH} bytes"),
        ),
    }
}

/// A program or one of its arguments.
pub(in crate::config) fn argument(value: &DeValue<'_>) -> Parsed<String> {
    match string(value)? {
        text if text.contains('\0') => wrong("'\\0' is not allowed in a command", "remove it"),
        text => Ok(text),
    }
}

pub(in crate::config) fn url(value: &DeValue<'_>) -> Parsed<String> {
    const HELP: &str = "must be as in \"http://127.0.0.1:9093\"";
    let text = string(value)?;
    if !text.starts_with("http://") && !text.starts_with("https://") {
        return wrong("not an HTTP URL", HELP);
    }
    if let Some(odd) = text.chars().find(|c| c.is_whitespace() || c.is_control()) {
        let label = format!("{odd:?} is not allowed in a URL");
        return wrong(label, "percent-encode it, as in %20");
    }
    if text.contains(secrets::MASK) {
        return wrong(
            "this URL is masked, as configurations are displayed",
            "write the whole URL",
        );
    }
    match url::Url::parse(&text) {
        Ok(url) if url.port() == Some(0) => wrong("port 0 is not a valid port", HELP),
        Ok(url) if url.host_str().is_some_and(|host| !host.is_empty()) => Ok(text),
        Ok(_) => wrong("not an HTTP URL", HELP),
        Err(error) => wrong(format!("not an HTTP URL: {error}"), HELP),
    }
}

/// The client URL of an etcd member: `https`, a host, perhaps a port, and nothing else.
pub(in crate::config) fn endpoint(value: &DeValue<'_>) -> Parsed<String> {
    const HELP: &str = "must be as in \"https://10.0.0.1:2379\"; etcd is only used over TLS";
    let text = url(value)?;
    match url::Url::parse(&text) {
        Ok(url) if url.scheme() != "https" => wrong("not an HTTPS URL", HELP),
        Ok(url)
            if url.has_authority() && !url.username().is_empty() || url.password().is_some() =>
        {
            let help = "the client certificate identifies the node; remove user and password";
            wrong("the URL has a user or a password", help)
        }
        Ok(url) if url.path() == "/" && url.query().is_none() && url.fragment().is_none() => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => wrong("the URL has more than a host and a port", HELP),
    }
}

pub(in crate::config) fn http_path(value: &DeValue<'_>) -> Parsed<String> {
    let text = string(value)?;
    if text.starts_with('/') && text.chars().all(|c| c.is_ascii_graphic()) {
        return Ok(text);
    }
    wrong(
        "not a request path",
        "must be a path such as \"/healthz\", without spaces",
    )
}

pub(in crate::config) fn some_text(value: &DeValue<'_>) -> Parsed<String> {
    match string(value)? {
        text if text.is_empty() => wrong("the string is empty", "remove the key instead"),
        text => Ok(text),
    }
}

/// A host name or address, optionally with a port.
pub(in crate::config) fn host(value: &DeValue<'_>) -> Parsed<String> {
    const HELP: &str = "must be a host name or address, as in \"api.example\", \"api.example:8443\" or \
                        \"[2001:db8::1]:8443\"";
    let text = string(value)?;
    let odd = text
        .chars()
        .find(|c| !c.is_ascii_alphanumeric() && !"._-:[]".contains(*c));
    // What follows the last colon outside of brackets is the port.
    let port = text.rsplit_once(':').map(|(_, port)| port);
    let port = port.filter(|port| !port.ends_with(']') && text.parse::<IpAddr>().is_err());
    if let Some(port) = port.filter(|port| port.parse::<u16>().ok().is_none_or(|port| port == 0)) {
        return wrong(format!("{port:?} is not a port"), HELP);
    }
    match (odd, text.len()) {
        (Some(odd), _) => wrong(format!("{odd:?} is not allowed in a host name"), HELP),
        (None, 1..=260) => Ok(text),
        (None, length) => wrong(format!("a name of {length} characters is not valid"), HELP),
    }
}

/// Status codes of HTTP such as `200`, or ranges of them as in `200-299,401`.
pub(in crate::config) fn status_set(value: &DeValue<'_>) -> Parsed<StatusSet> {
    const HELP: &str =
        "must be status codes from 100 to 599 and ranges of them, as in \"200-299,401\"";
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
            _ => return wrong(format!("{:?} is not a status", part.trim()), HELP),
        }
    }
    Ok(StatusSet::new(ranges))
}

/// The payload of a packet: text, or bytes as in `hex:00ff`.
pub(in crate::config) fn payload(value: &DeValue<'_>) -> Parsed<Vec<u8>> {
    const HELP: &str = "must be text, or bytes in hex digits as in \"hex:0001ff\"";
    const LONGEST: usize = 1200;
    let text = some_text(value)?;
    let bytes = match text.strip_prefix("hex:") {
        None => text.into_bytes(),
        Some(digits) => {
            if digits.is_empty() || !digits.chars().all(|c| c.is_ascii_hexdigit()) {
                return wrong("not hex digits", HELP);
            }
            if !digits.len().is_multiple_of(2) {
                return wrong("odd number of hex digits", HELP);
            }
            let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap_or_default();
            (0..digits.len()).step_by(2).map(byte).collect()
        }
    };
    if bytes.len() > LONGEST {
        let label = format!("{} bytes are too long", bytes.len());
        return wrong(label, format!("must be at most {LONGEST} bytes"));
    }
    Ok(bytes)
}

pub(in crate::config) fn hash_seed(value: &DeValue<'_>) -> Parsed<HashSeed> {
    parse_hash_seed(&string(value)?)
}

/// The hash seed, from a value or a file.
pub(in crate::config) fn parse_hash_seed(text: &str) -> Parsed<HashSeed> {
    const HELP: &str =
        "must be 32 hex digits, secret and the same on all nodes: `openssl rand -hex 16`";
    if !text.chars().all(|c| c.is_ascii_hexdigit()) {
        return wrong("contains characters that are not hex digits", HELP);
    }
    if text.len() != 32 {
        return wrong(format!("has {} digits", text.len()), HELP);
    }
    match u128::from_str_radix(text, 16) {
        Ok(0) | Err(_) => wrong("a seed of zeros is not secret", HELP),
        Ok(seed) => Ok(HashSeed::new(seed.to_be_bytes())),
    }
}

/// The secret for webhooks, from the text of its file.
pub(in crate::config) fn parse_webhook_secret(text: &str) -> Parsed<Secret> {
    const HELP: &str = "must have at least 16 characters, as from `openssl rand -hex 32`";
    match text.chars().count() {
        length @ ..16 => wrong(format!("has {length} characters"), HELP),
        _ => Ok(Secret::new(text)),
    }
}

/// The password of a BGP session, from the text of its file.
pub(in crate::config) fn parse_peer_password(text: &str) -> Parsed<Secret> {
    // The kernel's limit for keys of TCP MD5 signatures.
    const LONGEST: usize = 80;
    const HELP: &str = "must be 1 to 80 printable ASCII characters, the same as on the router";
    if !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return wrong("contains characters that are not printable ASCII", HELP);
    }
    match text.len() {
        1..=LONGEST => Ok(Secret::new(text)),
        length => wrong(format!("has {length} characters"), HELP),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

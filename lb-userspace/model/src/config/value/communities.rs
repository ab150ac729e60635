//! BGP communities.

use std::str::FromStr;

use toml::de::DeValue;

use super::{Parsed, string, wrong};
use crate::config::model::{Community, LargeCommunity};

/// A community such as `64500:100`, or the name of a well-known one.
pub(in crate::config) fn community(value: &DeValue<'_>) -> Parsed<Community> {
    let text = string(value)?;
    let named = Community::NAMED.iter().find(|(name, _)| *name == text);
    if let Some((_, community)) = named {
        return Ok(*community);
    }
    let parts = text
        .split_once(':')
        .and_then(|(asn, value)| Some((number::<u16>(asn)?, number::<u16>(value)?)));
    match parts {
        Some((asn, value)) => Ok(Community::new(u32::from(asn) << 16 | u32::from(value))),
        None => {
            let names: Vec<_> = Community::NAMED.iter().map(|(name, _)| *name).collect();
            let help = format!(
                "must be \"AS:VALUE\", each 0 to 65535, or one of {}; larger AS numbers need \
                 `large_communities`",
                names.join(", ")
            );
            wrong("not a community", help)
        }
    }
}

/// A large community such as `64500:1:2`.
pub(in crate::config) fn large_community(value: &DeValue<'_>) -> Parsed<LargeCommunity> {
    const HELP: &str = "must be \"GLOBAL:LOCAL:LOCAL\", each 0 to 4294967295, as in \"64500:1:2\"";
    let text = string(value)?;
    let parts: Option<Vec<u32>> = text.split(':').map(number).collect();
    match parts.and_then(|parts| parts.try_into().ok()) {
        Some(parts) => Ok(LargeCommunity::new(parts)),
        None => wrong("not a large community", HELP),
    }
}

/// Digits only: `FromStr` accepts a sign.
fn number<T: FromStr>(text: &str) -> Option<T> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<T>(kind: fn(&DeValue<'_>) -> Parsed<T>, text: &str) -> Option<T> {
        kind(&DeValue::String(text.to_owned().into())).ok()
    }

    #[test]
    fn communities_are_read_and_shown() {
        for (text, number, shown) in [
            ("0:0", 0, "0:0"),
            ("64500:100", 0xFBF4_0064, "64500:100"),
            ("65535:65535", u32::MAX, "65535:65535"),
            ("no-export", 0xFFFF_FF01, "no-export"),
            ("65535:65282", 0xFFFF_FF02, "no-advertise"),
            ("no-peer", 0xFFFF_FF04, "no-peer"),
            ("65535:0", 0xFFFF_0000, "graceful-shutdown"),
            ("blackhole", 0xFFFF_029A, "blackhole"),
        ] {
            let community = parse(community, text).unwrap();
            assert_eq!(community.number(), number, "{text}");
            assert_eq!(community.to_string(), shown, "{text}");
        }
        for text in [
            "",
            "1",
            "1:",
            ":1",
            "65536:1",
            "1:65536",
            "+1:1",
            "1:-1",
            "1:2:3",
            "No-Export",
        ] {
            assert_eq!(parse(community, text), None, "{text}");
        }
    }

    #[test]
    fn large_communities_are_read_and_shown() {
        let large = parse(large_community, "4294967295:0:7").unwrap();
        assert_eq!(large.parts(), [u32::MAX, 0, 7]);
        assert_eq!(large.to_string(), "4294967295:0:7");
        for text in [
            "",
            "1:2",
            "1:2:3:4",
            "1:2:",
            "4294967296:0:0",
            "1:+2:3",
            "no-export",
        ] {
            assert_eq!(parse(large_community, text), None, "{text}");
        }
    }
}

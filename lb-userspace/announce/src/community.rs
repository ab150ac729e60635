//! Communities (RFC 1997) and large communities (RFC 8092).

use std::{fmt, str::FromStr};

/// Well-known communities, from IANA's registry "BGP Well-known Communities".
const NAMES: [(&str, u32); 6] = [
    ("graceful-shutdown", 0xffff_0000),
    ("accept-own", 0xffff_0001),
    ("blackhole", 0xffff_029a),
    ("no-export", 0xffff_ff01),
    ("no-advertise", 0xffff_ff02),
    ("no-export-subconfed", 0xffff_ff03),
];

/// A community. Parsed from `65000:100` or the name of a well-known one, such as `graceful-shutdown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

/// A large community. Parsed from `64500:1:2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity {
    /// AS number of whoever defines the meaning of the other parts.
    pub global: u32,
    pub local: [u32; 2],
}

/// A text is not a community.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseCommunityError {
    #[error(
        "unknown community \"{0}\": must be two numbers such as 65000:100, or one of {names}",
        names = NAMES.map(|(name, _)| name).join(", ")
    )]
    UnknownName(String),
    #[error("community \"{text}\" has {parts} parts; must have {wanted}")]
    Parts {
        text: String,
        parts: usize,
        wanted: usize,
    },
    #[error("\"{part}\" in community \"{text}\" must be a number between 0 and {limit}")]
    Number {
        text: String,
        part: String,
        limit: u32,
    },
}

impl Community {
    /// GRACEFUL_SHUTDOWN (RFC 8326): routers prefer other routes and keep this one until it is withdrawn.
    pub const GRACEFUL_SHUTDOWN: Self = Self(0xffff_0000);
}

impl FromStr for Community {
    type Err = ParseCommunityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some((_, value)) = NAMES.iter().find(|(name, _)| *name == text) {
            return Ok(Self(*value));
        }
        if !text.contains(':') {
            return Err(ParseCommunityError::UnknownName(text.to_owned()));
        }
        let [high, low] = numbers(text, u16::MAX.into())?;
        Ok(Self(high << 16 | low))
    }
}

impl FromStr for LargeCommunity {
    type Err = ParseCommunityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let [global, first, second] = numbers(text, u32::MAX)?;
        Ok(Self {
            global,
            local: [first, second],
        })
    }
}

fn numbers<const N: usize>(text: &str, limit: u32) -> Result<[u32; N], ParseCommunityError> {
    let parts: Vec<&str> = text.split(':').collect();
    let parts: [&str; N] =
        parts
            .try_into()
            .map_err(|parts: Vec<&str>| ParseCommunityError::Parts {
                text: text.to_owned(),
                parts: parts.len(),
                wanted: N,
            })?;
    let mut values = [0; N];
    for (value, part) in values.iter_mut().zip(parts) {
        // `parse` alone accepts a plus sign.
        let digits = part.bytes().all(|byte| byte.is_ascii_digit());
        let number = part
            .parse()
            .ok()
            .filter(|number| digits && *number <= limit);
        *value = number.ok_or_else(|| ParseCommunityError::Number {
            text: text.to_owned(),
            part: part.to_owned(),
            limit,
        })?;
    }
    Ok(values)
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, value)| *value == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}:{}", self.0 >> 16, self.0 & 0xffff),
        }
    }
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.global, self.local[0], self.local[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_numbers_and_names() {
        assert_eq!("65535:0".parse(), Ok(Community::GRACEFUL_SHUTDOWN));
        assert_eq!(
            "graceful-shutdown".parse(),
            Ok(Community::GRACEFUL_SHUTDOWN)
        );
        assert_eq!("64500:7".parse(), Ok(Community(64500 << 16 | 7)));
        let large = LargeCommunity {
            global: 64500,
            local: [1, u32::MAX],
        };
        assert_eq!("64500:1:4294967295".parse(), Ok(large));
    }

    #[test]
    fn displays_what_it_parses() {
        for text in ["64500:7", "no-export", "blackhole"] {
            assert_eq!(text.parse::<Community>().unwrap().to_string(), text);
        }
        let large: LargeCommunity = "64500:1:2".parse().unwrap();
        assert_eq!(large.to_string(), "64500:1:2");
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let error = |text: &str| text.parse::<Community>().unwrap_err().to_string();
        assert!(error("no-exprot").contains("one of graceful-shutdown"));
        assert_eq!(
            error("1:70000"),
            "\"70000\" in community \"1:70000\" must be a number between 0 and 65535"
        );
        assert!(error("1:+7").contains("\"+7\""));
        assert!(error("1:").contains("\"\""));
        assert_eq!(
            "64500:1".parse::<LargeCommunity>().unwrap_err().to_string(),
            "community \"64500:1\" has 2 parts; must have 3"
        );
    }
}

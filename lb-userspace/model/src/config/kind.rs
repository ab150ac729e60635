//! Kinds of values: how each is read, printed, documented and described in the JSON Schema.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::{fmt::Debug, time::Duration};
use std::{fmt::Display, ops::RangeInclusive, path::PathBuf};

use serde_json::{Value, json};
use toml::de::DeValue;

use super::{
    model::{
        BoundFactor, Community, Factor, Fraction, HashSeed, LargeCommunity, Prefix, StatusSet, Word,
    },
    value::{self, Parsed, numbers, show_duration, texts},
};
use crate::{membership::MemberSource, ring::RingSize, secrets};

/// A kind of value. A constructor such as [`duration`] makes one.
pub(super) trait Kind {
    type Value;

    fn parse(&self, value: &DeValue<'_>) -> Parsed<Self::Value>;

    /// The value as a plan shows it; strings that may have spaces are quoted.
    fn show(&self, value: &Self::Value) -> String;

    fn reference(&self) -> Reference;
}

/// Which values are possible.
pub(super) struct Reference {
    /// For people, in Markdown.
    pub(super) values: String,
    /// For the JSON Schema.
    pub(super) schema: Value,
}

struct Form<T, P, R> {
    parse: P,
    show: fn(&T) -> String,
    reference: R,
}

impl<T, P, R> Kind for Form<T, P, R>
where
    P: Fn(&DeValue<'_>) -> Parsed<T>,
    R: Fn() -> Reference,
{
    type Value = T;

    fn parse(&self, value: &DeValue<'_>) -> Parsed<T> {
        (self.parse)(value)
    }

    fn show(&self, value: &T) -> String {
        (self.show)(value)
    }

    fn reference(&self) -> Reference {
        (self.reference)()
    }
}

fn form<T>(
    parse: impl Fn(&DeValue<'_>) -> Parsed<T>,
    show: fn(&T) -> String,
    reference: impl Fn() -> Reference,
) -> impl Kind<Value = T> {
    Form {
        parse,
        show,
        reference,
    }
}

fn reference(values: impl Into<String>, schema: Value) -> Reference {
    Reference {
        values: values.into(),
        schema,
    }
}

fn string() -> Value {
    json!({ "type": "string" })
}

/// A string with a pattern.
fn pattern(pattern: &str) -> Value {
    json!({ "type": "string", "pattern": pattern })
}

fn plain<T: Display>(value: &T) -> String {
    value.to_string()
}

fn quoted<T: Debug>(value: &T) -> String {
    format!("{value:?}")
}

pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Kind<Value = Duration> {
    let (min, max) = (*range.start(), *range.end());
    form(
        numbers::duration(range),
        |time| show_duration(*time),
        move || durations(min, max),
    )
}

/// A duration, or zero for "never".
pub(super) fn duration_or_never(max: Duration) -> impl Kind<Value = Option<Duration>> {
    let parse = numbers::duration(Duration::ZERO..=max);
    form(
        move |value: &DeValue<'_>| {
            parse(value).map(|time| Some(time).filter(|time| !time.is_zero()))
        },
        |time: &Option<Duration>| time.map_or_else(|| "never".to_owned(), show_duration),
        move || durations(Duration::ZERO, max),
    )
}

pub(super) fn whole_seconds(range: RangeInclusive<Duration>) -> impl Kind<Value = Duration> {
    let (min, max) = (*range.start(), *range.end());
    form(
        numbers::whole_seconds(range),
        |time| show_duration(*time),
        move || {
            let Reference { values, schema } = durations(min, max);
            reference(format!("{values}, whole seconds"), schema)
        },
    )
}

fn durations(min: Duration, max: Duration) -> Reference {
    let values = format!("`{}` to `{}`", show_duration(min), show_duration(max));
    reference(values, pattern("^([0-9]+(ms|s|m|h))+$"))
}

pub(super) fn integer(range: RangeInclusive<u32>) -> impl Kind<Value = u32> {
    let (min, max) = (*range.start(), *range.end());
    form(numbers::integer(range), plain, move || integers(min, max))
}

fn integers(min: u32, max: u32) -> Reference {
    let schema = json!({ "type": "integer", "minimum": min, "maximum": max });
    reference(format!("{min} to {max}"), schema)
}

pub(super) fn byte(range: RangeInclusive<u8>) -> impl Kind<Value = u8> {
    let (min, max) = (*range.start(), *range.end());
    form(numbers::byte(range), plain, move || {
        integers(min.into(), max.into())
    })
}

/// The number of an autonomous system.
pub(super) fn as_number() -> impl Kind<Value = u32> {
    integer(1..=u32::MAX - 1)
}

pub(super) fn routing_table() -> impl Kind<Value = u32> {
    form(numbers::routing_table, plain, || {
        let Reference { values, mut schema } = integers(1, u32::MAX);
        schema["not"] = json!({ "minimum": 253, "maximum": 255 });
        reference(format!("{values} without 253 to 255"), schema)
    })
}

pub(super) fn power_of_two(range: RangeInclusive<u32>) -> impl Kind<Value = u32> {
    let (min, max) = (*range.start(), *range.end());
    form(numbers::power_of_two(range), plain, move || {
        let powers: Vec<u32> = (min.ilog2()..=max.ilog2()).map(|n| 1 << n).collect();
        let schema = json!({ "type": "integer", "enum": powers });
        reference(format!("power of two, {min} to {max}"), schema)
    })
}

pub(super) fn port(min: u16) -> impl Kind<Value = u16> {
    form(numbers::port(min), plain, move || {
        integers(min.into(), u16::MAX.into())
    })
}

/// A port; 0, which can't be typed, stands for the backend's.
pub(super) fn probe_port() -> impl Kind<Value = u16> {
    form(
        numbers::port(1),
        |port| match port {
            0 => "the backend's".to_owned(),
            port => port.to_string(),
        },
        || integers(1, u16::MAX.into()),
    )
}

pub(super) fn port_range() -> impl Kind<Value = RangeInclusive<u16>> {
    form(
        numbers::port_range,
        |ports: &RangeInclusive<u16>| format!("{}-{}", ports.start(), ports.end()),
        || {
            let values = "`\"first-last\"`, 1024 to 65535, at least 256 ports";
            reference(values, pattern("^[0-9]+ *- *[0-9]+$"))
        },
    )
}

pub(super) fn ring_size() -> impl Kind<Value = RingSize> {
    form(
        numbers::ring_size,
        |size: &RingSize| size.get().to_string(),
        || {
            let (min, max) = (RingSize::MIN, RingSize::MAX);
            let schema = json!({ "type": "integer", "minimum": min, "maximum": max });
            reference(format!("prime, {min} to {max}"), schema)
        },
    )
}

/// A share above 0.
pub(super) fn share() -> impl Kind<Value = Fraction> {
    form(
        numbers::share(false, Fraction::ALL),
        |share: &Fraction| share.as_f64().to_string(),
        || {
            let schema = json!({ "type": "number", "exclusiveMinimum": 0, "maximum": 1 });
            reference("above 0, up to 1", schema)
        },
    )
}

/// A share that may be 0.
pub(super) fn share_or_zero(max: Fraction) -> impl Kind<Value = Fraction> {
    form(
        numbers::share(true, max),
        |share: &Fraction| share.as_f64().to_string(),
        move || {
            let max = max.as_f64();
            let schema = json!({ "type": "number", "minimum": 0, "maximum": max });
            reference(format!("0 to {max}"), schema)
        },
    )
}

pub(super) fn factor(range: RangeInclusive<f64>) -> impl Kind<Value = Factor> {
    let (min, max) = (*range.start(), *range.end());
    form(
        numbers::factor(range),
        |factor: &Factor| factor.as_f64().to_string(),
        move || {
            let schema = json!({ "type": "number", "minimum": min, "maximum": max });
            reference(format!("{min} to {max}"), schema)
        },
    )
}

pub(super) fn bound_factor() -> impl Kind<Value = BoundFactor> {
    form(numbers::bound_factor, plain, || {
        let (min, max) = (BoundFactor::MIN.as_f64(), BoundFactor::MAX.as_f64());
        let schema = json!({ "type": "number", "minimum": min, "maximum": max });
        reference(format!("{min} to {max}, at most three decimals"), schema)
    })
}

pub(super) fn boolean() -> impl Kind<Value = bool> {
    form(value::boolean, plain, || {
        reference("`true`, `false`", json!({ "type": "boolean" }))
    })
}

/// One of the words of an enum.
pub(super) fn word<T: Word>() -> impl Kind<Value = T> {
    form(
        value::one_of(T::WORDS),
        |value: &T| value.word().to_owned(),
        || {
            let words = T::WORDS.iter().map(|(word, _)| *word);
            let values: Vec<_> = words.clone().map(|word| format!("`\"{word}\"`")).collect();
            let schema = json!({ "type": "string", "enum": words.collect::<Vec<_>>() });
            reference(values.join(", "), schema)
        },
    )
}

pub(super) fn name() -> impl Kind<Value = String> {
    form(texts::name, quoted, || {
        reference("name", pattern("^[A-Za-z0-9._-]{1,63}$"))
    })
}

pub(super) fn interface() -> impl Kind<Value = String> {
    form(texts::interface, plain, || {
        reference(
            "interface names of up to 15 characters",
            pattern("^[^\\s/:]{1,15}$"),
        )
    })
}

pub(super) fn address() -> impl Kind<Value = IpAddr> {
    form(value::address, plain, || reference("address", string()))
}

pub(super) fn address_v4() -> impl Kind<Value = Ipv4Addr> {
    form(value::address_v4, plain, || {
        reference("IPv4 address", string())
    })
}

pub(super) fn address_v6() -> impl Kind<Value = Ipv6Addr> {
    form(value::address_v6, plain, || {
        reference("IPv6 address", string())
    })
}

pub(super) fn socket_address() -> impl Kind<Value = SocketAddr> {
    form(value::socket_address, plain, || {
        reference("address with port; names are not resolved", string())
    })
}

pub(super) fn prefix() -> impl Kind<Value = Prefix> {
    form(value::prefix, plain, || {
        let values = "prefixes, at most one per family, as in `[\"10.200.0.0/16\", \
                          \"fd00:1::/64\"]`; no bits set beyond the length, not link-local";
        reference(values, pattern("^[0-9a-fA-F.:]+/[0-9]{1,3}$"))
    })
}

/// A prefix of sources, or an address, which stands for itself alone.
pub(super) fn source_prefix() -> impl Kind<Value = Prefix> {
    form(value::source_prefix, plain, || {
        let values = "prefixes or addresses; no bits set beyond the length";
        reference(values, pattern("^[0-9a-fA-F.:]+(/[0-9]{1,3})?$"))
    })
}

/// The item of a list of BGP communities.
pub(super) fn community() -> impl Kind<Value = Community> {
    form(value::community, plain, || {
        let names: Vec<_> = Community::NAMED.iter().map(|(name, _)| *name).collect();
        let quoted: Vec<_> = names.iter().map(|name| format!("`\"{name}\"`")).collect();
        let values = format!("`\"AS:VALUE\"` (each 0 to 65535), {}", quoted.join(", "));
        let schema = pattern(&format!("^([0-9]+:[0-9]+|{})$", names.join("|")));
        reference(values, schema)
    })
}

/// The item of a list of large BGP communities.
pub(super) fn large_community() -> impl Kind<Value = LargeCommunity> {
    form(value::large_community, plain, || {
        let values = "`\"GLOBAL:LOCAL:LOCAL\"` (each 0 to 4294967295)";
        reference(values, pattern("^[0-9]+:[0-9]+:[0-9]+$"))
    })
}

/// A path; a relative one starts at the directory of the configuration file.
pub(super) fn path() -> impl Kind<Value = PathBuf> {
    form(texts::path, quoted, || {
        let values = "path; a relative one starts at the directory of this file";
        reference(values, json!({ "type": "string", "minLength": 1 }))
    })
}

pub(super) fn absolute_path() -> impl Kind<Value = PathBuf> {
    form(texts::absolute_path, quoted, || {
        reference("absolute path", pattern("^/"))
    })
}

pub(super) fn socket_path() -> impl Kind<Value = PathBuf> {
    form(texts::socket_path, quoted, || {
        let schema = json!({
            "type": "string", "pattern": "^/", "maxLength": texts::LONGEST_SOCKET_PATH,
        });
        let values = format!(
            "absolute path of at most {} bytes",
            texts::LONGEST_SOCKET_PATH
        );
        reference(values, schema)
    })
}

/// A string that is not empty.
pub(super) fn text(values: &'static str) -> impl Kind<Value = String> {
    form(texts::some_text, quoted, move || {
        reference(values, json!({ "type": "string", "minLength": 1 }))
    })
}

pub(super) fn url() -> impl Kind<Value = String> {
    let show = |url: &String| secrets::mask_url(url);
    form(texts::url, show, || {
        reference("`http` or `https` URLs", pattern("^https?://"))
    })
}

/// The client URL of an etcd member.
pub(super) fn endpoint() -> impl Kind<Value = String> {
    form(texts::endpoint, quoted, || {
        reference("`https` URLs without a path", pattern("^https://[^/]+/?$"))
    })
}

pub(super) fn http_path() -> impl Kind<Value = String> {
    form(texts::http_path, plain, || {
        reference("path that begins with `/`", pattern("^/[!-~]*$"))
    })
}

pub(super) fn host() -> impl Kind<Value = String> {
    form(texts::host, plain, || {
        reference(
            "name or address, optionally with a port",
            pattern("^[A-Za-z0-9._:\\[\\]-]+$"),
        )
    })
}

pub(super) fn status_set() -> impl Kind<Value = StatusSet> {
    form(texts::status_set, plain, || {
        let values = "status codes from 100 to 599 and ranges, as in `\"200-299,401\"`";
        let schema = json!({
            "type": ["string", "integer"], "minimum": 100, "maximum": 599, "pattern": "^[0-9, -]+$",
        });
        reference(values, schema)
    })
}

pub(super) fn payload() -> impl Kind<Value = Vec<u8>> {
    form(
        texts::payload,
        |bytes: &Vec<u8>| format!("\"{}\"", bytes.escape_ascii()),
        || {
            let values = "text, or bytes as in `\"hex:00ff\"`; at most 1200 bytes";
            reference(values, json!({ "type": "string", "minLength": 1 }))
        },
    )
}

/// The item of a list of socket addresses.
pub(super) fn socket_addresses() -> impl Kind<Value = SocketAddr> {
    form(value::socket_address, plain, || {
        reference("addresses with a port", string())
    })
}

/// Where backends come from.
pub(super) fn member_source() -> impl Kind<Value = MemberSource> {
    form(texts::member_source, plain, || {
        let values = "`dns:NAME`, `dns:NAME:PORT`, `srv:NAME` or `api:NAME`";
        reference(values, pattern("^(dns|srv|api):[A-Za-z0-9._:-]+$"))
    })
}

/// The item of a list of addresses.
pub(super) fn addresses() -> impl Kind<Value = IpAddr> {
    form(value::address, plain, || reference("addresses", string()))
}

/// A program or one of its arguments.
pub(super) fn argument() -> impl Kind<Value = String> {
    form(texts::argument, plain, || reference("strings", string()))
}

/// A secret: shown only as "set".
pub(super) fn hash_seed() -> impl Kind<Value = HashSeed> {
    form(
        texts::hash_seed,
        |_| "set".to_owned(),
        || reference("32 hex digits, not all zeros", pattern("^[0-9A-Fa-f]{32}$")),
    )
}

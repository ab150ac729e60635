//! A request to capture packets, as criteria.

use std::net::IpAddr;

use lb_api::{CaptureRequest, CaptureSide};
use lb_common::{
    Address, address_of,
    capture::{Filter, MAX_SNAP, condition, side},
    reason::REASONS,
};
use lb_model::{config::Prefix, edit::hint};

use crate::{
    capture::{Criteria, DEFAULT_RATE, Pattern, VERDICTS},
    engine::{EngineError, EngineResult},
};

/// Fails if a value is invalid. Whether VIPs and backends of these names exist is not checked.
pub(super) fn of(request: CaptureRequest) -> EngineResult<Criteria> {
    let backends = request.backends.iter().map(|text| backend(text));
    Ok(Criteria {
        backends: backends.collect::<Result<_, _>>()?,
        rest: conditions(&request)?,
        vips: request.vips,
        for_s: request.for_s,
        count: request.count,
    })
}

fn bad(message: impl Into<String>) -> EngineError {
    EngineError::BadRequest(message.into())
}

fn backend(text: &str) -> EngineResult<(Option<String>, String)> {
    let (vip, backend) = match text.split_once('/') {
        Some((vip, backend)) => (Some(vip.to_owned()), backend),
        None => (None, text),
    };
    if backend.is_empty() || backend.contains('/') {
        return Err(bad(format!(
            "{text:?} is not a backend: use VIP/BACKEND or BACKEND"
        )));
    }
    Ok((vip, backend.to_owned()))
}

/// The conditions that do not depend on names.
fn conditions(request: &CaptureRequest) -> EngineResult<Filter> {
    let mut filter = Filter {
        per_s: request.rate.unwrap_or(DEFAULT_RATE).into(),
        snap: request.snap.unwrap_or(Filter::ALL.snap),
        sides: match request.side {
            CaptureSide::In => side::IN,
            CaptureSide::Out => side::OUT,
            CaptureSide::Both => side::IN | side::OUT,
        },
        ..Filter::ALL
    };
    if !(1..=MAX_SNAP).contains(&filter.snap) {
        return Err(bad(format!("snap must be between 1 and {MAX_SNAP}")));
    }
    for (name, value) in [
        ("for_s", request.for_s.map(u64::from)),
        ("count", request.count),
        ("rate", request.rate.map(u64::from)),
    ] {
        if value == Some(0) {
            return Err(bad(format!("{name} must be at least 1")));
        }
    }
    if !request.reasons.is_empty() {
        let names: Vec<&str> = REASONS.iter().map(|reason| reason.name).collect();
        filter.reasons = set_of("reason", &request.reasons, &names)?;
    }
    if !request.verdicts.is_empty() {
        filter.actions = set_of("verdict", &request.verdicts, &VERDICTS)? as u32;
    }
    if let Some(flow) = &request.flow {
        set_flow(&mut filter, &flow.parse::<Pattern>().map_err(bad)?);
    }
    if let Some(source) = &request.source {
        if filter.source_mask != [0; 2] {
            return Err(bad(
                "give the source address in the flow or as a prefix, not both",
            ));
        }
        set_source(&mut filter, prefix(source)?)?;
    }
    Ok(filter)
}

/// The bits of words, by their position in `names`.
fn set_of(what: &str, words: &[String], names: &[&str]) -> EngineResult<u64> {
    let mut set = 0;
    for word in words {
        let position = names
            .iter()
            .position(|name| name.eq_ignore_ascii_case(word));
        let Some(position) = position else {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            // The names of reasons are in capital letters.
            let typed = if what == "reason" {
                word.to_ascii_uppercase()
            } else {
                word.to_ascii_lowercase()
            };
            let hint = hint(&typed, &names);
            return Err(bad(format!("there is no {what} {word:?}{hint}")));
        };
        set |= 1 << position;
    }
    Ok(set)
}

fn set_flow(filter: &mut Filter, pattern: &Pattern) {
    filter.conditions |= condition::HEADERS;
    filter.protocol = pattern.protocol.unwrap_or(0);
    filter.source_be = pattern.source.port.to_be();
    filter.dest_be = pattern.dest.port.to_be();
    if let Some(address) = pattern.source.address {
        (filter.source, filter.family) = address_of(address);
        filter.source_mask = [u64::MAX; 2];
    }
    if let Some(address) = pattern.dest.address {
        (filter.dest, filter.family) = address_of(address);
        filter.dest_mask = [u64::MAX; 2];
    }
}

fn set_source(filter: &mut Filter, prefix: Prefix) -> EngineResult<()> {
    filter.conditions |= condition::HEADERS;
    let (source, family) = address_of(prefix.address());
    if filter.family != 0 && filter.family != family {
        return Err(bad("source and flow have different address families"));
    }
    filter.source = source;
    filter.family = family;
    filter.source_mask = mask(prefix);
    Ok(())
}

/// The mask of a prefix as an address: the first bits are set.
fn mask(prefix: Prefix) -> Address {
    let ones = match prefix.address() {
        IpAddr::V4(_) => IpAddr::from([0xff; 4]),
        IpAddr::V6(_) => IpAddr::from([0xff; 16]),
    };
    address_of(Prefix::containing(ones, prefix.length()).address()).0
}

/// An address, or a prefix.
fn prefix(text: &str) -> EngineResult<Prefix> {
    let wrong = || {
        bad(format!(
            "{text:?} is not a prefix: use an address and a length, as in 198.51.100.0/24 or 2001:db8::/32"
        ))
    };
    let (address, length) = text
        .split_once('/')
        .map_or((text, None), |(address, length)| (address, Some(length)));
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => bits,
        Some(length) => length
            .parse()
            .ok()
            .filter(|&length| length <= bits)
            .ok_or_else(wrong)?,
    };
    Ok(Prefix::containing(address, length))
}

#[cfg(test)]
mod tests {
    use lb_common::reason::Reason;

    use super::*;

    fn filter_of(change: impl FnOnce(&mut CaptureRequest)) -> EngineResult<Filter> {
        let mut request = CaptureRequest::default();
        change(&mut request);
        conditions(&request)
    }

    fn error_of(change: impl FnOnce(&mut CaptureRequest)) -> String {
        filter_of(change).unwrap_err().to_string()
    }

    #[test]
    fn an_empty_request_selects_everything() {
        let filter = filter_of(|_| {}).unwrap();
        let all = Filter {
            per_s: DEFAULT_RATE.into(),
            ..Filter::ALL
        };
        assert_eq!(filter, all);
    }

    #[test]
    fn words_become_bits() {
        let filter = filter_of(|request| {
            request.reasons = vec!["NO_MEMBER".into(), "no_vip".into()];
            request.verdicts = vec!["drop".into(), "redirect".into()];
            request.side = CaptureSide::Out;
        });
        let filter = filter.unwrap();
        let reasons = 1 << Reason::NoMember as u64 | 1 << Reason::NoVip as u64;
        assert_eq!(filter.reasons, reasons);
        assert_eq!((filter.actions, filter.sides), (0b10010, side::OUT));
    }

    #[test]
    fn prefixes_become_masks() {
        for (text, source, mask) in [
            ("198.51.100.7/24", [198, 51, 100, 0], [255, 255, 255, 0]),
            ("198.51.100.7", [198, 51, 100, 7], [255; 4]),
            ("0.0.0.0/0", [0; 4], [0; 4]),
        ] {
            let filter = filter_of(|request| request.source = Some(text.into())).unwrap();
            let address = |octets: [u8; 4]| address_of(octets.into()).0;
            assert_eq!(filter.source, address(source), "{text}");
            assert_eq!(filter.source_mask, address(mask), "{text}");
            assert_eq!((filter.family, filter.conditions), (4, condition::HEADERS));
        }
        let filter = filter_of(|request| request.source = Some("2001:db8::/33".into())).unwrap();
        let ones = IpAddr::from([0xffff, 0xffff, 0x8000, 0, 0, 0, 0, 0]);
        assert_eq!((filter.source_mask, filter.family), (address_of(ones).0, 6));
    }

    #[test]
    fn errors_name_what_was_probably_meant() {
        for (error, expected) in [
            (
                error_of(|request| request.reasons = vec!["no_membr".into()]),
                "there is no reason \"no_membr\"; did you mean \"NO_MEMBER\"?",
            ),
            (
                error_of(|request| request.verdicts = vec!["dorp".into()]),
                "there is no verdict \"dorp\"; did you mean \"drop\"?",
            ),
            (
                error_of(|request| request.snap = Some(4096)),
                "snap must be between 1 and 2048",
            ),
            (
                error_of(|request| request.count = Some(0)),
                "count must be at least 1",
            ),
            (
                error_of(|request| request.source = Some("198.51.100.0/33".into())),
                "is not a prefix: use an address and a length",
            ),
            (
                error_of(|request| {
                    request.flow = Some("198.51.100.7 >".into());
                    request.source = Some("198.51.100.0/24".into());
                }),
                "not both",
            ),
            (
                error_of(|request| {
                    request.flow = Some("> 203.0.113.10".into());
                    request.source = Some("2001:db8::/32".into());
                }),
                "different address families",
            ),
        ] {
            assert!(error.contains(expected), "{error}");
        }
        assert!(backend("a/b/c").is_err() && backend("a/").is_err());
    }
}

//! Numbers, shares, durations and ranges of ports.

use std::{ops::RangeInclusive, time::Duration};

use toml::de::DeValue;

use super::{Parsed, string, wrong, wrong_type};
use crate::{
    config::model::{BoundFactor, Factor, Fraction},
    ring::RingSize,
};

pub(in crate::config) fn integer(
    range: RangeInclusive<u32>,
) -> impl Fn(&DeValue<'_>) -> Parsed<u32> {
    move |value| {
        let (min, max) = (range.start(), range.end());
        let Some(number) = value.as_integer() else {
            return wrong_type(
                value,
                &format!("an integer between {min} and {max}"),
                &max.to_string(),
            );
        };
        match u32::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => wrong(
                format!("{number} is out of range"),
                format!("must be between {min} and {max}"),
            ),
        }
    }
}

pub(in crate::config) fn port(min: u16) -> impl Fn(&DeValue<'_>) -> Parsed<u16> {
    move |value| integer(u32::from(min)..=u32::from(u16::MAX))(value).map(|port| port as u16)
}

pub(in crate::config) fn byte(range: RangeInclusive<u8>) -> impl Fn(&DeValue<'_>) -> Parsed<u8> {
    let integer = integer(u32::from(*range.start())..=u32::from(*range.end()));
    move |value| integer(value).map(|number| number as u8)
}

/// A routing table of the kernel in which routes take no traffic of the host by themselves.
pub(in crate::config) fn routing_table(value: &DeValue<'_>) -> Parsed<u32> {
    match integer(1..=u32::MAX)(value)? {
        table @ 253..=255 => wrong(
            format!("{table} is a table that the host itself uses"),
            "must not be 253 to 255 (default, main, local): the routes there would take the host's own \
             traffic to the VIPs",
        ),
        table => Ok(table),
    }
}

pub(in crate::config) fn power_of_two(
    range: RangeInclusive<u32>,
) -> impl Fn(&DeValue<'_>) -> Parsed<u32> {
    move |value| {
        let number = integer(range.clone())(value)?;
        if number.is_power_of_two() {
            return Ok(number);
        }
        let above = number.next_power_of_two();
        let near = format!(
            "must be a power of two; the nearest are {} and {above}",
            above / 2
        );
        wrong(format!("{number} is not a power of two"), near)
    }
}

pub(in crate::config) fn ring_size(value: &DeValue<'_>) -> Parsed<RingSize> {
    let Some(number) = value.as_integer() else {
        return wrong_type(value, "a prime number", "65537");
    };
    let slots = i64::from_str_radix(number.as_str(), number.radix()).unwrap_or(i64::MAX);
    if let Some(size) = u32::try_from(slots).ok().and_then(RingSize::new) {
        return Ok(size);
    }
    let near = match RingSize::around(slots) {
        (Some(below), Some(above)) => {
            format!("the nearest are {} and {}", below.get(), above.get())
        }
        (Some(size), None) | (None, Some(size)) => format!("the nearest is {}", size.get()),
        (None, None) => String::new(),
    };
    let (min, max) = (RingSize::MIN, RingSize::MAX);
    let label = if (i64::from(min)..=i64::from(max)).contains(&slots) {
        format!("{number} is not prime")
    } else {
        format!("{number} is out of range")
    };
    wrong(
        label,
        format!("must be a prime between {min} and {max}; {near}"),
    )
}

/// A share of a whole, at most `max`.
pub(in crate::config) fn share(
    may_be_zero: bool,
    max: Fraction,
) -> impl Fn(&DeValue<'_>) -> Parsed<Fraction> {
    move |value| {
        let text = decimal(value, "a number from 0 to 1", "0.25")?;
        let number = text.parse().ok().and_then(Fraction::new);
        match number {
            Some(share) if share <= max && (may_be_zero || share.millionths() > 0) => Ok(share),
            _ => {
                let max = max.as_f64();
                let help = match may_be_zero {
                    true => format!("must be between 0 and {max}"),
                    false => format!("must be above 0 and at most {max}"),
                };
                wrong(format!("{text} is out of range"), help)
            }
        }
    }
}

/// The digits of a float or an integer.
fn decimal(value: &DeValue<'_>, wanted: &str, example: &str) -> Parsed<String> {
    match value {
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        DeValue::Integer(number) => Ok(number.to_string()),
        _ => wrong_type(value, wanted, example),
    }
}

pub(in crate::config) fn factor(
    range: RangeInclusive<f64>,
) -> impl Fn(&DeValue<'_>) -> Parsed<Factor> {
    move |value| {
        let text = decimal(value, "a number", "2.5")?;
        let number = text.parse().ok().filter(|number| range.contains(number));
        match number.and_then(Factor::new) {
            Some(factor) => Ok(factor),
            None => wrong(
                format!("{text} is out of range"),
                format!("must be between {} and {}", range.start(), range.end()),
            ),
        }
    }
}

pub(in crate::config) fn bound_factor(value: &DeValue<'_>) -> Parsed<BoundFactor> {
    let text = decimal(value, "a number", "1.25")?;
    let (min, max) = (BoundFactor::MIN, BoundFactor::MAX);
    let number = text.parse().ok();
    match number.filter(|number| (min.as_f64()..=max.as_f64()).contains(number)) {
        Some(number) => BoundFactor::new(number).map_or_else(
            || {
                wrong(
                    format!("{text} has too many decimals"),
                    "must have at most three, as in 1.25",
                )
            },
            Ok,
        ),
        None => wrong(
            format!("{text} is out of range"),
            format!(
                "must be between {min} and {max}; below {min}, flows would spill although the traffic is even"
            ),
        ),
    }
}

/// A duration such as `500ms`, `15m` or `1h30m`.
pub(in crate::config) fn duration(
    range: RangeInclusive<Duration>,
) -> impl Fn(&DeValue<'_>) -> Parsed<Duration> {
    move |value| {
        let Some(text) = value.as_str() else {
            return wrong_type(value, "a duration with its unit", "\"5s\"");
        };
        let (min, max) = (show_duration(*range.start()), show_duration(*range.end()));
        match parse_duration(text) {
            Some(duration) if range.contains(&duration) => Ok(duration),
            Some(_) => wrong("out of range", format!("must be between {min} and {max}")),
            None => wrong(
                "not a duration",
                "whole numbers with the units ms, s, m and h, as in \"500ms\", \"15m\" or \"1h30m\"",
            ),
        }
    }
}

/// A duration without a part of a second.
pub(in crate::config) fn whole_seconds(
    range: RangeInclusive<Duration>,
) -> impl Fn(&DeValue<'_>) -> Parsed<Duration> {
    let parse = duration(range);
    move |value| match parse(value)? {
        time if time.subsec_nanos() == 0 => Ok(time),
        _ => wrong(
            "not whole seconds",
            "must be whole seconds: BGP transmits no smaller unit",
        ),
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
        0 => "0s".to_owned(),
        ms if ms % 1000 != 0 => format!("{ms}ms"),
        ms if ms % 60_000 != 0 => format!("{}s", ms / 1000),
        ms if ms % 3_600_000 != 0 => format!("{}m", ms / 60_000),
        ms => format!("{}h", ms / 3_600_000),
    }
}

pub(in crate::config) fn port_range(value: &DeValue<'_>) -> Parsed<RangeInclusive<u16>> {
    const HELP: &str = "must be the first and last of at least 256 ports between 1024 and 65535, as in \"16384-32767\"";
    let text = string(value)?;
    let parts = text.split_once('-').and_then(|(first, last)| {
        Some((
            first.trim().parse::<u32>().ok()?,
            last.trim().parse::<u32>().ok()?,
        ))
    });
    let Some((first, last)) = parts else {
        return wrong("not a port range", HELP);
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
}

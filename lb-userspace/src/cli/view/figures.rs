//! Numbers for people: three digits and a unit.

use jiff::{SignedDuration, Timestamp};

/// `0`, `0.4`, `12`, `999`, `1.2k`, `35k`, `1.2M`.
pub(in crate::cli) fn amount(value: f64) -> String {
    if !value.is_finite() {
        return "?".into();
    }
    let (scaled, unit) = match value.abs() {
        v if v >= 999.5e6 => (value / 1e9, "G"),
        v if v >= 999.5e3 => (value / 1e6, "M"),
        v if v >= 999.5 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let decimals = match scaled.abs() {
        v if v < 0.05 => return "0".into(),
        v if unit.is_empty() && (v >= 9.95 || v.fract() == 0.0) => 0,
        v if v >= 9.95 => 0,
        _ => 1,
    };
    format!("{scaled:.decimals$}{unit}")
}

pub(in crate::cli) fn count(value: u64) -> String {
    // The error of the conversion is far below three digits.
    amount(value as f64)
}

/// `33.3%`.
pub(in crate::cli) fn share(value: f64) -> String {
    format!("{:.1}%", value * 100.0)
}

/// Bytes per second as bits per second: `8.4 Gbit/s`.
pub(in crate::cli) fn bits(bytes_per_s: f64) -> String {
    let text = amount(bytes_per_s * 8.0);
    match text.strip_suffix(['k', 'M', 'G']) {
        Some(number) => format!("{number} {}bit/s", &text[number.len()..]),
        None => format!("{text} bit/s"),
    }
}

/// A duration in its two largest units: `340ms`, `12s`, `3m12s`, `5h`, `2d4h`.
pub(in crate::cli) fn duration(length: SignedDuration) -> String {
    let s = length.as_secs().max(0);
    let two = |first: i64, unit: &str, second: i64, next: &str| match second {
        0 => format!("{first}{unit}"),
        _ => format!("{first}{unit}{second}{next}"),
    };
    match s {
        0 if length.as_millis() > 0 => format!("{}ms", length.as_millis()),
        0..60 => format!("{s}s"),
        60..3600 => two(s / 60, "m", s % 60, "s"),
        3600..86400 => two(s / 3600, "h", s % 3600 / 60, "m"),
        _ => two(s / 86400, "d", s % 86400 / 3600, "h"),
    }
}

/// The time from `then` to `now`.
pub(in crate::cli) fn since(then: Timestamp, now: Timestamp) -> String {
    duration(SignedDuration::from_secs(
        now.duration_since(then).as_secs(),
    ))
}

/// UTC, to the second: `2026-11-22 19:18:46Z`.
pub(in crate::cli) fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// `1 backend`, `2 backends`.
pub(in crate::cli) fn plural(count: usize, thing: &str) -> String {
    match count {
        1 => format!("1 {thing}"),
        _ => format!("{count} {thing}s"),
    }
}

/// `the last minute`, `the last 42 minutes`, `the last hour`.
pub(in crate::cli) fn last_minutes(minutes: u32) -> String {
    match minutes {
        0 | 1 => "the last minute".to_owned(),
        60 => "the last hour".to_owned(),
        _ => format!("the last {minutes} minutes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_at_most_three_digits() {
        let values = [
            0.0,
            0.04,
            0.4,
            1.0,
            9.94,
            9.96,
            12.3,
            999.4,
            999.6,
            1234.0,
            9960.0,
            34_500.0,
            999_600.0,
            1.25e6,
            2e9,
            f64::NAN,
        ];
        let shown = values.map(amount);
        assert_eq!(
            shown,
            [
                "0", "0", "0.4", "1", "9.9", "10", "12", "999", "1.0k", "1.2k", "10k", "34k",
                "1.0M", "1.2M", "2.0G", "?"
            ]
        );
        assert_eq!(bits(1e9 / 8.0), "1.0 Gbit/s");
        assert_eq!(bits(12.0), "96 bit/s");
        assert_eq!(share(1.0 / 3.0), "33.3%");
    }

    #[test]
    fn durations_have_at_most_two_units() {
        let shown = [
            0,
            340,
            1_000,
            59_999,
            60_000,
            192_000,
            18_000_000,
            187_200_000,
        ]
        .map(|ms| duration(SignedDuration::from_millis(ms)));
        assert_eq!(
            shown,
            ["0s", "340ms", "1s", "59s", "1m", "3m12s", "5h", "2d4h"]
        );
    }
}

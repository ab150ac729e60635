//! Shares, rates and health checks as a plan shows them.

use crate::config::{HealthKind, HttpCheck};

/// A share in percent: `40 %`, `33.3 %`, `0.02 %`.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let digits = match percent {
        p if p >= 1.0 || p == 0.0 => 1,
        p if p >= 0.1 => 2,
        _ => 3,
    };
    let text = format!("{percent:.digits$}");
    let text = text.strip_suffix(".0").unwrap_or(&text);
    format!("{text} %")
}

/// A rate, with a decimal only below 10.
pub(super) fn rate(per_s: f64) -> String {
    // A sum of nothing is -0.
    let per_s = per_s + 0.0;
    let digits = usize::from(per_s < 10.0 && per_s.fract() != 0.0);
    format!("{per_s:.digits$}")
}

fn list(values: &[String]) -> String {
    let values: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
    format!("[{}]", values.join(", "))
}

pub(super) fn health_kind(kind: &HealthKind) -> String {
    match kind {
        HealthKind::Tcp => "tcp".to_owned(),
        HealthKind::Http(request) => http("http", request),
        HealthKind::Https {
            request,
            verify,
            ca,
        } => {
            let verify = if *verify {
                ""
            } else {
                ", certificate not verified"
            };
            let ca = ca.as_ref();
            let ca = ca.map_or_else(String::new, |ca| format!(", ca {}", ca.path.display()));
            format!("{}{verify}{ca}", http("https", request))
        }
        HealthKind::Udp { send, expect } => {
            let shown = |what: &str, bytes: &Option<Vec<u8>>| {
                bytes.as_ref().map_or_else(String::new, |bytes| {
                    format!(", {what} \"{}\"", bytes.escape_ascii())
                })
            };
            format!("udp{}{}", shown("send", send), shown("expect", expect))
        }
        HealthKind::Exec { command } => format!("exec {}", list(command)),
    }
}

fn http(kind: &str, request: &HttpCheck) -> String {
    let HttpCheck {
        path,
        host,
        expect_status,
        expect_body,
    } = request;
    let host = host.as_ref();
    let host = host.map_or_else(String::new, |host| format!(", host {host}"));
    let body = expect_body.as_ref();
    let body = body.map_or_else(String::new, |body| format!(", body {body:?}"));
    format!("{kind} {path}{host}, status {expect_status}{body}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_rates_are_rounded() {
        let shares = [0.0, 0.4, 1.0 / 3.0, 0.005, 0.000_16, 1.0];
        let shown = shares.map(percent);
        assert_eq!(
            shown,
            ["0 %", "40 %", "33.3 %", "0.50 %", "0.016 %", "100 %"]
        );
        assert_eq!(
            [0.0, -0.0, 2.5, 12.34, 5000.0].map(rate),
            ["0", "0", "2.5", "12", "5000"]
        );
    }
}

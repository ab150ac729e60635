//! How values and shares are said in a plan: values as the configuration file has them.

use std::{fmt::Debug, time::Duration};

use crate::config::{
    Affinity, Forward, Fraction, HealthKind, HttpCheck, Track, Via, XdpMode, show_duration,
};

/// A share as people read it: `40 %`, `33.3 %`, `0.02 %`.
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

/// A rate: no more digits than it is worth.
pub(super) fn rate(per_s: f64) -> String {
    let digits = usize::from(per_s < 10.0 && per_s.fract() != 0.0);
    format!("{per_s:.digits$}")
}

/// Settings that changed, each as `key: before → after`.
#[derive(Default)]
pub(super) struct Changes(pub(super) Vec<String>);

impl Changes {
    pub(super) fn key<T: PartialEq>(
        &mut self,
        key: &str,
        before: &T,
        after: &T,
        show: impl Fn(&T) -> String,
    ) {
        if before != after {
            self.0
                .push(format!("{key}: {} → {}", show(before), show(after)));
        }
    }

    /// Of a key that is only looked at when the controller starts.
    pub(super) fn key_at_start<T: PartialEq>(
        &mut self,
        key: &str,
        before: &T,
        after: &T,
        show: impl Fn(&T) -> String,
    ) {
        self.key(key, before, after, show);
        if before != after
            && let Some(line) = self.0.last_mut()
        {
            line.push_str(" (takes effect when the controller is started again)");
        }
    }
}

pub(super) fn quoted(value: &impl Debug) -> String {
    format!("{value:?}")
}

pub(super) fn plain(value: &impl ToString) -> String {
    value.to_string()
}

pub(super) fn list(values: &[impl ToString]) -> String {
    let values: Vec<String> = values
        .iter()
        .map(|value| format!("\"{}\"", value.to_string()))
        .collect();
    format!("[{}]", values.join(", "))
}

pub(super) fn option(value: &Option<impl ToString>) -> String {
    value
        .as_ref()
        .map_or_else(|| "none".to_owned(), ToString::to_string)
}

pub(super) fn duration(value: &Duration) -> String {
    show_duration(*value)
}

pub(super) fn fraction(value: &Fraction) -> String {
    (f64::from(value.millionths()) / 1e6).to_string()
}

pub(super) fn xdp_mode(mode: &XdpMode) -> String {
    match mode {
        XdpMode::Native => "native",
        XdpMode::Generic => "generic",
        XdpMode::Auto => "auto",
    }
    .to_owned()
}

pub(super) fn forward(forward: &Forward) -> String {
    match forward {
        Forward::L2 => "l2",
        Forward::Ipip => "ipip",
        Forward::Nat => "nat",
    }
    .to_owned()
}

pub(super) fn affinity(affinity: &Affinity) -> String {
    match affinity {
        Affinity::Flow => "flow",
        Affinity::Source => "source",
    }
    .to_owned()
}

pub(super) fn track(track: &Track) -> String {
    match track {
        Track::OnChange => "on-change",
        Track::Always => "always",
        Track::Never => "never",
    }
    .to_owned()
}

pub(super) fn via(via: &Via) -> String {
    match via {
        Via::Vip => "vip",
        Via::Direct => "direct",
    }
    .to_owned()
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
            let verify = if *verify { "" } else { ", any certificate" };
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
    fn numbers_for_people() {
        let shares = [0.0, 0.4, 1.0 / 3.0, 0.005, 0.000_16, 1.0];
        let shown = shares.map(percent);
        assert_eq!(
            shown,
            ["0 %", "40 %", "33.3 %", "0.50 %", "0.016 %", "100 %"]
        );
        assert_eq!(
            [0.0, 2.5, 12.34, 5000.0].map(rate),
            ["0", "2.5", "12", "5000"]
        );
    }
}

//! `[vip.health]`, taken together: defaults, and which keys go with which kind of check.

use std::{ops::Range, path::PathBuf, time::Duration};

use toml::Spanned;

use super::{
    model::{CaFile, Fraction, Health, HealthKind, HttpCheck, StatusSet, Via},
    problem::{Problem, Problems},
    resolve::{ReadFile, or},
    resolve_vip::known,
    section::Typed,
    typed::{self, Kind},
    value::show_duration,
};

/// The shortest default of `fast_interval`.
const FASTEST: Duration = Duration::from_millis(100);

/// The health table that was typed; `None` when a part is not known.
pub(super) fn resolve_health(
    health: typed::Health,
    vip_port: Option<u16>,
    read_file: ReadFile<'_>,
    problems: &Problems,
) -> Option<Health> {
    check_stray_keys(&health, problems);
    check_needed_keys(&health, vip_port, problems);
    let interval = known(&health.interval).unwrap_or(Duration::from_secs(1));
    let timeout = known(&health.timeout).unwrap_or(Duration::from_millis(500));
    check_timeout(&health, interval, timeout, problems);
    check_fast_interval(&health, interval, problems);
    let a_quarter = (interval / 4).max(FASTEST).min(interval);
    Some(Health {
        port: known(&health.port).unwrap_or(0),
        interval,
        fast_interval: known(&health.fast_interval).unwrap_or(a_quarter),
        jitter: known(&health.jitter).unwrap_or(Fraction::TENTH),
        timeout,
        rise: known(&health.rise).unwrap_or(2),
        fall: known(&health.fall).unwrap_or(3),
        via: known(&health.via).unwrap_or(Via::Vip),
        damping: known(&health.damping).unwrap_or(true),
        slow_start: known(&health.slow_start).unwrap_or(Duration::ZERO),
        panic_threshold: known(&health.panic_threshold).unwrap_or(Fraction::HALF),
        kind: resolve_kind(health, read_file, problems)?,
    })
}

fn resolve_kind(
    health: typed::Health,
    read_file: ReadFile<'_>,
    problems: &Problems,
) -> Option<HealthKind> {
    let plain = |typed: Typed<Vec<u8>>| typed.map(Spanned::into_inner);
    Some(match health.kind?.into_inner() {
        Kind::Tcp => HealthKind::Tcp,
        kind @ (Kind::Http | Kind::Https) => {
            let request = HttpCheck {
                path: or(health.path, "/".to_owned()),
                host: health.host.map(Spanned::into_inner),
                expect_status: or(health.expect_status, StatusSet::default()),
                expect_body: health.expect_body.map(Spanned::into_inner),
            };
            if kind == Kind::Http {
                return Some(HealthKind::Http(request));
            }
            let ca = match health.ca_file {
                Some(path) => Some(read_ca(path, read_file, problems)?),
                None => None,
            };
            HealthKind::Https {
                request,
                verify: or(health.verify, true),
                ca,
            }
        }
        Kind::Udp => HealthKind::Udp {
            send: plain(health.send),
            expect: plain(health.expect),
        },
        Kind::Exec => {
            let words = or(health.command, Vec::new());
            HealthKind::Exec {
                command: words.into_iter().map(Spanned::into_inner).collect(),
            }
        }
    })
}

/// Reads the certificates, so that a file that is not there is a mistake of the configuration and not
/// a failure of every backend.
fn read_ca(path: Spanned<PathBuf>, read_file: ReadFile<'_>, problems: &Problems) -> Option<CaFile> {
    const HELP: &str = "a file with certificates in PEM, which begin with \
                        `-----BEGIN CERTIFICATE-----`";
    let span = path.span();
    let path = path.into_inner();
    let wrong = |label: String| {
        let title = "the certificates of `vip.health.ca_file` can't be used";
        problems.add(Problem::new(span.clone(), title, label, HELP));
    };
    match read_file(&path) {
        Ok(pem) if pem.contains("-----BEGIN CERTIFICATE-----") => Some(CaFile { path, pem }),
        Ok(_) => {
            wrong("there is no certificate in it".to_owned());
            None
        }
        Err(error) => {
            wrong(error.to_string());
            None
        }
    }
}

fn check_timeout(
    health: &typed::Health,
    interval: Duration,
    timeout: Duration,
    problems: &Problems,
) {
    let typed = health.timeout.as_ref().or(health.interval.as_ref());
    let (Some(typed), true) = (typed, timeout >= interval) else {
        return;
    };
    let (interval, timeout) = (show_duration(interval), show_duration(timeout));
    let label = format!("`interval` is {interval}, `timeout` is {timeout}");
    let help = "`timeout` must be shorter than `interval`: one check ends before the next begins";
    let title = "`vip.health.timeout` is not shorter than `vip.health.interval`";
    problems.add(Problem::new(typed.span(), title, label, help));
}

fn check_fast_interval(health: &typed::Health, interval: Duration, problems: &Problems) {
    let Some(fast) = &health.fast_interval else {
        return;
    };
    if *fast.get_ref() > interval {
        let title = "`vip.health.fast_interval` is longer than `vip.health.interval`";
        let (slow, fast_shown) = (show_duration(interval), show_duration(*fast.get_ref()));
        let label = format!("`interval` is {slow}, `fast_interval` is {fast_shown}");
        let help = "it is the shorter time between checks while it is not certain whether the state \
                    changes; leave it out for a quarter of `interval`";
        problems.add(Problem::new(fast.span(), title, label, help));
    }
}

/// Keys that belong to some kinds of check only.
fn check_stray_keys(health: &typed::Health, problems: &Problems) {
    let Some(kind) = &health.kind else {
        return;
    };
    let http = |kind| matches!(kind, Kind::Http | Kind::Https);
    let is = |wanted: Kind| move |kind: Kind| kind == wanted;
    let stray =
        |key: &str, span: Option<Range<usize>>, fits: &dyn Fn(Kind) -> bool, kinds: &str| {
            let Some(span) = span.filter(|_| !fits(*kind.get_ref())) else {
                return;
            };
            let title = format!("`vip.health.{key}` has no meaning with this `kind`");
            let help = format!("leave `{key}` out, or change `kind`");
            let problem = Problem::new(span, title, format!("only for {kinds}"), help);
            problems.add(problem.related(kind.span(), "the kind"));
        };
    const HTTP: &str = "\"http\" and \"https\"";
    stray("path", span_of(&health.path), &http, HTTP);
    stray("host", span_of(&health.host), &http, HTTP);
    stray("expect_status", span_of(&health.expect_status), &http, HTTP);
    stray("expect_body", span_of(&health.expect_body), &http, HTTP);
    let (https, udp, exec) = (is(Kind::Https), is(Kind::Udp), is(Kind::Exec));
    stray("verify", span_of(&health.verify), &https, "\"https\"");
    stray("ca_file", span_of(&health.ca_file), &https, "\"https\"");
    stray("send", span_of(&health.send), &udp, "\"udp\"");
    stray("expect", span_of(&health.expect), &udp, "\"udp\"");
    stray("command", span_of(&health.command), &exec, "\"exec\"");
    let network = |kind| kind != Kind::Exec;
    stray(
        "via",
        span_of(&health.via),
        &network,
        "kinds that send packets themselves",
    );
}

fn span_of<T>(typed: &Typed<T>) -> Option<Range<usize>> {
    typed.as_ref().map(Spanned::span)
}

/// Keys that must be there, and pairs that must not.
fn check_needed_keys(health: &typed::Health, vip_port: Option<u16>, problems: &Problems) {
    let Some(kind) = known(&health.kind) else {
        return;
    };
    let command = health.command.as_ref().map(Spanned::get_ref);
    let no_program = match command {
        Some(words) => words.first().is_none_or(|word| word.get_ref().is_empty()),
        None => !health.has.command,
    };
    if kind == Kind::Exec && no_program {
        let at = span_of(&health.command).unwrap_or(health.at.clone());
        let help = "the program and its arguments: `command = [\"/usr/local/bin/check\", \"-q\"]`";
        let title = "`vip.health.command` is missing";
        problems.add(Problem::new(at, title, "`kind = \"exec\"` needs it", help));
    }
    if let (Some(expect), false, Kind::Udp) = (&health.expect, health.has.send, kind) {
        let title = "`vip.health.send` is missing";
        let help = "what the backend is to answer: `send = \"ping\"`";
        problems.add(Problem::new(
            expect.span(),
            title,
            "nothing asks for this",
            help,
        ));
    }
    if let (Some(ca), Some(false), Kind::Https) = (&health.ca_file, known(&health.verify), kind) {
        let title = "`vip.health.ca_file` has no meaning with `verify = false`";
        let help = "leave one of the two out";
        problems.add(Problem::new(
            ca.span(),
            title,
            "would not be looked at",
            help,
        ));
    }
    if kind != Kind::Exec && vip_port == Some(0) && !health.has.port {
        let title = "`vip.health.port` is missing";
        let help = "the port that checks go to: `port = 80`";
        let problem = Problem::new(health.at.clone(), title, "an any-port VIP needs it", help);
        problems.add(Problem {
            is_missing: true,
            ..problem
        });
    }
}

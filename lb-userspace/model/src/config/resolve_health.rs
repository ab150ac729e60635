//! Checks whether the values of `[vip.health]` fit together and to its kind, and fills in defaults.

use std::path::PathBuf;

use toml::Spanned;

use super::{
    keys::{Table, items_of, span_of, value_of},
    model::{CaFile, Health, HealthKind, HttpCheck, Kind, TypedHealth, Word},
    problem::{Problem, Problems},
    resolve::ReadFile,
    value::show_duration,
};

/// The health check; `None` when its kind is absent or wrong, or its certificates can't be read.
pub(super) fn resolve_health(
    typed: &TypedHealth,
    vip_port: Option<u16>,
    read_file: ReadFile<'_>,
    problems: &Problems,
) -> Option<Health> {
    check_stray_keys(typed, problems);
    check_needed_keys(typed, vip_port, problems);
    let kind = resolve_kind(typed, read_file, problems);
    // Times are checked even if the kind is not known: any will do for that.
    let health = typed.resolve((kind.clone().unwrap_or(HealthKind::Tcp),))?;
    check_timeout(typed, &health, problems);
    check_fast_interval(typed, &health, problems);
    kind.map(|_| health)
}

fn resolve_kind(
    typed: &TypedHealth,
    read_file: ReadFile<'_>,
    problems: &Problems,
) -> Option<HealthKind> {
    let request = HttpCheck {
        path: typed.path(),
        host: value_of(&typed.host),
        expect_status: typed.expect_status(),
        expect_body: value_of(&typed.expect_body),
    };
    Some(match value_of(&typed.kind)? {
        Kind::Tcp => HealthKind::Tcp,
        Kind::Http => HealthKind::Http(request),
        Kind::Https => HealthKind::Https {
            request,
            verify: typed.verify(),
            ca: match &typed.ca_file {
                Some(path) => Some(read_ca(path, read_file, problems)?),
                None => None,
            },
        },
        Kind::Udp => HealthKind::Udp {
            send: value_of(&typed.send),
            expect: value_of(&typed.expect),
        },
        Kind::Exec => HealthKind::Exec {
            command: items_of(&typed.command),
        },
    })
}

/// Reads the certificates. A missing file is an error of the configuration, not a failure of every
/// backend.
fn read_ca(
    path: &Spanned<PathBuf>,
    read_file: ReadFile<'_>,
    problems: &Problems,
) -> Option<CaFile> {
    let label = match read_file(path.get_ref()) {
        Ok(pem) if pem.contains("-----BEGIN CERTIFICATE-----") => {
            let path = path.get_ref().clone();
            return Some(CaFile { path, pem });
        }
        Ok(_) => "the file contains no certificate".to_owned(),
        Err(error) => error.to_string(),
    };
    let title = "can't use the certificates of `vip.health.ca_file`";
    let help = "must be a file with certificates in PEM, which begin with \
                `-----BEGIN CERTIFICATE-----`";
    problems.add(Problem::new(path.span(), title, label, help));
    None
}

fn check_timeout(typed: &TypedHealth, health: &Health, problems: &Problems) {
    let at = typed.span("timeout").or(typed.span("interval"));
    let (Some(at), true) = (at, health.timeout >= health.interval) else {
        return;
    };
    let (interval, timeout) = (
        show_duration(health.interval),
        show_duration(health.timeout),
    );
    let label = format!("`interval` is {interval}, `timeout` is {timeout}");
    let help = "`timeout` must be shorter than `interval`: a check ends before the next begins";
    let title = "`vip.health.timeout` is not shorter than `vip.health.interval`";
    problems.add(Problem::new(at, title, label, help));
}

fn check_fast_interval(typed: &TypedHealth, health: &Health, problems: &Problems) {
    let at = typed.span("fast_interval");
    let (Some(at), true) = (at, health.fast_interval > health.interval) else {
        return;
    };
    let (slow, fast) = (
        show_duration(health.interval),
        show_duration(health.fast_interval),
    );
    let label = format!("`interval` is {slow}, `fast_interval` is {fast}");
    let help = "must be at most `interval`; remove it for a quarter of `interval`";
    let title = "`vip.health.fast_interval` is longer than `vip.health.interval`";
    problems.add(Problem::new(at, title, label, help));
}

/// Reports keys that belong to other kinds of checks.
fn check_stray_keys(typed: &TypedHealth, problems: &Problems) {
    let Some(kind) = &typed.kind else {
        return;
    };
    for key in TypedHealth::keys() {
        let is_stray = !key.only.is_empty() && !key.only.contains(&kind.get_ref().word());
        let (Some(at), true) = (typed.span(key.name), is_stray) else {
            continue;
        };
        let kinds: Vec<_> = key.only.iter().map(|kind| format!("\"{kind}\"")).collect();
        let title = format!("`vip.health.{}` has no effect with this `kind`", key.name);
        let help = format!("remove `{}`, or change `kind`", key.name);
        let problem = Problem::new(at, title, format!("only for {}", kinds.join(", ")), help);
        problems.add(problem.related(kind.span(), "the kind"));
    }
}

/// Reports keys that the kind needs, and keys that exclude each other.
fn check_needed_keys(health: &TypedHealth, vip_port: Option<u16>, problems: &Problems) {
    let Some(kind) = value_of(&health.kind) else {
        return;
    };
    let command = health.command.as_ref().map(Spanned::get_ref);
    let no_program = match command {
        Some(words) => words.first().is_none_or(|word| word.get_ref().is_empty()),
        None => !health.has("command"),
    };
    if kind == Kind::Exec && no_program {
        let at = span_of(&health.command).unwrap_or(health.at());
        let help = "the program and its arguments: `command = [\"/usr/local/bin/check\", \"-q\"]`";
        let title = "`vip.health.command` is missing";
        problems.add(Problem::new(at, title, "`kind = \"exec\"` needs it", help));
    }
    if let (Some(expect), false, Kind::Udp) = (&health.expect, health.has("send"), kind) {
        let title = "`vip.health.send` is missing";
        let help = "the packet that the backend is to reply to: `send = \"ping\"`";
        problems.add(Problem::new(
            expect.span(),
            title,
            "no packet asks for this reply",
            help,
        ));
    }
    if let (Some(ca), Some(false), Kind::Https) = (&health.ca_file, value_of(&health.verify), kind)
    {
        let title = "`vip.health.ca_file` has no effect with `verify = false`";
        let help = "remove one of the two";
        problems.add(Problem::new(ca.span(), title, "would not be used", help));
    }
    if kind != Kind::Exec && vip_port == Some(0) && !health.has("port") {
        let title = "`vip.health.port` is missing";
        let help = "the destination port of the checks: `port = 80`";
        let problem = Problem::new(health.at(), title, "an any-port VIP needs it", help);
        problems.add(Problem {
            is_missing: true,
            ..problem
        });
    }
}

//! Checks `[sources]`, and whether what VIPs say of sources fits together.

use toml::Spanned;

use super::{
    keys::{Table as _, value_of},
    model::{Forward, MAX_DNS_SERVERS, Sources, TypedSources, TypedVip},
    problem::{Problem, Problems},
    resolve::Unique,
    typed::VipTables,
    value::show_duration,
};
use crate::membership::MemberSource;

pub(super) fn resolve_sources(typed: &TypedSources, problems: &Problems) -> Option<Sources> {
    let sources = typed.resolve()?;
    let mut unique = Unique::new(problems);
    for server in typed.dns_servers.iter().flat_map(Spanned::get_ref) {
        let address = server.get_ref();
        let title = format!("duplicate server {address} in `sources.dns_servers`");
        unique.add(address, server.span(), &title, "remove one of them");
    }
    let servers = typed.dns_servers.as_ref();
    if let Some(servers) = servers.filter(|servers| servers.get_ref().len() > MAX_DNS_SERVERS) {
        let title = format!("more than {MAX_DNS_SERVERS} servers in `sources.dns_servers`");
        let label = format!("{} servers", servers.get_ref().len());
        let help =
            "name fewer: they are asked one after the other, each for up to `sources.timeout`";
        problems.add(Problem::new(servers.span(), title, label, help));
    }
    let (min, max) = (sources.interval_min, sources.interval_max);
    let at = typed.span("interval_min").or(typed.span("interval_max"));
    if let (Some(at), true) = (at, min > max) {
        let (min, max) = (show_duration(min), show_duration(max));
        let label = format!("`interval_min` is {min}, `interval_max` is {max}");
        let title = "`sources.interval_min` is longer than `sources.interval_max`";
        problems.add(Problem::new(
            at,
            title,
            label,
            "must be at most `interval_max`",
        ));
    }
    Some(sources)
}

/// A VIP has backends or a source of backends, and overrides only with a source.
pub(super) fn check_source(tables: &VipTables, problems: &Problems) {
    let vip = &tables.vip;
    let source = vip.span("backends_from");
    if let (Some(source), Some(backend)) = (&source, tables.backends.first()) {
        let title = "both `vip.backends_from` and `[[vip.backend]]` are set";
        let help = "remove one of them: backends come from the source or from the file";
        let problem = Problem::new(backend.at(), title, "and here", help);
        problems.add(problem.related(source.clone(), "here"));
    }
    if let (false, Some(first)) = (vip.has("backends_from"), tables.overrides.first()) {
        let title = "`[[vip.override]]` without `vip.backends_from`";
        let help = "set `state` and `weight` in `[[vip.backend]]` itself";
        problems.add(Problem::new(first.at(), title, "nothing to override", help));
    }
    check_ports(vip, problems);
    let mut names = Unique::new(problems);
    for over in &tables.overrides {
        if let Some(name) = &over.name {
            let title = format!("two overrides of the backend \"{}\"", name.get_ref());
            names.add(name.get_ref(), name.span(), &title, "put them together");
        }
        if !over.has("state") && !over.has("weight") {
            let title = "`[[vip.override]]` that overrides nothing";
            let help = "set `state` or `weight`, or remove it";
            problems.add(Problem::new(over.at(), title, "nothing is set", help));
        }
    }
}

/// Refuses a source none of whose members could ever be a backend, because each has a port. SRV records
/// may name the VIP's port, and members of `api:` sources none.
fn check_ports(vip: &TypedVip, problems: &Problems) {
    let (Some(source), Some(vip_port), Some(forward)) =
        (&vip.backends_from, &vip.port, value_of(&vip.forward))
    else {
        return;
    };
    let port = match source.get_ref() {
        MemberSource::Dns { port, .. } => *port,
        MemberSource::Srv { .. } => None,
        MemberSource::Api { .. } => return,
    };
    let is_srv = matches!(source.get_ref(), MemberSource::Srv { .. });
    let (title, label, help) = match (forward, *vip_port.get_ref(), port) {
        (_, 0, _) if is_srv => (
            "an any-port VIP can't have backends from SRV records",
            "each SRV record has a port",
            "use `dns:NAME`: packets keep the port that the client chose".to_owned(),
        ),
        (_, 0, Some(_)) => (
            "a backend of an any-port VIP can't have a port",
            "not the VIP's port",
            "remove the port: packets keep the port that the client chose".to_owned(),
        ),
        (Forward::L2 | Forward::Ipip, expected, Some(port)) if expected != port => (
            "only `forward = \"nat\"` can change the port",
            "not the VIP's port",
            format!("remove the port, or use {expected}, the VIP's port"),
        ),
        _ => return,
    };
    let problem = Problem::new(source.span(), title, label, help);
    problems.add(problem.related(vip_port.span(), "the VIP's port"));
}

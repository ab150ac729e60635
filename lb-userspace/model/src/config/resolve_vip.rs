//! Checks whether the values of a VIP fit together, and fills in defaults.

use std::net::IpAddr;

use toml::Spanned;

use super::{
    keys::{Table, value_of},
    model::{
        Forward, Scaling, Skew, Track, TypedBackend, TypedOverride, TypedScaling, TypedSkew,
        TypedVip, Vip,
    },
    problem::{Problem, Problems},
    resolve::{ReadFile, Unique},
    resolve_bound::resolve_bound,
    resolve_health::resolve_health,
    resolve_limit::{PrefixLists, resolve_limit},
    resolve_sources::check_source,
    typed::VipTables,
    value::show_duration,
};

/// The VIP; `None` when a required key of it or its backends is absent or wrong.
pub(super) fn resolve_vip(
    tables: &VipTables,
    read_file: ReadFile<'_>,
    lists: &PrefixLists<'_>,
    problems: &Problems,
) -> Option<Vip> {
    check_backends(tables, problems);
    check_source(tables, problems);
    check_ring(tables, problems);
    check_track(&tables.vip, problems);
    let port = value_of(&tables.vip.port);
    let health = tables.health.as_ref();
    let health = health.map(|health| resolve_health(health, port, read_file, problems));
    let scaling = resolve_scaling(&tables.scaling, problems);
    let skew = resolve_skew(&tables.skew, problems);
    let limit = resolve_limit(&tables.limit, &tables.vip, lists, problems);
    let bound = resolve_bound(tables, problems);
    let overrides = tables.overrides.iter().map(TypedOverride::resolve);
    let backends = tables
        .backends
        .iter()
        .map(|backend| backend.resolve_with(port));
    let backends = backends.collect::<Option<_>>()?;
    let health = match health {
        Some(health) => Some(health?),
        None => None,
    };
    tables.vip.resolve((
        health,
        tables.guard.resolve()?,
        limit?,
        bound?,
        scaling?,
        skew?,
        tables.announce.resolve()?,
        overrides.collect::<Option<_>>()?,
        backends,
    ))
}

fn resolve_scaling(typed: &TypedScaling, problems: &Problems) -> Option<Scaling> {
    let scaling = typed.resolve()?;
    let (alert, target) = (scaling.alert_utilisation, scaling.target_utilisation);
    let at = typed
        .span("alert_utilisation")
        .or(typed.span("target_utilisation"));
    if let (Some(at), true) = (at, alert < target) {
        let (alert, target) = (alert.as_f64(), target.as_f64());
        let label = format!("`alert_utilisation` is {alert}, `target_utilisation` is {target}");
        let title = "`vip.scaling.alert_utilisation` is below `vip.scaling.target_utilisation`";
        let help = "must be at least `target_utilisation`: else the alert would always fire";
        problems.add(Problem::new(at, title, label, help));
    }
    Some(scaling)
}

fn resolve_skew(typed: &TypedSkew, problems: &Problems) -> Option<Skew> {
    let skew = typed.resolve()?;
    let at = typed.span("long").or(typed.span("short"));
    if let (Some(at), true) = (at, skew.long < 2 * skew.short) {
        let (long, short) = (show_duration(skew.long), show_duration(skew.short));
        let label = format!("`long` is {long}, `short` is {short}");
        let title = "`vip.skew.long` is less than twice `vip.skew.short`";
        let help = "must be at least twice `short`: the long window shows what is usual";
        problems.add(Problem::new(at, title, label, help));
    }
    Some(skew)
}

fn check_track(vip: &TypedVip, problems: &Problems) {
    let (Some(track), Some(Forward::Nat)) = (&vip.track, value_of(&vip.forward)) else {
        return;
    };
    if *track.get_ref() != Track::Always {
        let title = "`vip.track` must be \"always\" with `forward = \"nat\"`";
        let label = "not possible with `nat`";
        let help = "remove `track`: `nat` tracks every session to translate replies";
        problems.add(Problem::new(track.span(), title, label, help));
    }
}

fn check_ring(tables: &VipTables, problems: &Problems) {
    let vip = &tables.vip;
    let slots = value_of(&vip.ring_size).unwrap_or_default().get();
    let weighted = |backend: &&TypedBackend| value_of(&backend.weight) != Some(0);
    let members = tables.backends.iter().filter(weighted).count();
    let at = vip.ring_size.as_ref().map_or(vip.at(), Spanned::span);
    if !tables.has_backends && !vip.has("backends_from") {
        let problem = Problem::new(
            vip.at(),
            "the VIP has no backends",
            "no backend would serve it",
            "add a table `[[vip.backend]]` with `name` and `address`, or `backends_from`",
        );
        problems.add(Problem {
            is_missing: true,
            ..problem
        });
    } else if members == 0 && !tables.backends.is_empty() {
        let title = "all backends of the VIP have weight 0";
        let help = "at least one must have a weight above 0";
        problems.add(Problem::new(
            vip.at(),
            title,
            "no backend would serve it",
            help,
        ));
    } else if members > slots as usize {
        let title = "more backends than `vip.ring_size` has slots";
        let label = format!("{members} backends, {slots} slots");
        let help = "use at least 100 slots per backend for shares exact to 1 %; the default, 65537, \
                    suits almost everyone";
        problems.add(Problem::new(at, title, label, help));
    }
}

fn check_backends(tables: &VipTables, problems: &Problems) {
    let mut names = Unique::new(problems);
    let mut addresses = Unique::new(problems);
    let vip = &tables.vip;
    for backend in &tables.backends {
        if let Some(name) = &backend.name {
            let title = format!("duplicate backend name \"{}\" in the VIP", name.get_ref());
            let help = "backend names must be unique in a VIP";
            names.add(name.get_ref(), name.span(), &title, help);
        }
        if let Some(address) = &backend.address {
            check_family(vip, address, problems);
            let port = value_of(&backend.port).or(value_of(&vip.port));
            let title = format!(
                "two backends of the VIP with the address {}",
                address.get_ref()
            );
            let help =
                "remove one of them, and raise the weight of the other if that is the purpose";
            addresses.add((address.get_ref(), port), address.span(), &title, help);
        }
        check_port(vip, backend, problems);
    }
}

fn check_family(vip: &TypedVip, backend: &Spanned<IpAddr>, problems: &Problems) {
    let (Some(address), Some(forward)) = (&vip.address, value_of(&vip.forward)) else {
        return;
    };
    if forward == Forward::Ipip || address.get_ref().is_ipv4() == backend.get_ref().is_ipv4() {
        return;
    }
    let (mode, fix) = match forward {
        Forward::L2 => (
            "l2",
            "use an address of the VIP's family, or `forward = \"ipip\"`",
        ),
        _ => ("nat", "use an address of the VIP's family"),
    };
    let title = format!("`forward = \"{mode}\"` needs backends of the VIP's address family");
    let family = |ip: &IpAddr| if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    let problem = Problem::new(backend.span(), title, family(backend.get_ref()), fix);
    problems.add(problem.related(address.span(), family(address.get_ref())));
}

fn check_port(vip: &TypedVip, backend: &TypedBackend, problems: &Problems) {
    let (Some(port), Some(vip_port), Some(forward)) =
        (&backend.port, &vip.port, value_of(&vip.forward))
    else {
        return;
    };
    let (title, help) = match (forward, *vip_port.get_ref()) {
        (_, 0) => (
            "a backend of an any-port VIP can't have a port",
            "remove it: packets keep the port that the client chose".to_owned(),
        ),
        (Forward::L2 | Forward::Ipip, expected) if expected != *port.get_ref() => (
            "only `forward = \"nat\"` can change the port",
            format!("remove it, or use {expected}, the VIP's port"),
        ),
        _ => return,
    };
    let problem = Problem::new(port.span(), title, "not the VIP's port", help);
    problems.add(problem.related(vip_port.span(), "the VIP's port"));
}

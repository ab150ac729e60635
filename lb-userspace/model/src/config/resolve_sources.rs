//! Checks `[sources]`, and whether what VIPs say of sources fits together.

use toml::Spanned;

use super::{
    keys::Table as _,
    model::{Sources, TypedSources},
    problem::{Problem, Problems},
    resolve::Unique,
    typed::VipTables,
    value::show_duration,
};

pub(super) fn resolve_sources(typed: &TypedSources, problems: &Problems) -> Option<Sources> {
    let sources = typed.resolve()?;
    let mut unique = Unique::new(problems);
    for server in typed.dns_servers.iter().flat_map(Spanned::get_ref) {
        let address = server.get_ref();
        let title = format!("duplicate server {address} in `sources.dns_servers`");
        unique.add(address, server.span(), &title, "remove one of them");
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

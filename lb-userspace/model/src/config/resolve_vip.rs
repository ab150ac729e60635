//! One VIP, taken together: defaults, and whether its keys and backends fit.

use std::net::IpAddr;

use toml::Spanned;

use super::{
    model::{Affinity, Backend, Forward, Fraction, Guard, Protocol, Scaling, Skew, Track, Vip},
    problem::{Problem, Problems},
    resolve::{ReadFile, Unique, or},
    resolve_health::resolve_health,
    section::Typed,
    typed,
    value::show_duration,
};
use crate::ring::RingSize;

/// The VIP that was typed; `None` when a part is not known.
pub(super) fn resolve_vip(
    typed: typed::Vip,
    read_file: ReadFile<'_>,
    problems: &Problems,
) -> Option<Vip> {
    check_backends(&typed, problems);
    check_ring(&typed, problems);
    let (protocol, forward) = (known(&typed.protocol), known(&typed.forward));
    check_track(&typed, problems);
    let port = known(&typed.port);
    let health = typed
        .health
        .map(|health| resolve_health(health, port, read_file, problems));
    let backends: Option<Vec<Backend>> = typed
        .backends
        .into_iter()
        .map(|backend| resolve_backend(backend, port))
        .collect();
    Some(Vip {
        name: typed.name?.into_inner(),
        address: typed.address?.into_inner(),
        port: port?,
        protocol: protocol?,
        forward: forward?,
        affinity: or(typed.affinity, Affinity::Flow),
        track: or(typed.track, default_track(protocol?, forward?)),
        ring_size: or(typed.ring_size, RingSize::default()),
        health: match health {
            Some(health) => Some(health?),
            None => None,
        },
        guard: Guard {
            max_share: or(typed.guard.max_share, Fraction::ALL),
            max_moved: or(typed.guard.max_moved, Fraction::ALL),
            min_backends: or(typed.guard.min_backends, 1),
        },
        scaling: resolve_scaling(typed.scaling, problems),
        skew: resolve_skew(typed.skew, problems),
        backends: backends?,
    })
}

fn resolve_scaling(typed: typed::Scaling, problems: &Problems) -> Scaling {
    let default = Scaling::default();
    let alert = typed.alert_utilisation.as_ref();
    let at = alert
        .or(typed.target_utilisation.as_ref())
        .map(Spanned::span);
    let scaling = Scaling {
        target_utilisation: or(typed.target_utilisation, default.target_utilisation),
        alert_utilisation: or(typed.alert_utilisation, default.alert_utilisation),
    };
    if let (Some(at), true) = (at, scaling.alert_utilisation < scaling.target_utilisation) {
        let (alert, target) = (scaling.alert_utilisation, scaling.target_utilisation);
        let label = format!(
            "`alert_utilisation` is {}, `target_utilisation` is {}",
            alert.as_f64(),
            target.as_f64()
        );
        let title = "`vip.scaling.alert_utilisation` is below `vip.scaling.target_utilisation`";
        let help = "an alert at what is wanted would never end: make it the same or more";
        problems.add(Problem::new(at, title, label, help));
    }
    scaling
}

fn resolve_skew(typed: typed::Skew, problems: &Problems) -> Skew {
    let default = Skew::default();
    let at = typed
        .long
        .as_ref()
        .or(typed.short.as_ref())
        .map(Spanned::span);
    let skew = Skew {
        tolerance: or(typed.tolerance, default.tolerance),
        widest_tolerance: or(typed.widest_tolerance, default.widest_tolerance),
        days_per_false_alarm: or(typed.days_per_false_alarm, default.days_per_false_alarm),
        short: or(typed.short, default.short),
        long: or(typed.long, default.long),
        least_seconds: or(typed.least_seconds, default.least_seconds),
        clear_windows: or(typed.clear_windows, default.clear_windows),
        concentration: or(typed.concentration, default.concentration),
        revision_memory: or(typed.revision_memory, default.revision_memory),
        volume_ratio: or(typed.volume_ratio, default.volume_ratio),
        bytes_floor: or(typed.bytes_floor, default.bytes_floor),
        packets_floor: or(typed.packets_floor, default.packets_floor),
        volume_for: or(typed.volume_for, default.volume_for),
        spike: or(typed.spike, default.spike),
        spike_floor: or(typed.spike_floor, default.spike_floor),
    };
    if let (Some(at), true) = (at, skew.long < 2 * skew.short) {
        let (long, short) = (show_duration(skew.long), show_duration(skew.short));
        let label = format!("`long` is {long}, `short` is {short}");
        let title = "`vip.skew.long` is less than twice `vip.skew.short`";
        let help = "the long window shows what is usual: several times the short one";
        problems.add(Problem::new(at, title, label, help));
    }
    skew
}

pub(super) fn known<T: Copy>(typed: &Typed<T>) -> Option<T> {
    typed.as_ref().map(|typed| *typed.get_ref())
}

/// UDP has no SYN to know a new flow by, and `nat` has to remember ports.
const fn default_track(protocol: Protocol, forward: Forward) -> Track {
    match (protocol, forward) {
        (_, Forward::Nat) | (Protocol::Udp, _) => Track::Always,
        (Protocol::Tcp, _) => Track::OnChange,
    }
}

fn check_track(vip: &typed::Vip, problems: &Problems) {
    let (Some(track), Some(Forward::Nat)) = (&vip.track, known(&vip.forward)) else {
        return;
    };
    if *track.get_ref() != Track::Always {
        let title = "`vip.track` must be \"always\" with `forward = \"nat\"`";
        let label = "can't be had with `nat`";
        let help = "leave `track` out: every session of `nat` is remembered, to translate replies";
        problems.add(Problem::new(track.span(), title, label, help));
    }
}

fn check_ring(vip: &typed::Vip, problems: &Problems) {
    let slots = known(&vip.ring_size).unwrap_or_default().get();
    let weighted = |backend: &&typed::Backend| known(&backend.weight) != Some(0);
    let members = vip.backends.iter().filter(weighted).count();
    let at = vip.ring_size.as_ref().map_or(vip.at.clone(), Spanned::span);
    if !vip.has_backends {
        let problem = Problem::new(
            vip.at.clone(),
            "a VIP without backends",
            "nobody would serve it",
            "add a table `[[vip.backend]]` with `name` and `address`",
        );
        problems.add(Problem {
            is_missing: true,
            ..problem
        });
    } else if members == 0 && !vip.backends.is_empty() {
        let title = "all backends of the VIP have the weight 0";
        let help = "give one of them a weight at least";
        problems.add(Problem::new(
            vip.at.clone(),
            title,
            "nobody would serve it",
            help,
        ));
    } else if members > slots as usize {
        let title = "more backends than `vip.ring_size` has slots";
        let label = format!("{members} backends, {slots} slots");
        let help = "a hundred slots for each backend make shares exact to a percent: 65537 is right \
                    for almost everybody";
        problems.add(Problem::new(at, title, label, help));
    }
}

fn check_backends(vip: &typed::Vip, problems: &Problems) {
    let mut names = Unique::new(problems);
    let mut addresses = Unique::new(problems);
    for backend in &vip.backends {
        if let Some(name) = &backend.name {
            let title = format!(
                "two backends of the VIP have the name \"{}\"",
                name.get_ref()
            );
            let help = "every backend of a VIP needs a name of its own";
            names.add(name.get_ref(), name.span(), &title, help);
        }
        if let Some(address) = &backend.address {
            check_family(vip, address, problems);
            let port = known(&backend.port).or(known(&vip.port));
            let title = format!(
                "two backends of the VIP have the address {}",
                address.get_ref()
            );
            let help = "raise the weight of one of them, and leave the other out";
            addresses.add((address.get_ref(), port), address.span(), &title, help);
        }
        check_port(vip, backend, problems);
    }
}

fn check_family(vip: &typed::Vip, backend: &Spanned<IpAddr>, problems: &Problems) {
    let (Some(address), Some(forward)) = (&vip.address, known(&vip.forward)) else {
        return;
    };
    if forward == Forward::Ipip || address.get_ref().is_ipv4() == backend.get_ref().is_ipv4() {
        return;
    }
    let (mode, fix) = match forward {
        Forward::L2 => (
            "l2",
            "an address of the VIP's family, or `forward = \"ipip\"`",
        ),
        _ => ("nat", "an address of the VIP's family"),
    };
    let title = format!("with `forward = \"{mode}\"` backends have the family of their VIP");
    let family = |ip: &IpAddr| if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    let problem = Problem::new(backend.span(), title, family(backend.get_ref()), fix);
    problems.add(problem.related(address.span(), family(address.get_ref())));
}

fn check_port(vip: &typed::Vip, backend: &typed::Backend, problems: &Problems) {
    let (Some(port), Some(vip_port), Some(forward)) =
        (&backend.port, &vip.port, known(&vip.forward))
    else {
        return;
    };
    let (title, help) = match (forward, *vip_port.get_ref()) {
        (_, 0) => (
            "a backend of an any-port VIP can't have a port",
            "leave it out: packets keep the port that the client chose".to_owned(),
        ),
        (Forward::L2 | Forward::Ipip, expected) if expected != *port.get_ref() => (
            "only `forward = \"nat\"` can change the port",
            format!("leave it out, or write {expected}, the VIP's port"),
        ),
        _ => return,
    };
    let problem = Problem::new(port.span(), title, "not the VIP's port", help);
    problems.add(problem.related(vip_port.span(), "the VIP's port"));
}

fn resolve_backend(backend: typed::Backend, vip_port: Option<u16>) -> Option<Backend> {
    Some(Backend {
        name: backend.name?.into_inner(),
        address: backend.address?.into_inner(),
        port: known(&backend.port).or(vip_port)?,
        weight: or(backend.weight, 100),
        capacity: known(&backend.capacity),
        state: or(backend.state, Default::default()),
    })
}

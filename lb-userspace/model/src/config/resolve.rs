//! Checks whether the values of a file fit together, and fills in defaults.

use std::{
    collections::HashMap,
    hash::Hash,
    io,
    net::IpAddr,
    ops::Range,
    path::{Path, PathBuf},
};

use lb_common::{nat, ring::MAX_MEMBERS, vip::MAX_VIPS};
use toml::Spanned;

use crate::nat_draws::{MIN_NAT_DRAWS, nat_draws};

use super::{
    keys::{Table, value_of},
    model::{Alerts, Config, HashSeed, Node, TypedAlerts, TypedNode},
    problem::{Problem, Problems},
    reader::Typed,
    resolve_announce::resolve_announce,
    resolve_fleet::resolve_fleet,
    resolve_limit::PrefixLists,
    resolve_sources::resolve_sources,
    resolve_vip::resolve_vip,
    typed::{self, VipTables},
    value::{
        Parsed, Wrong, show_duration,
        texts::{parse_hash_seed, parse_webhook_secret},
    },
};

/// Reads a file that the configuration names.
pub type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

/// The configuration that a file means; to be used only if no problem was found.
pub(super) fn resolve(
    file: &typed::File,
    read_file: ReadFile<'_>,
    problems: &Problems,
) -> Option<Config> {
    check_vips(&file.vips, problems);
    if let Some(node) = &file.node {
        check_nat_sources(node, &file.vips, problems);
    }
    let lists = PrefixLists::new(read_file, problems);
    let vips: Vec<_> = file
        .vips
        .iter()
        .map(|vip| resolve_vip(vip, read_file, &lists, problems))
        .collect();
    let alerts = resolve_alerts(&file.alerts, read_file, problems);
    let announce = file.announce.as_ref();
    let announce = announce.map(|tables| resolve_announce(tables, read_file, problems));
    let fleet = file.fleet.as_ref();
    let fleet = fleet.map(|fleet| resolve_fleet(fleet, problems));
    Some(Config {
        node: resolve_node(file.node.as_ref()?, read_file, problems)?,
        api: file.api.resolve()?,
        change: file.change.resolve()?,
        metrics: file.metrics.resolve()?,
        alerts: alerts?,
        announce: match announce {
            Some(announce) => Some(announce?),
            None => None,
        },
        fleet: match fleet {
            Some(fleet) => Some(fleet?),
            None => None,
        },
        sources: resolve_sources(&file.sources, problems)?,
        vips: vips.into_iter().collect::<Option<_>>()?,
    })
}

/// Finds duplicates of what must be unique.
pub(super) struct Unique<'a, T> {
    seen: HashMap<T, Range<usize>>,
    problems: &'a Problems,
}

impl<'a, T: Eq + Hash> Unique<'a, T> {
    pub(super) fn new(problems: &'a Problems) -> Self {
        Self {
            seen: HashMap::new(),
            problems,
        }
    }

    /// Adds a value; a second equal one is a problem.
    pub(super) fn add(&mut self, value: T, span: Range<usize>, title: &str, help: &str) {
        if let Some(first) = self.seen.get(&value) {
            let problem = Problem::new(span, title, "duplicate", help);
            self.problems
                .add(problem.related(first.clone(), "first used here"));
        } else {
            self.seen.insert(value, span);
        }
    }
}

fn check_vips(vips: &[VipTables], problems: &Problems) {
    let mut names = Unique::new(problems);
    let mut services = Unique::new(problems);
    for VipTables { vip, .. } in vips {
        if let Some(name) = &vip.name {
            let title = format!("duplicate VIP name \"{}\"", name.get_ref());
            names.add(
                name.get_ref(),
                name.span(),
                &title,
                "VIP names must be unique",
            );
        }
        if let (Some(address), Some(port), Some(protocol)) =
            (&vip.address, &vip.port, &vip.protocol)
        {
            let (ip, protocol) = (*address.get_ref(), *protocol.get_ref());
            let port = *port.get_ref();
            let shown = match port {
                0 => "any port".to_owned(),
                port => format!("port {port}"),
            };
            let title = format!("two VIPs with the address {ip}, {protocol}, {shown}");
            let help = "put all backends into one VIP, or use another address or port";
            services.add((ip, protocol, port), address.span(), &title, help);
        }
    }
    check_numbers(vips, problems);
    check_backends_are_not_vips(vips, problems);
}

fn check_numbers(vips: &[VipTables], problems: &Problems) {
    if let Some(vip) = vips.get(MAX_VIPS as usize) {
        let label = format!("this is number {}", MAX_VIPS + 1);
        let help = format!("must be at most {MAX_VIPS} per node; spread them over several nodes");
        problems.add(Problem::new(vip.vip.at(), "too many VIPs", label, help));
    }
    let mut backends = vips.iter().flat_map(|vip| &vip.backends);
    if let Some(backend) = backends.nth(MAX_MEMBERS as usize) {
        let label = format!("this is number {}", MAX_MEMBERS + 1);
        let help = format!(
            "must be at most {MAX_MEMBERS} per node, of all VIPs together; spread the VIPs over several \
             nodes"
        );
        problems.add(Problem::new(backend.at(), "too many backends", label, help));
    }
}

/// The addresses of the VIPs, with their places.
fn vip_addresses(vips: &[VipTables]) -> HashMap<IpAddr, Range<usize>> {
    let addresses = vips.iter().filter_map(|vip| vip.vip.address.as_ref());
    addresses
        .map(|address| (*address.get_ref(), address.span()))
        .collect()
}

fn backend_addresses(vips: &[VipTables]) -> HashMap<IpAddr, Range<usize>> {
    let backends = vips.iter().flat_map(|vip| &vip.backends);
    backends
        .filter_map(|backend| backend.address.as_ref())
        .map(|address| (*address.get_ref(), address.span()))
        .collect()
}

fn check_backends_are_not_vips(vips: &[VipTables], problems: &Problems) {
    let addresses = vip_addresses(vips);
    for backend in vips.iter().flat_map(|vip| &vip.backends) {
        let Some(address) = &backend.address else {
            continue;
        };
        let Some(vip) = addresses.get(address.get_ref()) else {
            continue;
        };
        let title = format!("the backend has the address {} of a VIP", address.get_ref());
        let help = "use the backend's own address, at which the balancer can reach it";
        let problem = Problem::new(address.span(), title, "would loop packets", help);
        problems.add(problem.related(vip.clone(), "the VIP"));
    }
}

fn check_nat_sources(node: &TypedNode, vips: &[VipTables], problems: &Problems) {
    let Some(sources) = &node.nat_source else {
        return;
    };
    let addresses = vip_addresses(vips);
    let backends = backend_addresses(vips);
    let mut unique = Unique::new(problems);
    for source in sources.get_ref() {
        let ip = source.get_ref();
        let title = format!("duplicate address {ip} in `node.nat_source`");
        unique.add(ip, source.span(), &title, "remove one of them");
        if let Some(vip) = addresses.get(ip) {
            let title = format!("`node.nat_source` contains {ip}, the address of a VIP");
            let help = "must be an address of this node: backends reply to it";
            let problem = Problem::new(
                source.span(),
                title,
                "replies would be handled as requests",
                help,
            );
            problems.add(problem.related(vip.clone(), "the VIP"));
        } else if let Some(backend) = backends.get(ip) {
            let title = format!("`node.nat_source` contains {ip}, the address of a backend");
            let help = "must be an address of this node: backends reply to it";
            let label = "the backend would reply to itself";
            let problem = Problem::new(source.span(), title, label, help);
            problems.add(problem.related(backend.clone(), "the backend"));
        }
    }
    if let Some(source) = sources.get_ref().get(nat::MAX_NAT_SOURCES as usize) {
        let max = nat::MAX_NAT_SOURCES;
        let help = format!("must be at most {max} addresses");
        let label = format!("this is number {}", max + 1);
        problems.add(Problem::new(
            source.span(),
            "too many addresses in `node.nat_source`",
            label,
            help,
        ));
    }
}

fn resolve_node(typed: &TypedNode, read_file: ReadFile<'_>, problems: &Problems) -> Option<Node> {
    check_interfaces(typed, problems);
    check_encap_sources(typed, problems);
    let hash_seed = resolve_hash_seed(typed, read_file, problems);
    // Times are checked even if the seed is not known: any will do for that.
    let node = typed.resolve((hash_seed.unwrap_or(HashSeed::new([0; 16])),))?;
    check_times(typed, &node, problems);
    check_nat_share(typed, &node, problems);
    hash_seed.map(|_| node)
}

fn check_interfaces(node: &TypedNode, problems: &Problems) {
    let Some(interfaces) = &node.interfaces else {
        return;
    };
    let mut unique = Unique::new(problems);
    for interface in interfaces.get_ref() {
        let title = format!(
            "duplicate interface \"{}\" in `node.interfaces`",
            interface.get_ref()
        );
        unique.add(
            interface.get_ref(),
            interface.span(),
            &title,
            "remove one of them",
        );
    }
    if interfaces.get_ref().is_empty() {
        let help = "the interfaces on which packets for VIPs arrive: `interfaces = [\"eth0\"]`";
        let label = "no interfaces";
        problems.add(Problem::new(
            interfaces.span(),
            "`node.interfaces` is empty",
            label,
            help,
        ));
    }
}

/// A flow that is removed while its slot is in transition would go to another backend.
fn check_times(typed: &TypedNode, node: &Node, problems: &Problems) {
    let (idle, ttl) = (node.track_idle, node.transition_ttl);
    let at = typed.span("track_idle").or(typed.span("transition_ttl"));
    if let (Some(at), true) = (at, idle < ttl) {
        let (idle, ttl) = (show_duration(idle), show_duration(ttl));
        let label = format!("`track_idle` is {idle}, `transition_ttl` is {ttl}");
        let help = "`track_idle` must be at least `transition_ttl`: a flow that is removed during a \
                    transition goes to another backend";
        let title = "`node.track_idle` is shorter than `node.transition_ttl`";
        problems.add(Problem::new(at, title, label, help));
    }
}

fn check_nat_share(typed: &TypedNode, node: &Node, problems: &Problems) {
    let ports = node.nat_ports.len();
    let draws = nat_draws(node.nat_source_share.as_f64(), ports as u16);
    if let (Some(at), 1..MIN_NAT_DRAWS) = (typed.span("nat_source_share"), draws) {
        let label = format!("about {draws} of {ports} ports for the clients of one address");
        let help = format!("must be at least {MIN_NAT_DRAWS} ports");
        let title = "`node.nat_source_share` is too small";
        problems.add(Problem::new(at, title, label, help));
    }
}

fn check_encap_sources(node: &TypedNode, problems: &Problems) {
    let mut families = Unique::new(problems);
    for prefix in node.encap_source.iter().flat_map(Spanned::get_ref) {
        let title = "two prefixes of one family in `node.encap_source`";
        let help = "must be at most one prefix for IPv4 and one for IPv6";
        let is_ipv4 = prefix.get_ref().address().is_ipv4();
        families.add(is_ipv4, prefix.span(), title, help);
    }
}

fn resolve_hash_seed(
    node: &TypedNode,
    read_file: ReadFile<'_>,
    problems: &Problems,
) -> Option<HashSeed> {
    if let (Some(seed), Some(file)) = (&node.hash_seed, &node.hash_seed_file) {
        let title = "both `node.hash_seed` and `node.hash_seed_file` are set";
        let problem = Problem::new(file.span(), title, "and here", "remove one of them");
        problems.add(problem.related(seed.span(), "here"));
        return None;
    }
    let help = "32 hex digits";
    let from_file = || {
        read_secret(
            ("seed", help),
            &node.hash_seed_file,
            read_file,
            parse_hash_seed,
            problems,
        )
    };
    value_of(&node.hash_seed).or_else(from_file)
}

fn resolve_alerts(
    alerts: &TypedAlerts,
    read_file: ReadFile<'_>,
    problems: &Problems,
) -> Option<Alerts> {
    let file = &alerts.webhook_secret_file;
    let help = "at least 16 characters";
    let secret = read_secret(
        ("secret", help),
        file,
        read_file,
        parse_webhook_secret,
        problems,
    );
    alerts.resolve((secret,))
}

/// Reads a secret from a file; `what` names it and what the file must hold.
pub(super) fn read_secret<T>(
    (what, content): (&str, &str),
    file: &Typed<PathBuf>,
    read_file: ReadFile<'_>,
    parse: fn(&str) -> Parsed<T>,
    problems: &Problems,
) -> Option<T> {
    let file = file.as_ref()?;
    let path = file.get_ref();
    let wrong = match read_file(path).map(|text| parse(text.trim())) {
        Ok(Ok(secret)) => return Some(secret),
        Ok(Err(wrong)) => wrong,
        Err(error) => Wrong {
            label: error.to_string(),
            help: format!(
                "must be a file that this user can read, with {content}; a relative path starts at \
                 the directory of the configuration file"
            ),
        },
    };
    let title = format!("can't use the {what} in {}", path.display());
    problems.add(Problem::new(file.span(), title, wrong.label, wrong.help));
    None
}

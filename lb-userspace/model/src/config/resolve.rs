//! What was typed, taken together: defaults, and whether things fit.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use lb_common::{nat, ring::MAX_MEMBERS, track, vip::MAX_VIPS};
use toml::Spanned;

use super::{
    model::{Alerts, Api, ChangeSettings, Config, HashSeed, Metrics, Node, Prefix, Secret},
    problem::{Problem, Problems},
    resolve_vip::resolve_vip,
    section::Typed,
    typed,
    value::{Parsed, Wrong, parse_hash_seed, parse_webhook_secret, show_duration},
};

/// Reads a file that the configuration names.
pub(super) type ReadFile<'a> = &'a dyn Fn(&Path) -> std::io::Result<String>;

/// The typed value, or the default.
pub(super) fn or<T>(typed: Typed<T>, default: T) -> T {
    typed.map_or(default, Spanned::into_inner)
}

/// The configuration that a file means. Anything but `None` is worth nothing once there are
/// problems.
pub(super) fn resolve(
    file: typed::File,
    read_file: ReadFile<'_>,
    problems: &Problems,
) -> Option<Config> {
    check_vips(&file.vips, problems);
    if let Some(node) = &file.node {
        check_nat_sources(node, &file.vips, problems);
    }
    let vips: Vec<_> = file
        .vips
        .into_iter()
        .map(|vip| resolve_vip(vip, read_file, problems))
        .collect();
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 9477));
    let defaults = Alerts::default();
    Some(Config {
        node: resolve_node(file.node?, read_file, problems)?,
        api: Api {
            socket: or(file.api_socket, PathBuf::from("/run/evenkeel/api.sock")),
            group: file.api_group.map(Spanned::into_inner),
        },
        change: ChangeSettings {
            bake: or(file.bake, Duration::from_secs(30)),
        },
        metrics: Metrics {
            listen: or(file.metrics_listen, listen),
        },
        alerts: Alerts {
            webhook_secret: resolve_webhook_secret(
                file.webhook_secret_file.as_ref(),
                read_file,
                problems,
            ),
            alertmanager: plain(file.alertmanager),
            webhook: plain(file.webhook),
            resend: or(file.resend, defaults.resend),
            escalate_after: match file.escalate_after {
                Some(after) => Some(after.into_inner()).filter(|after| !after.is_zero()),
                None => defaults.escalate_after,
            },
        },
        vips: vips.into_iter().collect::<Option<_>>()?,
    })
}

fn plain<T>(list: Typed<Vec<Spanned<T>>>) -> Vec<T> {
    list.map_or_else(Vec::new, Spanned::into_inner)
        .into_iter()
        .map(Spanned::into_inner)
        .collect()
}

/// Finds what is there twice. `T` compares what must differ.
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

    /// Notes a value; a second one of the same is a problem.
    pub(super) fn add(&mut self, value: T, span: Range<usize>, title: &str, help: &str) {
        if let Some(first) = self.seen.get(&value) {
            let problem = Problem::new(span, title, "again here", help);
            self.problems
                .add(problem.related(first.clone(), "first here"));
        } else {
            self.seen.insert(value, span);
        }
    }
}

fn check_vips(vips: &[typed::Vip], problems: &Problems) {
    let mut names = Unique::new(problems);
    let mut services = Unique::new(problems);
    for vip in vips {
        if let Some(name) = &vip.name {
            let title = format!("two VIPs have the name \"{}\"", name.get_ref());
            names.add(
                name.get_ref(),
                name.span(),
                &title,
                "every VIP needs a name of its own",
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
            let title = format!("two VIPs have the address {ip}, {protocol}, {shown}");
            let help = "put all backends into one VIP, or give it another address or port";
            services.add((ip, protocol, port), address.span(), &title, help);
        }
    }
    check_numbers(vips, problems);
    check_backends_are_not_vips(vips, problems);
}

fn check_numbers(vips: &[typed::Vip], problems: &Problems) {
    if let Some(vip) = vips.get(MAX_VIPS as usize) {
        let label = format!("this is number {}", MAX_VIPS + 1);
        let help = format!("a node can have {MAX_VIPS} VIPs; spread them over several nodes");
        problems.add(Problem::new(vip.at.clone(), "too many VIPs", label, help));
    }
    let mut backends = vips.iter().flat_map(|vip| &vip.backends);
    if let Some(backend) = backends.nth(MAX_MEMBERS as usize) {
        let label = format!("this is number {}", MAX_MEMBERS + 1);
        let help = format!(
            "a node can have {MAX_MEMBERS} members (backends of all VIPs together); spread the VIPs \
             over several nodes"
        );
        problems.add(Problem::new(
            backend.at.clone(),
            "too many backends",
            label,
            help,
        ));
    }
}

/// Where the VIPs' addresses are.
fn vip_addresses(vips: &[typed::Vip]) -> HashMap<IpAddr, Range<usize>> {
    let addresses = vips.iter().filter_map(|vip| vip.address.as_ref());
    addresses
        .map(|address| (*address.get_ref(), address.span()))
        .collect()
}

fn backend_addresses(vips: &[typed::Vip]) -> HashMap<IpAddr, Range<usize>> {
    let backends = vips.iter().flat_map(|vip| &vip.backends);
    backends
        .filter_map(|backend| backend.address.as_ref())
        .map(|address| (*address.get_ref(), address.span()))
        .collect()
}

fn check_backends_are_not_vips(vips: &[typed::Vip], problems: &Problems) {
    let addresses = vip_addresses(vips);
    for backend in vips.iter().flat_map(|vip| &vip.backends) {
        let Some(address) = &backend.address else {
            continue;
        };
        let Some(vip) = addresses.get(address.get_ref()) else {
            continue;
        };
        let title = format!(
            "the backend's address {} is that of a VIP",
            address.get_ref()
        );
        let help = "give the backend's own address, where it can be reached without the balancer";
        let problem = Problem::new(
            address.span(),
            title,
            "packets would go round in circles",
            help,
        );
        problems.add(problem.related(vip.clone(), "the VIP"));
    }
}

fn check_nat_sources(node: &typed::Node, vips: &[typed::Vip], problems: &Problems) {
    let Some(sources) = &node.nat_source else {
        return;
    };
    let addresses = vip_addresses(vips);
    let backends = backend_addresses(vips);
    let mut unique = Unique::new(problems);
    for source in sources.get_ref() {
        let ip = source.get_ref();
        let title = format!("`node.nat_source` has {ip} twice");
        unique.add(ip, source.span(), &title, "leave one of them out");
        if let Some(vip) = addresses.get(ip) {
            let title = format!("`node.nat_source` has {ip}, the address of a VIP");
            let help = "an address of the node's own: replies of backends come back to it";
            let problem = Problem::new(
                source.span(),
                title,
                "replies would be taken for requests",
                help,
            );
            problems.add(problem.related(vip.clone(), "the VIP"));
        } else if let Some(backend) = backends.get(ip) {
            let title = format!("`node.nat_source` has {ip}, the address of a backend");
            let help = "an address of the node's own: replies of backends come back to it";
            let label = "the backend would answer itself";
            let problem = Problem::new(source.span(), title, label, help);
            problems.add(problem.related(backend.clone(), "the backend"));
        }
    }
    if let Some(source) = sources.get_ref().get(nat::MAX_NAT_SOURCES as usize) {
        let max = nat::MAX_NAT_SOURCES;
        let help = format!("{max} addresses are possible; each has its own ports");
        let label = format!("this is number {}", max + 1);
        problems.add(Problem::new(
            source.span(),
            "too many `node.nat_source`",
            label,
            help,
        ));
    }
}

fn resolve_node(node: typed::Node, read_file: ReadFile<'_>, problems: &Problems) -> Option<Node> {
    check_interfaces(&node, problems);
    let ttl = Duration::from_secs(15 * 60);
    let idle = Duration::from_secs(3600);
    check_times(&node, ttl, idle, problems);
    let prefixes = encap_sources(node.encap_source.as_ref(), problems);
    let hash_seed = resolve_hash_seed(&node, read_file, problems);
    Some(Node {
        interfaces: plain(node.interfaces),
        xdp_mode: or(node.xdp_mode, Default::default()),
        state_dir: or(node.state_dir, PathBuf::from("/var/lib/evenkeel")),
        hash_seed: hash_seed?,
        encap_source_v4: prefixes
            .iter()
            .copied()
            .find(|prefix| prefix.address().is_ipv4()),
        encap_source_v6: prefixes
            .iter()
            .copied()
            .find(|prefix| prefix.address().is_ipv6()),
        nat_sources: plain(node.nat_source),
        nat_ports: or(node.nat_ports, 16_384..=32_767),
        transition_ttl: or(node.transition_ttl, ttl),
        track_idle: or(node.track_idle, idle),
        track_flows: or(
            node.track_flows,
            track::DEFAULT_BUCKETS * track::WAYS as u32,
        ),
        nat_sessions: or(node.nat_sessions, nat::DEFAULT_SESSIONS),
        sample: or(node.sample, 1),
    })
}

fn check_interfaces(node: &typed::Node, problems: &Problems) {
    let Some(interfaces) = &node.interfaces else {
        return;
    };
    let mut unique = Unique::new(problems);
    for interface in interfaces.get_ref() {
        let title = format!("`node.interfaces` has \"{}\" twice", interface.get_ref());
        unique.add(
            interface.get_ref(),
            interface.span(),
            &title,
            "leave one of them out",
        );
    }
    if interfaces.get_ref().is_empty() {
        let help = "the interfaces that packets come in by, as in `[\"eth0\"]`";
        let label = "there is no interface in it";
        problems.add(Problem::new(
            interfaces.span(),
            "`node.interfaces` is empty",
            label,
            help,
        ));
    }
}

/// An entry that is forgotten while its slot is in transition would send the flow back to the
/// previous member.
fn check_times(node: &typed::Node, ttl: Duration, idle: Duration, problems: &Problems) {
    let typed = node.track_idle.as_ref().or(node.transition_ttl.as_ref());
    let value = |typed: &Typed<Duration>, default| typed.as_ref().map_or(default, |t| *t.get_ref());
    let (idle, ttl) = (
        value(&node.track_idle, idle),
        value(&node.transition_ttl, ttl),
    );
    if let (Some(typed), true) = (typed, idle < ttl) {
        let (idle, ttl) = (show_duration(idle), show_duration(ttl));
        let label = format!("`track_idle` is {idle}, `transition_ttl` is {ttl}");
        let help = "`track_idle` must be as long as `transition_ttl` at least: a flow that is \
                    forgotten during a transition is sent to another member";
        let title = "`node.track_idle` is shorter than `node.transition_ttl`";
        problems.add(Problem::new(typed.span(), title, label, help));
    }
}

fn encap_sources(
    typed: Option<&Spanned<Vec<Spanned<Prefix>>>>,
    problems: &Problems,
) -> Vec<Prefix> {
    let prefixes = typed.map_or(&[][..], |typed| typed.get_ref());
    let mut families = Unique::new(problems);
    for prefix in prefixes {
        let title = "`node.encap_source` has two prefixes of one family";
        let help = "one prefix for IPv4 and one for IPv6 is possible";
        families.add(
            prefix.get_ref().address().is_ipv4(),
            prefix.span(),
            title,
            help,
        );
    }
    prefixes.iter().map(|prefix| *prefix.get_ref()).collect()
}

fn resolve_hash_seed(
    node: &typed::Node,
    read_file: ReadFile<'_>,
    problems: &Problems,
) -> Option<HashSeed> {
    let file = match (&node.hash_seed, &node.hash_seed_file) {
        (Some(seed), Some(file)) => {
            let title = "`node.hash_seed` and `node.hash_seed_file` are both there";
            let problem = Problem::new(file.span(), title, "and here", "leave one of them out");
            problems.add(problem.related(seed.span(), "here"));
            return None;
        }
        (Some(seed), None) => return Some(*seed.get_ref()),
        (None, file) => file.as_ref()?,
    };
    read_secret("seed", file, read_file, parse_hash_seed, problems)
}

fn resolve_webhook_secret(
    file: Option<&Spanned<PathBuf>>,
    read_file: ReadFile<'_>,
    problems: &Problems,
) -> Option<Secret> {
    read_secret("secret", file?, read_file, parse_webhook_secret, problems)
}

/// What a file that the configuration names has in it.
fn read_secret<T>(
    what: &str,
    file: &Spanned<PathBuf>,
    read_file: ReadFile<'_>,
    parse: fn(&str) -> Parsed<T>,
    problems: &Problems,
) -> Option<T> {
    let path = file.get_ref();
    let wrong = match read_file(path).map(|text| parse(text.trim())) {
        Ok(Ok(secret)) => return Some(secret),
        Ok(Err(wrong)) => wrong,
        Err(error) => Wrong {
            label: error.to_string(),
            help: format!(
                "a file that this user can read, with {} in it; a relative path begins at the \
                 folder of the configuration file",
                match what {
                    "seed" => "32 hex digits",
                    _ => "16 characters at least",
                }
            ),
        },
    };
    let title = format!("the {what} in {} can't be used", path.display());
    problems.add(Problem::new(file.span(), title, wrong.label, wrong.help));
    None
}

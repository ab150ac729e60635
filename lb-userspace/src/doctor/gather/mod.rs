//! Reads the state of the host. What cannot be read stays unknown and is not an error.

mod links;
mod peers;
mod system;
mod xdp_features;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    time::Duration,
};

use super::{Host, Interface, Ports};
use lb_daemon::{
    nexthop::{self, NextHopError, NextHopState, Resolver, UnresolvedReason},
    reconciler::ports,
};
use lb_dataplane::Pins;
use lb_model::config::{Config, Forward};

/// Timeout of neighbour resolution: the kernel gives up after three seconds.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(4);

/// Timeout of the question to the announcer, which answers at once.
const ANNOUNCER_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatherError {
    #[error(
        "cannot open a netlink socket: {0}; check whether a security module or container forbids it"
    )]
    Connect(#[source] std::io::Error),
    #[error("cannot read interfaces and addresses by rtnetlink: {0}; try again")]
    Read(#[source] rtnetlink::Error),
    #[error(transparent)]
    NextHop(#[from] NextHopError),
}

/// Reads the state of the host in the network namespace of the calling thread, and resolves the next
/// hops of a configuration's backends. Takes a few seconds if backends do not answer. Must be called
/// within a tokio runtime.
///
/// # Errors
///
/// Interfaces, addresses or routes cannot be read.
pub async fn gather(config: Option<&Config>, bpffs: &Path) -> Result<Host, GatherError> {
    let (interfaces, addresses) = links::read().await?;
    let next_hops = match config {
        Some(config) => next_hops(config).await?,
        None => nexthop::NextHops::new(),
    };
    let announcer = match config.and_then(|config| config.announce.as_ref()) {
        Some(announce) => Some(ask_announcer(&announce.socket).await),
        None => None,
    };
    let ports = config
        .filter(|config| config.vips.iter().any(|vip| vip.forward == Forward::Nat))
        .map(|config| read_ports(config, &next_hops));
    Ok(Host {
        kernel: system::kernel(),
        btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        jit: sysctl("net.core.bpf_jit_enable").and_then(|value| value.parse().ok()),
        trial: system::trial(),
        capabilities: system::capabilities(),
        memlock: system::memlock(),
        cpus: system::cpus(),
        bpffs: system::bpffs(bpffs),
        pinned: Pins::at(bpffs).interfaces().unwrap_or_default(),
        clock_synchronised: system::clock_synchronised(),
        sysctls: sysctls(&interfaces),
        announcer,
        sources: Vec::new(),
        state_dir: config.map(|config| system::directory(&config.node.state_dir)),
        interfaces,
        addresses,
        next_hops,
        ports,
    })
}

async fn ask_announcer(socket: &Path) -> Result<lb_api::AnnounceStatus, String> {
    let client = lb_api::client::Client::new(socket).with_timeout(ANNOUNCER_TIMEOUT);
    let status = client.announce_status().await;
    status.map_err(|error| error.of_announcer())
}

fn sysctl(name: &str) -> Option<String> {
    // Names of interfaces may contain dots.
    let path = Path::new("/proc/sys").join(match name.rsplit_once(".conf.") {
        Some((family, rest)) => {
            let (interface, key) = rest.rsplit_once('.')?;
            format!("{}/conf/{interface}/{key}", family.replace('.', "/"))
        }
        None => name.replace('.', "/"),
    });
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

fn sysctls(interfaces: &[Interface]) -> BTreeMap<String, String> {
    let filters = interfaces
        .iter()
        .map(|interface| interface.name.as_str())
        .chain(["all"])
        .map(|name| format!("net.ipv4.conf.{name}.rp_filter"));
    let names = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"]
        .into_iter()
        .map(str::to_owned)
        .chain(filters);
    names
        .filter_map(|name| Some((sysctl(&name)?, name)))
        .map(|(value, name)| (name, value))
        .collect()
}

/// Resolves the next hops of all backends and waits until each is resolved or has failed.
async fn next_hops(config: &Config) -> Result<nexthop::NextHops, NextHopError> {
    let backends = config.vips.iter().flat_map(|vip| &vip.backends);
    let wanted: BTreeSet<IpAddr> = backends.map(|backend| backend.address).collect();
    let resolver = Resolver::start(wanted.iter().copied())?;
    let mut table = resolver.watch();
    let settled = |table: &nexthop::NextHops| {
        wanted.iter().all(|address| match table.get(address) {
            None | Some(NextHopState::Unresolved(UnresolvedReason::Resolving { .. })) => false,
            Some(_) => true,
        })
    };
    // After the timeout, the current states are reported.
    let _ = tokio::time::timeout(RESOLVE_TIMEOUT, table.wait_for(settled)).await;
    let known = table.borrow().clone();
    Ok(known)
}

fn read_ports(config: &Config, next_hops: &nexthop::NextHops) -> Ports {
    let configured = config.node.nat_source.iter().copied();
    let routes = next_hops.values().filter_map(NextHopState::resolved);
    let sources: Vec<IpAddr> = configured
        .chain(routes.filter_map(|route| route.source))
        .collect();
    let conflict = ports::check_sockets(&sources, &config.node.nat_ports)
        .err()
        .map(|error| error.to_string());
    let range = sysctl("net.ipv4.ip_local_port_range").and_then(|text| {
        let mut numbers = text.split_whitespace().map(str::parse);
        Some(numbers.next()?.ok()?..=numbers.next()?.ok()?)
    });
    Ports {
        // The kernel's default.
        local: range.unwrap_or(32_768..=60_999),
        reserved: ports::read_reserved().unwrap_or_default(),
        conflict,
    }
}

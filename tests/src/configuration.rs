//! The configuration of a balancer node, as values that a test can change and write as TOML.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use crate::host::Host;

/// The tables `[node]` and `[api]` of a node whose files are in `directory`.
pub fn node_tables(directory: &Path, xdp_mode: &str) -> String {
    let directory = directory.display();
    format!(
        "[node]
interfaces = [\"eth0\"]
xdp_mode = \"{xdp_mode}\"
state_dir = \"{directory}/state\"
hash_seed = \"5eed0123456789abcdef5eed01234567\"

[api]
socket = \"{directory}/api.sock\"
"
    )
}

/// Forwarding mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Forward {
    L2,
    Ipip,
    Nat,
}

impl Forward {
    pub fn name(self) -> &'static str {
        match self {
            Self::L2 => "l2",
            Self::Ipip => "ipip",
            Self::Nat => "nat",
        }
    }

    /// Returns whether backends hold the VIP and reply to clients directly (direct server return).
    pub fn is_direct(self) -> bool {
        self != Self::Nat
    }
}

/// Configured state of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    #[default]
    Up,
    Drain,
    Disabled,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Drain => "drain",
            Self::Disabled => "disabled",
        }
    }
}

/// A `[[vip.backend]]` table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub name: String,
    pub address: IpAddr,
    /// Port, if it differs from the VIP's.
    pub port: Option<u16>,
    pub weight: u32,
    pub state: State,
}

impl Backend {
    /// Returns the weight, or 0 unless the backend is up.
    pub fn effective_weight(&self) -> u32 {
        match self.state {
            State::Up => self.weight,
            State::Drain | State::Disabled => 0,
        }
    }
}

/// A `[vip.health]` table. Keys without a field keep their defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    pub kind: String,
    pub via: String,
    pub interval: String,
    pub timeout: String,
    pub rise: u32,
    pub fall: u32,
}

impl Health {
    /// Creates frequent checks with a timeout long enough for a busy machine.
    pub fn new(kind: &str, via: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            via: via.to_owned(),
            interval: "1s".to_owned(),
            timeout: "900ms".to_owned(),
            rise: 2,
            fall: 3,
        }
    }
}

/// A `[vip.guard]` table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guard {
    pub max_share: f64,
    pub max_moved: f64,
    pub min_backends: u32,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            max_share: 1.0,
            max_moved: 1.0,
            min_backends: 1,
        }
    }
}

/// A `[[vip]]` table.
#[derive(Clone, Debug, PartialEq)]
pub struct Vip {
    pub name: String,
    pub at: SocketAddr,
    /// For UDP, not TCP.
    pub udp: bool,
    pub forward: Forward,
    /// How backends are checked, if they are.
    pub health: Option<Health>,
    /// What a change may not do.
    pub guard: Guard,
    /// Keys of its `limit`, as in an inline table; none without.
    pub limit: String,
    /// Keys of its `bound`, likewise.
    pub bound: String,
    /// Whether the source alone selects the backend.
    pub source_affinity: bool,
    /// The backends.
    pub backends: Vec<Backend>,
}

impl Vip {
    /// The backend with this name.
    ///
    /// # Panics
    /// If there is none.
    pub fn backend(&mut self, name: &str) -> &mut Backend {
        let found = self.backends.iter_mut().find(|b| b.name == name);
        found.unwrap_or_else(|| panic!("no backend {name} in {}", self.name))
    }

    /// What share of new flows each backend is to get, in their order.
    pub fn intended_shares(&self) -> Vec<f64> {
        let weights = self.backends.iter().map(Backend::effective_weight);
        let total: u32 = weights.clone().sum();
        weights
            .map(|weight| f64::from(weight) / f64::from(total.max(1)))
            .collect()
    }
}

/// The whole file.
#[derive(Clone, Debug, PartialEq)]
pub struct Configuration {
    /// `interfaces`.
    pub interfaces: Vec<String>,
    /// `hash_seed`: the same on nodes that share VIPs.
    pub hash_seed: String,
    /// `nat_source`.
    pub nat_source: Vec<IpAddr>,
    /// `transition_ttl`.
    pub transition_ttl: String,
    /// `track_flows`, if it is not the default.
    pub track_flows: Option<u32>,
    /// `bake` of `[change]`: how long a change is watched that does not say so itself.
    pub bake: String,
    /// The VIPs.
    pub vips: Vec<Vip>,
    /// Further tables, as text.
    pub more: String,
}

impl Configuration {
    /// Creates a configuration without VIPs for all interfaces of a host. `nat` uses the addresses of the last.
    pub fn new(host: &Host) -> Self {
        let nat_source = host.ports.last().map_or_else(Vec::new, |port| {
            vec![IpAddr::V4(port.ipv4), IpAddr::V6(port.ipv6)]
        });
        Self {
            interfaces: host
                .ports
                .iter()
                .map(|port| port.interface.clone())
                .collect(),
            hash_seed: "5eed0123456789abcdef5eed01234567".to_owned(),
            nat_source,
            transition_ttl: "15m".to_owned(),
            track_flows: None,
            bake: "0s".to_owned(),
            vips: Vec::new(),
            more: String::new(),
        }
    }

    /// Returns the VIP with this name.
    ///
    /// # Panics
    /// If there is none.
    pub fn vip(&mut self, name: &str) -> &mut Vip {
        let found = self.vips.iter_mut().find(|vip| vip.name == name);
        found.unwrap_or_else(|| panic!("no VIP {name}"))
    }

    /// Changes the backend with this name in every VIP that has it.
    pub fn change_backend(&mut self, name: &str, mut change: impl FnMut(&mut Backend)) {
        let backends = self.vips.iter_mut().flat_map(|vip| &mut vip.backends);
        backends
            .filter(|backend| backend.name == name)
            .for_each(&mut change);
    }

    /// Returns a copy with the VIPs of a parsed configuration, without guards, limits and health checks.
    pub fn with_vips_of(&self, config: &lb_model::config::Config) -> Self {
        use lb_model::config;
        let backend = |backend: &config::Backend, vip: &config::Vip| Backend {
            name: backend.name.clone(),
            address: backend.address,
            port: Some(backend.port).filter(|port| *port != vip.port),
            weight: backend.weight,
            state: match backend.state {
                config::BackendState::Up => State::Up,
                config::BackendState::Drain => State::Drain,
                config::BackendState::Disabled => State::Disabled,
            },
        };
        let vips = config.vips.iter().map(|vip| Vip {
            name: vip.name.clone(),
            at: SocketAddr::new(vip.address, vip.port),
            udp: vip.protocol == config::Protocol::Udp,
            forward: match vip.forward {
                config::Forward::L2 => Forward::L2,
                config::Forward::Ipip => Forward::Ipip,
                config::Forward::Nat => Forward::Nat,
            },
            health: None,
            guard: Guard::default(),
            limit: String::new(),
            bound: String::new(),
            source_affinity: false,
            backends: vip.backends.iter().map(|b| backend(b, vip)).collect(),
        });
        Self {
            vips: vips.collect(),
            ..self.clone()
        }
    }

    /// Renders the file of a node whose files are in `directory`.
    pub fn to_toml(&self, directory: &Path) -> String {
        Toml {
            configuration: self,
            directory,
        }
        .to_string()
    }
}

struct Toml<'a> {
    configuration: &'a Configuration,
    directory: &'a Path,
}

impl fmt::Display for Toml<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let configuration = self.configuration;
        let directory = self.directory.display();
        writeln!(f, "[node]")?;
        writeln!(f, "interfaces = {:?}", configuration.interfaces)?;
        // Only native mode shows damaged frames: generic mode repairs checksums.
        writeln!(f, "xdp_mode = \"native\"")?;
        writeln!(f, "state_dir = \"{directory}/state\"")?;
        writeln!(f, "hash_seed = {:?}", configuration.hash_seed)?;
        writeln!(f, "transition_ttl = {:?}", configuration.transition_ttl)?;
        if let Some(flows) = configuration.track_flows {
            writeln!(f, "track_flows = {flows}")?;
        }
        if !configuration.nat_source.is_empty() {
            let sources: Vec<String> = configuration
                .nat_source
                .iter()
                .map(ToString::to_string)
                .collect();
            writeln!(f, "nat_source = {sources:?}")?;
        }
        writeln!(f, "\n[api]\nsocket = \"{directory}/api.sock\"")?;
        writeln!(f, "\n[change]\nbake = {:?}", configuration.bake)?;
        for vip in &configuration.vips {
            write_vip(f, vip)?;
        }
        write!(f, "\n{}", configuration.more)
    }
}

fn write_vip(f: &mut fmt::Formatter<'_>, vip: &Vip) -> fmt::Result {
    writeln!(f, "\n[[vip]]\nname = {:?}", vip.name)?;
    writeln!(f, "address = \"{}\"\nport = {}", vip.at.ip(), vip.at.port())?;
    let protocol = if vip.udp { "udp" } else { "tcp" };
    writeln!(
        f,
        "protocol = \"{protocol}\"\nforward = {:?}",
        vip.forward.name()
    )?;
    if vip.source_affinity {
        writeln!(f, "affinity = \"source\"")?;
    }
    if !vip.bound.is_empty() {
        writeln!(f, "bound = {{ {} }}", vip.bound)?;
    }
    if !vip.limit.is_empty() {
        writeln!(f, "limit = {{ {} }}", vip.limit)?;
    }
    if let Some(health) = &vip.health {
        write_health(f, health)?;
    }
    if vip.guard != Guard::default() {
        let Guard {
            max_share,
            max_moved,
            min_backends,
        } = vip.guard;
        writeln!(f, "\n[vip.guard]\nmax_share = {max_share:?}")?;
        writeln!(
            f,
            "max_moved = {max_moved:?}\nmin_backends = {min_backends}"
        )?;
    }
    for backend in &vip.backends {
        writeln!(f, "\n[[vip.backend]]\nname = {:?}", backend.name)?;
        writeln!(f, "address = \"{}\"", backend.address)?;
        if let Some(port) = backend.port {
            writeln!(f, "port = {port}")?;
        }
        writeln!(f, "weight = {}", backend.weight)?;
        writeln!(f, "state = {:?}", backend.state.name())?;
    }
    Ok(())
}

fn write_health(f: &mut fmt::Formatter<'_>, health: &Health) -> fmt::Result {
    let Health {
        kind,
        via,
        interval,
        timeout,
        rise,
        fall,
    } = health;
    writeln!(f, "\n[vip.health]\nkind = {kind:?}\nvia = {via:?}")?;
    writeln!(f, "interval = {interval:?}\ntimeout = {timeout:?}")?;
    writeln!(f, "rise = {rise}\nfall = {fall}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration() -> Configuration {
        let backend = |name: &str, address: &str, weight| Backend {
            name: name.to_owned(),
            address: address.parse().unwrap(),
            port: None,
            weight,
            state: State::Up,
        };
        Configuration {
            interfaces: vec!["eth0".to_owned(), "eth1".to_owned()],
            hash_seed: "5eed0123456789abcdef5eed01234567".to_owned(),
            nat_source: vec!["10.77.1.2".parse().unwrap(), "fd77:1::2".parse().unwrap()],
            transition_ttl: "15m".to_owned(),
            track_flows: None,
            bake: "0s".to_owned(),
            vips: vec![Vip {
                name: "web".to_owned(),
                at: "[2001:db8:2::1]:80".parse().unwrap(),
                udp: false,
                forward: Forward::Ipip,
                health: Some(Health::new("http", "direct")),
                guard: Guard {
                    max_share: 0.75,
                    ..Guard::default()
                },
                limit: "source = { new_flows = 50 }".to_owned(),
                bound: "factor = 1.25".to_owned(),
                source_affinity: true,
                backends: vec![
                    backend("one", "fd77:1::64", 100),
                    backend("two", "fd77:1::65", 50),
                    backend("three", "10.77.1.102", 50),
                ],
            }],
            more: String::new(),
        }
    }

    #[test]
    fn the_balancer_accepts_the_configuration() {
        let mut configuration = configuration();
        configuration.change_backend("two", |backend| backend.state = State::Drain);
        let text = configuration.to_toml(Path::new("/run/somewhere"));
        let parsed = lb_model::config::parse("test.toml", &text);
        let parsed = parsed.unwrap_or_else(|problems| panic!("{}\n{text}", problems.render(false)));
        assert_eq!(parsed.vips[0].backends.len(), 3);
    }

    #[test]
    fn only_backends_that_are_up_have_a_share() {
        let mut configuration = configuration();
        configuration.change_backend("one", |backend| backend.state = State::Disabled);
        let shares = configuration.vip("web").intended_shares();
        assert_eq!(shares, [0.0, 0.5, 0.5]);
    }
}

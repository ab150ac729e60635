//! What a Service asks for, by its specification and annotations.

use std::{fmt, net::IpAddr};

use k8s_openapi::api::core::v1::{Service, ServicePort};
use sha2::{Digest as _, Sha256};

/// Prefix of the annotations and of other names that we give to objects.
pub const DOMAIN: &str = "evenkeel.example";
/// The finalizer of Services that have VIPs.
pub const FINALIZER: &str = "evenkeel.example/vip";

/// Characters of a VIP's name that its Service determines. The rest of 63 is for port, family and the source's mode.
const PREFIX_LENGTH: usize = 45;
/// Hexadecimal digits of a hash in a name.
const DIGEST_LENGTH: usize = 20;
/// So many hexadecimal digits in a row look like a secret, which a configuration must not have.
const SECRET_LENGTH: usize = 24;
/// Longest path of a check.
const LONGEST_PATH: usize = 256;

/// A Service, by namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ServiceKey {
    /// The key of this Service.
    #[must_use]
    pub fn of(service: &Service) -> Self {
        Self {
            namespace: service.metadata.namespace.clone().unwrap_or_default(),
            name: service.metadata.name.clone().unwrap_or_default(),
        }
    }

    /// What the names of its VIPs begin with, before a dot: `k8s.default.web`. One that would be too long
    /// ends with a part of its SHA-256.
    #[must_use]
    pub fn prefix(&self, cluster: &str) -> String {
        let whole = format!("{cluster}.{}.{}", self.namespace, self.name);
        if whole.len() < PREFIX_LENGTH {
            return whole;
        }
        let digest = Sha256::digest(whole.as_bytes());
        let digest: String = digest.iter().map(|b| format!("{b:02x}")).collect();
        let readable = PREFIX_LENGTH - 1 - DIGEST_LENGTH;
        format!("{}-{}", &whole[..readable], &digest[..DIGEST_LENGTH])
    }
}

/// Whether a text has what looks like a secret.
fn looks_secret(text: &str) -> bool {
    let others = |c: char| !c.is_ascii_hexdigit();
    text.split(others)
        .any(|digits| digits.len() >= SECRET_LENGTH)
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: &IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    /// Its name in `ipFamilies` and `addressType`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// How packets reach the backends, and what these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Forward {
    /// To pods, with source and destination rewritten.
    Nat,
    /// To nodes, in an outer IP header.
    Ipip,
    /// To nodes on the same link.
    L2,
}

impl Forward {
    /// Its name in a configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Ipip => "ipip",
            Self::L2 => "l2",
        }
    }
}

/// How the backends are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Not at all.
    None,
    /// By a connection.
    Tcp,
    /// By a request for this path, on another port than that of the traffic if one is given.
    Http(String, Option<u16>),
}

/// A port of a Service that becomes a VIP for each family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name in EndpointSlices; empty if the Service has one port without a name.
    pub name: String,
    /// The port that clients connect to.
    pub number: u16,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
}

/// What a Service asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its ports, at least one.
    pub ports: Vec<Port>,
    /// Its address families, at least one.
    pub families: Vec<Family>,
    /// Whether all families must have an address.
    pub needs_all_families: bool,
    /// The addresses that it wants; empty if any will do.
    pub addresses: Vec<IpAddr>,
    /// The pool of its addresses; none if any will do.
    pub pool: Option<String>,
    /// How packets reach the backends.
    pub forward: Forward,
    /// Whether a backend is chosen by the client's address alone.
    pub by_source: bool,
    /// Whether only nodes with endpoints are backends (`externalTrafficPolicy: Local`).
    pub local: bool,
    /// How backends are checked.
    pub health: Health,
}

/// Whether a Service is ours: of type `LoadBalancer` with this class.
#[must_use]
pub fn is_ours(service: &Service, class: &str) -> bool {
    let Some(spec) = &service.spec else {
        return false;
    };
    spec.type_.as_deref() == Some("LoadBalancer")
        && spec.load_balancer_class.as_deref() == Some(class)
}

/// Whether somebody has deleted the Service.
#[must_use]
pub fn is_deleted(service: &Service) -> bool {
    service.metadata.deletion_timestamp.is_some()
}

/// Whether the Service has our finalizer.
#[must_use]
pub fn has_finalizer(service: &Service) -> bool {
    let finalizers = service.metadata.finalizers.as_deref().unwrap_or_default();
    finalizers.iter().any(|name| name == FINALIZER)
}

/// The addresses in the status of the Service.
#[must_use]
pub fn published(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref();
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_deref());
    let addresses = ingress.unwrap_or_default().iter();
    addresses
        .filter_map(|ingress| ingress.ip.as_ref()?.parse().ok())
        .collect()
}

fn annotation<'a>(service: &'a Service, name: &str) -> Option<&'a str> {
    let annotations = service.metadata.annotations.as_ref()?;
    Some(annotations.get(&format!("{DOMAIN}/{name}"))?.trim())
}

/// Reads what a Service asks for. `forward` is for those that don't say.
///
/// # Errors
///
/// What is wrong, and what would be right.
pub fn read(service: &Service, forward: Forward) -> Result<Wanted, String> {
    let spec = service.spec.as_ref().ok_or("the Service has no spec")?;
    let key = ServiceKey::of(service);
    if looks_secret(&key.namespace) || looks_secret(&key.name) {
        return Err(format!(
            "the name of the Service or its namespace has {SECRET_LENGTH} hexadecimal digits in a row, which a configuration \
             takes for a secret"
        ));
    }
    let forward = match annotation(service, "forward") {
        None => forward,
        Some("nat") => Forward::Nat,
        Some("ipip") => Forward::Ipip,
        Some("l2") => Forward::L2,
        Some(other) => return Err(wrong("forward", other, "nat, ipip or l2")),
    };
    let by_source = match annotation(service, "affinity") {
        None => spec.session_affinity.as_deref() == Some("ClientIP"),
        Some("flow") => false,
        Some("source") => true,
        Some(other) => return Err(wrong("affinity", other, "flow or source")),
    };
    let local = spec.external_traffic_policy.as_deref() == Some("Local");
    let ports: Vec<Port> = (spec.ports.iter().flatten())
        .map(port)
        .collect::<Result<_, _>>()?;
    if ports.is_empty() {
        return Err("the Service has no ports".to_owned());
    }
    let families: Vec<Family> = match spec.ip_families.as_deref() {
        None | Some([]) => vec![Family::V4],
        Some(names) => names.iter().map(|name| family(name)).collect(),
    };
    let addresses = requested(service)?;
    if let Some(other) = (addresses.iter()).find(|it| !families.contains(&Family::of(it))) {
        let families: Vec<_> = families.iter().map(|family| family.name()).collect();
        return Err(format!(
            "the address {other} is requested, and the Service has ipFamilies {}",
            families.join(", ")
        ));
    }
    let node_port = spec.health_check_node_port;
    Ok(Wanted {
        needs_all_families: spec.ip_family_policy.as_deref() == Some("RequireDualStack"),
        pool: annotation(service, "pool").map(str::to_owned),
        health: health(service, forward, &ports, node_port.filter(|_| local))?,
        ports,
        families,
        addresses,
        forward,
        by_source,
        local,
    })
}

fn wrong(name: &str, value: &str, values: &str) -> String {
    let value: String = value.chars().take(100).collect();
    format!("the annotation {DOMAIN}/{name} is {value:?}; it must be {values}")
}

fn family(name: &str) -> Family {
    if name == Family::V6.name() {
        Family::V6
    } else {
        Family::V4
    }
}

fn port(port: &ServicePort) -> Result<Port, String> {
    let protocol = match port.protocol.as_deref() {
        None | Some("TCP") => "tcp",
        Some("UDP") => "udp",
        Some(other) => {
            return Err(format!(
                "port {} is of protocol {other}; it must be TCP or UDP",
                port.port
            ));
        }
    };
    let number = u16::try_from(port.port).ok().filter(|number| *number > 0);
    Ok(Port {
        name: port.name.clone().unwrap_or_default(),
        number: number.ok_or_else(|| format!("port {} is not between 1 and 65535", port.port))?,
        protocol,
    })
}

/// The addresses of the annotation, or of the older `spec.loadBalancerIP`.
fn requested(service: &Service) -> Result<Vec<IpAddr>, String> {
    let spec = service.spec.as_ref();
    let older = spec.and_then(|spec| spec.load_balancer_ip.as_deref());
    let Some(text) = annotation(service, "address").or(older.filter(|text| !text.is_empty()))
    else {
        return Ok(Vec::new());
    };
    let mut addresses: Vec<IpAddr> = Vec::new();
    for part in text.split(',') {
        let values = "an address, or one of each family with a comma between";
        let address = part
            .trim()
            .parse()
            .map_err(|_| wrong("address", text, values))?;
        if (addresses.iter()).any(|other| Family::of(other) == Family::of(&address)) {
            return Err(wrong("address", text, values));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

/// The check: as annotated; for nodes of a `Local` Service what Kubernetes offers for it; for pods a
/// connection if they speak TCP. For other nodes nothing: kube-proxy does not answer for the VIP before the
/// Service's status has it.
fn health(
    service: &Service,
    forward: Forward,
    ports: &[Port],
    node_port: Option<i32>,
) -> Result<Health, String> {
    let values = "none, tcp, http:/PATH or http:PORT/PATH";
    if let Some(text) = annotation(service, "health") {
        let malformed = || wrong("health", text, values);
        return match text {
            "none" => Ok(Health::None),
            "tcp" => Ok(Health::Tcp),
            _ => {
                let rest = text.strip_prefix("http:").ok_or_else(malformed)?;
                let (port, path) = rest.split_once('/').ok_or_else(malformed)?;
                let is_plain = |c: char| c.is_ascii_graphic() && c != '"' && c != '\\';
                let number: Option<u16> = port.parse().ok().filter(|number| *number > 0);
                if path.len() >= LONGEST_PATH || looks_secret(path) {
                    return Err(malformed());
                }
                if !path.chars().all(is_plain) || (number.is_none() && !port.is_empty()) {
                    return Err(malformed());
                }
                Ok(Health::Http(format!("/{path}"), number))
            }
        };
    }
    Ok(match (forward, node_port) {
        (Forward::Ipip | Forward::L2, Some(port)) => {
            Health::Http("/healthz".to_owned(), u16::try_from(port).ok())
        }
        (Forward::Ipip | Forward::L2, None) => Health::None,
        (Forward::Nat, _) if ports.iter().all(|port| port.protocol == "tcp") => Health::Tcp,
        (Forward::Nat, _) => Health::None,
    })
}

//! What a configuration means: everything resolved, nothing optional that has a default.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use lb_common::{family_of, hash::HashKey, proto, vip};

use super::hash_key;
use crate::ring::{Identity, RingSize};

/// A configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The node itself.
    pub node: Node,
    /// The API for changes.
    pub api: Api,
    /// How changes are made.
    pub change: ChangeSettings,
    /// The metrics.
    pub metrics: Metrics,
    /// Where alerts go.
    pub alerts: Alerts,
    /// The VIPs, in the order of the file.
    pub vips: Vec<Vip>,
}

/// The node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Interfaces that packets for VIPs come in by.
    pub interfaces: Vec<String>,
    /// How the program is attached.
    pub xdp_mode: XdpMode,
    /// Folder of the revisions.
    pub state_dir: PathBuf,
    /// Secret of the flow hash.
    pub hash_seed: HashSeed,
    /// `ipip`: prefix of the outer source over IPv4; without it, an address of the interface.
    pub encap_source_v4: Option<Prefix>,
    /// `ipip`: prefix of the outer source over IPv6; without it, an address of the interface.
    pub encap_source_v6: Option<Prefix>,
    /// `nat`: source addresses; none of a family: an address of the interface.
    pub nat_sources: Vec<IpAddr>,
    /// `nat`: ports of the source addresses.
    pub nat_ports: RangeInclusive<u16>,
    /// How long a slot is in transition.
    pub transition_ttl: Duration,
    /// How long a tracked flow may be silent.
    pub track_idle: Duration,
    /// Flows that the tracking table holds; a power of two.
    pub track_flows: u32,
    /// Sessions of `nat`.
    pub nat_sessions: u32,
    /// At most one flow in this many is sampled; a power of two.
    pub sample: u32,
}

impl Node {
    /// Prefix of the outer source in packets to `backend`.
    #[must_use]
    pub fn encap_source(&self, backend: IpAddr) -> Option<Prefix> {
        if backend.is_ipv4() {
            self.encap_source_v4
        } else {
            self.encap_source_v6
        }
    }
}

/// The secret that the keys of the flow hash come from. Not shown by `Debug`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashSeed([u8; 16]);

impl HashSeed {
    /// A seed.
    #[must_use]
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The secret bytes.
    #[must_use]
    pub const fn bytes(&self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Debug for HashSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashSeed(secret)")
    }
}

/// How an XDP program is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver, or not at all.
    #[default]
    Native,
    /// In the stack, for every driver, slower.
    Generic,
    /// In the driver if it can, else in the stack, with an alert.
    Auto,
}

/// An address prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// The prefix of this length that has the address in it; lengths beyond the family's are cut.
    #[must_use]
    pub fn containing(address: IpAddr, length: u8) -> Self {
        match address {
            IpAddr::V4(v4) => {
                let length = length.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                Self {
                    address: Ipv4Addr::from(u32::from(v4) & mask).into(),
                    length,
                }
            }
            IpAddr::V6(v6) => {
                let length = length.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                Self {
                    address: Ipv6Addr::from(u128::from(v6) & mask).into(),
                    length,
                }
            }
        }
    }

    /// The first address.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Bits that all addresses have in common.
    #[must_use]
    pub const fn length(&self) -> u8 {
        self.length
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// The API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// The Unix socket.
    pub socket: PathBuf,
    /// Group whose members may use the socket, besides root.
    pub group: Option<String>,
}

/// How changes are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeSettings {
    /// How long a change is watched, unless the request says otherwise; zero: not at all.
    pub bake: Duration,
}

/// The metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Where they are served.
    pub listen: SocketAddr,
}

/// Where alerts go, besides the log and the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alerts {
    /// Base URLs of Alertmanagers.
    pub alertmanager: Vec<String>,
    /// URLs that get a JSON document.
    pub webhook: Vec<String>,
    /// What documents to webhooks are signed with.
    pub webhook_secret: Option<Secret>,
    /// How often Alertmanagers are reminded of what is on.
    pub resend: Duration,
    /// How long an alert may stay before it gets graver; none: it never does.
    pub escalate_after: Option<Duration>,
}

impl Default for Alerts {
    fn default() -> Self {
        Self {
            alertmanager: Vec::new(),
            webhook: Vec::new(),
            webhook_secret: None,
            resend: Duration::from_secs(60),
            escalate_after: Some(Duration::from_secs(600)),
        }
    }
}

/// A secret text. Not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A secret.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Protocol of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The number in IP headers.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => proto::TCP,
            Self::Udp => proto::UDP,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Declares an enum whose values have a number in the VIP table.
macro_rules! coded {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $code:expr,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// The number in the VIP table.
            #[must_use]
            pub const fn code(self) -> u8 {
                match self { $(Self::$variant => $code,)* }
            }
        }
    };
}

coded! {
    /// How packets get to the backends.
    Forward {
        /// The destination MAC address is rewritten.
        L2 = vip::forward::L2,
        /// An outer IP header is put in front.
        Ipip = vip::forward::IPIP,
        /// Source and destination are rewritten.
        Nat = vip::forward::NAT,
    }
}

coded! {
    /// What a member is chosen by.
    Affinity {
        /// The whole flow.
        Flow = vip::affinity::FLOW,
        /// The client's address.
        Source = vip::affinity::SOURCE,
    }
}

coded! {
    /// When flows are entered into the tracking table.
    Track {
        /// In slots that changed.
        OnChange = vip::track::ON_CHANGE,
        /// Every flow.
        Always = vip::track::ALWAYS,
        /// Never.
        Never = vip::track::NEVER,
    }
}

/// A VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its port; 0 for any.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// How packets get to the backends.
    pub forward: Forward,
    /// What a member is chosen by.
    pub affinity: Affinity,
    /// When flows are tracked.
    pub track: Track,
    /// Slots of the ring.
    pub ring_size: RingSize,
    /// How backends are checked; without it they count as up.
    pub health: Option<Health>,
    /// What a change may not do.
    pub guard: Guard,
    /// How much of the capacity is to be used.
    pub scaling: Scaling,
    /// When shares are wrong enough to be told.
    pub skew: Skew,
    /// The backends, in the order of the file; never none.
    pub backends: Vec<Backend>,
}

impl Vip {
    /// The address family as the maps have it.
    #[must_use]
    pub const fn family(&self) -> u8 {
        family_of(self.address)
    }

    /// The key of the VIP's flow hash.
    #[must_use]
    pub fn hash_key(&self, seed: &HashSeed) -> HashKey {
        let family = self.family();
        hash_key::hash_key(
            seed.bytes(),
            self.address,
            family,
            self.protocol.number(),
            self.port,
        )
    }
}

/// How backends are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is tried.
    pub kind: HealthKind,
    /// Port that is tried; 0: the member's own ([`Backend::port`]).
    pub port: u16,
    /// Time between two checks.
    pub interval: Duration,
    /// Time between two checks while it is not certain whether the state changes; not longer than
    /// `interval`.
    pub fast_interval: Duration,
    /// By which share an interval is shortened or lengthened at random; a half at most.
    pub jitter: Fraction,
    /// Time in which a check must succeed.
    pub timeout: Duration,
    /// Successes in a row that make a backend up.
    pub rise: u32,
    /// Failures in a row that make it down.
    pub fall: u32,
    /// The way that probes take.
    pub via: Via,
    /// Whether a backend that goes up and down again and again is held down for a while.
    pub damping: bool,
    /// In this time the weight of a backend that came up grows from a tenth to all of it; zero: at
    /// once.
    pub slow_start: Duration,
    /// Fewer eligible backends than this: traffic is spread over all.
    pub panic_threshold: Fraction,
}

/// What is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthKind {
    /// A TCP connection.
    Tcp,
    /// An HTTP request.
    Http(HttpCheck),
    /// An HTTPS request.
    Https {
        /// What is asked, and what must be answered.
        request: HttpCheck,
        /// Whether the certificate must be right.
        verify: bool,
        /// Who may have signed it; without it, whoever the host trusts.
        ca: Option<CaFile>,
    },
    /// A UDP packet.
    Udp {
        /// What it carries; without it nothing.
        send: Option<Vec<u8>>,
        /// What must be in the answer. Without it any answer will do, or none if nothing is sent:
        /// then only "port unreachable" is a failure.
        expect: Option<Vec<u8>>,
    },
    /// A command that exits with 0.
    Exec {
        /// The program and its arguments.
        command: Vec<String>,
    },
}

/// An HTTP request of a check, and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCheck {
    /// Path of the request.
    pub path: String,
    /// `Host` of the request, and the name that a certificate must have; without it the VIP's address.
    pub host: Option<String>,
    /// Status of the answer.
    pub expect_status: StatusSet,
    /// Text that must be in the answer's body.
    pub expect_body: Option<String>,
}

/// Certificates of authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaFile {
    /// Where they were read.
    pub path: PathBuf,
    /// What was there (PEM).
    pub pem: String,
}

/// Status codes of HTTP: ranges, as in `200-299,401`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusSet(Vec<RangeInclusive<u16>>);

impl StatusSet {
    /// These ranges.
    #[must_use]
    pub const fn new(ranges: Vec<RangeInclusive<u16>>) -> Self {
        Self(ranges)
    }

    /// Whether a status is one of them.
    #[must_use]
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

impl Default for StatusSet {
    fn default() -> Self {
        Self(vec![200..=399])
    }
}

impl fmt::Display for StatusSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match (range.start(), range.end()) {
                (first, last) if first == last => write!(f, "{comma}{first}")?,
                (first, last) => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

/// The way that probes take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The way of the VIP's traffic.
    Vip,
    /// Straight to the backend.
    Direct,
}

/// A share of a whole, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fraction(u32);

impl Fraction {
    /// All.
    pub const ALL: Self = Self(1_000_000);
    /// A tenth.
    pub const TENTH: Self = Self(100_000);
    /// Half.
    pub const HALF: Self = Self(500_000);

    /// The nearest millionths; `None` outside of 0 to 1.
    #[must_use]
    pub fn new(value: f64) -> Option<Self> {
        (0.0..=1.0)
            .contains(&value)
            .then(|| Self((value * 1e6).round() as u32))
    }

    /// The share in millionths.
    #[must_use]
    pub const fn millionths(self) -> u32 {
        self.0
    }

    /// The share as a number from 0 to 1.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / 1e6
    }
}

/// A number of times, to the thousandth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Factor(u32);

impl Factor {
    /// The nearest thousandths; `None` below 0 and above 1,000,000.
    #[must_use]
    pub fn new(value: f64) -> Option<Self> {
        (0.0..=1e6)
            .contains(&value)
            .then(|| Self((value * 1e3).round() as u32))
    }

    /// The number.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / 1e3
    }
}

/// How much of the capacity of a VIP's backends is to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scaling {
    /// Utilisation that is wanted.
    pub target_utilisation: Fraction,
    /// Utilisation that is told as an alert.
    pub alert_utilisation: Fraction,
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            target_utilisation: Fraction(700_000),
            alert_utilisation: Fraction(900_000),
        }
    }
}

/// When shares are wrong enough to be told. `docs/skew.md` says what the watch does with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skew {
    /// How far from its share of the table a member may be before it matters: 0.15 is 15 % over.
    pub tolerance: Fraction,
    /// How far the tolerance may widen where whole sources are hashed.
    pub widest_tolerance: Fraction,
    /// The VIP gives one false alarm in so many days, by chance alone.
    pub days_per_false_alarm: u32,
    /// The short window.
    pub short: Duration,
    /// The long window.
    pub long: Duration,
    /// Fewest seconds that a skew must show itself in.
    pub least_seconds: u32,
    /// Short windows in a row without skew until it is over.
    pub clear_windows: u32,
    /// Times a fair or the former share that are concentration.
    pub concentration: Factor,
    /// How long a revision is remembered as what may have caused a skew.
    pub revision_memory: Duration,
    /// Times its share of bytes or packets that matters.
    pub volume_ratio: Factor,
    /// Bytes a second of a member below which skew of bytes does not matter.
    pub bytes_floor: u32,
    /// Packets a second of a member below which skew of packets does not matter.
    pub packets_floor: u32,
    /// How long a skew of bytes or packets must last.
    pub volume_for: Duration,
    /// Times the usual rate of new flows that is a spike.
    pub spike: Factor,
    /// New flows a second of the VIP below which nothing is a spike.
    pub spike_floor: u32,
}

impl Default for Skew {
    fn default() -> Self {
        Self {
            tolerance: Fraction(150_000),
            widest_tolerance: Fraction(600_000),
            days_per_false_alarm: 100_000,
            short: Duration::from_secs(10),
            long: Duration::from_secs(120),
            least_seconds: 4,
            clear_windows: 3,
            concentration: Factor(2000),
            revision_memory: Duration::from_secs(3600),
            volume_ratio: Factor(2000),
            bytes_floor: 10_000_000,
            packets_floor: 10_000,
            volume_for: Duration::from_secs(30),
            spike: Factor(3000),
            spike_floor: 20,
        }
    }
}

/// What a change may not do, unless forced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// Largest share of the table of one member.
    pub max_share: Fraction,
    /// Largest share of the table that moves.
    pub max_moved: Fraction,
    /// Fewest backends that may serve.
    pub min_backends: u32,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its name, unique in its VIP.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// The port that it serves; 0 when the packet's port is kept.
    pub port: u16,
    /// Its weight.
    pub weight: u32,
    /// New flows a second that it can take, if that is known.
    pub capacity: Option<u32>,
    /// What the operator wants of it.
    pub state: BackendState,
}

impl Backend {
    /// What its place in the ring depends on.
    #[must_use]
    pub const fn identity(&self) -> Identity {
        Identity {
            address: self.address,
            port: self.port,
        }
    }
}

/// What the operator wants of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendState {
    /// Serve.
    #[default]
    Up,
    /// Keep its flows, get no new ones.
    Drain,
    /// Get nothing.
    Disabled,
}

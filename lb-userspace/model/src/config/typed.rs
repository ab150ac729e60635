//! What was typed: the file's values, each right in itself, each with its place.
//!
//! Whether they fit together is for `resolve` to say.

use std::{
    net::{IpAddr, SocketAddr},
    ops::{Range, RangeInclusive},
    path::PathBuf,
    time::Duration,
};

use toml::{Spanned, de::DeTable};

use super::{
    model::{
        Affinity, BackendState, Factor, Forward, Fraction, HashSeed, Prefix, Protocol, StatusSet,
        Track, Via, XdpMode,
    },
    problem::Problems,
    section::{Section, Typed},
    value,
};
use crate::ring::RingSize;

const HOUR: Duration = Duration::from_secs(3600);
/// A tracking cell has 16 bits of seconds: 18 hours at most before they begin again.
const LONGEST: Duration = Duration::from_secs(12 * 3600);

pub(super) struct File {
    pub(super) node: Option<Node>,
    pub(super) api_socket: Typed<PathBuf>,
    pub(super) api_group: Typed<String>,
    pub(super) bake: Typed<Duration>,
    pub(super) metrics_listen: Typed<SocketAddr>,
    pub(super) alertmanager: Typed<Vec<Spanned<String>>>,
    pub(super) webhook: Typed<Vec<Spanned<String>>>,
    pub(super) webhook_secret_file: Typed<PathBuf>,
    pub(super) resend: Typed<Duration>,
    pub(super) escalate_after: Typed<Duration>,
    pub(super) vips: Vec<Vip>,
}

pub(super) struct Node {
    pub(super) interfaces: Typed<Vec<Spanned<String>>>,
    pub(super) xdp_mode: Typed<XdpMode>,
    pub(super) state_dir: Typed<PathBuf>,
    pub(super) hash_seed: Typed<HashSeed>,
    pub(super) hash_seed_file: Typed<PathBuf>,
    pub(super) encap_source: Typed<Vec<Spanned<Prefix>>>,
    pub(super) nat_source: Typed<Vec<Spanned<IpAddr>>>,
    pub(super) nat_ports: Typed<RangeInclusive<u16>>,
    pub(super) transition_ttl: Typed<Duration>,
    pub(super) track_idle: Typed<Duration>,
    pub(super) track_flows: Typed<u32>,
    pub(super) nat_sessions: Typed<u32>,
    pub(super) sample: Typed<u32>,
}

pub(super) struct Vip {
    pub(super) at: Range<usize>,
    pub(super) name: Typed<String>,
    pub(super) address: Typed<IpAddr>,
    pub(super) port: Typed<u16>,
    pub(super) protocol: Typed<Protocol>,
    pub(super) forward: Typed<Forward>,
    pub(super) affinity: Typed<Affinity>,
    pub(super) track: Typed<Track>,
    pub(super) ring_size: Typed<RingSize>,
    pub(super) health: Option<Health>,
    pub(super) guard: Guard,
    pub(super) scaling: Scaling,
    pub(super) skew: Skew,
    pub(super) backends: Vec<Backend>,
    /// Whether there is a `backend` at all, right or wrong.
    pub(super) has_backends: bool,
}

pub(super) struct Health {
    pub(super) at: Range<usize>,
    pub(super) kind: Typed<Kind>,
    pub(super) port: Typed<u16>,
    pub(super) path: Typed<String>,
    pub(super) host: Typed<String>,
    pub(super) expect_status: Typed<StatusSet>,
    pub(super) expect_body: Typed<String>,
    pub(super) verify: Typed<bool>,
    pub(super) ca_file: Typed<PathBuf>,
    pub(super) send: Typed<Vec<u8>>,
    pub(super) expect: Typed<Vec<u8>>,
    pub(super) command: Typed<Vec<Spanned<String>>>,
    /// Whether `port`, `send` and `command` were typed, right or wrong.
    pub(super) has: Has,
    pub(super) interval: Typed<Duration>,
    pub(super) fast_interval: Typed<Duration>,
    pub(super) jitter: Typed<Fraction>,
    pub(super) timeout: Typed<Duration>,
    pub(super) rise: Typed<u32>,
    pub(super) fall: Typed<u32>,
    pub(super) via: Typed<Via>,
    pub(super) damping: Typed<bool>,
    pub(super) slow_start: Typed<Duration>,
    pub(super) panic_threshold: Typed<Fraction>,
}

pub(super) struct Has {
    pub(super) port: bool,
    pub(super) send: bool,
    pub(super) command: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    Http,
    Https,
    Udp,
    Exec,
}

#[derive(Default)]
pub(super) struct Guard {
    pub(super) max_share: Typed<Fraction>,
    pub(super) max_moved: Typed<Fraction>,
    pub(super) min_backends: Typed<u32>,
}

#[derive(Default)]
pub(super) struct Scaling {
    pub(super) target_utilisation: Typed<Fraction>,
    pub(super) alert_utilisation: Typed<Fraction>,
}

#[derive(Default)]
pub(super) struct Skew {
    pub(super) tolerance: Typed<Fraction>,
    pub(super) widest_tolerance: Typed<Fraction>,
    pub(super) days_per_false_alarm: Typed<u32>,
    pub(super) short: Typed<Duration>,
    pub(super) long: Typed<Duration>,
    pub(super) least_seconds: Typed<u32>,
    pub(super) clear_windows: Typed<u32>,
    pub(super) concentration: Typed<Factor>,
    pub(super) revision_memory: Typed<Duration>,
    pub(super) volume_ratio: Typed<Factor>,
    pub(super) bytes_floor: Typed<u32>,
    pub(super) packets_floor: Typed<u32>,
    pub(super) volume_for: Typed<Duration>,
    pub(super) spike: Typed<Factor>,
    pub(super) spike_floor: Typed<u32>,
}

pub(super) struct Backend {
    pub(super) at: Range<usize>,
    pub(super) name: Typed<String>,
    pub(super) address: Typed<IpAddr>,
    pub(super) port: Typed<u16>,
    pub(super) weight: Typed<u32>,
    pub(super) capacity: Typed<u32>,
    pub(super) state: Typed<BackendState>,
}

pub(super) fn read(document: &Spanned<DeTable<'_>>, problems: &Problems) -> File {
    let mut root = Section::new("", 0..0, document.get_ref(), problems);
    let node = root.table("node", "node").map(read_node);
    if !root.has("node") {
        root.missing("node", "a table `[node]` with `interfaces` and `hash_seed`");
    }
    let mut api = root.table("api", "api");
    let mut change = root.table("change", "change");
    let mut metrics = root.table("metrics", "metrics");
    let mut alerts = root.table("alerts", "alerts");
    let file = File {
        node,
        api_socket: api
            .as_mut()
            .and_then(|api| api.value("socket", value::socket_path)),
        api_group: api
            .as_mut()
            .and_then(|api| api.value("group", value::group)),
        bake: change
            .as_mut()
            .and_then(|change| change.value("bake", value::duration(Duration::ZERO..=HOUR))),
        metrics_listen: metrics
            .as_mut()
            .and_then(|m| m.value("listen", value::socket_address)),
        alertmanager: alerts
            .as_mut()
            .and_then(|a| a.list("alertmanager", value::url)),
        webhook: alerts.as_mut().and_then(|a| a.list("webhook", value::url)),
        webhook_secret_file: alerts
            .as_mut()
            .and_then(|a| a.value("webhook_secret_file", value::path)),
        resend: alerts.as_mut().and_then(|a| {
            let range = Duration::from_secs(5)..=Duration::from_secs(600);
            a.value("resend", value::duration(range))
        }),
        escalate_after: alerts.as_mut().and_then(|a| {
            let range = Duration::ZERO..=24 * HOUR;
            a.value("escalate_after", value::duration(range))
        }),
        vips: root
            .tables("vip", "vip")
            .into_iter()
            .map(read_vip)
            .collect(),
    };
    [api, change, metrics, alerts]
        .into_iter()
        .flatten()
        .chain([root])
        .for_each(|section| {
            section.finish();
        });
    file
}

fn read_node(mut node: Section<'_, '_>) -> Node {
    let modes = [
        ("native", XdpMode::Native),
        ("generic", XdpMode::Generic),
        ("auto", XdpMode::Auto),
    ];
    if !node.has("interfaces") {
        node.missing(
            "interfaces",
            "the interfaces that packets come in by, as in `[\"eth0\"]`",
        );
    }
    if !node.has("hash_seed") && !node.has("hash_seed_file") {
        let help = "the secret of the node group: 32 hex digits (`openssl rand -hex 16`), the same on \
                    all nodes, or `hash_seed_file`, a file with them";
        node.missing("hash_seed", help);
    }
    let read = Node {
        interfaces: node.list("interfaces", value::interface),
        xdp_mode: node.value("xdp_mode", value::one_of(&modes)),
        state_dir: node.value("state_dir", value::absolute_path),
        hash_seed: node.value("hash_seed", value::hash_seed),
        hash_seed_file: node.value("hash_seed_file", value::path),
        encap_source: node.list("encap_source", value::prefix),
        nat_source: node.list("nat_source", value::address),
        nat_ports: node.value("nat_ports", value::port_range),
        transition_ttl: node.value(
            "transition_ttl",
            value::duration(Duration::from_secs(1)..=LONGEST),
        ),
        track_idle: node.value(
            "track_idle",
            value::duration(Duration::from_secs(1)..=LONGEST),
        ),
        track_flows: node.value("track_flows", value::power_of_two(8192..=1 << 27)),
        nat_sessions: node.value("nat_sessions", value::integer(1024..=1 << 24)),
        sample: node.value("sample", value::power_of_two(1..=1 << 31)),
    };
    node.finish();
    read
}

fn read_vip(mut vip: Section<'_, '_>) -> Vip {
    let protocols = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
    let forwards = [
        ("l2", Forward::L2),
        ("ipip", Forward::Ipip),
        ("nat", Forward::Nat),
    ];
    let affinities = [("flow", Affinity::Flow), ("source", Affinity::Source)];
    let tracks = [
        ("on-change", Track::OnChange),
        ("always", Track::Always),
        ("never", Track::Never),
    ];
    Vip {
        name: vip.required(
            "name",
            "a name for metrics and commands: `name = \"api\"`",
            value::name,
        ),
        address: vip.required(
            "address",
            "the address that clients connect to: `address = \"203.0.113.10\"`",
            value::address,
        ),
        port: vip.required(
            "port",
            "the port that clients connect to, or 0 for any: `port = 443`",
            value::port(0),
        ),
        protocol: vip.required(
            "protocol",
            "`protocol = \"tcp\"` or `protocol = \"udp\"`",
            value::one_of(&protocols),
        ),
        forward: vip.required(
            "forward",
            "how packets get to the backends: `forward = \"l2\"`, \"ipip\" or \"nat\"",
            value::one_of(&forwards),
        ),
        affinity: vip.value("affinity", value::one_of(&affinities)),
        track: vip.value("track", value::one_of(&tracks)),
        ring_size: vip.value("ring_size", value::ring_size),
        health: vip.table("health", "vip.health").map(read_health),
        guard: vip
            .table("guard", "vip.guard")
            .map(read_guard)
            .unwrap_or_default(),
        scaling: vip
            .table("scaling", "vip.scaling")
            .map(read_scaling)
            .unwrap_or_default(),
        skew: vip
            .table("skew", "vip.skew")
            .map(read_skew)
            .unwrap_or_default(),
        has_backends: vip.has("backend"),
        backends: vip
            .tables("backend", "vip.backend")
            .into_iter()
            .map(read_backend)
            .collect(),
        at: vip.finish(),
    }
}

fn read_health(mut health: Section<'_, '_>) -> Health {
    let kinds = [
        ("tcp", Kind::Tcp),
        ("http", Kind::Http),
        ("https", Kind::Https),
        ("udp", Kind::Udp),
        ("exec", Kind::Exec),
    ];
    let routes = [("vip", Via::Vip), ("direct", Via::Direct)];
    let ms = Duration::from_millis;
    Health {
        kind: health.required(
            "kind",
            "what is tried: `kind = \"tcp\"`, \"http\", \"https\", \"udp\" or \"exec\"",
            value::one_of(&kinds),
        ),
        port: health.value("port", value::port(1)),
        path: health.value("path", value::http_path),
        host: health.value("host", value::host),
        expect_status: health.value("expect_status", value::status_set),
        expect_body: health.value("expect_body", value::some_text),
        verify: health.value("verify", value::yes_or_no),
        ca_file: health.value("ca_file", value::path),
        send: health.value("send", value::payload),
        expect: health.value("expect", value::payload),
        command: health.list("command", value::word),
        has: Has {
            port: health.has("port"),
            send: health.has("send"),
            command: health.has("command"),
        },
        interval: health.value("interval", value::duration(ms(100)..=HOUR)),
        fast_interval: health.value("fast_interval", value::duration(ms(10)..=HOUR)),
        jitter: health.value("jitter", value::jitter),
        timeout: health.value("timeout", value::duration(ms(10)..=ms(60_000))),
        rise: health.value("rise", value::integer(1..=100)),
        fall: health.value("fall", value::integer(1..=100)),
        via: health.value("via", value::one_of(&routes)),
        damping: health.value("damping", value::yes_or_no),
        slow_start: health.value("slow_start", value::duration(Duration::ZERO..=HOUR)),
        panic_threshold: health.value("panic_threshold", value::fraction(true)),
        at: health.finish(),
    }
}

fn read_guard(mut guard: Section<'_, '_>) -> Guard {
    let read = Guard {
        max_share: guard.value("max_share", value::fraction(false)),
        max_moved: guard.value("max_moved", value::fraction(false)),
        min_backends: guard.value("min_backends", value::integer(1..=4096)),
    };
    guard.finish();
    read
}

fn read_scaling(mut scaling: Section<'_, '_>) -> Scaling {
    let read = Scaling {
        target_utilisation: scaling.value("target_utilisation", value::fraction(false)),
        alert_utilisation: scaling.value("alert_utilisation", value::fraction(false)),
    };
    scaling.finish();
    read
}

fn read_skew(mut skew: Section<'_, '_>) -> Skew {
    let seconds =
        |first, last| value::duration(Duration::from_secs(first)..=Duration::from_secs(last));
    let read = Skew {
        tolerance: skew.value("tolerance", value::fraction(false)),
        widest_tolerance: skew.value("widest_tolerance", value::fraction(false)),
        days_per_false_alarm: skew.value("days_per_false_alarm", value::integer(1..=1_000_000_000)),
        short: skew.value("short", seconds(2, 120)),
        long: skew.value("long", seconds(10, 3600)),
        least_seconds: skew.value("least_seconds", value::integer(1..=60)),
        clear_windows: skew.value("clear_windows", value::integer(1..=100)),
        concentration: skew.value("concentration", value::factor(1.01..=1000.0)),
        revision_memory: skew.value("revision_memory", seconds(1, 24 * 3600)),
        volume_ratio: skew.value("volume_ratio", value::factor(1.01..=1000.0)),
        bytes_floor: skew.value("bytes_floor", value::integer(0..=u32::MAX)),
        packets_floor: skew.value("packets_floor", value::integer(0..=u32::MAX)),
        volume_for: skew.value("volume_for", seconds(1, 3600)),
        spike: skew.value("spike", value::factor(1.01..=1000.0)),
        spike_floor: skew.value("spike_floor", value::integer(0..=u32::MAX)),
    };
    skew.finish();
    read
}

fn read_backend(mut backend: Section<'_, '_>) -> Backend {
    let states = [
        ("up", BackendState::Up),
        ("drain", BackendState::Drain),
        ("disabled", BackendState::Disabled),
    ];
    Backend {
        name: backend.required(
            "name",
            "a name, unique in its VIP: `name = \"api-1\"`",
            value::name,
        ),
        address: backend.required(
            "address",
            "the backend's own address: `address = \"10.0.1.11\"`",
            value::address,
        ),
        port: backend.value("port", value::port(1)),
        weight: backend.value("weight", value::integer(0..=65_535)),
        capacity: backend.value("capacity", value::integer(1..=u32::MAX)),
        state: backend.value("state", value::one_of(&states)),
        at: backend.finish(),
    }
}

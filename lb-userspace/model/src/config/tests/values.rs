//! Files that have every key and as few keys as possible, and what they mean.

use std::{net::Ipv4Addr, time::Duration};

use super::*;
use crate::ring::{Identity, RingSize};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn the_smallest_file_gets_all_defaults() {
    let config = parse("least.toml", LEAST).unwrap();
    let address = "203.0.113.10".parse().unwrap();
    let expected = Config {
        node: Node {
            interfaces: vec!["eth0".to_owned()],
            xdp_mode: XdpMode::Native,
            state_dir: "/var/lib/evenkeel".into(),
            exec_user: "nobody".to_owned(),
            hash_seed: HashSeed::new([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
            encap_source: Vec::new(),
            nat_source: Vec::new(),
            nat_ports: 16_384..=32_767,
            nat_source_share: Fraction::HALF,
            transition_ttl: seconds(900),
            track_idle: seconds(3600),
            track_flows: 1_048_576,
            nat_sessions: 65_536,
            sample: 1,
        },
        api: Api {
            socket: "/run/evenkeel/api.sock".into(),
            group: None,
        },
        change: ChangeSettings {
            bake: seconds(30),
            keep_revisions: 200,
        },
        metrics: Metrics {
            listen: "127.0.0.1:9477".parse().unwrap(),
        },
        alerts: Alerts::default(),
        announce: None,
        fleet: None,
        sources: Sources {
            dns_servers: Vec::new(),
            interval_min: seconds(5),
            interval_max: seconds(60),
            timeout: seconds(2),
        },
        vips: vec![Vip {
            name: "api".to_owned(),
            address,
            port: 443,
            protocol: Protocol::Tcp,
            forward: Forward::L2,
            affinity: Affinity::Flow,
            track: Track::OnChange,
            ring_size: RingSize::default(),
            backends_from: None,
            health: None,
            guard: Guard {
                max_share: None,
                max_moved: Fraction::ALL,
                min_backends: 1,
            },
            limit: Limit::default(),
            bound: Bound::default(),
            scaling: Scaling::default(),
            skew: Skew::default(),
            announce: VipAnnounce::default(),
            overrides: Vec::new(),
            backends: vec![Backend {
                name: "api-1".to_owned(),
                address: Ipv4Addr::new(10, 0, 1, 11).into(),
                port: 443,
                weight: 100,
                capacity: None,
                state: BackendState::Up,
            }],
        }],
    };
    assert_eq!(config, expected);
}

#[test]
fn reads_every_key() {
    let Config {
        node,
        api,
        change,
        metrics,
        alerts,
        announce: _,
        fleet,
        sources,
        vips,
    } = parse("full.toml", FULL).unwrap();
    let fleet = fleet.unwrap();
    let files = [&fleet.ca_file, &fleet.cert_file, &fleet.key_file].map(|file| file.to_str());
    assert_eq!(
        files,
        [
            Some("/etc/lb/ca.pem"),
            Some("/etc/lb/lb-1.pem"),
            Some("/etc/lb/lb-1-key.pem")
        ]
    );
    assert_eq!(
        (&*fleet.name, &*fleet.node, fleet.rack.as_deref()),
        ("edge", "lb-1", Some("a"))
    );
    assert_eq!(
        fleet.endpoints,
        ["https://etcd-1:2379", "https://[2001:db8::2]:2379"]
    );
    assert_eq!(fleet.confirm, seconds(90));
    assert_eq!(node.interfaces, ["eth0", "bond1.100"]);
    assert_eq!(node.xdp_mode, XdpMode::Auto);
    assert_eq!(node.state_dir.to_str(), Some("/srv/evenkeel"));
    assert_eq!(node.exec_user, "checks");
    assert_eq!(node.hash_seed.bytes()[..3], [0xf0, 0xe0, 0xd0]);
    let source = |ip: &str| {
        node.encap_prefix(ip.parse().unwrap())
            .map(|p| p.to_string())
    };
    assert_eq!(source("10.0.0.1").as_deref(), Some("10.200.0.0/16"));
    assert_eq!(source("2001:db8::1").as_deref(), Some("fd00:1::/64"));
    assert_eq!(node.nat_source.len(), 2);
    assert_eq!(node.nat_ports, 20_000..=29_999);
    assert_eq!(Some(node.nat_source_share), Fraction::new(0.25));
    assert_eq!(
        (node.transition_ttl, node.track_idle),
        (seconds(300), seconds(5400))
    );
    assert_eq!(
        (node.track_flows, node.nat_sessions, node.sample),
        (65_536, 1_000_000, 256)
    );
    assert_eq!(api.socket.to_str(), Some("/run/lb/api.sock"));
    assert_eq!(api.group.as_deref(), Some("operators"));
    assert_eq!((change.bake, change.keep_revisions), (seconds(120), 50));
    assert_eq!(metrics.listen.to_string(), "[::1]:9999");
    assert_eq!((alerts.alertmanager.len(), alerts.webhook.len()), (2, 1));
    assert_eq!((alerts.resend, alerts.escalate_after), (seconds(30), None));
    assert_eq!(alerts.webhook_secret, None);
    let servers: Vec<String> = sources
        .dns_servers
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(servers, ["10.0.0.53:53", "[fd00::53]:5353"]);
    assert_eq!(
        (sources.interval_min, sources.interval_max, sources.timeout),
        (seconds(2), seconds(30), seconds(1))
    );
    check_vips(&vips);
}

fn check_vips(vips: &[Vip]) {
    let [api, dns, echo, web] = vips else {
        panic!("{vips:?}")
    };
    let source = web.backends_from.as_ref().map(ToString::to_string);
    assert_eq!(source.as_deref(), Some("dns:web.example.com:8443"));
    let [set] = &web.overrides[..] else {
        panic!("{:?}", web.overrides)
    };
    assert_eq!(
        (&*set.name, set.state, set.weight),
        ("10.0.1.61", Some(BackendState::Drain), Some(7))
    );
    assert!(web.backends.is_empty());
    assert_eq!(
        (api.forward, api.affinity, api.track),
        (Forward::Nat, Affinity::Source, Track::Always)
    );
    assert_eq!(api.ring_size.get(), 4093);
    let expected = Health {
        kind: HealthKind::Https {
            request: HttpCheck {
                path: "/healthz".to_owned(),
                host: Some("api.example:8443".to_owned()),
                expect_status: StatusSet::new(vec![200..=299, 401..=401]),
                expect_body: Some("ok".to_owned()),
            },
            verify: false,
            ca: None,
        },
        port: 8443,
        interval: seconds(2),
        fast_interval: Duration::from_millis(300),
        jitter: Fraction::new(0.25).unwrap(),
        timeout: Duration::from_millis(750),
        rise: 4,
        fall: 5,
        via: Via::Direct,
        damping: false,
        slow_start: seconds(60),
        panic_threshold: Fraction::new(0.25).unwrap(),
    };
    assert_eq!(api.health.as_ref(), Some(&expected));
    let expected = HealthKind::Udp {
        send: Some(vec![0, 255]),
        expect: Some("ÿ".as_bytes().to_vec()),
    };
    assert_eq!(echo.health.as_ref().unwrap().kind, expected);
    assert_eq!(api.guard.max_share, Fraction::new(0.4));
    assert_eq!(api.guard.max_moved.millionths(), 125_000);
    assert_eq!(api.guard.min_backends, 2);
    check_limit(&api.limit);
    assert_eq!(api.bound.factor.map(BoundFactor::thousandths), Some(1325));
    assert!(api.bound.capacity && api.bound.is_set());
    assert!(!dns.bound.is_set());
    check_scaling_and_skew(api);
    let [first, second, third] = &api.backends[..] else {
        panic!("{:?}", api.backends)
    };
    let address = Ipv4Addr::new(10, 0, 1, 11).into();
    assert_eq!(
        first.identity(),
        Identity {
            address,
            port: 8443
        }
    );
    assert_eq!(
        (first.weight, first.capacity, first.state),
        (50, Some(5000), BackendState::Drain)
    );
    assert_eq!((second.weight, second.state), (0, BackendState::Disabled));
    assert_eq!(
        (third.port, third.weight, third.state),
        (443, 100, BackendState::Up)
    );
    assert_eq!(
        (dns.port, dns.protocol, dns.track),
        (0, Protocol::Udp, Track::Never)
    );
    assert_eq!((dns.forward, dns.backends[0].port), (Forward::Ipip, 0));
    assert!(
        matches!(&dns.health.as_ref().unwrap().kind, HealthKind::Exec { command } if command.len() == 2)
    );
}

fn check_limit(limit: &Limit) {
    let rate = |per_s, burst| Some(Rate { per_s, burst });
    let prefixes =
        |prefixes: &[Prefix]| -> Vec<String> { prefixes.iter().map(ToString::to_string).collect() };
    assert_eq!(limit.flow_rate(), rate(20_000, 40_000));
    assert_eq!(limit.packet_rate(), rate(1_000_000, 300_000));
    assert_eq!(limit.on_excess, OnExcess::SecondSyn);
    assert_eq!(
        prefixes(&limit.exempt_prefixes),
        ["192.0.2.0/24", "2001:db8::7/128"]
    );
    assert_eq!(prefixes(&limit.deny_prefixes), ["198.18.0.0/15"]);
    let source = &limit.source;
    assert_eq!(source.flow_rate(), rate(100, 250));
    assert_eq!(source.packet_rate(), rate(20_000, 5000));
    assert_eq!(source.port_block, Some(1024));
    assert_eq!(source.on_excess, OnExcess::Count);
    let prefix = |ip: &str| source.prefix_of(ip.parse().unwrap()).to_string();
    assert_eq!(prefix("192.0.2.7"), "192.0.2.0/24");
    assert_eq!(prefix("2001:db8:0:1234::1"), "2001:db8:0:1200::/56");
}

/// Lists come from files too, and VIPs with the same keys share one.
#[test]
fn reads_lists_of_prefixes() {
    let vip = "[[vip]]\n";
    let limited = LEAST.replacen(
        vip,
        "[[vip]]\nlimit = { deny = [\"10.0.0.0/8\"], deny_files = [\"a.txt\", \"b.txt\"] }\n",
        1,
    );
    let second = limited[limited.find(vip).unwrap()..].replace("\"api\"", "\"two\"");
    let two = limited.clone() + &second.replace("443", "8443");
    let files = |path: &Path| match path.to_str().unwrap() {
        "a.txt" => {
            Ok("\u{feff}# spammers\n\n198.51.100.7 # one\r\n 2001:db8::/32\n10.0.0.0/8".to_owned())
        }
        "b.txt" => Ok("198.51.100.7/32\n".to_owned()),
        _ => Err(std::io::ErrorKind::NotFound.into()),
    };
    let config = parse_with("f.toml", &two, &files).unwrap();
    let deny = |vip: usize| &config.vips[vip].limit.deny_prefixes;
    let shown: Vec<String> = deny(0).iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["10.0.0.0/8", "198.51.100.7/32", "2001:db8::/32"]);
    assert!(std::sync::Arc::ptr_eq(deny(0), deny(1)));
    let wrong = |content: &'static str| {
        let read = |_: &Path| Ok(content.to_owned());
        let errors = parse_with("f.toml", &limited, &read).unwrap_err();
        let [problem, _] = errors.problems() else {
            panic!("{errors}")
        };
        assert!(problem.help.starts_with("every line must be an address"));
        format!("{} / {}", problem.title, problem.label)
    };
    assert_eq!(
        wrong("10.0.0.0/8\n10.0.0.1/8"),
        "can't use the prefixes in a.txt / line 2: bits beyond /8 are set"
    );
    // The text of a secret file is not told.
    assert!(wrong("<html>").ends_with("/ line 1: not a prefix"));
    assert!(wrong("::ffff:10.0.0.1").ends_with("IPv4 addresses written as IPv6"));
}

fn check_scaling_and_skew(vip: &Vip) {
    assert_eq!(vip.scaling.target_utilisation.millionths(), 600_000);
    assert_eq!(vip.scaling.alert_utilisation.millionths(), 800_000);
    let expected = Skew {
        tolerance: Fraction::new(0.25).unwrap(),
        widest_tolerance: Fraction::HALF,
        days_per_false_alarm: 365,
        short: seconds(15),
        long: seconds(300),
        least_seconds: 6,
        clear_windows: 5,
        concentration: Factor::new(3.0).unwrap(),
        revision_memory: seconds(1800),
        volume_ratio: Factor::new(2.5).unwrap(),
        bytes_floor: 1_000_000,
        packets_floor: 1000,
        volume_for: seconds(60),
        spike: Factor::new(4.5).unwrap(),
        spike_floor: 100,
    };
    assert_eq!(vip.skew, expected);
}

#[test]
fn tracking_defaults_follow_protocol_and_forwarding() {
    let track = |from: &str, to: &str| parse("f", &LEAST.replace(from, to)).unwrap().vips[0].track;
    assert_eq!(track("", ""), Track::OnChange);
    assert_eq!(track("\"tcp\"", "\"udp\""), Track::Always);
    assert_eq!(track("\"l2\"", "\"nat\""), Track::Always);
    assert_eq!(track("\"l2\"", "\"ipip\""), Track::OnChange);
}

#[test]
fn a_health_check_gets_its_defaults() {
    let text = LEAST.replace("\"l2\"", "\"l2\"\nhealth.kind = \"http\"");
    let health = parse("f", &text).unwrap().vips[0].health.clone();
    let ms = Duration::from_millis;
    let expected = Health {
        kind: HealthKind::Http(HttpCheck {
            path: "/".to_owned(),
            host: None,
            expect_status: StatusSet::new(vec![200..=399]),
            expect_body: None,
        }),
        port: 0,
        interval: seconds(1),
        fast_interval: ms(250),
        jitter: Fraction::TENTH,
        timeout: ms(500),
        rise: 2,
        fall: 3,
        via: Via::Vip,
        damping: true,
        slow_start: Duration::ZERO,
        panic_threshold: Fraction::HALF,
    };
    assert_eq!(health, Some(expected));
    let short = text.replace(
        "health.kind",
        "health.interval = \"200ms\"\nhealth.timeout = \"50ms\"\nhealth.kind",
    );
    let health = parse("f", &short).unwrap().vips[0].health.clone();
    assert_eq!(
        health.unwrap().fast_interval,
        ms(100),
        "the default has a lower bound"
    );
}

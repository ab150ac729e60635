//! A file that has everything, one that has the least, and every mistake.

mod mistakes;

use std::{collections::BTreeSet, io, net::Ipv4Addr, time::Duration};

use mistakes::SEED;
use proptest::prelude::*;

use super::*;
use crate::ring::{Identity, RingSize};

const LEAST: &str = include_str!("../../../tests/golden/config/least.toml");
const FULL: &str = include_str!("../../../tests/golden/config/full.toml");
const BAD: &str = include_str!("../../../tests/golden/config/bad.toml");

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn the_examples_are_right() {
    let example = include_str!("../../../../../deploy/evenkeel.toml");
    let readme = include_str!("../../../../../README.md");
    let block = readme.split("```toml\n").nth(1).unwrap();
    let block = block.split("```").next().unwrap();
    for text in [example, block] {
        let config = parse("evenkeel.toml", text).unwrap();
        assert_eq!(config.vips[0].backends.len(), 2);
    }
}

#[test]
fn the_least_gets_all_defaults() {
    let config = parse("least.toml", LEAST).unwrap();
    let address = "203.0.113.10".parse().unwrap();
    let expected = Config {
        node: Node {
            interfaces: vec!["eth0".to_owned()],
            xdp_mode: XdpMode::Native,
            state_dir: "/var/lib/evenkeel".into(),
            hash_seed: HashSeed::new([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
            encap_source_v4: None,
            encap_source_v6: None,
            nat_sources: Vec::new(),
            nat_ports: 16_384..=32_767,
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
        change: ChangeSettings { bake: seconds(30) },
        metrics: Metrics {
            listen: "127.0.0.1:9477".parse().unwrap(),
        },
        alerts: Alerts::default(),
        vips: vec![Vip {
            name: "api".to_owned(),
            address,
            port: 443,
            protocol: Protocol::Tcp,
            forward: Forward::L2,
            affinity: Affinity::Flow,
            track: Track::OnChange,
            ring_size: RingSize::default(),
            health: None,
            guard: Guard {
                max_share: Fraction::ALL,
                max_moved: Fraction::ALL,
                min_backends: 1,
            },
            scaling: Scaling::default(),
            skew: Skew::default(),
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
fn everything_is_read() {
    let Config {
        node,
        api,
        change,
        metrics,
        alerts,
        vips,
    } = parse("full.toml", FULL).unwrap();
    assert_eq!(node.interfaces, ["eth0", "bond1.100"]);
    assert_eq!(node.xdp_mode, XdpMode::Auto);
    assert_eq!(node.state_dir.to_str(), Some("/srv/evenkeel"));
    assert_eq!(node.hash_seed.bytes()[..3], [0xf0, 0xe0, 0xd0]);
    let source = |ip: &str| {
        node.encap_source(ip.parse().unwrap())
            .map(|p| p.to_string())
    };
    assert_eq!(source("10.0.0.1").as_deref(), Some("10.200.0.0/16"));
    assert_eq!(source("2001:db8::1").as_deref(), Some("fd00:1::/64"));
    assert_eq!(node.nat_sources.len(), 2);
    assert_eq!(node.nat_ports, 20_000..=29_999);
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
    assert_eq!(change.bake, seconds(120));
    assert_eq!(metrics.listen.to_string(), "[::1]:9999");
    assert_eq!((alerts.alertmanager.len(), alerts.webhook.len()), (2, 1));
    assert_eq!((alerts.resend, alerts.escalate_after), (seconds(30), None));
    assert_eq!(alerts.webhook_secret, None);
    everything_of_vips_is_read(&vips);
}

fn everything_of_vips_is_read(vips: &[Vip]) {
    let [api, dns, echo] = vips else {
        panic!("{vips:?}")
    };
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
    assert_eq!(api.guard.max_share.millionths(), 400_000);
    assert_eq!(api.guard.max_moved.millionths(), 125_000);
    assert_eq!(api.guard.min_backends, 2);
    watching_is_read(api);
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

fn watching_is_read(vip: &Vip) {
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
fn the_secret_of_webhooks_is_read_and_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("evenkeel.toml");
    let text = format!("{LEAST}\n[alerts]\nwebhook_secret_file = \"secret\"\n");
    std::fs::write(&config, text).unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "0123456789abcdef\n").unwrap();
    let alerts = load(&config).unwrap().alerts;
    assert_eq!(
        alerts.webhook_secret.as_ref().unwrap().bytes(),
        b"0123456789abcdef"
    );
    assert!(!format!("{alerts:?}").contains("0123"), "{alerts:?}");
    std::fs::write(&file, "short-one\n").unwrap();
    let error = load(&config).unwrap_err().to_string();
    assert!(
        error.contains("the secret in secret can't be used"),
        "{error}"
    );
    assert!(
        error.contains("it has 9 characters") && !error.contains("short-one"),
        "{error}"
    );
}

#[test]
fn tracking_defaults_follow_protocol_and_forwarding() {
    let track = |from: &str, to: &str| parse("f", &LEAST.replace(from, to)).unwrap().vips[0].track;
    assert_eq!(track("", ""), Track::OnChange);
    assert_eq!(track("\"tcp\"", "\"udp\""), Track::Always);
    assert_eq!(track("\"l2\"", "\"nat\""), Track::Always);
    assert_eq!(track("\"l2\"", "\"ipip\""), Track::OnChange);
}

const VIP: &str = "[[vip]]\nname = \"api\"\naddress = \"203.0.113.10\"\nport = 443\nprotocol = \"tcp\"\n\
                   forward = \"l2\"\n[[vip.backend]]\nname = \"x\"\naddress = \"10.0.1.11\"\n";

fn titles(text: &str) -> Vec<String> {
    let errors = parse("f.toml", text).unwrap_err();
    errors
        .problems()
        .iter()
        .map(|problem| problem.title.clone())
        .collect()
}

#[test]
fn vips_are_different_from_each_other() {
    let second = |from: &str, to: &str| format!("{LEAST}{}", VIP.replace(from, to));
    let twice = "two VIPs have the address 203.0.113.10, tcp, port 443";
    assert_eq!(
        titles(&second("", "")),
        ["two VIPs have the name \"api\"", twice]
    );
    assert_eq!(titles(&second("\"api\"", "\"b\"")), [twice]);
    let b = |from, to| {
        second("\"api\"", "\"b\"")
            .replacen("\"tcp\"", "\"tcp\" ", 1)
            .replace(from, to)
    };
    assert!(
        parse(
            "f",
            &b(
                "\nport = 443\nprotocol = \"tcp\"\n",
                "\nport = 80\nprotocol = \"tcp\"\n"
            )
        )
        .is_ok()
    );
    assert!(
        parse(
            "f",
            &b(
                "\nport = 443\nprotocol = \"tcp\"\n",
                "\nport = 443\nprotocol = \"udp\"\n"
            )
        )
        .is_ok()
    );
    // An any-port VIP beside an exact one is fine: the exact one wins. Two any-port VIPs are not.
    assert!(
        parse(
            "f",
            &b(
                "\nport = 443\nprotocol = \"tcp\"\n",
                "\nport = 0\nprotocol = \"tcp\"\n"
            )
        )
        .is_ok()
    );
    let any = b("port = 443", "port = 0");
    assert_eq!(
        titles(&any),
        ["two VIPs have the address 203.0.113.10, tcp, any port"]
    );
}

#[test]
fn an_any_port_vip_keeps_the_port() {
    for forward in ["l2", "nat", "ipip"] {
        let text = LEAST
            .replace("443", "0")
            .replace("\"l2\"", &format!("\"{forward}\""));
        assert_eq!(parse("f", &text).unwrap().vips[0].backends[0].port, 0);
        let text = format!("{text}port = 80\n");
        assert_eq!(
            titles(&text),
            ["a backend of an any-port VIP can't have a port"]
        );
    }
}

#[test]
fn one_host_may_serve_on_several_ports_behind_nat() {
    let text = LEAST.replace("\"l2\"", "\"nat\"");
    let more = "[[vip.backend]]\nname = \"b\"\naddress = \"10.0.1.11\"\nport = 8080\n";
    assert!(parse("f", &format!("{text}{more}")).is_ok());
    assert_eq!(
        titles(&format!("{text}{}", more.replace("8080", "443"))).len(),
        1
    );
}

fn backends(range: std::ops::Range<u32>) -> String {
    let address = |i| Ipv4Addr::from(0x0a01_0000 + i);
    let backend = |i| {
        format!(
            "[[vip.backend]]\nname = \"b{i}\"\naddress = \"{}\"\n",
            address(i)
        )
    };
    range.map(backend).collect()
}

#[test]
fn numbers_are_limited() {
    let full = format!("{LEAST}{}", backends(1..4096));
    assert!(parse("f", &full).is_ok());
    assert_eq!(
        titles(&format!("{full}{}", backends(4096..4097))),
        ["too many backends"]
    );
    let small = LEAST.replace("\"l2\"", "\"l2\"\nring_size = 251");
    assert!(parse("f", &format!("{small}{}", backends(1..251))).is_ok());
    let title = "more backends than `vip.ring_size` has slots";
    assert_eq!(titles(&format!("{small}{}", backends(1..252))), [title]);
    let vip = |i| {
        VIP.replace("\"api\"", &format!("\"v{i}\""))
            .replace("443", &format!("{}", 1000 + i))
    };
    let vips: String = (1..1024).map(vip).collect();
    assert!(parse("f", &format!("{LEAST}{vips}")).is_ok());
    assert_eq!(
        titles(&format!("{LEAST}{vips}{}", vip(1024))),
        ["too many VIPs"]
    );
}

#[test]
fn a_health_check_gets_all_defaults() {
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
        "no faster by itself"
    );
}

#[test]
fn certificates_are_read_with_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("evenkeel.toml");
    let health = "health = { kind = \"https\", ca_file = \"ca.pem\" }";
    let text = LEAST.replace("\"l2\"", &format!("\"l2\"\n{health}"));
    std::fs::write(&config, text).unwrap();
    let error = load(&config).unwrap_err().to_string();
    assert!(error.contains("No such file"), "{error}");
    std::fs::write(folder.path().join("ca.pem"), "no certificate").unwrap();
    let error = load(&config).unwrap_err().to_string();
    assert!(error.contains("there is no certificate in it"), "{error}");
    let pem = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n";
    std::fs::write(folder.path().join("ca.pem"), pem).unwrap();
    let health = load(&config).unwrap().vips[0].health.clone().unwrap();
    let HealthKind::Https { verify, ca, .. } = health.kind else {
        panic!("{health:?}")
    };
    assert!(verify);
    assert_eq!(ca.unwrap().pem, pem);
}

#[test]
fn a_seed_file_is_read_from_the_folder_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("evenkeel.toml");
    std::fs::write(&config, LEAST.replace(SEED, "hash_seed_file = \"seed\"")).unwrap();
    assert_eq!(load(&config).unwrap_err().len(), 1);
    std::fs::write(
        folder.path().join("seed"),
        "000102030405060708090a0b0c0d0e0f\n",
    )
    .unwrap();
    assert_eq!(load(&config).unwrap(), parse("f", LEAST).unwrap());
    std::fs::write(folder.path().join("seed"), "secret").unwrap();
    let error = load(&config).unwrap_err();
    assert!(
        error.to_string().contains("the seed in seed can't be used"),
        "{error}"
    );
    assert!(!error.to_string().contains("\"secret\""), "{error}");
}

#[test]
fn files_that_are_no_text_are_refused() {
    let error = load("/nonexistent/evenkeel.toml").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("can't read /nonexistent/evenkeel.toml"),
        "{error}"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"[node]\nx = \"\xff\xfe\"").unwrap();
    let error = load(file.path()).unwrap_err();
    assert_eq!(
        error.position(&error.problems()[0]),
        Some((2, 6)),
        "{error}"
    );
    assert!(error.to_string().contains("not UTF-8"), "{error}");
    assert_eq!(titles(""), ["`node` is missing"]);
}

#[test]
fn broken_toml_hides_no_other_mistake() {
    let text = LEAST
        .replace("port = 443", "port = = 443")
        .replace("10.0.1.11", "10.0.1.256");
    assert_eq!(
        titles(&text),
        ["this is not TOML", "`vip.backend.address` is not valid"]
    );
    let text = LEAST.replace("port = 443", "port = 443\nport = 80");
    assert_eq!(titles(&text), ["`port` is there twice in one table"]);
}

#[test]
fn all_mistakes_are_drawn() {
    let errors = parse("bad.toml", BAD).unwrap_err();
    if let Some(path) = std::env::var_os("EVENKEEL_WRITE_GOLDEN_ERRORS") {
        std::fs::write(path, format!("{errors}\n")).unwrap();
    }
    let expected = include_str!("../../../tests/golden/config/bad.txt");
    assert_eq!(format!("{errors}\n"), expected);
    assert!(!expected.contains("0001020304"), "a seed must not be shown");
}

/// Keys of a section, out of the answer to an unknown one.
fn keys_of(text: &str) -> BTreeSet<String> {
    let errors = parse("f.toml", text).unwrap_err();
    let help = &errors
        .problems()
        .iter()
        .find(|p| p.label == "unknown key")
        .unwrap()
        .help;
    let (_, list) = help.split_once(" can have ").unwrap();
    list.split(", ")
        .map(|key| key.trim_matches('`').to_owned())
        .collect()
}

#[test]
fn the_documentation_has_every_key_and_no_other() {
    let docs = include_str!("../../../../../docs/configuration.md");
    for (heading, text) in [
        ("[node]", "[node]\nqqqqqqqq = 1"),
        ("[api]", "[api]\nqqqqqqqq = 1"),
        ("[change]", "[change]\nqqqqqqqq = 1"),
        ("[metrics]", "[metrics]\nqqqqqqqq = 1"),
        ("[alerts]", "[alerts]\nqqqqqqqq = 1"),
        ("[[vip]]", "[[vip]]\nqqqqqqqq = 1"),
        ("[vip.health]", "[[vip]]\n[vip.health]\nqqqqqqqq = 1"),
        ("[vip.guard]", "[[vip]]\n[vip.guard]\nqqqqqqqq = 1"),
        ("[vip.scaling]", "[[vip]]\n[vip.scaling]\nqqqqqqqq = 1"),
        ("[vip.skew]", "[[vip]]\n[vip.skew]\nqqqqqqqq = 1"),
        ("[[vip.backend]]", "[[vip]]\n[[vip.backend]]\nqqqqqqqq = 1"),
    ] {
        let section = docs
            .split("\n## ")
            .find(|s| s.starts_with(&format!("`{heading}`")));
        let rows = section
            .expect(heading)
            .lines()
            .filter_map(|line| line.strip_prefix("| `"));
        let documented: BTreeSet<_> = rows
            .map(|row| row[..row.find('`').unwrap()].to_owned())
            .collect();
        let mut keys = keys_of(text);
        keys.retain(|key| {
            !["health", "guard", "scaling", "skew", "backend"].contains(&key.as_str())
        });
        assert_eq!(documented, keys, "docs/configuration.md, section {heading}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever is in a file, the answer is a configuration or a list of problems that can be drawn.
    #[test]
    fn no_text_is_too_bad(
        at in 0..FULL.len(),
        length in 0usize..40,
        new in prop_oneof![Just(String::new()), "\\PC{0,12}", "[\\[\\]{}=\"',.\n\r\t#0-9a-z-]{0,12}"],
    ) {
        let end = FULL.ceil_char_boundary(at + length);
        let at = FULL.floor_char_boundary(at);
        let text = format!("{}{new}{}", &FULL[..at], &FULL[end..]);
        let no_file = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
        if let Err(errors) = parse_with("f.toml", &text, &no_file) {
            prop_assert!(errors.len() > 0);
            prop_assert!(errors.to_string().contains("error"));
            prop_assert!(errors.problems().iter().all(|p| errors.position(p).is_some()));
        }
    }
}

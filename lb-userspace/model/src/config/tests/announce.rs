//! `[announce]`, its peers and `[vip.announce]`: values and errors.

use std::time::Duration;

use super::*;

const NODE: &str =
    "[node]\ninterfaces = [\"eth0\"]\nhash_seed = \"000102030405060708090a0b0c0d0e0f\"\n";
const BGP: &str = "[announce]\nlocal_as = 64501\nrouter_id = \"10.0.0.11\"\n";
const PEER: &str = "[[announce.peer]]\nname = \"tor-1\"\naddress = \"10.0.0.1\"\npeer_as = 64500\n";

fn file(announce: &str) -> String {
    format!("{NODE}{announce}{VIP}")
}

fn shown<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

#[test]
fn announcing_gets_its_defaults() {
    let config = parse("f", &file(&format!("{BGP}{PEER}"))).unwrap();
    let expected = Announce {
        via: AnnounceVia::Bgp,
        local_as: Some(64501),
        router_id: Some(Ipv4Addr::new(10, 0, 0, 11)),
        socket: "/run/evenkeel/announce.sock".into(),
        communities: Vec::new(),
        large_communities: Vec::new(),
        med: 0,
        local_pref: None,
        table: 7411,
        device: "evenkeel-vip".to_owned(),
        settle: Duration::from_secs(5),
        peers: vec![AnnouncePeer {
            name: "tor-1".to_owned(),
            address: Ipv4Addr::new(10, 0, 0, 1).into(),
            port: 179,
            peer_as: 64500,
            source: None,
            hold_time: Duration::from_secs(9),
            ttl_security: false,
            multihop: None,
            bfd: false,
            bfd_interval: Duration::from_millis(100),
            bfd_multiplier: 3,
            next_hop_v4: None,
            next_hop_v6: None,
            password: None,
        }],
    };
    assert_eq!(config.announce, Some(expected));
    let expected = VipAnnounce {
        enabled: true,
        communities: Vec::new(),
        large_communities: Vec::new(),
        home: None,
        med: None,
        min_up: 1,
    };
    assert_eq!(config.vips[0].announce, expected);
    assert_eq!(VipAnnounce::default(), expected);
}

#[test]
fn reads_every_key_of_announcing() {
    let config = parse("full.toml", FULL).unwrap();
    let announce = config.announce.unwrap();
    assert_eq!(announce.via, AnnounceVia::Bgp);
    assert_eq!(announce.local_as, Some(4_200_000_001));
    assert_eq!(announce.router_id, Some(Ipv4Addr::new(10, 0, 0, 11)));
    assert_eq!(announce.socket.to_str(), Some("/run/lb/announce.sock"));
    assert_eq!(shown(&announce.communities), ["64500:100", "no-export"]);
    assert_eq!(shown(&announce.large_communities), ["4200000001:1:2"]);
    assert_eq!((announce.med, announce.local_pref), (50, Some(200)));
    assert_eq!((announce.table, &*announce.device), (100, "vips"));
    assert_eq!(announce.settle, Duration::from_secs(10));
    let [first, second] = &announce.peers[..] else {
        panic!("{:?}", announce.peers)
    };
    let expected = AnnouncePeer {
        name: "tor-1".to_owned(),
        address: "10.0.0.1".parse().unwrap(),
        port: 1179,
        peer_as: 64500,
        source: Some("10.0.0.11".parse().unwrap()),
        hold_time: Duration::from_secs(30),
        ttl_security: true,
        multihop: None,
        bfd: true,
        bfd_interval: Duration::from_millis(300),
        bfd_multiplier: 5,
        next_hop_v4: Some("10.0.0.12".parse().unwrap()),
        next_hop_v6: Some("2001:db8::12".parse().unwrap()),
        password: None,
    };
    assert_eq!(*first, expected);
    assert_eq!((second.peer_as, second.multihop), (4_200_000_001, Some(2)));
    let vip = &config.vips[0].announce;
    assert_eq!((vip.enabled, vip.med, vip.min_up), (false, Some(70), 2));
    assert_eq!(shown(&vip.communities), ["blackhole"]);
    assert_eq!(shown(&vip.large_communities), ["64500:7:8"]);
}

#[test]
fn other_files_that_are_right() {
    let peer = |keys: &str| file(&format!("{BGP}{PEER}{keys}"));
    let kernel = file("[announce]\nvia = \"kernel\"\ntable = 4294967295\n");
    let config = parse("f", &kernel).unwrap();
    assert_eq!(config.announce.unwrap().via, AnnounceVia::Kernel);
    // The table of a VIP needs no `[announce]`.
    let vip = file("").replace(
        "\"l2\"",
        "\"l2\"\nannounce = { communities = [\"65535:0\"] }",
    );
    let config = parse("f", &vip).unwrap();
    let community = Community::GRACEFUL_SHUTDOWN;
    assert_eq!(config.vips[0].announce.communities, [community]);
    assert_eq!(config.announce, None);
    // Another port, another peer.
    let second = PEER.replace("tor-1", "tor-2") + "port = 180\n";
    parse("f", &peer(&second)).unwrap();
    parse("f", &peer("ttl_security = false\nmultihop = 255\n")).unwrap();
    parse("f", &peer("hold_time = \"3000ms\"\n")).unwrap();
}

#[test]
fn reads_the_password_of_a_peer() {
    let text = file(&format!("{BGP}{PEER}password_file = \"tor.key\"\n"));
    let read = |content: &str| {
        parse_with("f", &text, &|path| {
            assert_eq!(path.to_str(), Some("tor.key"));
            Ok(content.to_owned())
        })
    };
    let password = |content: &str| {
        let announce = read(content).unwrap().announce.unwrap();
        assert!(!format!("{announce:?}").contains(content.trim()));
        announce.peers[0].password.clone().unwrap()
    };
    assert_eq!(password("se cret~\n").bytes(), b"se cret~");
    let longest = "x".repeat(80);
    assert_eq!(password(&longest).bytes(), longest.as_bytes());
    for (content, has) in [
        ("\n", "has 0 characters / must be 1 to 80 printable"),
        (&"x".repeat(81), "has 81 characters / must be 1 to 80"),
        (
            "pässword",
            "contains characters that are not printable ASCII",
        ),
        (
            "two\nlines",
            "contains characters that are not printable ASCII",
        ),
    ] {
        let errors = read(content).unwrap_err();
        let [problem] = errors.problems() else {
            panic!("{errors}")
        };
        assert_eq!(problem.title, "can't use the password in tor.key");
        let message = format!("{} / {}", problem.label, problem.help);
        assert!(message.contains(has), "{message}");
        assert!(!errors.to_string().contains(content.trim()) || content.trim().is_empty());
    }
}

/// A password in the wrong place is an unknown key, and is not shown.
#[test]
fn a_typed_password_is_not_shown() {
    let text = file(&format!("{BGP}{PEER}password = \"hunter2\"\n"));
    let errors = parse("f", &text).unwrap_err();
    assert_eq!(
        errors.problems()[0].title,
        "unknown key `announce.peer.password`"
    );
    assert!(!errors.to_string().contains("hunter2"), "{errors}");
    assert!(!crate::secrets::mask(&text).contains("hunter2"));
    let named = text.replace("password = \"hunter2\"", "password_file = \"tor.key\"");
    assert_eq!(
        crate::secrets::mask(&named),
        named.replace("000102030405060708090a0b0c0d0e0f", "********")
    );
}

/// Checks that a file has one problem, at this line and with this message.
fn assert_one_problem(text: &str, line: usize, has: &str) {
    let errors = parse("f.toml", text).expect_err(has);
    let [problem] = errors.problems() else {
        panic!("{has}: {errors}")
    };
    let shown = format!("{} / {} / {}", problem.title, problem.label, problem.help);
    assert!(shown.contains(has), "{has}: {shown}");
    assert_eq!(errors.position(problem).unwrap().0, line, "{has}: {errors}");
}

#[test]
#[rustfmt::skip]
fn errors_in_announcing() {
    let kernel = "[announce]\nvia = \"kernel\"\n";
    for (announce, line, has) in [
        (format!("[announce]\nrouter_id = \"10.0.0.11\"\n{PEER}"), 4, "`announce.local_as` is missing / `local_as` must be set here / the AS number of this node"),
        (format!("[announce]\nlocal_as = 64501\n{PEER}"), 4, "`announce.router_id` is missing"),
        (BGP.to_owned(), 4, "`announce` has no peers / no router to announce to / add a table `[[announce.peer]]`"),
        (format!("{BGP}peer = []\n"), 7, "`announce.peer` is not valid / this list is empty"),
        (format!("{BGP}[announce.peer]\n"), 7, "expected tables in double brackets"),
        (format!("{kernel}{PEER}"), 6, "`[[announce.peer]]` with `announce.via = \"kernel\"` / no session would be opened to it / remove the peers"),
("[[announce]]\n".to_owned(), 4, "`announce` is not valid / this is an array / expected a table: `[announce]`"),
        ("[announce]\nvia = \"ospf\"\n".to_owned(), 5, "must be one of \"bgp\", \"kernel\""),
        (format!("{kernel}local_as = 0\n"), 6, "must be between 1 and 4294967294"),
        (format!("{kernel}local_as = 4294967295\n"), 6, "must be between 1 and 4294967294"),
        (format!("{kernel}router_id = \"0.0.0.0\"\n"), 6, "the unspecified address"),
        (format!("{kernel}router_id = \"2001:db8::1\"\n"), 6, "an IPv6 address / must be an IPv4 address"),
        (format!("{kernel}socket = \"x\"\n"), 6, "not an absolute path"),
        (format!("{kernel}communities = [\"65536:1\"]\n"), 6, "not a community / must be \"AS:VALUE\", each 0 to 65535, or one of no-export"),
        (format!("{kernel}communities = [\"no-exports\"]\n"), 6, "not a community"),
        (format!("{kernel}large_communities = [\"1:2\"]\n"), 6, "not a large community / must be \"GLOBAL:LOCAL:LOCAL\""),
        (format!("{kernel}med = -1\n"), 6, "must be between 0 and 4294967295"),
        (format!("{kernel}local_pref = 4294967296\n"), 6, "must be between 0 and 4294967295"),
        (format!("{kernel}table = 0\n"), 6, "must be between 1 and 4294967295"),
        (format!("{kernel}table = 253\n"), 6, "a table that the host itself uses / must not be 253 to 255 (default, main, local)"),
        (format!("{kernel}table = 254\n"), 6, "a table that the host itself uses"),
        (format!("{kernel}table = 255\n"), 6, "a table that the host itself uses"),
        (format!("{kernel}device = \"a/b\"\n"), 6, "'/' is not allowed in an interface name"),
        (format!("{kernel}settle = \"0s\"\n"), 6, "must be between 1s and 5m"),
        (format!("{kernel}settle = \"6m\"\n"), 6, "must be between 1s and 5m"),
        (format!("{kernel}meds = 1\n"), 6, "did you mean `med`?"),
    ] {
        assert_one_problem(&file(&announce), line, has);
    }
}

#[test]
#[rustfmt::skip]
fn errors_in_peers() {
    const NAME: &str = "name = \"tor-1\"\n";
    const ADDRESS: &str = "address = \"10.0.0.1\"\n";
    const AS: &str = "peer_as = 64500\n";
    for (from, to, line, has) in [
        (NAME, "", 7, "`announce.peer.name` is missing"),
        (NAME, "name = \"a b\"\n", 8, "' ' is not allowed in a name"),
        (ADDRESS, "", 7, "`announce.peer.address` is missing"),
        (ADDRESS, "address = \"fe80::1\"\n", 9, "a link-local address"),
        (AS, "", 7, "`announce.peer.peer_as` is missing"),
        (AS, "peer_as = 0\n", 10, "must be between 1 and 4294967294"),
        (AS, "peer_as = 1\nport = 0\n", 11, "must be between 1 and 65535"),
        (AS, "peer_as = 1\nsource = \"2001:db8::1\"\n", 11, "`announce.peer.source` is not of the family of `announce.peer.address` / IPv6 / must be an IPv4 address"),
        (AS, "peer_as = 1\nhold_time = \"2s\"\n", 11, "must be between 3s and 5m"),
        (AS, "peer_as = 1\nhold_time = \"3500ms\"\n", 11, "not whole seconds"),
        (AS, "peer_as = 1\npassword_file = \"\"\n", 11, "the path is empty"),
        (AS, "peer_as = 1\npassword_file = \"x\"\n", 11, "can't use the password in x / other files are not read here / must be a file that this user can read, with 1 to 80 printable"),
        (AS, "peer_as = 1\nttl_security = 1\n", 11, "expected `true` or `false`"),
        (AS, "peer_as = 1\nmultihop = 1\n", 11, "must be between 2 and 255"),
        (AS, "peer_as = 1\nbfd = true\n[[announce.peer]]\nname = \"b\"\naddress = \"10.0.0.1\"\nport = 180\npeer_as = 1\nbfd = true\n", 14, "two peers with the address 10.0.0.1 and BFD"),
        (AS, "peer_as = 1\nbfd = true\nmultihop = 2\n", 12, "both `announce.peer.bfd` and `announce.peer.multihop` are set"),
        (AS, "peer_as = 1\nttl_security = true\nmultihop = 2\n", 12, "both `announce.peer.ttl_security` and `announce.peer.multihop` are set"),
        (AS, "peer_as = 1\nbfd_interval = \"49ms\"\n", 11, "must be between 50ms and 5s"),
        (AS, "peer_as = 1\nbfd_multiplier = 51\n", 11, "must be between 2 and 50"),
        (AS, "peer_as = 1\nnext_hop_v4 = \"2001:db8::1\"\n", 11, "must be an IPv4 address"),
        (AS, "peer_as = 1\nnext_hop_v6 = \"10.0.0.1\"\n", 11, "must be an IPv6 address"),
        (AS, "peer_as = 1\n[[announce.peer]]\nname = \"tor-1\"\naddress = \"10.0.0.2\"\npeer_as = 1\n", 12, "duplicate peer name \"tor-1\""),
        (AS, "peer_as = 1\n[[announce.peer]]\nname = \"b\"\naddress = \"10.0.0.1\"\nport = 179\npeer_as = 1\n", 13, "two peers with the address 10.0.0.1, port 179"),
    ] {
        assert!(PEER.contains(from));
        let peer = PEER.replacen(from, to, 1);
        assert_one_problem(&file(&format!("{BGP}{peer}")), line, has);
    }
    for (keys, has) in [
        ("enabled = 1", "expected `true` or `false`"),
        ("communities = \"1:1\"", "expected a list"),
        ("large_communities = [\"x\"]", "not a large community"),
        ("med = 4294967296", "must be between 0 and 4294967295"),
        ("min_up = 0", "must be between 1 and 4096"),
        ("min_up = 4097", "must be between 1 and 4096"),
    ] {
        let text = file("").replace("\"l2\"", &format!("\"l2\"\nannounce = {{ {keys} }}"));
        assert_one_problem(&text, 10, has);
    }
}

#[test]
fn a_wrong_word_says_nothing_about_what_is_missing() {
    let text = file("[announce]\nvia = \"osfp\"\n");
    assert_eq!(titles(&text), ["`announce.via` is not valid"]);
    // All at once.
    let all = titles(&file("[announce]\n"));
    let missing = [
        "`announce.local_as` is missing",
        "`announce.router_id` is missing",
        "`announce` has no peers",
    ];
    assert_eq!(all, missing);
}

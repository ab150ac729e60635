//! Each error by itself: one problem, at its line, with a message that says what is expected.
//!
//! The tables have one case per line (rustfmt would make it six).

use super::*;

/// The problems of `LEAST` after an edit: line of the first; title, label and help of each.
fn problems_after(from: &str, to: &str) -> (usize, Vec<String>) {
    assert!(LEAST.contains(from), "nothing to replace: {from}");
    let text = LEAST.replacen(from, to, 1);
    let errors = parse("f.toml", &text).expect_err(to);
    let line = errors.position(&errors.problems()[0]).unwrap().0;
    let show = |p: &Problem| format!("{} / {} / {}", p.title, p.label, p.help);
    (line, errors.problems().iter().map(show).collect())
}

/// Replaced text, its replacement, line of the problem, part of its message.
type Case = (&'static str, &'static str, usize, &'static str);

/// Checks that each edit gives exactly one problem.
fn assert_each_is_one_problem(table: &[Case]) {
    for (from, to, line, has) in table {
        let (at, messages) = problems_after(from, to);
        assert_eq!(messages.len(), 1, "{to}: {messages:#?}");
        assert!(messages[0].contains(has), "{to}: {messages:#?}");
        assert_eq!(at, *line, "{to}: {messages:#?}");
    }
}

const SEED: &str = "hash_seed = \"000102030405060708090a0b0c0d0e0f\"";
const NODE: &str = "interfaces = [\"eth0\"]";

#[test]
#[rustfmt::skip]
fn errors_in_the_node() {
    assert_each_is_one_problem(&[
        ("[\"eth0\"]", "[]", 2, "`node.interfaces` is empty"),
        ("[\"eth0\"]", "\"eth0\"", 2, "this is a string / expected a list"),
        ("\"eth0\"", "\"eth0\", \"eth0\"", 2, "duplicate interface \"eth0\""),
        ("\"eth0\"", "\"abcdefghijklmnop\"", 2, "16 bytes are too long"),
        ("\"eth0\"", "\"a/b\"", 2, "'/' is not allowed in an interface name"),
        ("\"eth0\"", "\"..\"", 2, "not an interface name"),
        ("\"eth0\"", "7", 2, "this is an integer / expected a string"),
        (NODE, "", 1, "`node.interfaces` is missing"),
        (SEED, "", 1, "`node.hash_seed` is missing"),
        ("0e0f\"", "0e\"", 3, "has 30 digits / must be 32 hex digits"),
        ("0e0f\"", "0e0g\"", 3, "characters that are not hex digits"),
        ("000102030405060708090a0b0c0d0e0f", "00000000000000000000000000000000", 3, "zeros"),
        (NODE, "interfaces = [\"a\"]\nhash_seed_file = \"s\"", 3, "both `node.hash_seed` and `node.hash_seed_file`"),
        (SEED, "hash_seed_file = \"/nonexistent/seed\"", 3, "can't use the seed in /nonexistent/seed / other files are not read here"),
        (SEED, "hash_seed_file = \"\"", 3, "the path is empty"),
        ("[node]", "[node]\nxdp_mode = \"fast\"", 2, "\"native\", \"generic\", \"auto\""),
        ("[node]", "[node]\nstate_dir = \"here\"", 2, "not an absolute path"),
        ("[node]", "[node]\ntransition_ttl = 900", 2, "this is an integer"),
        ("[node]", "[node]\ntransition_ttl = \"0s\"", 2, "must be between 1s and 12h"),
        ("[node]", "[node]\ntransition_ttl = \"2h\"", 2, "shorter than `node.transition_ttl`"),
        ("[node]", "[node]\ntrack_idle = \"1m\"", 2, "`track_idle` is 1m, `transition_ttl` is 15m"),
        ("[node]", "[node]\ntrack_idle = \"13h\"", 2, "must be between 1s and 12h"),
        ("[node]", "[node]\ntrack_flows = 1000000", 2, "the nearest are 524288 and 1048576"),
        ("[node]", "[node]\ntrack_flows = 4096", 2, "must be between 8192 and 134217728"),
        ("[node]", "[node]\nsample = 0", 2, "0 is out of range"),
        ("[node]", "[node]\nnat_sessions = -1", 2, "must be between 1024 and 16777216"),
        ("[node]", "[node]\nnat_ports = \"80-9000\"", 2, "out of range"),
        ("[node]", "[node]\nnat_ports = \"9000-8000\"", 2, "write \"8000-9000\""),
        ("[node]", "[node]\nnat_ports = \"2000-2254\"", 2, "255 ports are too few"),
        ("[node]", "[node]\nnat_ports = \"2000\"", 2, "not a port range"),
        ("[node]", "[node]\nnat_source_share = 0.0009", 2, "about 15 of 16384 ports"),
        ("[node]", "[node]\nnat_source = [\"127.0.0.1\"]", 2, "a loopback address"),
        ("[node]", "[node]\nnat_source = [\"10.0.0.1\", \"10.0.0.1\"]", 2, "duplicate address 10.0.0.1"),
        ("[node]", "[node]\nnat_source = [\"203.0.113.10\"]", 2, "the address of a VIP"),
        ("[node]", "[node]\nnat_source = [\"10.0.1.11\"]", 2, "the address of a backend"),
        ("[node]", "[node]\nencap_source = [\"10.0.0.1/8\"]", 2, "write \"10.0.0.0/8\""),
        ("[node]", "[node]\nencap_source = [\"::ffff:10.0.0.0/112\"]", 2, "IPv4 addresses written as IPv6"),
        ("[node]", "[node]\nencap_source = [\"fe80::/64\"]", 2, "link-local"),
        ("[node]", "[node]\nencap_source = [\"10.0.0.0\"]", 2, "not a prefix"),
        ("[node]", "[node]\nencap_source = [\"10.0.0.0/33\"]", 2, "between /0 and /32"),
        ("[node]", "[node]\nencap_source = [\"fd00::/64\", \"fd01::/64\"]", 2, "one family"),
        ("[node]", "[node]\nxdp_mod = \"native\"", 2, "did you mean `xdp_mode`?"),
        ("[node]", "[node]\ncolour = 1", 2, "the keys of `node` are `"),
        ("[node]", "[metrics]\nlisten = \"localhost:1\"\n[node]", 2, "names are not resolved"),
        ("[node]", "[api]\nsocket = \"x\"\n[node]", 2, "not an absolute path"),
        ("[node]", "[api]\ngroup = \"\"\n[node]", 2, "the string is empty"),
        ("[node]", "[alerts]\nwebhook = [\"http://h:99999/\"]\n[node]", 2, "invalid port number"),
        ("[node]", "[alerts]\nwebhook = [\"http://h:0/\"]\n[node]", 2, "port 0 is not a valid port"),
        ("[node]", "[alerts]\nwebhook = [\"ftp://x\"]\n[node]", 2, "not an HTTP URL"),
        ("[node]", "[alerts]\nwebhook_secret_file = \"/nonexistent/s\"\n[node]", 2, "can't use the secret in"),
        ("[node]", "[alerts]\nresend = \"1s\"\n[node]", 2, "must be between 5s and 10m"),
        ("[node]", "[alerts]\nescalate_after = \"48h\"\n[node]", 2, "must be between 0s and 24h"),
        ("[node]", "api = 3\n[node]", 1, "expected a table: `[api]`"),
        ("[node]", "[vips]\n[node]", 1, "did you mean `vip`?"),
    ]);
}

#[test]
#[rustfmt::skip]
fn errors_in_a_vip() {
    assert_each_is_one_problem(&[
        ("name = \"api\"", "", 5, "`vip.name` is missing"),
        ("name = \"api\"", "name = \"\"", 6, "the name is empty"),
        ("name = \"api\"", "name = \"a b\"", 6, "' ' is not allowed in a name"),
        ("name = \"api\"", "name = \"ä\"", 6, "'ä' is not allowed in a name"),
        ("address = \"203.0.113.10\"", "", 5, "`vip.address` is missing"),
        ("203.0.113.10", "203.0.113.10:443", 7, "no port, no prefix length"),
        ("203.0.113.10", "0.0.0.0", 7, "the unspecified address"),
        ("203.0.113.10", "0.1.2.3", 7, "this network"),
        ("203.0.113.10", "224.0.0.1", 7, "a multicast address"),
        ("203.0.113.10", "127.1.2.3", 7, "a loopback address"),
        ("203.0.113.10", "255.255.255.255", 7, "the broadcast address"),
        ("203.0.113.10", "fe80::1", 7, "a link-local address"),
        ("203.0.113.10", "::ffff:10.1.2.3", 7, "write \"10.1.2.3\""),
        ("port = 443", "port = 65536", 8, "must be between 0 and 65535"),
        ("port = 443", "port = \"443\"", 8, "this is a string"),
        ("port = 443", "", 5, "`vip.port` is missing"),
        ("\"tcp\"", "\"sctp\"", 9, "must be one of \"tcp\", \"udp\""),
        ("protocol = \"tcp\"", "", 5, "`vip.protocol` is missing"),
        ("\"l2\"", "\"gue\"", 10, "must be one of \"l2\", \"ipip\", \"nat\""),
        ("forward = \"l2\"", "", 5, "`vip.forward` is missing"),
        ("\"l2\"", "\"l2\"\naffinity = \"port\"", 11, "\"flow\", \"source\""),
        ("\"l2\"", "\"nat\"\ntrack = \"on-change\"", 11, "must be \"always\""),
        ("\"l2\"", "\"nat\"\ntrack = \"never\"", 11, "must be \"always\""),
        ("\"l2\"", "\"l2\"\nring_size = 65536", 11, "must be a prime between 251 and 65537; the nearest are 65521 and 65537"),
        ("\"l2\"", "\"l2\"\nring_size = 7", 11, "out of range / must be a prime between 251 and 65537; the nearest is 251"),
        ("\"l2\"", "\"l2\"\nring_size = 99999999999999999999", 11, "the nearest is 65537"),
        ("\"l2\"", "\"l2\"\nguard = 1", 11, "expected a table: `[vip.guard]`"),
        ("\"l2\"", "\"l2\"\nguard.max_share = 1.5", 11, "must be above 0 and at most 1"),
        ("\"l2\"", "\"l2\"\nguard.max_moved = 0", 11, "must be above 0"),
        ("\"l2\"", "\"l2\"\nguard.max_moved = nan", 11, "nan is out of range"),
        ("\"l2\"", "\"l2\"\nguard.min_backends = 0", 11, "must be between 1 and 4096"),
        ("\"l2\"", "\"l2\"\nscaling.target_utilisation = 0", 11, "must be above 0"),
        ("\"l2\"", "\"l2\"\nscaling.target_utilisation = 0.95", 11, "`alert_utilisation` is 0.9, `target_utilisation` is 0.95"),
        ("\"l2\"", "\"l2\"\nskew.concentration = 1.0", 11, "must be between 1.01 and 1000"),
        ("\"l2\"", "\"l2\"\nskew.spike = \"3\"", 11, "expected a number"),
        ("\"l2\"", "\"l2\"\nskew.short = \"90s\"", 11, "`long` is 2m, `short` is 90s"),
        ("\"l2\"", "\"l2\"\nskew.tolerence = 0.1", 11, "did you mean `tolerance`?"),
        ("[[vip.backend]]\nname = \"api-1\"\naddress = \"10.0.1.11\"", "", 5, "the VIP has no backends"),
        ("[[vip.backend]]\nname = \"api-1\"\naddress = \"10.0.1.11\"", "backend = []", 12, "this list is empty"),
        ("[[vip.backend]]", "[vip.backend]", 12, "expected tables in double brackets"),
        ("[[vip]]", "[[vip]]\nnmae = \"x\"", 6, "did you mean `name`?"),
    ]);
}

#[test]
#[rustfmt::skip]
fn errors_in_health() {
    assert_each_is_one_problem(&[
        ("\"l2\"", "\"l2\"\nhealth.rise = 1", 11, "`vip.health.kind` is missing"),
        ("\"l2\"", "\"l2\"\nhealth.kind = \"icmp\"", 11, "\"exec\""),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"tcp\", path = \"/\" }", 11, "only for \"http\""),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"tcp\", command = [\"a\"] }", 11, "only for \"exec\""),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"exec\" }", 11, "`vip.health.command` is missing"),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"exec\", command = [] }", 11, "`vip.health.command`"),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"exec\", command = [\"\"] }", 11, "`vip.health.command`"),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"exec\", command = \"ls\" }", 11, "this is a string / expected a list"),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"udp\", send = 1, expect = \"a\" }", 11, "`vip.health.send` is not valid"),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"exec\", command = [\"a\", \"\\u0000\"] }", 11, "is not allowed in a command"),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"http\", path = \"x\" }", 11, "not a request path"),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"tcp\", timeout = \"1s\" }", 11, "`interval` is 1s, `timeout` is 1s"),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"tcp\", interval = \"300ms\" }", 11, "`timeout` is 500ms"),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"tcp\", interval = \"1ms\" }", 11, "must be between 100ms and 1h"),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"tcp\", fall = 101 }", 11, "must be between 1 and 100"),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"tcp\", via = \"x\" }", 11, "\"vip\", \"direct\""),
        ("port = 443", "port = 0\nhealth = { kind = \"tcp\" }", 9, "`vip.health.port` is missing"),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"tcp\", host = \"a\" }", 11, "`vip.health.host` has no effect"),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"udp\", expect_status = 200 }", 11, "only for \"http\""),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"exec\", command = [\"a\"], expect_body = \"a\" }", 11, "only for \"http\""),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"exec\", command = [\"a\"], via = \"vip\" }", 11, "only for \"tcp\", \"http\", \"https\", \"udp\""),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"http\", verify = false }", 11, "only for \"https\""),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"http\", ca_file = \"/a\" }", 11, "only for \"https\""),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"tcp\", send = \"a\" }", 11, "only for \"udp\""),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"tcp\", expect = \"a\" }", 11, "only for \"udp\""),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"udp\", expect = \"a\" }", 11, "`vip.health.send` is missing"),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"udp\", send = \"hex:0\" }", 11, "odd number of hex digits"),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"udp\", send = \"hex:0x\" }", 11, "not hex digits"),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"udp\", send = \"\" }", 11, "the string is empty"),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"http\", host = \"a b\" }", 11, "' ' is not allowed in a host name"),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"http\", host = \"a:99999\" }", 11, "\"99999\" is not a port"),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"http\", host = \"[::1]:0\" }", 11, "\"0\" is not a port"),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"http\", expect_status = \"2xx\" }", 11, "\"2xx\" is not a status"),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"http\", expect_status = \"300-200\" }", 11, "\"300-200\" is not a status"),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"http\", expect_status = 600 }", 11, "from 100 to 599"),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"https\", ca_file = \"/nonexistent\" }", 11, "other files are not read here"),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"https\", verify = \"no\" }", 11, "expected `true` or `false`"),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"tcp\", jitter = 0.6 }", 11, "must be between 0 and 0.5"),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"tcp\", fast_interval = \"2s\" }", 11, "`interval` is 1s, `fast_interval` is 2s"),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"tcp\", slow_start = \"2h\" }", 11, "must be between 0s and 1h"),
        ("\"l2\"", "\"l2\"\nhealth = { kind = \"tcp\", damping = 1 }", 11, "expected `true` or `false`"),
    ]);
}

#[test]
#[rustfmt::skip]
fn errors_in_backends() {
    const LAST: &str = "address = \"10.0.1.11\"";
    const MORE: &str =
        "address = \"10.0.1.11\"\n[[vip.backend]]\nname = \"b\"\naddress = \"10.0.1.12\"";
    assert!(parse("f", &LEAST.replace(LAST, MORE)).is_ok());
    assert_each_is_one_problem(&[
        (LAST, "", 12, "`vip.backend.address` is missing"),
        ("name = \"api-1\"", "", 12, "`vip.backend.name` is missing"),
        (LAST, "address = \"2001:db8::1\"", 14, "needs backends of the VIP's address family / IPv6"),
        (LAST, "address = \"203.0.113.10\"", 14, "would loop packets"),
        (LAST, "address = \"10.0.1.11\"\nport = 80", 15, "only `forward = \"nat\"` can change the port"),
        (LAST, "address = \"10.0.1.11\"\nport = 0", 15, "must be between 1 and 65535"),
        (LAST, "address = \"10.0.1.11\"\nweight = 65536", 15, "65536 is out of range / must be between 0 and 65535"),
        (LAST, "address = \"10.0.1.11\"\nweight = 0", 5, "all backends of the VIP have weight 0"),
        (LAST, "address = \"10.0.1.11\"\ncapacity = 0", 15, "must be between 1 and 4294967295"),
        (LAST, "address = \"10.0.1.11\"\nstate = \"down\"", 15, "\"up\", \"drain\", \"disabled\""),
        (LAST, "address = \"10.0.1.11\"\n[[vip.backend]]\nname = \"api-1\"\naddress = \"10.0.1.12\"", 16, "duplicate backend name \"api-1\""),
        (LAST, "address = \"10.0.1.11\"\n[[vip.backend]]\nname = \"b\"\naddress = \"10.0.1.11\"", 17, "the address 10.0.1.11"),
    ]);
}

const PORT: &str = "port = 443\n";

#[test]
#[rustfmt::skip]
fn errors_in_limits() {
    const LIMIT: fn(&str) -> String = |keys| format!("{PORT}limit = {{ {keys} }}\n");
    let udp = LEAST.replace("\"tcp\"", "\"udp\"");
    for (text, keys, has) in [
        (LEAST, "new_flows = 0", "must be between 1 and 10000000"),
        (LEAST, "new_flows = \"20/s\"", "this is a string"),
        (LEAST, "new_flows_burst = 10", "`vip.limit.new_flows_burst` without `vip.limit.new_flows`"),
        (LEAST, "packets = 10, packets_burst = 36001", "36001 at 10 per second / must be at most 36000"),
        (LEAST, "on_excess = \"pass\"", "\"drop\", \"count\", \"second_syn\""),
        (LEAST, "on_excess = \"second_syn\"", "without `vip.limit.new_flows`"),
        (LEAST, "exempt = [\"10.0.0.0/7x\"]", "not a prefix"),
        (LEAST, "exempt = [\"10.0.0.0/+8\"]", "not a prefix"),
        (LEAST, "exempt = [\"10.0.0.1/8\"]", "write \"10.0.0.0/8\""),
        (LEAST, "exempt = \"10.0.0.0/8\"", "expected a list"),
        (LEAST, "deny_files = [\"x\"]", "can't use the prefixes in x / other files are not read here"),
        (LEAST, "sources = 1", "did you mean `source`?"),
        (LEAST, "source = 1", "expected a table"),
        (LEAST, "source = { new_flows = 500001 }", "must be between 1 and 500000"),
        (LEAST, "source = { prefix_v4 = 33 }", "must be between 8 and 32"),
        (LEAST, "source = { port_block = 1000 }", "1024"),
        (LEAST, "source = { packets_burst = 1 }", "`vip.limit.source.packets_burst` without"),
        (LEAST, "source = { on_excess = \"second_syn\" }", "without `vip.limit.source.new_flows`"),
        (&udp, "new_flows = 1, on_excess = \"second_syn\"", "UDP has no SYN"),
        (&udp, "new_flows = 1 }\ntrack = \"never\"\nguard = { max_share = 1", "needs `track = \"always\"`"),
        (&udp, "source = { new_flows = 1 } }\ntrack = \"on-change\"\nguard = { max_share = 1", "`vip.limit.source.new_flows` of a UDP VIP needs"),
    ] {
        assert!(text.contains(PORT));
        let text = text.replacen(PORT, &LIMIT(keys), 1);
        let errors = parse("f.toml", &text).expect_err(keys);
        let [problem] = errors.problems() else { panic!("{keys}: {errors}") };
        let shown = format!("{} / {} / {}", problem.title, problem.label, problem.help);
        assert!(shown.contains(has), "{keys}: {shown}");
    }
}

#[test]
fn many_lists_of_prefixes_are_an_error() {
    let (node, vip) = LEAST.split_at(LEAST.find("[[vip]]").unwrap());
    let text = |lists: u32| {
        let vips = (0..lists).map(|number| {
            let limit = format!("{PORT}limit = {{ deny = [\"10.{number}.0.0/16\"] }}\n");
            let vip = vip
                .replacen(PORT, &limit, 1)
                .replace("\"api\"", &format!("\"v{number}\""));
            vip.replace("443", &format!("{}", 1000 + number))
        });
        node.to_owned() + &vips.collect::<String>()
    };
    parse("f.toml", &text(32)).unwrap();
    let errors = parse("f.toml", &text(40)).unwrap_err();
    let [problem] = errors.problems() else {
        panic!("{errors}")
    };
    assert_eq!(problem.title, "too many different lists of prefixes");
    assert_eq!(problem.label, "this is number 33");
    // The same list in many VIPs is one.
    let shared = text(40)
        .replace("10.3", "10.2")
        .replace("deny = [\"10.1", "deny = [\"10.2");
    assert!(!shared.contains("10.3"));
    parse("f.toml", &shared).unwrap();
}

#[test]
#[rustfmt::skip]
fn errors_in_bounds() {
    let with = |text: &str, bound: &str, more: &str| {
        assert!(text.contains(PORT));
        text.replacen(PORT, &format!("{PORT}bound = {{ {bound} }}\n{more}\n"), 1)
    };
    let (udp, nat) = (LEAST.replace("\"tcp\"", "\"udp\""), LEAST.replace("\"l2\"", "\"nat\""));
    let ipip = LEAST.replace("\"l2\"", "\"ipip\"");
    let capacity = format!("{LEAST}capacity = 5\n");
    for (text, bound, more) in [
        (LEAST, "factor = 1.05", ""),
        (LEAST, "factor = 10", "track = \"always\""),
        (LEAST, "factor = 1.125, capacity = false", "track = \"on-change\""),
        (&capacity, "capacity = true", ""),
        (&udp, "factor = 2", "track = \"always\""),
        (&nat, "factor = 2.0", ""),
    ] {
        parse("f.toml", &with(text, bound, more)).unwrap();
    }
    for (text, bound, more, line, has) in [
        (LEAST, "", "", 9, "`vip.bound` without a bound / neither `factor` nor `capacity = true` / add `factor = 1.25`"),
        (LEAST, "capacity = false", "", 9, "`vip.bound` without a bound"),
        (LEAST, "capacity = 1", "", 9, "expected `true` or `false`"),
        (LEAST, "factor = 1.04", "", 9, "1.04 is out of range / must be between 1.05 and 10; below 1.05, flows would spill"),
        (LEAST, "factor = 10.001", "", 9, "10.001 is out of range"),
        (LEAST, "factor = nan", "", 9, "nan is out of range"),
        (LEAST, "factor = 1.2345", "", 9, "1.2345 has too many decimals"),
        (LEAST, "factor = \"1.25\"", "", 9, "this is a string / expected a number"),
        (LEAST, "factr = 1.25, capacity = false, factor = 2", "", 9, "did you mean `factor`?"),
        (LEAST, "capacity = true", "", 9, "no backend of the VIP has a `capacity` / no capacity is known / add `capacity`"),
        (LEAST, "factor = 2", "track = \"never\"", 10, "`vip.bound` with `track = \"never\"` / spilled flows could not be found again / use `track = \"on-change\"`"),
        (&ipip, "factor = 2", "track = \"never\"", 10, "`vip.bound` with `track = \"never\"`"),
        (&udp, "factor = 2", "track = \"never\"", 10, "of a UDP VIP needs `track = \"always\"`"),
        (&udp, "factor = 2", "track = \"on-change\"", 10, "of a UDP VIP needs `track = \"always\"`"),
        (&nat, "factor = 2", "track = \"never\"", 10, "`vip.track` must be \"always\""),
    ] {
        let text = with(text, bound, more);
        let errors = parse("f.toml", &text).expect_err(bound);
        let [problem] = errors.problems() else { panic!("{bound}: {errors}") };
        let shown = format!("{} / {} / {}", problem.title, problem.label, problem.help);
        assert!(shown.contains(has), "{bound}: {shown}");
        assert_eq!(errors.position(problem).unwrap().0, line, "{bound}: {errors}");
    }
    // All at once; no second error about what a first one already says.
    let all = with(LEAST, "capacity = true, factor = 1", "track = \"never\"");
    let errors = parse("f.toml", &all).unwrap_err();
    let titles: Vec<&str> = errors.problems().iter().map(|problem| &*problem.title).collect();
    assert_eq!(titles.len(), 3, "{errors}");
}

#[test]
#[rustfmt::skip]
fn errors_of_sources() {
    let backend = &LEAST[LEAST.find("[[vip.backend]]").unwrap()..];
    let with = |keys: &str| LEAST.replace(backend, keys);
    let any_port = |keys: &str| with(keys).replace("port = 443", "port = 0");
    let nat = |keys: &str| with(keys).replace("\"l2\"", "\"nat\"").replace("[[vip]]", "nat_source = [\"10.0.1.1\"]\n[[vip]]");
    for possible in [
        with("backends_from = \"api:web\"\n"),
        with("backends_from = \"dns:api.example.com:443\"\n"),
        with("backends_from = \"srv:_api._tcp.example.com\"\n"),
        any_port("backends_from = \"dns:api.example.com\"\n"),
        any_port("backends_from = \"api:web\"\n"),
        nat("backends_from = \"dns:api.example.com:8443\"\n"),
    ] {
        if let Err(errors) = parse("f.toml", &possible) {
            panic!("{errors}");
        }
    }
    for (text, has) in [
        (with("backends_from = \"web\"\n"), "must be as in \"dns:api.example.com:8080\""),
        (with("backends_from = 5\n"), "this is an integer"),
        (with(&format!("backends_from = \"api:web\"\n{backend}")), "both `vip.backends_from` and `[[vip.backend]]` are set"),
        (format!("{LEAST}[[vip.override]]\nname = \"api-1\"\nweight = 1\n"), "`[[vip.override]]` without `vip.backends_from`"),
        (with("backends_from = \"api:web\"\n[[vip.override]]\nname = \"x\"\n"), "overrides nothing"),
        (with("backends_from = \"api:web\"\n[[vip.override]]\nname = \"x\"\nweight = 1\n[[vip.override]]\nname = \"x\"\nstate = \"drain\"\n"), "two overrides of the backend \"x\""),
        (with("backends_from = \"dns:api.example.com:8443\"\n"), "remove the port, or use 443, the VIP's port"),
        (any_port("backends_from = \"dns:api.example.com:443\"\n"), "an any-port VIP can't have a port"),
        (any_port("backends_from = \"srv:_api._tcp.example.com\"\n"), "can't have backends from SRV records"),
        (with("backends_from = \"api:web\"\n[vip.bound]\ncapacity = true\n"), "sources do not name capacities"),
        (format!("[sources]\ninterval_min = \"2m\"\n{LEAST}"), "`interval_min` is 2m, `interval_max` is 1m"),
        (format!("[sources]\ndns_servers = [\"10.0.0.53\"]\n{LEAST}"), "`sources.dns_servers`"),
        (format!("[sources]\ndns_servers = [\"10.0.0.53:53\", \"10.0.0.53:53\"]\n{LEAST}"), "duplicate server 10.0.0.53:53"),
        (format!("[sources]\ndns_servers = [{}]\n{LEAST}", (1..10).map(|n| format!("\"10.0.0.{n}:53\",")).collect::<String>()), "9 servers"),
    ] {
        let errors = parse("f.toml", &text).expect_err(has);
        let shown: Vec<String> = errors.problems().iter().map(|p| format!("{} / {} / {}", p.title, p.label, p.help)).collect();
        assert!(shown.len() == 1 && shown[0].contains(has), "{has}: {shown:#?}");
    }
}

//! Golden files, and rules between several keys.

mod announce;
mod errors;
mod fleet;
mod reference;
mod values;

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

const LEAST: &str = include_str!("../../../tests/golden/config/least.toml");
const FULL: &str = include_str!("../../../tests/golden/config/full.toml");
const BAD: &str = include_str!("../../../tests/golden/config/bad.toml");

#[test]
fn accepts_the_examples() {
    let example = include_str!("../../../../../deploy/evenkeel.toml");
    let readme = include_str!("../../../../../README.md");
    let block = readme.split("```toml\n").nth(1).unwrap();
    let block = block.split("```").next().unwrap();
    for text in [example, block] {
        let config = parse("evenkeel.toml", text).unwrap();
        assert_eq!(config.vips[0].backends.len(), 2);
    }
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
fn rejects_duplicate_vips() {
    let second = |from: &str, to: &str| format!("{LEAST}{}", VIP.replace(from, to));
    let twice = "two VIPs with the address 203.0.113.10, tcp, port 443";
    assert_eq!(
        titles(&second("", "")),
        ["duplicate VIP name \"api\"", twice]
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
        ["two VIPs with the address 203.0.113.10, tcp, any port"]
    );
}

#[test]
fn backends_of_an_any_port_vip_have_no_port() {
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
fn nat_allows_several_ports_of_one_host() {
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
fn limits_vips_and_backends() {
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
fn a_syntax_error_hides_no_other_error() {
    let text = LEAST
        .replace("port = 443", "port = = 443")
        .replace("10.0.1.11", "10.0.1.256");
    assert_eq!(
        titles(&text),
        ["invalid TOML", "`vip.backend.address` is not valid"]
    );
    let text = LEAST.replace("port = 443", "port = 443\nport = 80");
    assert_eq!(titles(&text), ["duplicate key `port`"]);
    assert_eq!(titles(""), ["`node` is missing"]);
}

#[test]
fn prints_all_errors_as_the_golden_file_has_them() {
    let errors = parse("bad.toml", BAD).unwrap_err();
    if let Some(path) = std::env::var_os("EVENKEEL_WRITE_GOLDEN_ERRORS") {
        std::fs::write(path, format!("{errors}\n")).unwrap();
    }
    let expected = include_str!("../../../tests/golden/config/bad.txt");
    assert_eq!(format!("{errors}\n"), expected);
    assert!(!expected.contains("0001020304"), "a seed must not be shown");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Any text gives a configuration or errors that can be printed.
    #[test]
    fn any_text_gives_a_configuration_or_errors(
        at in 0..FULL.len(),
        length in 0usize..40,
        new in prop_oneof![Just(String::new()), "\\PC{0,12}", "[\\[\\]{}=\"',.\n\r\t#0-9a-z-]{0,12}"],
    ) {
        let end = FULL.ceil_char_boundary(at + length);
        let at = FULL.floor_char_boundary(at);
        let text = format!("{}{new}{}", &FULL[..at], &FULL[end..]);
        if let Err(errors) = parse("f.toml", &text) {
            prop_assert!(errors.len() > 0);
            prop_assert!(errors.to_string().contains("error"));
            prop_assert!(errors.problems().iter().all(|p| errors.position(p).is_some()));
        }
    }
}

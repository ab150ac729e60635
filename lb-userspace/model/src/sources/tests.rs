//! Rates from counts, prefixes, and suggestions.

use super::*;
use crate::config::{self, Config, OnExcess, Vip};

/// A configuration of one VIP; `more` is pasted below it.
fn parse(vip: &str, more: &str) -> Config {
    let text = format!(
        "[node]\ninterfaces = [\"eth0\"]\nhash_seed = \"000102030405060708090a0b0c0d0e0f\"\n\
         nat_source = [\"10.0.0.9\"]\n\
         [[vip]]\nname = \"api\"\nport = 443\n{vip}\n{more}\n\
         [[vip.backend]]\nname = \"b1\"\naddress = \"10.0.0.1\"\n"
    );
    match config::parse("a.toml", &text) {
        Ok(config) => config,
        Err(errors) => panic!("{errors}\n{text}"),
    }
}

const TCP: &str = "address = \"192.0.2.1\"\nprotocol = \"tcp\"\nforward = \"l2\"";
const UDP: &str = "address = \"192.0.2.1\"\nprotocol = \"udp\"\nforward = \"l2\"";

fn vip(more: &str) -> Vip {
    parse(TCP, more).vips.remove(0)
}

fn source(text: &str) -> u64 {
    source_of(text.parse().unwrap())
}

/// Counts of flows with six packets each.
fn counts(new_flows: u32) -> Counts {
    Counts {
        new_flows,
        opened: new_flows,
        packets: 6 * new_flows,
        flows: new_flows,
    }
}

/// Ten seconds in which all flows were sampled.
fn window(sources: &[(&str, u32)]) -> Window {
    let new_flows: u32 = sources.iter().map(|(_, flows)| flows).sum();
    let sources = sources
        .iter()
        .map(|(name, flows)| (source(name), counts(*flows)));
    Window {
        seconds: 10.0,
        new_flows: new_flows.into(),
        packets: (6 * new_flows).into(),
        peak: SourceRates {
            new_flows: f64::from(new_flows) / 10.0,
            packets: f64::from(6 * new_flows) / 10.0,
        },
        sources: sources.collect(),
        ..Window::default()
    }
}

fn history(windows: impl IntoIterator<Item = Window>) -> SourceHistory {
    let mut history = SourceHistory::new("192.0.2.1".parse().unwrap());
    windows
        .into_iter()
        .for_each(|window| history.push(Arc::new(window)));
    history
}

/// 30 minutes: 60 new flows per second of one client in one window, otherwise few of two.
fn usual() -> SourceHistory {
    let quiet = || window(&[("198.51.100.7", 10), ("198.51.100.8", 20)]);
    let mut windows: Vec<Window> = (0..180).map(|_| quiet()).collect();
    windows[90] = window(&[("198.51.100.7", 600), ("198.51.100.8", 20)]);
    history(windows)
}

#[test]
fn an_hour_is_kept() {
    let history = history((0..500).map(|n| window(&[("198.51.100.7", n)])));
    assert_eq!(history.minutes(), 60);
    assert_eq!(history.peak().new_flows, 49.9);
    assert_eq!(history.totals().0, (140..500).sum::<u64>());
}

#[test]
fn estimates_lie_between_what_was_sampled_and_the_traffic_of_the_vip() {
    let of = |mask: u32, new_flows: u64, sampled: u32, opened: u32| {
        let window = Window {
            mask,
            new_flows,
            ..window(&[])
        };
        let counts = Counts {
            new_flows: sampled,
            opened,
            ..Counts::default()
        };
        window.rates(&counts).new_flows
    };
    assert_eq!(of(0, 1000, 100, 100), 100.0 / 10.0 * 1.0);
    // One standard deviation less than 8 × 100.
    assert_eq!(of(7, 100_000, 100, 100), 72.0);
    // One sampled flow says nothing of others.
    assert_eq!(of(1023, 100_000, 1, 1), 0.1);
    // All SYNs of one flow, or flows of one hash.
    assert_eq!(of(1023, 100_000, 500, 1), 50.0);
    assert_eq!(of(1023, 1_000, 100, 100), 110.0);
    assert_eq!(of(0, 0, 5, 5), 0.0);
}

#[test]
fn peaks_of_prefixes_add_up_within_a_window() {
    let limit = Limit {
        source: SourceLimit {
            prefix_v4: 24,
            ..SourceLimit::default()
        },
        ..Limit::default()
    };
    let history = history([
        window(&[
            ("198.51.100.7", 100),
            ("198.51.100.8", 10),
            ("203.0.113.9", 5),
        ]),
        window(&[("198.51.100.7", 10), ("198.51.100.8", 100)]),
    ]);
    let sources = history.limited_sources(&limit);
    let named: Vec<_> = sources
        .iter()
        .map(|s| (s.name(), s.peak.new_flows, s.new_flows))
        .collect();
    assert_eq!(
        named,
        [
            ("198.51.100.0/24".to_owned(), 11.0, 220.0),
            ("203.0.113.9/24".replace('9', "0"), 0.5, 5.0)
        ]
    );
    let fine = history.limited_sources(&Limit::default());
    assert_eq!(fine.len(), 3);
    assert_eq!(
        (fine[0].name(), fine[0].peak.new_flows),
        ("198.51.100.7".into(), 10.0)
    );
}

#[test]
fn ipv6_sources_are_networks() {
    let mut history = SourceHistory::new("2001:db8::1".parse().unwrap());
    let address = "2001:db8:7:1:2:3:4:5";
    history.push(Arc::new(window(&[(address, 10)])));
    let mut limit = Limit::default();
    assert_eq!(
        history.limited_sources(&limit)[0].name(),
        "2001:db8:7:1::/64"
    );
    limit.source.prefix_v6 = 128;
    assert_eq!(
        history.limited_sources(&limit)[0].name(),
        "2001:db8:7:1::/64"
    );
    limit.source.prefix_v6 = 48;
    assert_eq!(history.limited_sources(&limit)[0].name(), "2001:db8:7::/48");
}

#[test]
fn finds_prefixes_that_contain_a_source() {
    let prefix = |text: &str| {
        let (address, length) = text.split_once('/').unwrap();
        Prefix::containing(address.parse().unwrap(), length.parse().unwrap())
    };
    let mut sorted = [
        "10.0.0.0/8",
        "10.1.0.0/16",
        "192.0.2.7/32",
        "2001:db8::/32",
        "2001:db9::7/128",
    ]
    .map(prefix);
    sorted.sort_unstable();
    let list = Prefixes::new(&sorted);
    let containing = |text: &str| {
        list.containing(&prefix(text))
            .map(|prefix| prefix.to_string())
    };
    assert_eq!(containing("10.1.2.3/32").unwrap(), "10.0.0.0/8");
    assert_eq!(containing("192.0.2.7/32").unwrap(), "192.0.2.7/32");
    assert_eq!(containing("192.0.2.8/32"), None);
    assert_eq!(containing("2001:db8:1::/64").unwrap(), "2001:db8::/32");
    assert_eq!(containing("2001:db9::/64"), None, "not all of it");
    assert!(list.overlaps(&prefix("2001:db9::/64")));
    assert!(!list.overlaps(&prefix("2001:db9:0:1::/64")));
    assert!(list.overlaps(&prefix("10.1.2.3/32")));
    assert!(!list.overlaps(&prefix("11.1.2.3/32")));
}

#[test]
fn exempt_and_denied_sources_are_left_out() {
    let vip = vip("[vip.limit]\nexempt = [\"198.51.100.7\"]\ndeny = [\"203.0.113.0/24\"]");
    let history = history([window(&[
        ("198.51.100.7", 100),
        ("198.51.100.8", 50),
        ("203.0.113.9", 500),
    ])]);
    let sources = history.limited_sources(&vip.limit);
    assert_eq!(sources.len(), 1);
    assert_eq!(sources[0].name(), "198.51.100.8");
}

#[test]
fn suggests_twice_what_was_seen() {
    let suggestion = suggestion(&vip(""), &usual());
    assert_eq!(suggestion.seen.minutes, 30);
    assert_eq!(suggestion.seen.sources, 2);
    assert_eq!(
        (
            suggestion.source.new_flows,
            suggestion.source.new_flows_burst
        ),
        (Some(120), Some(240))
    );
    assert_eq!(
        (suggestion.source.packets, suggestion.source.packets_burst),
        (Some(720), Some(1440))
    );
    assert_eq!(
        (suggestion.limit.new_flows, suggestion.limit.packets),
        (Some(130), Some(750))
    );
    assert!(suggestion.warnings.is_empty(), "{:?}", suggestion.warnings);
    assert_eq!(
        suggestion.toml,
        "# seen in 30 minutes: 5,990 new flows, 35,940 packets\n\
         # peaks over 10 s: 62 new flows/s, 372 packets/s\n\
         # sources seen: 2; the busiest: 198.51.100.7 with 60 new flows/s, 198.51.100.7 with 360 packets/s\n\
         [vip.limit]\nnew_flows = 130\nnew_flows_burst = 260\npackets = 750\npackets_burst = 1500\n\
         on_excess = \"count\" # watch it for a while, then \"drop\"\n\n\
         [vip.limit.source]\nnew_flows = 120\nnew_flows_burst = 240\npackets = 720\npackets_burst = 1440\n\
         on_excess = \"count\" # watch it for a while, then \"drop\"\n"
    );
}

/// What is suggested for a VIP can be pasted below it, and limits nobody of whom it was made.
#[test]
fn a_suggestion_is_valid_and_limits_nobody() {
    let blocks = "[vip.limit]\non_excess = \"second_syn\"\nnew_flows = 9\n\
                  [vip.limit.source]\nprefix_v4 = 24\nport_block = 64\npackets = 7";
    let nat = UDP.replace("l2", "nat");
    let busy =
        || history((0..60).map(|_| window(&[("198.51.100.7", 4_000_000), ("198.51.100.8", 9)])));
    for (keys, limits) in [(TCP, ""), (UDP, ""), (&*nat, ""), (TCP, blocks)] {
        for history in [usual(), busy(), history([]), history([window(&[])])] {
            let configured = parse(keys, limits).vips.remove(0);
            let suggestion = suggestion(&configured, &history);
            let vip = parse(keys, &suggestion.toml).vips.remove(0);
            assert_eq!(
                vip.limit.new_flows, suggestion.limit.new_flows,
                "{}",
                suggestion.toml
            );
            assert_eq!(vip.limit.packets, suggestion.limit.packets);
            assert_eq!(vip.limit.source.new_flows, suggestion.source.new_flows);
            assert_eq!(vip.limit.source.packets, suggestion.source.packets);
            if !suggestion.toml.contains("no limits") {
                assert_eq!(
                    vip.limit.source.prefix_v4,
                    configured.limit.source.prefix_v4
                );
                assert_eq!(
                    vip.limit.source.port_block,
                    configured.limit.source.port_block
                );
            }
            for source in history.limited_sources(&vip.limit) {
                let most = vip.limit.source.new_flows.map_or(f64::MAX, f64::from);
                assert!(source.peak.new_flows <= most / 2.0 || source.peak.new_flows < 5.0);
            }
        }
    }
}

#[test]
fn suggests_new_flows_only_where_they_are_known() {
    let udp = |more: &str| parse(&format!("{UDP}\n{more}"), "").vips.remove(0);
    assert!(suggestion(&udp(""), &usual()).source.new_flows.is_some());
    let untracked = suggestion(&udp("track = \"never\""), &usual());
    assert_eq!(
        (untracked.source.new_flows, untracked.limit.new_flows),
        (None, None)
    );
    assert!(untracked.source.packets.is_some());
    assert!(!untracked.toml.contains("new flows"), "{}", untracked.toml);
    parse(&format!("{UDP}\ntrack = \"never\""), &untracked.toml);
}

#[test]
fn warns_of_too_little_and_of_one_source_with_most_of_the_traffic() {
    let few = suggestion(
        &vip(""),
        &history([window(&[("198.51.100.7", 90), ("198.51.100.8", 10)])]),
    );
    assert_eq!(few.warnings.len(), 2, "{:?}", few.warnings);
    assert!(
        few.toml.contains("# warning: too little was seen"),
        "{}",
        few.toml
    );
    assert!(
        few.toml.contains("exempt = [\"198.51.100.7\"]"),
        "{}",
        few.toml
    );
    assert!(
        few.toml.contains("198.51.100.7 sent 90 % of the new flows"),
        "{}",
        few.toml
    );
    assert_eq!(few.source.new_flows, Some(18));
    let nothing = suggestion(&vip(""), &history([]));
    assert!(!nothing.toml.contains('['), "{}", nothing.toml);
    let drops = vip("[vip.limit]\nnew_flows = 5");
    let limited = suggestion(&drops, &usual());
    assert!(
        limited.warnings[0].contains("was not seen"),
        "{:?}",
        limited.warnings
    );
    let mut overrun = window(&[("198.51.100.7", 90)]);
    overrun.is_overrun = true;
    let overrun = suggestion(&vip(""), &history([overrun]));
    assert!(overrun.toml.contains("may be too low"), "{}", overrun.toml);
}

/// The largest limits are those that the configuration accepts.
#[test]
fn knows_the_largest_limits() {
    let text = |above: u32| {
        format!(
            "[vip.limit]\nnew_flows = {}\npackets = {}\n[vip.limit.source]\nnew_flows = {2}\npackets = {2}",
            Limit::MAX_NEW_FLOWS + above,
            Limit::MAX_PACKETS + above,
            SourceLimit::MAX_RATE + above
        )
    };
    let limit = vip(&text(0)).limit;
    assert_eq!(limit.on_excess, OnExcess::Drop);
    let errors = std::panic::catch_unwind(|| vip(&text(1))).unwrap_err();
    let errors = errors.downcast_ref::<String>().unwrap();
    assert_eq!(errors.matches("between").count(), 4, "{errors}");
}

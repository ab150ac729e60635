//! Members from DNS come and go.

use std::time::Duration;

use lab::configuration::Forward;
use lab::dns::DnsServer;

use super::*;

#[test]
fn members_come_at_once_and_go_after_two_answers_in_steps() {
    if !can_run("grow and shrink") {
        return;
    }
    let lab = build();
    let mut dns = DnsServer::start(&lab.balancers[0], &records(&lab, "echo", [0, 1])).unwrap();
    let mut site = start(&lab, FORWARD, "dns:echo.lab", "");
    wait_up(&site, [0, 1]);

    dns.set(&records(&lab, "echo", 0..4)).unwrap();
    wait_up(&site, 0..4);
    let flows = site.open_ipv4(200);
    assert_eq!(flows.backends().len(), 4, "{:?}", flows.backends());

    // One goes: held back first, then drained. Its connections stay.
    dns.set(&records(&lab, "echo", 0..3)).unwrap();
    let held = wait(&site, "a member is missing", |observed| {
        observed.source()["held"].is_string()
    });
    assert_eq!(
        held.source()["held"],
        "1 of 4 missing, waiting for a second answer"
    );
    assert_eq!(held.members("up").len(), 4);
    let draining = wait_up(&site, 0..3);
    assert_eq!(draining.members("draining"), [backend(&lab, 3).to_string()]);
    flows.assert_alive("a member goes");
    assert_eq!(flows.backends().len(), 4);

    // It comes back while its connections are still there.
    dns.set(&records(&lab, "echo", 0..4)).unwrap();
    wait_up(&site, 0..4);

    // Three of four go in two steps: two, and then one.
    dns.set(&records(&lab, "echo", [0])).unwrap();
    let step = wait(&site, "the first step", |observed| {
        observed.members("up").len() < 4
    });
    assert_eq!(step.members("up").len(), 2, "{:#}", step.0);
    wait_up(&site, [0]);
    flows.assert_alive("most members have gone");
    drop(flows);

    // Without connections, they are removed.
    wait(&site, "drained members are removed", |observed| {
        observed.members("draining").is_empty()
    });
    let events = events(&site, "source");
    let expected = format!("{VIP}: source dns:echo.lab added {}", backend(&lab, 2));
    assert!(
        events.iter().any(|it| it.starts_with(&expected)),
        "{events:#?}"
    );
    let expected = format!(
        "source dns:echo.lab no longer names, draining {}",
        backend(&lab, 3)
    );
    assert!(
        events.iter().any(|it| it.contains(&expected)),
        "{events:#?}"
    );
    assert_eq!(site.revisions().len(), 1, "no revision is made");
    site.check_health();
}

#[test]
fn the_ttl_decides_between_the_two_intervals() {
    if !can_run("TTL") {
        return;
    }
    let lab = build();
    let mut dns = DnsServer::start(&lab.balancers[0], &records(&lab, "echo", [0, 1])).unwrap();
    dns.set_ttl(0);
    dns.restart(&[]).unwrap();
    let site = Site::start_with(&lab, FORWARD, |configuration| {
        configuration.vips.clear();
        let text = sourced(&lab, FORWARD, "dns:echo.lab", "");
        let longest = text.replace("interval_max = \"1s\"", "interval_max = \"10s\"");
        assert_ne!(longest, text);
        configuration.more = longest;
    });
    wait_up(&site, [0, 1]);
    // A TTL of 0 is one second, 3 is itself, and an hour is ten seconds. Each pause is up to a tenth longer.
    for (ttl, seconds, expected) in [(0, 6, 5..=6), (3, 10, 2..=4), (3600, 21, 1..=2)] {
        dns.set_ttl(ttl);
        dns.restart(&[]).unwrap();
        // The pause after the first answer with this TTL.
        let before = dns.questions("echo");
        wait(&site, "a question", |_| dns.questions("echo") > before);
        let before = dns.questions("echo");
        std::thread::sleep(Duration::from_secs(seconds));
        let asked = dns.questions("echo") - before;
        assert!(
            expected.contains(&asked),
            "TTL {ttl}: {asked} questions in {seconds} s, not {expected:?}"
        );
    }
}

#[test]
fn two_vips_share_a_source() {
    if !can_run("two VIPs of one source") {
        return;
    }
    let lab = build();
    let mut dns = DnsServer::start(&lab.balancers[0], &records(&lab, "echo", 0..3)).unwrap();
    let mut site = Site::start(&lab, |configuration| {
        configuration.vips.clear();
        let one = sourced(&lab, FORWARD, "dns:echo.lab", "");
        let (_, vip) = one.split_once("[[vip]]").unwrap();
        let ports = [Kind::Echo, Kind::Web].map(|kind| {
            let at = address(&lab, kind, Family::V4);
            (format!("\"{}\"", at.ip()), format!("port = {}", at.port()))
        });
        let web = vip
            .replace(VIP, "shares")
            .replace(&ports[0].0, &ports[1].0)
            .replace(&ports[0].1, &ports[1].1);
        configuration.more = format!("{one}\n[[vip]]{web}");
    });
    let in_both = |observed: &Observed, state: &str, backends: &[usize]| {
        let mut wanted: Vec<String> = backends
            .iter()
            .map(|index| backend(&lab, *index).to_string())
            .collect();
        wanted.sort();
        [0, 1].map(|vip| observed.members_of(vip, state)) == [wanted.clone(), wanted]
    };
    let both = wait(&site, "both VIPs have the members", |observed| {
        in_both(observed, "up", &[0, 1, 2])
    });
    let sources = both.0["sources"].as_array().unwrap();
    assert_eq!(sources.len(), 1, "{sources:#?}");
    assert_eq!(sources[0]["vips"], serde_json::json!([VIP, "shares"]));
    let before = dns.questions("echo");
    std::thread::sleep(Duration::from_secs(4));
    let asked = dns.questions("echo") - before;
    assert!((3..=5).contains(&asked), "{asked} questions in 4 s");

    // What an operator sets for one VIP is not set for the other.
    let name = backend(&lab, 0).to_string();
    let path = format!("shares/{name}");
    site.operator
        .run(&["backend", "drain", &path])
        .unwrap()
        .assert_code(0);
    let drained = wait(&site, "drained in one VIP", |observed| {
        observed.members_of(1, "up").len() == 2
    });
    assert_eq!(drained.members_of(0, "up").len(), 3, "{:#}", drained.0);
    let undrained = site.operator.run(&["backend", "undrain", &path]).unwrap();
    undrained.assert_code(0);

    // A member comes to both, and leaves both; connections stay.
    let flows = site.open_ipv4(60);
    dns.set(&records(&lab, "echo", 0..4)).unwrap();
    wait(&site, "a member comes to both", |observed| {
        in_both(observed, "up", &[0, 1, 2, 3])
    });
    dns.set(&records(&lab, "echo", 1..4)).unwrap();
    wait(&site, "a member leaves both", |observed| {
        in_both(observed, "up", &[1, 2, 3]) && in_both(observed, "draining", &[0])
    });
    flows.assert_alive("a member leaves both VIPs");
    drop(flows);

    // Without the second VIP, the first one keeps its members.
    let alone = sourced(&lab, FORWARD, "dns:echo.lab", "");
    let changed = site.changed(|configuration| configuration.more = alone);
    let file = site.write("alone.toml", &changed);
    let applied = site.operator.run(&["apply", file.to_str().unwrap()]);
    applied.unwrap().assert_code(0);
    wait_up(&site, 1..4);
    site.check_health();
}

#[test]
fn srv_records_give_ports_and_weights() {
    if !can_run("SRV") {
        return;
    }
    let lab = build();
    let names = [("b0", 0), ("b1", 1), ("b2", 2)];
    let hosts: Vec<_> = names
        .iter()
        .flat_map(|(name, index)| records(&lab, name, [*index]))
        .collect();
    let mut dns = DnsServer::start(&lab.balancers[0], &hosts).unwrap();
    let srv = |target: &str, priority: u16, weight: u16| {
        format!("--srv-host=_echo._tcp.lab,{target}.lab,7777,{priority},{weight}")
    };
    let one = [srv("b0", 1, 30), srv("b1", 1, 10), srv("b2", 2, 10)];
    dns.restart(&one).unwrap();
    let site = start(&lab, Forward::Nat, "srv:_echo._tcp.lab", "");
    let up = wait_up(&site, [0, 1]);
    let shares = up.shares();
    assert!(
        (shares[0] - 0.75).abs() < 0.01 && (shares[1] - 0.25).abs() < 0.01,
        "{shares:?}"
    );
    let member = &up.0["vips"][0]["members"][0];
    assert_eq!(member["port"], 7777, "{member}");
    let flows = site.open_ipv4(100);
    flows.assert_alive("through SRV");

    // Weights change at once; a weight of 0 is a very small one.
    dns.restart(&[srv("b0", 1, 10), srv("b1", 1, 0)]).unwrap();
    wait(&site, "the shares follow", |observed| {
        let shares = observed.shares();
        shares.len() == 2 && (shares[1] - 1.0 / 11.0).abs() < 0.01
    });
    flows.assert_alive("weights changed");

    // A target without an address makes the whole answer a failure.
    dns.restart(&[srv("b0", 1, 10), srv("nowhere", 1, 10)])
        .unwrap();
    let failed = wait(&site, "the answer is a failure", |observed| {
        observed.source()["error"].is_string()
    });
    assert_eq!(
        failed.source()["error"],
        "nowhere.lab: no such name (NXDOMAIN)"
    );
    assert_stay_up(&site, [0, 1], Duration::from_secs(4));
}

#[test]
fn a_name_has_the_members_of_each_family() {
    if !can_run("families") {
        return;
    }
    let lab = build();
    let mut names = records(&lab, "echo", [0, 1]);
    names.extend([1, 2].map(|index| ("echo", lab.backends[index].address(Family::V6))));
    let _dns = DnsServer::start(&lab.balancers[0], &names).unwrap();
    let site = Site::start(&lab, |configuration| {
        configuration.vips.clear();
        let v4 = sourced(&lab, FORWARD, "dns:echo.lab", "");
        let (_, vip) = v4.split_once("[[vip]]").unwrap();
        let at = [Family::V4, Family::V6]
            .map(|family| address(&lab, Kind::Echo, family).ip().to_string());
        let v6 = vip.replace(VIP, "sourced-v6").replace(&at[0], &at[1]);
        configuration.more = format!("{v4}\n[[vip]]{v6}");
    });
    wait_up(&site, [0, 1]);
    let both = wait(&site, "the IPv6 VIP has members", |observed| {
        observed.0["vips"][1]["members"].as_array().unwrap().len() == 2
    });
    let of_v6 = [1, 2].map(|index| lab.backends[index].address(Family::V6).to_string());
    for member in both.0["vips"][1]["members"].as_array().unwrap() {
        let address = member["address"].as_str().unwrap().to_owned();
        assert!(of_v6.contains(&address), "{member}");
        assert_eq!(member["backend"], address.replace(':', "-"));
    }
    assert_eq!(both.0["sources"].as_array().unwrap().len(), 2);
    site.open(20).assert_alive("both families");
}

//! Several DNS servers: whatever is wrong with the first one, the next one is asked.

use lab::dns::DnsServer;

use super::*;

/// Starts a site that asks the first two servers, in that order.
fn start_with_two<'lab>(lab: &'lab Lab, forward: Forward, source: &str) -> Site<'lab> {
    Site::start_with(lab, forward, |configuration| {
        configuration.vips.clear();
        configuration.more = sourced_of(lab, &[1, 2], forward, source);
    })
}

#[track_caller]
fn assert_answered(site: &Site<'_>) {
    wait_up(site, [0, 1]);
    let observed = Observed::of(site);
    assert!(
        observed.source()["error"].is_null(),
        "{:#}",
        observed.source()
    );
}

#[test]
fn the_second_server_answers_when_the_first_does_not() {
    if !can_run("second DNS server") {
        return;
    }
    let lab = build();
    let all = records(&lab, "echo", [0, 1]);
    // Nothing is there: the kernel rejects the question.
    let second = DnsServer::start_nth(&lab.balancers[0], 2, &all).unwrap();
    let mut site = start_with_two(&lab, FORWARD, "dns:echo.lab");
    assert_answered(&site);

    // It refuses, and is asked first.
    let mut first = DnsServer::start(&lab.balancers[0], &[]).unwrap();
    first.refuse().unwrap();
    let answers = |second: &DnsServer<'_>| second.questions("echo");
    let before = (first.questions("echo"), answers(&second));
    wait(&site, "both servers are asked", |_| {
        first.questions("echo") >= before.0 + 3 && answers(&second) >= before.1 + 3
    });
    assert_answered(&site);

    // It is silent.
    first.freeze().unwrap();
    let before = answers(&second);
    wait(&site, "the second server is asked", |_| {
        answers(&second) >= before + 3
    });
    assert_answered(&site);

    // Both fail: the error has both.
    second.freeze().unwrap();
    first.thaw().unwrap();
    let failed = wait(&site, "no server answers", |observed| {
        let error = observed.source()["error"].as_str().unwrap_or_default();
        error.contains("REFUSED")
    });
    assert_eq!(
        failed.source()["error"],
        "echo.lab: DNS lookup failed: 127.0.0.1:5300: REFUSED; 127.0.0.2:5300: no reply within 500ms"
    );
    second.thaw().unwrap();

    // An answer that there is no such name is an answer.
    first.restart(&[]).unwrap();
    wait(&site, "the name is gone", |observed| {
        observed.source()["error"] == "echo.lab: no such name (NXDOMAIN)"
    });
    wait_up(&site, [0, 1]);
    site.check_health();
}

#[test]
fn a_silent_server_costs_its_timeout_once_for_all_srv_targets() {
    if !can_run("SRV with a silent DNS server") {
        return;
    }
    let lab = build();
    let names: Vec<String> = (0..60).map(|target| format!("b{target}")).collect();
    let all: Vec<_> = names
        .iter()
        .enumerate()
        .flat_map(|(target, name)| records(&lab, name, [target % 2]))
        .collect();
    let mut second = DnsServer::start_nth(&lab.balancers[0], 2, &all).unwrap();
    let srv = |name: &String| format!("--srv-host=_echo._tcp.lab,{name}.lab,7777,1,10");
    let options: Vec<String> = names.iter().map(srv).collect();
    second.restart(&options).unwrap();
    let first = DnsServer::start(&lab.balancers[0], &[]).unwrap();
    first.freeze().unwrap();
    let site = start_with_two(&lab, Forward::Nat, "srv:_echo._tcp.lab");
    assert_answered(&site);
    let (asked, before) = (second.questions("b59"), Instant::now());
    wait(&site, "three more rounds", |_| {
        second.questions("b59") >= asked + 3
    });
    let each = before.elapsed() / 3;
    assert!(
        each < Duration::from_millis(3500),
        "a round takes {each:?}, with its pause of a second"
    );
    first.thaw().unwrap();
}

#[test]
fn a_reply_that_does_not_fit_udp_is_read_over_tcp() {
    if !can_run("DNS over TCP") || !lab::skip::can_run("controller sources DNS over TCP", &["nft"])
    {
        return;
    }
    let lab = build();
    let mut names = records(&lab, "echo", [0, 1]);
    // 4,000 bytes of addresses, of which 1,232 fit.
    names.extend((0..250).map(|index| ("echo", IpAddr::from([10, 78, 0, index]))));
    let mut dns = DnsServer::start(&lab.balancers[0], &names).unwrap();
    dns.restart(&["--edns-packet-max=1232".to_owned()]).unwrap();
    let site = start(&lab, FORWARD, "dns:echo.lab", "");
    let all = wait(&site, "all addresses are members", |observed| {
        observed.source()["members"].as_array().unwrap().len() == 252
    });
    assert!(all.source()["error"].is_null(), "{:#}", all.source());

    // Without TCP it is a failure: the addresses that fit are not taken for all.
    let rules = "table inet cut { chain in { type filter hook input priority 0; \
                 tcp dport 5300 reject with tcp reset; }; }";
    let mut nft = lab::tool::command("nft").unwrap();
    nft.args(["-f", "-"]);
    let done = lab::process::finish(&lab.balancers[0].ns.entry(), nft, rules).unwrap();
    assert!(done.status.success(), "{done:?}");
    let cut = wait(&site, "TCP fails", |observed| {
        observed.source()["error"].is_string()
    });
    let error = cut.source()["error"].as_str().unwrap();
    assert!(error.contains("truncated reply, and TCP failed"), "{error}");
    assert_eq!(cut.source()["members"].as_array().unwrap().len(), 252);
}

//! What the controller and doctor tell of announcing: status, metrics and alerts, with a real announcer.

use super::*;

/// The firing alert with this id.
fn alert(node: &Node<'_>, id: &str) -> Option<Value> {
    let alerts = node.balancer.operator().get("/v1/alerts").unwrap();
    let mut alerts = alerts.as_array().cloned().unwrap_or_default().into_iter();
    alerts.find(|alert| alert["id"] == id)
}

fn wait_alert(node: &Node<'_>, id: &str, severity: &str, cause: &str) -> Duration {
    let start = Instant::now();
    let found = deadline::poll(&format!("alert {id}"), LIMIT, || Ok(alert(node, id)));
    let found = found.unwrap_or_else(|error| {
        panic!(
            "{error:#}: {:#}",
            node.balancer.operator().get("/v1/status").unwrap()
        )
    });
    assert_eq!(found["severity"], severity, "{found:#}");
    let text = found["cause"].as_str().unwrap_or_default();
    assert!(text.contains(cause), "{found:#}");
    start.elapsed()
}

/// Waits until the cause of the alert is gone: it resolves unless it comes back soon.
fn wait_clearing(node: &Node<'_>, id: &str) {
    deadline::until(&format!("alert {id} is clearing"), LIMIT, || {
        Ok(alert(node, id).is_none_or(|it| !it["resolves_at"].is_null()))
    })
    .unwrap();
}

/// What `evenkeel doctor` says about announcing.
fn doctor(node: &Node<'_>) -> String {
    let mut command = node.balancer.command();
    command
        .arg("doctor")
        .arg("--config")
        .arg(node.balancer.file());
    command.arg("--bpffs").arg(node.balancer.bpffs());
    let done = lab::process::finish(&node.host.ns.entry(), command, "").unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    let lines = text.lines().skip_while(|line| !line.contains(" announce "));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Waits until doctor prints these lines: an established session has sent its routes a moment later.
#[track_caller]
fn assert_doctor(node: &Node<'_>, wanted: &[&str]) {
    let mut text = String::new();
    let said = deadline::until(&format!("doctor prints {wanted:?}"), LIMIT, || {
        text = doctor(node);
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(wanted.iter().all(|it| words.contains(it)))
    });
    said.unwrap_or_else(|error| panic!("{error:#}:\n{text}"));
}

fn metric(node: &Node<'_>, name: &str) -> Option<f64> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "http://127.0.0.1:9477/metrics"]);
    let page = output(&node.host.ns.entry(), curl, "").unwrap();
    let mut lines = page.lines();
    lines.find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[test]
fn the_controller_tells_what_routers_do_not_get() {
    if !lab::skip::can_run("alerts on announcing", &["ip", "bird", "birdc", "curl"]) {
        return;
    }
    let site = Site::new(&RouterPlan::default()).unwrap();
    let _nginx = serve(&site).unwrap();
    let mut node = Node::start(&site, 0, node_v4(1)).unwrap();
    node.wait_route(true);
    let operator = node.balancer.operator();
    let line = "announced: 1 of 1 addresses, 1 of 1 BGP sessions";
    deadline::until("the status says that all is announced", LIMIT, || {
        Ok(operator.run(&["status"])?.out.contains(line))
    })
    .unwrap();
    let state = |state: &str| {
        let name = format!(r#"evenkeel_announce_address{{address="192.0.2.1",state="{state}"}}"#);
        metric(&node, &name)
    };
    assert_eq!(
        (state("announced"), state("withheld")),
        (Some(1.0), Some(0.0))
    );
    assert_eq!(
        metric(&node, r#"evenkeel_announce_session_up{peer="router"}"#),
        Some(1.0)
    );
    assert_doctor(
        &node,
        &[
            "warning announce router BFD is Down → enable BFD for this neighbour",
            "ok announce router established; routes: 1",
            "ok announce 192.0.2.1 announced",
        ],
    );

    // No session, and no backend.
    let router = |command: &str| {
        site.router
            .bird()
            .command(&site.router_host, command)
            .unwrap()
    };
    router("disable node0");
    let backend = |change: &str| {
        let forced = [
            "--force",
            "nothing_left",
            "--force",
            "min_backends",
            "--no-wait",
        ];
        let arguments = [&["backend", change, "web-1"], &forced[..]].concat();
        operator.run(&arguments).unwrap().assert_code(0);
    };
    backend("disable");
    let took = wait_alert(
        &node,
        "announce_session:router",
        "critical",
        "see `evenkeel doctor`",
    );
    println!("a session that is down raises an alert after {took:?}");
    let took = wait_alert(
        &node,
        "not_announced:forwards",
        "critical",
        "web: NO_MEMBER",
    );
    println!("{took:?} later there is one on the address");
    assert_eq!(
        metric(
            &node,
            r#"evenkeel_announce_unmet_addresses{condition="forwards"}"#
        ),
        Some(1.0)
    );
    assert_doctor(
        &node,
        &[
            "problem announce router Idle with 10.88.0.1: ",
            "warning announce 192.0.2.1 not announced: forwards: web: NO_MEMBER → see",
        ],
    );
    router("enable node0");
    backend("undrain");
    wait_clearing(&node, "announce_session:router");
    wait_clearing(&node, "not_announced:forwards");
    node.wait_route(true);

    // A drained node is no alarm, but told.
    node.ask(&["node", "drain"]).unwrap();
    deadline::until("the status says that the node is drained", LIMIT, || {
        Ok(operator
            .run(&["status"])?
            .out
            .contains("announced: the node is"))
    })
    .unwrap();
    assert_eq!(
        metric(&node, r#"evenkeel_announce_drain{state="no"}"#),
        Some(0.0)
    );
    let drained = "warning announce host the node is drained, so nothing is announced";
    assert_doctor(&node, &[drained]);
    node.ask(&["node", "undrain"]).unwrap();

    // No announcer.
    node.announcer.kill();
    let took = wait_alert(&node, "announcer", "critical", "nothing listens on");
    println!("a killed announcer raises an alert after {took:?}");
    assert_doctor(
        &node,
        &["`evenkeel announce` does not answer: nothing listens on"],
    );
    assert_eq!(metric(&node, "evenkeel_announcer_up"), Some(0.0));
    node.announcer = start_announce(node.host, &node.balancer).unwrap();
    wait_clearing(&node, "announcer");

    // A new controller finds the announcer that runs.
    node.balancer.stop().unwrap();
    node.run().unwrap();
    node.wait_route(true);
    let operator = node.balancer.operator();
    deadline::until("the new controller knows what is announced", LIMIT, || {
        Ok(operator.run(&["status"])?.out.contains(line))
    })
    .unwrap();
}

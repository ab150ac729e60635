//! How traffic is spread over the nodes, and whether they send it to the same backends.

use lab::deadline;
use lab::nginx::Nginx;
use lab::topology::{Family, Lab};
use lab::traffic::steady::SteadyLoad;
use lb_api::Alert;

use crate::site::{LIMIT, NODES, Options, SERVING, Site, build, can_run, route};

const RATE: u64 = 150;

fn start(lab: &Lab) -> (Site<'_>, Vec<Nginx>) {
    let any = "0.0.0.0:80".parse().unwrap();
    let serving = lab.backends.iter().take(SERVING);
    let nginx = serving.map(|host| Nginx::start(host, &[any]).unwrap());
    let nginx = nginx.collect();
    let options = Options {
        exchange: true,
        node: "transition_ttl = \"1s\"\nsample = 1\n",
        ..Options::default()
    };
    (Site::start_nodes(lab, options), nginx)
}

fn load(lab: &Lab) -> SteadyLoad {
    let to = std::net::SocketAddr::new(lab.vip(Family::V4, 1), 80);
    SteadyLoad::start(&lab.clients[0], to, RATE, LIMIT).unwrap()
}

fn alert(site: &Site<'_>, node: usize, kind: &str) -> Option<Alert> {
    let alerts = site.nodes[node].operator().get("/v1/alerts").unwrap();
    let alerts: Vec<Alert> = serde_json::from_value(alerts).unwrap();
    let mut alerts = alerts.into_iter();
    alerts.find(|alert| alert.kind == kind && alert.resolves_at.is_none())
}

#[track_caller]
fn wait_alert(site: &Site<'_>, node: usize, kind: &str) -> Alert {
    let found = deadline::poll(kind, LIMIT, || Ok(alert(site, node, kind)));
    found.unwrap_or_else(|error| panic!("{error:#}\n{}", site.logs()))
}

#[test]
fn routers_that_prefer_a_node_are_the_cause() {
    if !can_run("names uneven routers") {
        return;
    }
    let lab = build(NODES);
    let (site, _nginx) = start(&lab);
    let load = load(&lab);
    std::thread::sleep(std::time::Duration::from_secs(15));
    for node in 0..NODES {
        assert_eq!(alert(&site, node, "ecmp_skew"), None, "{}", site.logs());
    }
    route(&lab, &[0]);
    for node in 0..NODES {
        let found = wait_alert(&site, node, "ecmp_skew");
        let wanted = "VIP web: of the new flows of 3 nodes, lb-0 gets ";
        assert!(found.summary.starts_with(wanted), "{}", found.summary);
        // The rings are not the cause.
        assert_eq!(alert(&site, node, "share_skew"), None);
    }
    // A next hop that is missing.
    route(&lab, &[0, 2]);
    deadline::until("the node without traffic is named", LIMIT, || {
        let found = alert(&site, 2, "ecmp_skew");
        Ok(found.is_some_and(|it| it.summary.ends_with("lb-1 gets 0 % (expected 33 %)")))
    })
    .unwrap();
    route(&lab, &[0, 1, 2]);
    site.wait("the alert is over", || {
        (0..NODES).all(|node| alert(&site, node, "ecmp_skew").is_none())
    });
    drop(load);
}

#[test]
fn nodes_with_other_rings_disagree_on_flows() {
    if !can_run("compares flows") {
        return;
    }
    let lab = build(NODES);
    let (site, mut nginx) = start(&lab);
    let load = load(&lab);
    let settled = |node: usize| {
        let ring = site.status(node).vips[0].ring;
        ring.in_transition + ring.settling == 0
    };
    site.wait("no slot is in transition", || (0..NODES).all(settled));
    std::thread::sleep(std::time::Duration::from_secs(8));
    for node in 0..NODES {
        assert_eq!(
            alert(&site, node, "nodes_disagree"),
            None,
            "{}",
            site.logs()
        );
    }
    // A backend that fails: all nodes change their rings, one a little later than the other.
    drop(nginx.pop());
    let gone = &lab.backends[SERVING - 1].name;
    for _ in 0..40 {
        for node in 0..NODES {
            let found = alert(&site, node, "nodes_disagree");
            assert_eq!(found, None, "{gone} has failed: {}", site.logs());
        }
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    // Other weights on one node only.
    let backend = lab.backends[0].name.clone();
    let change = [
        "backend",
        "weight",
        &backend,
        "400",
        "--force",
        "max_share",
        "--no-wait",
    ];
    site.expect(0, 1, &change);
    let found = wait_alert(&site, 0, "nodes_disagree");
    let wanted = "VIP web: lb-1 and lb-0 send the same flows to different backends";
    assert_eq!(found.summary, wanted);
    let cause = found.cause.unwrap_or_default();
    for text in [
        "tcp ",
        " by lb-1, to backend-",
        "their rings have different shares",
    ] {
        assert!(cause.contains(text), "{text}: {cause}");
    }
    println!("fleet: {cause}");
    let wanted = "VIP web: lb-0 and lb-1 send the same flows to different backends";
    deadline::until("the odd node says so too", LIMIT, || {
        let found = alert(&site, 1, "nodes_disagree");
        Ok(found.is_some_and(|it| it.summary == wanted || it.summary.contains("lb-2 and lb-1")))
    })
    .unwrap();
    site.expect(0, 1, &["fleet", "join"]);
    site.wait("the alert is over", || {
        (0..NODES).all(|node| alert(&site, node, "nodes_disagree").is_none())
    });
    drop(load);
}

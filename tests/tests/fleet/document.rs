//! The set-up of three nodes in `docs/fleet.md` works as it is written there, with both routers.

use lab::demo::fleet::document;
use lab::demo::fleet::site::{Kind, Network, Site};
use lab::demo::fleet::traffic::Traffic;
use lb_api::{AddressState, AnnounceStatus};

#[test]
fn three_nodes_are_set_up_as_documented() {
    for kind in Kind::ALL {
        let router = match kind {
            Kind::Bird => &["bird", "birdc"][..],
            Kind::Frr => &["zebra", "bgpd", "bfdd", "vtysh"],
        };
        let tools = [&["ip", "ethtool", "etcd", "etcdctl", "nginx"], router].concat();
        let test = format!("fleet document, {}", kind.name());
        if lab::skip::can_run(&test, &tools) {
            let network = Network::build().unwrap();
            let mut site = Site::start(&network, kind).unwrap();
            let routed = site.join().unwrap_or_else(|error| panic!("{error:#}"));
            eprintln!(
                "fleet: {}: routed {routed:?} after the last node had joined",
                kind.name()
            );
            commands(&site);
            neighbours(&site);
            traffic_is_answered(&network);
            worse(&site, kind);
            silent_death(&mut site, kind);
        }
    }
}

/// The commands of the page succeed.
fn commands(site: &Site<'_>) {
    let commands = document::commands().unwrap();
    let done = ["fleet init", "fleet join"];
    let rest = commands
        .iter()
        .filter(|it| !done.iter().any(|done| it.starts_with(done)));
    let file = site.fleet.nodes[0].file().display().to_string();
    let mut count = 0;
    for line in rest {
        let line = line.replace("/etc/evenkeel/evenkeel.toml", &file);
        let arguments: Vec<&str> = line.split(' ').collect();
        let (code, shown) = site.command(0, &arguments).unwrap().finish().unwrap();
        assert_eq!(code, 0, "evenkeel {line}:\n{shown}");
        println!("evenkeel {line}:\n{shown}");
        count += 1;
    }
    assert_eq!((count, commands.len()), (5, 7), "{commands:?}");
}

fn status(site: &Site<'_>, node: usize) -> AnnounceStatus {
    let command = ["announce", "status", "--json"];
    let (code, shown) = site.command(node, &command).unwrap().finish().unwrap();
    assert_eq!(code, 0, "{shown}");
    serde_json::from_str(&shown).unwrap()
}

/// Sessions of BGP and BFD are up, and the VIP is announced.
fn neighbours(site: &Site<'_>) {
    for node in 0..3 {
        let status = status(site, node);
        let shown = site.show_neighbours().unwrap();
        assert!(status.peers[0].is_up(), "{status:#?}\n{shown}");
        assert_eq!(
            status.peers[0].bfd.as_deref(),
            Some("Up"),
            "{status:#?}\n{shown}"
        );
        assert_eq!(
            status.addresses[0].state,
            AddressState::Announced,
            "{status:#?}"
        );
    }
}

fn traffic_is_answered(network: &Network) {
    let mut traffic = Traffic::start(network).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(1));
    let counted = traffic.cut().unwrap();
    assert!(counted.requests.len() > 50, "{counted}");
    assert_eq!(
        (counted.failed().count(), counted.broken()),
        (0, 0),
        "{counted}"
    );
}

/// A node that is announced as worse gets no traffic while there are others, and all of it when there is none.
fn worse(site: &Site<'_>, kind: Kind) {
    let drain = |node: usize, verb| {
        let (code, shown) = site
            .command(node, &["node", verb])
            .unwrap()
            .finish()
            .unwrap();
        assert_eq!(code, 0, "{shown}");
    };
    drain(0, "drain");
    let moved = site.wait_hops(&[1, 2], std::time::Duration::ZERO).unwrap();
    let state = status(site, 0).addresses[0].state;
    eprintln!("fleet: {}: as worse: moved after {moved:?}", kind.name());
    assert_eq!(
        state,
        AddressState::Worse,
        "it was withdrawn, not announced as worse"
    );
    drain(0, "undrain");
    site.wait_hops(&[0, 1, 2], std::time::Duration::ZERO)
        .unwrap();
}

/// The router notices a node that dies silently.
fn silent_death(site: &mut Site<'_>, kind: Kind) {
    site.cut_power(2).unwrap();
    let gone = site.wait_hops(&[0, 1], std::time::Duration::ZERO).unwrap();
    eprintln!(
        "fleet: {}: a node that died silently: {gone:?}",
        kind.name()
    );
}

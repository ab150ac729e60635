//! Checks whether the values of `[announce]` and its peers fit together.

use std::net::IpAddr;

use super::{
    keys::{Table, value_of},
    model::{Announce, AnnouncePeer, AnnounceVia, BGP_PORT, TypedAnnouncePeer},
    problem::{Problem, Problems},
    resolve::{ReadFile, Unique, read_secret},
    typed::AnnounceTables,
    value::texts::parse_peer_password,
};

/// The announcing of the file; `None` when a required key is absent or wrong.
pub(super) fn resolve_announce(
    tables: &AnnounceTables,
    read_file: ReadFile<'_>,
    problems: &Problems,
) -> Option<Announce> {
    check_via(tables, problems);
    check_unique(&tables.peers, problems);
    let peers: Vec<_> = tables
        .peers
        .iter()
        .map(|peer| resolve_peer(peer, read_file, problems))
        .collect();
    let peers = peers.into_iter().collect::<Option<_>>()?;
    tables.announce.resolve((peers,))
}

fn check_via(tables: &AnnounceTables, problems: &Problems) {
    let announce = &tables.announce;
    match value_of(&announce.via) {
        // A wrong word is reported by itself.
        None if announce.has("via") => {}
        None | Some(AnnounceVia::Bgp) => check_bgp(tables, problems),
        Some(AnnounceVia::Kernel) => check_kernel(tables, problems),
    }
}

fn check_bgp(tables: &AnnounceTables, problems: &Problems) {
    let announce = &tables.announce;
    let missing = |title: &str, label: &str, help: &str| {
        let problem = Problem::new(announce.at(), title, label, help);
        problems.add(Problem {
            is_missing: true,
            ..problem
        });
    };
    if !announce.has("local_as") {
        let help =
            "the AS number of this node: `local_as = 64501`; or announce with `via = \"kernel\"`";
        let label = "`local_as` must be set here";
        missing("`announce.local_as` is missing", label, help);
    }
    if !announce.has("router_id") {
        let help = "an IPv4 address that identifies this node: `router_id = \"10.0.0.11\"`; or announce with \
                    `via = \"kernel\"`";
        let label = "`router_id` must be set here";
        missing("`announce.router_id` is missing", label, help);
    }
    if !tables.has_peers {
        let help = "add a table `[[announce.peer]]` with `name`, `address` and `peer_as`; or announce with \
                    `via = \"kernel\"`";
        missing("`announce` has no peers", "no router to announce to", help);
    }
}

fn check_kernel(tables: &AnnounceTables, problems: &Problems) {
    let Some(peer) = tables.peers.first() else {
        return;
    };
    let title = "`[[announce.peer]]` with `announce.via = \"kernel\"`";
    let label = "no session would be opened to it";
    let help =
        "remove the peers, which the routing daemon of this host has, or use `via = \"bgp\"`";
    let problem = Problem::new(peer.at(), title, label, help);
    let via = tables.announce.span("via").unwrap_or(tables.announce.at());
    problems.add(problem.related(via, "VIPs are announced in the kernel"));
}

fn check_unique(peers: &[TypedAnnouncePeer], problems: &Problems) {
    let mut names = Unique::new(problems);
    let mut addresses = Unique::new(problems);
    let mut bfd = Unique::new(problems);
    for peer in peers {
        if let Some(address) = &peer.address
            && value_of(&peer.bfd) == Some(true)
        {
            let ip = *address.get_ref();
            let title = format!("two peers with the address {ip} and BFD");
            let help = "there is one BFD session between two addresses: set `bfd` for one of them";
            bfd.add(ip, address.span(), &title, help);
        }
        if let Some(name) = &peer.name {
            let title = format!("duplicate peer name \"{}\"", name.get_ref());
            let help = "peer names must be unique";
            names.add(name.get_ref(), name.span(), &title, help);
        }
        if let Some(address) = &peer.address
            && (peer.port.is_some() || !peer.has("port"))
        {
            let (ip, port) = (*address.get_ref(), value_of(&peer.port).unwrap_or(BGP_PORT));
            let title = format!("two peers with the address {ip}, port {port}");
            addresses.add((ip, port), address.span(), &title, "remove one of them");
        }
    }
}

fn resolve_peer(
    typed: &TypedAnnouncePeer,
    read_file: ReadFile<'_>,
    problems: &Problems,
) -> Option<AnnouncePeer> {
    check_source(typed, problems);
    check_ttl(typed, problems);
    let password = read_secret(
        ("password", "1 to 80 printable ASCII characters"),
        &typed.password_file,
        read_file,
        parse_peer_password,
        problems,
    );
    typed.resolve((password,))
}

fn check_source(peer: &TypedAnnouncePeer, problems: &Problems) {
    let (Some(source), Some(address)) = (&peer.source, &peer.address) else {
        return;
    };
    let family = |ip: &IpAddr| if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    let (from, to) = (family(source.get_ref()), family(address.get_ref()));
    if from != to {
        let title = "`announce.peer.source` is not of the family of `announce.peer.address`";
        let help = format!("must be an {to} address of this node");
        let problem = Problem::new(source.span(), title, from, help);
        problems.add(problem.related(address.span(), to));
    }
}

/// TTL security and BFD (single hop) are for routers on the same link.
fn check_ttl(peer: &TypedAnnouncePeer, problems: &Problems) {
    let Some(multihop) = &peer.multihop else {
        return;
    };
    for (key, value) in [("ttl_security", &peer.ttl_security), ("bfd", &peer.bfd)] {
        if let Some(value) = value.as_ref().filter(|value| *value.get_ref()) {
            let title = format!("both `announce.peer.{key}` and `announce.peer.multihop` are set");
            let help = format!("remove one of them: `{key}` is for routers on the same link");
            let problem = Problem::new(multihop.span(), title, "and here", help);
            problems.add(problem.related(value.span(), "here"));
        }
    }
}

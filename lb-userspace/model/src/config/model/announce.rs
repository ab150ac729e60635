//! `[announce]`, `[[announce.peer]]` and `[vip.announce]`.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

use super::{AnnounceVia, Community, LargeCommunity, Secret};
use crate::config::kind;

/// Default of `announce.peer.port`.
pub(in crate::config) const BGP_PORT: u16 = 179;
const SECOND: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);

table! {
    /// How the VIPs are announced to routers.
    Announce as TypedAnnounce, "announce";
    keys {
        /// How VIPs are announced: by BGP to each `[[announce.peer]]`, or as routes in a routing table of
        /// this host's kernel that a routing daemon (BIRD, FRR) exports.
        via: AnnounceVia, [default AnnounceVia::default()], kind::word::<AnnounceVia>(), Announcer;
        /// The AS number of this node. Required with `via = "bgp"`.
        local_as: u32, [optional "– with `via = \"bgp\"`"], kind::as_number(), Announcer;
        /// The BGP identifier of this node, usually one of its addresses; different on each node. Required
        /// with `via = "bgp"`.
        router_id: Ipv4Addr, [optional "– with `via = \"bgp\"`"], kind::address_v4(), Announcer;
        /// Unix socket of `evenkeel announce`, for `evenkeel announce status` and `evenkeel node drain`.
        socket: PathBuf, [default PathBuf::from("/run/evenkeel/announce.sock")],
            kind::socket_path(), Announcer;
        /// Communities (RFC 1997) of every announcement.
        communities: Community, [list "`[]`"], kind::community(), Announcer;
        /// Large communities (RFC 8092) of every announcement.
        large_communities: LargeCommunity, [list "`[]`"], kind::large_community(), Announcer;
        /// The MED (`MULTI_EXIT_DISC`) of announcements: routers prefer the lowest of one neighbour AS.
        med: u32, [default 0], kind::integer(0..=u32::MAX), Announcer;
        /// `LOCAL_PREF` of announcements; only sent to peers of the same AS.
        local_pref: u32, [optional "100 for peers of the same AS"], kind::integer(0..=u32::MAX), Announcer;
        /// `via = "kernel"`: the number of the routing table.
        table: u32, [default 7411], kind::routing_table(), Announcer;
        /// `via = "kernel"`: the interface of the routes, which `evenkeel announce` creates.
        device: String, [default "evenkeel-vip".to_owned()], kind::interface(), Announcer;
        /// How long a VIP must have been proven before it is announced (again). Doubled, up to five
        /// minutes, each time that it is withdrawn soon after.
        settle: Duration, [default 5 * SECOND], kind::duration(SECOND..=LONGEST), Announcer;
    }
    resolved {
        /// In the order of the file; at least one with `via = "bgp"`, none with `via = "kernel"`.
        peers: Vec<AnnouncePeer>;
    }
}

table! {
    /// A router to which the VIPs are announced by BGP.
    AnnouncePeer as TypedAnnouncePeer, "announce.peer";
    input {
        /// A file with the password of the session (TCP MD5 signature, RFC 2385): 1 to 80 printable ASCII
        /// characters. White space at both ends is removed.
        password_file: PathBuf, [optional "no password"], kind::path(), Announcer;
    }
    keys {
        /// The name in metrics and commands; unique.
        name: String, [required "a name for metrics and commands: `name = \"tor-1\"`"], kind::name(), Announcer;
        /// The address of the router. Address and port are unique.
        address: IpAddr, [required "the address of the router: `address = \"10.0.0.1\"`"],
            kind::address(), Announcer;
        /// The TCP port of the router.
        port: u16, [default BGP_PORT], kind::port(1), Announcer;
        /// The AS number of the router.
        peer_as: u32, [required "the AS number of the router: `peer_as = 64500`"], kind::as_number(), Announcer;
        /// The source address of the session, of the family of `address`.
        source: IpAddr, [optional "chosen by the kernel"], kind::address(), Announcer;
        /// How long the session lasts without a message from the router. The router may ask for less.
        hold_time: Duration, [default 9 * SECOND], kind::whole_seconds(3 * SECOND..=LONGEST), Announcer;
        /// Whether packets are transmitted with TTL 255, and only those are accepted that arrive with it
        /// (GTSM, RFC 5082). The router needs the same setting.
        ttl_security: bool, [default false], kind::boolean(), Announcer;
        /// TTL of the session to a router that is not on the same link. Not with `ttl_security` or `bfd`.
        multihop: u8, [optional "the router is on the same link"], kind::byte(2..=255), Announcer;
        /// Whether BFD (RFC 5880, single hop) monitors the router.
        bfd: bool, [default false], kind::boolean(), Announcer;
        /// Time between two BFD packets. The router may ask for more.
        bfd_interval: Duration, [default Duration::from_millis(100)],
            kind::duration(Duration::from_millis(50)..=5 * SECOND), Announcer;
        /// How many BFD packets may be missing before the session is down.
        bfd_multiplier: u8, [default 3], kind::byte(2..=50), Announcer;
        /// The next hop of IPv4 VIPs.
        next_hop_v4: Ipv4Addr, [optional "the IPv4 address of the session"], kind::address_v4(), Announcer;
        /// The next hop of IPv6 VIPs.
        next_hop_v6: Ipv6Addr, [optional "the IPv6 address of the session"], kind::address_v6(), Announcer;
    }
    resolved {
        /// The password of the session.
        password: Option<Secret>;
    }
}

table! {
    /// How one VIP is announced.
    VipAnnounce as TypedVipAnnounce, "vip.announce", with Default;
    keys {
        /// Whether the VIP is announced.
        enabled: bool, [default true], kind::boolean(), Announcer;
        /// Communities in addition to those of `[announce]`.
        communities: Community, [list "`[]`"], kind::community(), Announcer;
        /// Large communities in addition to those of `[announce]`.
        large_communities: LargeCommunity, [list "`[]`"], kind::large_community(), Announcer;
        /// The MED of the VIP's announcements.
        med: u32, [optional "`announce.med`"], kind::integer(0..=u32::MAX), Announcer;
        /// The node of the fleet that routers are to prefer: the others announce with a MED that is larger by
        /// 100. For `nat` VIPs, whose sessions are known to one node only.
        home: String, [optional "no node is preferred"], kind::name(), Announcer;
        /// With fewer backends that serve, the VIP is announced as worse: with the community
        /// `graceful-shutdown`.
        min_up: u32, [default 1], kind::integer(1..=4096), Announcer;
    }
}

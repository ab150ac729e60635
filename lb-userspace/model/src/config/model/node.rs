//! `[node]`: interfaces, flow hash and the sizes of the tables.

use std::{net::IpAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use lb_common::{nat, track};

use super::{Fraction, HashSeed, Prefix, XdpMode};
use crate::config::kind;

/// A tracking cell holds 16 bits of seconds, which wrap after 18 hours.
const LONGEST: Duration = Duration::from_secs(12 * 3600);
const SECOND: Duration = Duration::from_secs(1);

/// Default of `node.exec_user`: a user without rights.
pub const DEFAULT_EXEC_USER: &str = "nobody";

table! {
    /// The node: interfaces, flow hash and the sizes of the tables.
    Node as TypedNode, "node";
    input {
        /// The secret that decides which backend a flow goes to; the same on all nodes that share
        /// VIPs. Anyone who knows it can steer flows to one backend. Messages never show it.
        hash_seed: HashSeed, [optional "– (or `hash_seed_file`)"], kind::hash_seed(), ReplacesAllVips;
        /// A file with the 32 hex digits, so that the configuration file need not be secret. Exactly
        /// one of the two keys is required.
        hash_seed_file: PathBuf, [optional "– (or `hash_seed`)"], kind::path(), ReplacesAllVips;
    }
    keys {
        /// The interfaces on which packets for VIPs arrive, and the replies of `nat` backends.
        interfaces: String,
            [list required "the interfaces on which packets for VIPs arrive: `interfaces = [\"eth0\"]`"],
            kind::interface(), Live;
        /// Where the XDP program runs: in the driver, or not at all; in the network stack (any
        /// driver, slower); or in the driver if possible, else in the network stack, with an alert.
        xdp_mode: XdpMode, [default XdpMode::default()], kind::word::<XdpMode>(), Live;
        /// The directory of the revisions.
        state_dir: PathBuf, [default PathBuf::from("/var/lib/evenkeel")], kind::absolute_path(), Stopped;
        /// The user that runs the commands of `exec` checks, with its primary group. Only a start
        /// reads it, and only from the file: changes through the API do not change whose rights a
        /// check has.
        exec_user: String, [default DEFAULT_EXEC_USER.to_owned()], kind::text("name of a user"), Restart;
        /// `ipip`: prefix of the outer source address. The remaining bits vary with the flow, so that
        /// NICs of backends spread flows over their queues.
        encap_source: Prefix, [list "an address of the interface"], kind::prefix(), Live;
        /// `nat`: up to 64 source addresses that backends see and reply to, none of a VIP or a
        /// backend. Each backend of each VIP uses one of them: several add ports only where VIPs share
        /// backends. An address that no interface of the host has must be routed to this node;
        /// `doctor`, plans and the log warn about it.
        nat_source: IpAddr, [list "an address of the interface"], kind::addresses(), Live;
        /// `nat`: source ports. Keep them apart from `net.ipv4.ip_local_port_range`.
        nat_ports: RangeInclusive<u16>, [default 16_384..=32_767], kind::port_range(), Live;
        /// `nat`: how much of the ports for sessions with a backend the clients of one address may use, for IPv6 of one
        /// prefix of 64 bits, so that nobody alone can use up all. `1`: all, for clients that are a proxy or a NAT
        /// with few addresses. Below `0.1`, few SYNs with a client's forged address lock it out; at least 16 ports
        /// must remain.
        nat_source_share: Fraction, [default Fraction::HALF], kind::share(), Live;
        /// How long a slot remembers its previous backend after a change. A connection that is idle
        /// for all this time after a change may break.
        transition_ttl: Duration, [default Duration::from_secs(15 * 60)],
            kind::duration(SECOND..=LONGEST), Live;
        /// How long a flow in the tracking table may be idle before it is removed; at least
        /// `transition_ttl`.
        track_idle: Duration, [default Duration::from_secs(3600)],
            kind::duration(SECOND..=LONGEST), Live;
        /// Capacity of the tracking table in flows of 8 bytes.
        track_flows: u32, [default track::DEFAULT_BUCKETS * track::WAYS as u32],
            kind::power_of_two(8192..=1 << 27), Unloaded;
        /// `nat`: capacity of the session table.
        nat_sessions: u32, [default nat::DEFAULT_SESSIONS], kind::integer(1024..=1 << 24), Unloaded;
        /// At most one flow in this many is sampled. The rate drops by itself for VIPs with much
        /// traffic: see [how many flows are sampled](skew.md#how-many-flows-are-sampled).
        sample: u32, [default 1], kind::power_of_two(1..=1 << 31), Live;
    }
    resolved {
        /// The secret from which the keys of the flow hash are derived.
        hash_seed: HashSeed;
    }
}

impl Node {
    /// Prefix of the outer source address of packets to `backend`.
    #[must_use]
    pub fn encap_prefix(&self, backend: IpAddr) -> Option<Prefix> {
        let family = |prefix: &&Prefix| prefix.address().is_ipv4() == backend.is_ipv4();
        self.encap_source.iter().find(family).copied()
    }
}

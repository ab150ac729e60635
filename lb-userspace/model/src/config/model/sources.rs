//! `[sources]`: how sources of backends are asked.

use std::{net::SocketAddr, time::Duration};

use crate::config::kind;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Most DNS servers. Each may take its `timeout` in a question, one after the other.
pub const MAX_DNS_SERVERS: usize = 8;

table! {
    /// How the sources of `backends_from` are asked.
    Sources as TypedSources, "sources", with Default;
    keys {
        /// The DNS servers, at most 8, each with a port; usually 53. They are asked in this order: the next one
        /// if one does not reply within `timeout`, fails (SERVFAIL) or refuses.
        dns_servers: SocketAddr, [list "those of `/etc/resolv.conf`"], kind::socket_addresses(), Live;
        /// Shortest time between two questions, whatever TTL the answer has, and between two steps in
        /// which backends leave.
        interval_min: Duration, [default seconds(5)], kind::duration(seconds(1)..=seconds(3600)), Live;
        /// Longest time between two questions.
        interval_max: Duration, [default seconds(60)], kind::duration(seconds(1)..=seconds(3600)), Live;
        /// How long each server has to reply, over UDP and TCP together.
        timeout: Duration, [default seconds(2)],
            kind::duration(Duration::from_millis(100)..=seconds(30)), Live;
    }
}

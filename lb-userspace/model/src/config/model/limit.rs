//! `[vip.limit]` and `[vip.limit.source]`.

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use super::{OnExcess, Prefix};
use crate::config::kind;

/// Largest burst.
const MAX_BURST: u32 = 1_000_000_000;

table! {
    /// Limits for the traffic of a VIP as a whole, and whom they are for.
    Limit as TypedLimit, "vip.limit", with Default;
    keys {
        /// New flows per second: SYNs of TCP, first packets of UDP (which needs `track = "always"` or
        /// `forward = "nat"`).
        new_flows: u32, [optional "no limit"], kind::integer(1..=Limit::MAX_NEW_FLOWS), Live;
        /// New flows that may come at once.
        new_flows_burst: u32, [optional "those of a second"], kind::integer(1..=MAX_BURST), Live;
        /// Packets per second.
        packets: u32, [optional "no limit"], kind::integer(1..=Limit::MAX_PACKETS), Live;
        /// Packets that may come at once.
        packets_burst: u32, [optional "those of a second"], kind::integer(1..=MAX_BURST), Live;
        /// What happens to packets over the limits of the VIP: they are dropped, or only counted. With
        /// `"second_syn"`, the first SYN of a flow is dropped and its retransmission passes: clients
        /// that really connect lose a second, forged ones don't get through.
        on_excess: OnExcess, [default OnExcess::default()], kind::word::<OnExcess>(), Live;
        /// Sources that no limit applies to. What they send counts towards the limits of the VIP all the
        /// same.
        exempt: Prefix, [list "none"], kind::source_prefix(), Live;
        /// Files with more of them: one prefix or address per line; `#` begins a comment.
        exempt_files: PathBuf, [list "none"], kind::path(), Live;
        /// Sources whose packets are dropped. A source that is also exempt is dropped.
        deny: Prefix, [list "none"], kind::source_prefix(), Live;
        /// Files with more of them, like `exempt_files`.
        deny_files: PathBuf, [list "none"], kind::path(), Live;
    }
    resolved {
        /// Limits for each source.
        source: SourceLimit;
        /// All exempt prefixes, with those from files; sorted, without duplicates.
        exempt_prefixes: Arc<[Prefix]>;
        /// All denied prefixes, likewise.
        deny_prefixes: Arc<[Prefix]>;
    }
}

table! {
    /// Limits for each source of a VIP: an address, a prefix, or a block of ports of one of them.
    #[derive(Copy)]
    SourceLimit as TypedSourceLimit, "vip.limit.source", with Default;
    keys {
        /// New flows per second, as in `vip.limit`.
        new_flows: u32, [optional "no limit"], kind::integer(1..=SourceLimit::MAX_RATE), Live;
        /// New flows that may come at once.
        new_flows_burst: u32, [optional "those of a second"], kind::integer(1..=MAX_BURST), Live;
        /// Packets per second.
        packets: u32, [optional "no limit"], kind::integer(1..=SourceLimit::MAX_RATE), Live;
        /// Packets that may come at once.
        packets_burst: u32, [optional "those of a second"], kind::integer(1..=MAX_BURST), Live;
        /// Bits of an IPv4 address that tell sources apart.
        prefix_v4: u32, [default 32], kind::integer(8..=32), Live;
        /// Bits of an IPv6 address that tell sources apart.
        prefix_v6: u32, [default 64], kind::integer(16..=128), Live;
        /// Ports of a block: subscribers behind a carrier's NAT that gives each of them a block of
        /// ports (RFC 7422) are told apart by it. A power of two.
        port_block: u32, [optional "all ports are of one source"], kind::power_of_two(16..=32_768), Live;
        /// What happens to packets over these limits, as in `vip.limit`.
        on_excess: OnExcess, [default OnExcess::default()], kind::word::<OnExcess>(), Live;
    }
}

/// A rate with the burst that is allowed above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Per second.
    pub per_s: u32,
    /// At once.
    pub burst: u32,
}

impl Rate {
    fn of(per_s: Option<u32>, burst: Option<u32>) -> Option<Self> {
        let per_s = per_s?;
        let burst = burst.unwrap_or(per_s);
        Some(Self { per_s, burst })
    }
}

impl Limit {
    /// Most new flows per second.
    pub const MAX_NEW_FLOWS: u32 = 10_000_000;
    /// Most packets per second.
    pub const MAX_PACKETS: u32 = 100_000_000;

    /// The limit for new flows of the VIP.
    #[must_use]
    pub fn flow_rate(&self) -> Option<Rate> {
        Rate::of(self.new_flows, self.new_flows_burst)
    }

    /// The limit for packets of the VIP.
    #[must_use]
    pub fn packet_rate(&self) -> Option<Rate> {
        Rate::of(self.packets, self.packets_burst)
    }
}

impl SourceLimit {
    /// Highest rate per second: up to here, the data path rounds it by less than one in a hundred.
    pub const MAX_RATE: u32 = 500_000;

    /// The limit for new flows of a source.
    #[must_use]
    pub fn flow_rate(&self) -> Option<Rate> {
        Rate::of(self.new_flows, self.new_flows_burst)
    }

    /// The limit for packets of a source.
    #[must_use]
    pub fn packet_rate(&self) -> Option<Rate> {
        Rate::of(self.packets, self.packets_burst)
    }

    /// The prefix that an address counts as.
    #[must_use]
    pub fn prefix_of(&self, address: IpAddr) -> Prefix {
        let bits = match address {
            IpAddr::V4(_) => self.prefix_v4,
            IpAddr::V6(_) => self.prefix_v6,
        };
        Prefix::containing(address, bits as u8)
    }
}

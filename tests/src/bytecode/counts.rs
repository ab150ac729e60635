//! Counters by name.

use std::collections::BTreeMap;

use anyhow::Result;
use lb_common::reason::REASONS;
use lb_dataplane::Counters;

use super::tables::{MEMBERS, VIPS};

/// Counters or changes of counters, without zeros.
pub type Counts = BTreeMap<String, i128>;

const MEMBER: [&str; 8] = [
    "packets",
    "bytes",
    "new_flows",
    "resets",
    "kept",
    "icmp_errors",
    "reply_packets",
    "reply_bytes",
];
const VIP: [&str; 8] = [
    "track_hits",
    "track_misses",
    "track_inserts",
    "track_full",
    "no_member",
    "nat_sessions",
    "nat_no_port",
    "nat_reused",
];

/// Reads the counters of the node and of the members and VIPs that tests use: reasons by name,
/// `m3.packets` for member 3, `v3.track_hits` for VIP 3.
pub fn counts(counters: &Counters) -> Result<Counts> {
    let mut counts = Counts::new();
    let mut add = |name: String, count: u64| {
        if count != 0 {
            counts.insert(name, count.into());
        }
    };
    for (reason, count) in counters.node()?.reasons.into_iter().enumerate() {
        let name = REASONS
            .get(reason)
            .map_or("NO_SUCH_REASON", |text| text.name);
        add(name.to_owned(), count);
    }
    for member in 0..MEMBERS {
        let words: [u64; 8] = bytemuck::cast(counters.member(member)?);
        for (name, count) in MEMBER.into_iter().zip(words) {
            add(format!("m{member}.{name}"), count);
        }
    }
    for vip in 0..VIPS {
        let words: [u64; 8] = bytemuck::cast(counters.vip(vip)?);
        for (name, count) in VIP.into_iter().zip(words) {
            add(format!("v{vip}.{name}"), count);
        }
    }
    Ok(counts)
}

/// Returns the changes.
pub(super) fn difference(before: &Counts, after: &Counts) -> Counts {
    let names = before.keys().chain(after.keys());
    names
        .map(|name| {
            let of = |counts: &Counts| counts.get(name).copied().unwrap_or(0);
            (name.clone(), of(after) - of(before))
        })
        .filter(|(_, change)| *change != 0)
        .collect()
}

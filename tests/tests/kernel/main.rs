//! Everything below the lab's scale that needs a kernel and root: maps, programs and links; next hops; the
//! reconciler; decapsulation; the `evenkeel` binary on one host (a network namespace) without servers.
#![expect(clippy::unwrap_used, reason = "tests panic: the backtrace says where")]

mod decap_packets;
mod decap_traffic;
mod doctor;
mod engine;
mod host;
mod lifetime;
mod links;
mod nexthop;
mod pinned;
mod program;
mod reconciler;
mod simulate;
mod tables;

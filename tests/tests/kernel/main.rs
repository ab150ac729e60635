//! Tests that need the kernel and root but no lab: maps, programs and links, next hops, the reconciler,
//! decapsulation, and the `evenkeel` binary on one host (a network namespace) without servers.
#![expect(clippy::unwrap_used, reason = "tests panic: the backtrace says where")]

mod adoption;
mod capture;
mod changes;
mod decap_packets;
mod decap_traffic;
mod disk;
mod doctor;
mod file;
mod host;
mod interfaces;
mod lifetime;
mod limits;
mod links;
mod nexthop;
mod node;
mod pinned;
mod program;
mod proof;
mod reconciler;
mod rounds;
mod simulate;
mod stall;
mod tables;

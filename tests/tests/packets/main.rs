//! Tables of packets for the data path's bytecode: input, verdict, output and counters.
//!
//! Frames are run with `BPF_PROG_TEST_RUN` in a new network namespace. Needs root.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod bound;
mod capture;
mod capture_filters;
mod crowded;
mod expiry;
mod explained;
mod forwarding;
mod fragments;
mod icmp;
mod icmp_errors;
mod limits;
mod links;
mod malformed;
mod messages;
mod migrated;
mod nat;
mod nat_errors;
mod nat_flood;
mod nat_forged;
mod nat_sessions;
mod nat_shares;
mod path;
mod random;
mod replaced;
mod reuse;
mod samples;
mod selection;
mod stage;
mod stations;
mod swap;
mod tunnel;

//! The data path's bytecode, packet by packet: what comes in, what goes out, what is counted.
//!
//! Frames are run by `BPF_PROG_TEST_RUN` in a network namespace of the test's own. Needs root.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod crowded;
mod expiry;
mod explained;
mod forwarding;
mod fragments;
mod icmp;
mod links;
mod malformed;
mod messages;
mod nat;
mod nat_sessions;
mod random;
mod replaced;
mod reuse;
mod samples;
mod selection;
mod stage;
mod swap;

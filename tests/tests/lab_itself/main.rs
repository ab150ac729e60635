//! Tests of the lab itself, without a balancer: it carries traffic, detects faults, and leaves nothing behind.

#![expect(
    clippy::unwrap_used,
    reason = "tests panic: the stack trace says where"
)]

mod guards;
mod interrupt;
mod links;
mod traffic;
mod usage;
mod xdp;

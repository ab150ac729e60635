//! The lab is what everything else is judged by, so it is judged first: that it carries traffic, that
//! it notices faults, and that it leaves nothing behind. No balancer is needed for that.

#![expect(
    clippy::unwrap_used,
    reason = "tests panic: the stack trace says where"
)]

mod guards;
mod links;
mod traffic;
mod usage;
mod xdp;

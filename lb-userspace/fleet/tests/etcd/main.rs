//! The fleet with a real etcd of three members, and simulated nodes.
#![expect(clippy::unwrap_used, reason = "tests panic: the backtrace says where")]

mod commands;
mod failures;
mod fleet;
mod node;
mod nodes;
mod rollouts;
mod scale;

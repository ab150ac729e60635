//! Checks on a [`Host`](super::Host).

mod announce;
mod interfaces;
mod network;
mod node;
#[cfg(test)]
mod sample;
mod sources;
mod system;
mod veth;

pub(super) use announce::announce;
pub(super) use interfaces::interfaces;
pub(super) use network::network;
pub(super) use node::node;
pub(super) use sources::sources;
pub(super) use system::system;

/// Subject of findings about the host as a whole.
const HOST: &str = "host";

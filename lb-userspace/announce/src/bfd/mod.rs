//! BFD (RFC 5880), asynchronous mode, for a single hop (RFC 5881). Without authentication, echo and demand
//! mode.

mod monitor;
pub mod packet;
mod session;
mod socket;

pub(crate) use monitor::{Change, Handle, Monitor};
pub use packet::BfdState;

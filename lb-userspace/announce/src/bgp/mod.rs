//! BGP-4 (RFC 4271), announcing only.

mod adj_out;
mod connection;
pub mod message;
mod session;
mod socket;
mod speaker;
mod status;
mod task;

pub use message::Family;
pub use session::State;
pub use speaker::Speaker;
pub use status::{Families, FamilyState, PeerStatus};

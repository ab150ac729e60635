//! Announces host routes for VIPs to routers.
//!
//! [`Speaker`] is a BGP-4 speaker (RFC 4271) that only announces: it connects to its peers, sends the
//! routes it is given, and ignores the routes that peers send. Each peer may have a BFD session
//! (RFC 5880, 5881), which detects a dead peer, and lets the peer detect a dead node, in a fraction of a
//! second. [`KernelRoutes`] is the alternative for hosts with a routing daemon of their own: it keeps
//! the same routes in a kernel routing table, from which BIRD or FRR redistributes them.
//!
//! ```text
//!  Routes ─► Speaker ─► one task per peer: Session (state machine) + AdjOut (what to send) + TCP
//!               └─────► one thread for all BFD sessions, so that a busy process keeps their timing
//!         ─► KernelRoutes ─► TUN device + routing table
//! ```
//!
//! State machines and codecs have no access to sockets or clocks and are tested without them.

#![cfg_attr(not(test), warn(clippy::too_many_lines))]

pub mod bfd;
pub mod bgp;
mod community;
mod kernel;
mod peer;
mod routes;

pub use bfd::BfdState;
pub use bgp::{Families, Family, FamilyState, PeerStatus, Speaker, State};
pub use community::{Community, LargeCommunity, ParseCommunityError};
pub use kernel::{KernelError, KernelRoutes, KernelStatus};
pub use peer::{Bfd, Password, PasswordError, Peer, PeerError};
pub use routes::{Attributes, AttributesError, Routes};

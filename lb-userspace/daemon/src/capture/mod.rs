//! Packet capture: from a request to a stream of pcapng.
//!
//! ```text
//! request ─► Criteria ─► Filter ─► program ─► ring buffer ─► Reader ─► pcapng ─► response
//!               ▲ names                                        ▲ names
//!               └────────────── reports of the reconciler ─────┘
//! ```
//!
//! The engine ([`crate::engine`]) owns the program in the links: it puts it there, renews its deadline and
//! puts the balancer's back. The [`Reader`] has a thread of its own, since it may wait for the client; while
//! it does, the ring buffer fills up and the program counts what is lost. A [`Guard`] puts the balancer's
//! program back if the controller is killed.

mod criteria;
mod guard;
mod pattern;
mod pcapng;
mod reader;
mod words;

pub use criteria::Criteria;
pub use guard::{GUARD_COMMAND, Guard, watch};
pub(crate) use pattern::Pattern;
pub use reader::{Reader, Terms};
pub(crate) use words::VERDICTS;

/// Space for records that were not read yet: a quarter of a second at 100,000 packets per second.
pub const RING_BYTES: u32 = 8 << 20;

/// Default of the maximum number of packets per second and CPU.
pub const DEFAULT_RATE: u32 = 200_000;

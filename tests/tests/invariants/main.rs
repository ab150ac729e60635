//! The invariants of connection consistency, with real connections that carry data continuously.
//!
//! | | invariant | where |
//! | --- | --- | --- |
//! | 1 | With a stable configuration, the tracking table stays empty and no flow moves. | [`stable`], [`bytecode`] |
//! | 2 | Adding, draining and reweighting members breaks and moves no flow; drained members become idle. | [`changes`], [`drain`] |
//! | 3 | A member that fails breaks only its own flows, and its recovery breaks none. | [`failure`] |
//! | 4 | A SYN flood breaks no connection and fills no table. | [`flood`] |
//! | 5 | Nodes with the same configuration select the same member. | [`nodes`] |
//! | 6 | Forwarding does not need the controller. | [`controller`] |
//! | 7 | Spilled flows stay with their members, whatever changes. | [`bounded`] |

#![expect(
    clippy::unwrap_used,
    reason = "tests panic: the stack trace says where"
)]

mod bounded;
mod bytecode;
mod changes;
mod controller;
mod drain;
mod failure;
mod flood;
mod nodes;
mod site;
mod stable;

//! The invariants of connection consistency, on real connections that carry data throughout.
//!
//! | | invariant | here |
//! | --- | --- | --- |
//! | 1 | A stable configuration leaves no trace in the tracking table, and no flow moves. | [`stable`], [`bytecode`] |
//! | 2 | Adding, draining and reweighting members breaks and moves nothing; who is drained is left. | [`changes`], [`drain`] |
//! | 3 | A member that fails takes only its own flows with it, and breaks none by coming back. | [`failure`] |
//! | 4 | A SYN flood breaks nothing and fills no table. | [`flood`] |
//! | 5 | Nodes of one configuration choose alike. | [`nodes`] |
//! | 6 | Forwarding does not need the controller. | [`controller`] |

#![expect(
    clippy::unwrap_used,
    reason = "tests panic: the stack trace says where"
)]

mod bytecode;
mod changes;
mod controller;
mod drain;
mod failure;
mod flood;
mod nodes;
mod site;
mod stable;

//! Detects skew: traffic of a VIP that is not distributed over its members as intended.
//!
//! Counts go in ([`Observation`], about once per second), findings come out ([`Finding`]). The
//! crate has no access to maps, sockets, clocks or files. [`Detector`] monitors one VIP
//! continuously; [`AfterChange`] decides in the first seconds after a change whether to roll it
//! back. `docs/skew.md` has the formulas, their sources and measured results.
//!
//! ```text
//!  totals ─► counts ─► shares         flows ≠ table: evidence, dispersion, short_window
//!                      concentration  flows = table, but the table is wrong
//!                      intended       table ≠ weights
//!                      black_holes    unanswered flows
//!                      volume         bytes and packets ≠ flows
//!                      spike          traffic of all members has grown
//!                          └────────► diagnosis: the likeliest cause ─► findings
//! ```

#![cfg_attr(not(test), warn(clippy::too_many_lines))]

mod after_change;
mod black_holes;
mod concentration;
mod counts;
mod detector;
mod deviation;
mod diagnosis;
mod dispersion;
mod evidence;
mod finding;
mod intended;
mod nodes;
mod observation;
mod port_reuse;
mod shares;
mod short_window;
mod spike;
#[cfg(test)]
mod tests;
mod thresholds;
mod volume;

pub use after_change::{AfterChange, ChangedMember, Reference, Verdict};
pub use detector::Detector;
pub use finding::{Affected, Cause, Finding, Kind, Severity};
pub use nodes::{UnevenNode, uneven};
pub use observation::{
    Change, Elephant, Facts, Member, MovedMember, Observation, Phase, SampledFlows, Samples, Source,
};
pub use thresholds::Thresholds;

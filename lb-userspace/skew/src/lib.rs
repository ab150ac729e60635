//! Watches how the traffic of a VIP is spread over its members.
//!
//! Counts go in ([`Observation`], about once a second), findings come out ([`Finding`]). Nothing here
//! knows of maps, sockets, clocks or files. [`Detector`] watches one VIP for good; [`AfterChange`]
//! decides in the first seconds after a change whether to go back. `docs/skew.md` has the formulas,
//! their sources, and how well they do.
//!
//! ```text
//!  totals ─► counts ─► shares         flows ≠ table: evidence, dispersion, recent
//!                      concentration  flows = table, and the table is wrong
//!                      intended       table ≠ weights
//!                      silence        flows that nobody answers
//!                      volume         bytes and packets ≠ flows
//!                      spike          everything is more
//!                          └────────► diagnosis: the likeliest cause ─► findings
//! ```

mod after_change;
mod concentration;
mod counts;
mod detector;
mod diagnosis;
mod dispersion;
mod evidence;
mod finding;
mod intended;
mod observation;
mod raised;
mod recent;
mod shares;
mod silence;
mod spike;
#[cfg(test)]
mod tests;
mod thresholds;
mod unevenness;
mod volume;

pub use after_change::{AfterChange, ChangedMember, Reference, Verdict};
pub use detector::Detector;
pub use finding::{Affected, Cause, Finding, Kind, Weight};
pub use observation::{
    Change, Elephant, Facts, Member, Moved, Observation, Openings, Phase, Samples, Source,
};
pub use thresholds::Thresholds;

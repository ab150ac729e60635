//! Watches how the traffic of a VIP is spread over its members.
//!
//! Counts go in ([`Observation`], about once a second), findings come out ([`Finding`]). Nothing here
//! knows of maps, sockets, clocks or files. [`Detector`] watches one VIP for good; [`AfterChange`]
//! decides in the first seconds after a change whether to go back. `docs/skew.md` has the formulas,
//! their sources, and how well they do.

mod after_change;
mod detector;
mod finding;
mod observation;
mod thresholds;

pub use after_change::{AfterChange, ChangedMember, Reference, Verdict};
pub use detector::Detector;
pub use finding::{Affected, Cause, Finding, Kind, Weight};
pub use observation::{
    Change, Elephant, Facts, Member, Moved, Observation, Openings, Phase, Samples, Source,
};
pub use thresholds::Thresholds;

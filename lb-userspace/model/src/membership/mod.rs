//! Members of VIPs that come from elsewhere (`backends_from`): what a source is, what its answers change,
//! and which of its members a VIP can have.
//!
//! ```text
//! answer ──MemberSet::answered──► MemberSet ──admit──► backends of the VIPs
//!              ▲  half of them, twice                    ▲  the rules of [[vip.backend]]
//! ```
//!
//! A DNS server that fails, lies or is asked at the wrong moment must not take a service away. So the last
//! answer holds until another one is better, and what an answer removes leaves step by step.

mod admit;
mod set;
mod source;
#[cfg(test)]
mod tests;

pub use admit::{Inadmissible, MemberCheck, admit, admit_required, admit_what_fits, check_members};
pub use set::{Changes, Held, Known, MemberKey, MemberSet, Pace, SetChange, Stage};
pub use source::{Families, InvalidSource, Member, MemberSource, SourceKey, name_of, name_of_set};

//! What the operator asked for, and what follows from it: configuration, edits, plans, rings, transitions. Pure: no I/O.

#![warn(missing_docs)]

pub mod config;
pub mod edit;
pub mod error;
mod member;
pub mod planner;
pub mod ring;
pub mod secrets;
pub mod transition;

pub use member::MemberRef;

//! The domain model: configuration, edits of its text, plans with guards, rings and their transitions.
//! Pure functions and types, without I/O.

#![cfg_attr(not(test), warn(clippy::too_many_lines))]
#![warn(missing_docs)]

pub mod config;
pub mod edit;
pub mod error;
pub mod fleet;
pub mod flows;
mod member;
pub mod membership;
pub mod nat_draws;
pub mod planner;
pub mod ring;
pub mod secrets;
pub mod sources;
pub mod text;
pub mod transition;

pub use member::MemberRef;

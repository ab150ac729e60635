//! Evenkeel.

pub mod ring;
pub mod transition;

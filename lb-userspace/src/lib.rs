//! Evenkeel.

pub mod config;
pub mod ring;
pub mod transition;

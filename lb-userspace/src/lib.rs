//! Evenkeel.

pub mod capture;

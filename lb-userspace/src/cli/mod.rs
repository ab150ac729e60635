//! The commands.

pub(crate) mod decap;

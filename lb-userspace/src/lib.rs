//! The command line of Evenkeel: commands, captures, simulations, the doctor, decapsulation.

#![cfg_attr(not(test), warn(clippy::too_many_lines))]

pub mod capture;
pub mod cli;
pub mod decap;
pub mod doctor;
pub mod simulate;

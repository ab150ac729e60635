//! The command line of Evenkeel: commands, captures, simulations, the doctor, decapsulation.

pub mod capture;
pub mod cli;
pub mod decap;
pub mod doctor;
pub mod simulate;

//! The command line of Evenkeel, and what only it does: captures, simulations, the doctor, decapsulation.

pub mod capture;
pub mod cli;
pub mod decap;
pub mod doctor;
pub mod simulate;

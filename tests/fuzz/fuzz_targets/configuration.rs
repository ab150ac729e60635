//! Any bytes as a configuration. See `../properties/configuration.rs`.
#![no_main]

#[path = "../properties/configuration.rs"]
mod configuration;

libfuzzer_sys::fuzz_target!(|data: &[u8]| configuration::hold(data));

//! Any bytes from a BGP or BFD peer. See `../properties/bgp_messages.rs`.
#![no_main]

#[path = "../properties/bgp_messages.rs"]
mod bgp_messages;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bgp_messages::hold(data));

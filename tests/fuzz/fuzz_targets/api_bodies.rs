//! Any bytes as the body of a request. See `../properties/api_bodies.rs`.
#![no_main]

#[path = "../properties/api_bodies.rs"]
mod api_bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| api_bodies::hold(data));

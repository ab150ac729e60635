//! Builds the eBPF programs that the library embeds.

fn main() {}

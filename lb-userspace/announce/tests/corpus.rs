//! The corpus of the fuzz target `bgp_messages` in `tests/fuzz/`, run with its own property: what a fuzzer once
//! found stays found, without a fuzzer.

#[path = "../../../tests/fuzz/properties/bgp_messages.rs"]
mod bgp_messages;

use std::{fs, path::Path};

/// Runs every file, and variants of it: cut off, and with each bit of a byte changed.
#[test]
fn messages() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/bgp_messages");
    let mut files = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        println!("{}", path.display());
        bgp_messages::hold(&bytes);
        for at in 0..bytes.len() {
            bgp_messages::hold(&bytes[..at]);
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                bgp_messages::hold(&changed);
            }
        }
        files += 1;
    }
    assert!(files >= 8, "{files} files in {}", folder.display());
}

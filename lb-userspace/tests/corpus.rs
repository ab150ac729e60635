//! The corpus of the fuzz targets in `tests/fuzz/`, run with their own properties: what a fuzzer once found
//! stays found, without a fuzzer.
#![expect(clippy::unwrap_used, reason = "tests panic: the backtrace says where")]

#[path = "../../tests/fuzz/properties/api_bodies.rs"]
mod api_bodies;
#[path = "../../tests/fuzz/properties/configuration.rs"]
mod configuration;

use std::{fs, path::Path};

/// Runs every file of a folder, and pieces of each: cut off, and with a byte changed.
fn run(folder: &str, hold: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fuzz/corpus")
        .join(folder);
    let mut files = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        println!("{}", path.display());
        hold(&bytes);
        for at in (0..bytes.len()).step_by(1 + bytes.len() / 64) {
            hold(&bytes[..at]);
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            hold(&changed);
        }
        files += 1;
    }
    assert!(files >= 8, "{files} files in {}", folder.display());
}

#[test]
fn configurations() {
    run("configuration", configuration::hold);
}

#[test]
fn bodies() {
    run("api_bodies", api_bodies::hold);
}

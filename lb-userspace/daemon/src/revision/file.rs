//! The format of the store's files: a first line with a digest, then the body.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::durable::Replacer;

/// Version of the format.
const VERSION: u32 = 1;

/// Replaces the store's files. Only the owner may read them: a text may have the hash seed in it.
pub(super) const FILES: Replacer = Replacer {
    suffix: ".tmp",
    mode: 0o600,
    faults: Some("revision"),
};

/// Returns the SHA-256 of bytes, in hex.
pub(super) fn sha256(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        // Writing to a string can't fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// Returns a body with its first line, which has its kind, the format's version and its digest.
pub(super) fn seal(kind: &str, body: &str) -> String {
    format!(
        "evenkeel {kind} {VERSION} sha256 {}\n{body}",
        sha256(body.as_bytes())
    )
}

/// Returns the body of a sealed file.
///
/// # Errors
///
/// What is wrong with the file, as a sentence without its subject.
pub(super) fn unseal(kind: &str, bytes: &[u8]) -> Result<String, String> {
    if bytes.is_empty() {
        return Err("is empty".to_owned());
    }
    let line_end = bytes.iter().position(|byte| *byte == b'\n');
    let line = line_end
        .and_then(|end| std::str::from_utf8(&bytes[..end]).ok())
        .unwrap_or_default();
    let words: Vec<&str> = line.split(' ').collect();
    let ["evenkeel", has_kind, version, "sha256", digest] = words[..] else {
        return Err(format!(
            "does not begin with `evenkeel {kind} {VERSION} sha256 …`"
        ));
    };
    if has_kind != kind {
        return Err(format!("is a {has_kind} file, not a {kind} file"));
    }
    if version != VERSION.to_string() {
        return Err(format!(
            "has format version {version}; this program reads version {VERSION}"
        ));
    }
    let body = &bytes[line.len() + 1..];
    if sha256(body) != digest {
        return Err("does not match the SHA-256 in its first line".to_owned());
    }
    String::from_utf8(body.to_vec()).map_err(|_| "is not UTF-8 text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsealing_returns_the_sealed_body() {
        for body in ["", "{}\n", "{\"a\": 1}\n\r\ntext ü\n"] {
            let sealed = seal("state", body);
            assert_eq!(unseal("state", sealed.as_bytes()).as_deref(), Ok(body));
        }
    }

    #[test]
    fn detects_every_flipped_bit_and_every_truncation() {
        let sealed = seal("revision", "{\"number\":1}\n[node]\n").into_bytes();
        for at in 0..sealed.len() {
            assert!(unseal("revision", &sealed[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut flipped = sealed.clone();
                flipped[at] ^= 1 << bit;
                assert!(unseal("revision", &flipped).is_err(), "bit {bit} of {at}");
            }
        }
        let mut longer = sealed;
        longer.push(b'\n');
        assert!(unseal("revision", &longer).is_err());
    }

    #[test]
    fn names_a_wrong_kind_and_a_wrong_version() {
        let wrong = unseal("revision", seal("state", "").as_bytes()).unwrap_err();
        assert_eq!(wrong, "is a state file, not a revision file");
        let newer = seal("state", "").replace(" 1 ", " 2 ");
        let newer = unseal("state", newer.as_bytes()).unwrap_err();
        assert_eq!(newer, "has format version 2; this program reads version 1");
    }
}

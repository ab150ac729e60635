//! One file of the store: sealed with a digest, replaced as a whole.

use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::damage::StoreError;
use crate::fault;

/// Version of the format.
const VERSION: u32 = 1;
/// Only the owner: a text may have the hash seed in it.
const MODE: u32 = 0o600;
/// Ending of the name under which a file is written.
pub(super) const TEMPORARY: &str = ".tmp";

/// SHA-256 in hex.
pub(super) fn sha256(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        // Writing to a string can't fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// The body with a first line that says what it is, and its digest.
pub(super) fn seal(kind: &str, body: &str) -> String {
    format!(
        "evenkeel {kind} {VERSION} sha256 {}\n{body}",
        sha256(body.as_bytes())
    )
}

/// The body of a sealed file, or what is wrong with it.
pub(super) fn unseal(kind: &str, bytes: &[u8]) -> Result<String, String> {
    if bytes.is_empty() {
        return Err("it is empty".to_owned());
    }
    let line_end = bytes.iter().position(|byte| *byte == b'\n');
    let line = line_end
        .and_then(|end| std::str::from_utf8(&bytes[..end]).ok())
        .unwrap_or_default();
    let words: Vec<&str> = line.split(' ').collect();
    let ["evenkeel", has_kind, version, "sha256", digest] = words[..] else {
        return Err(format!(
            "it does not begin with `evenkeel {kind} {VERSION} sha256 …`"
        ));
    };
    if has_kind != kind {
        return Err(format!("it is a {has_kind}, not a {kind}"));
    }
    if version != VERSION.to_string() {
        return Err(format!(
            "it has format {version}; this program knows {VERSION}"
        ));
    }
    let body = &bytes[line.len() + 1..];
    if sha256(body) != digest {
        return Err("what is in it does not have the SHA-256 that it begins with".to_owned());
    }
    String::from_utf8(body.to_vec()).map_err(|_| "it is not UTF-8 text".to_owned())
}

/// A step with a file, where a fault can be asked for.
fn step<T>(
    what: &'static str,
    path: &Path,
    point: &str,
    run: impl FnOnce() -> io::Result<T>,
) -> Result<T, StoreError> {
    fault::point(point)
        .and_then(|()| run())
        .map_err(|source| StoreError::System {
            what,
            path: path.to_owned(),
            source,
        })
}

/// Flushes the names in a folder to the disk.
pub(super) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    step("flush", folder, "revision: fsync folder", || {
        File::open(folder)?.sync_all()
    })
}

/// Replaces a file as a whole. After an error there is the old file or the new one; which, only the
/// error of the last step leaves open.
pub(super) fn replace(path: &Path, content: &str) -> Result<(), StoreError> {
    let temporary = temporary(path);
    let written = write(&temporary, content).and_then(|()| {
        step("rename", &temporary, "revision: rename", || {
            fs::rename(&temporary, path)
        })
    });
    if let Err(error) = written {
        remove(&temporary);
        return Err(error);
    }
    path.parent().map_or(Ok(()), sync_folder)
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY);
    name.into()
}

fn write(path: &Path, content: &str) -> Result<(), StoreError> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(MODE);
    let mut file = step("create", path, "revision: create", || options.open(path))?;
    // Two halves, so that a fault can leave a file that was cut short.
    let (first, second) = content.as_bytes().split_at(content.len() / 2);
    step("write", path, "revision: write", || file.write_all(first))?;
    step("write", path, "revision: write the rest", || {
        file.write_all(second)
    })?;
    step("flush", path, "revision: fsync", || file.sync_all())
}

/// Removes what must not stay. A file that stays all the same does no harm: temporary ones are
/// removed when the store is opened, and a revision that was not applied is passed over.
pub(super) fn remove(path: &Path) {
    if let Err(error) = fault::point("revision: remove").and_then(|()| fs::remove_file(path))
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "can't remove a file that was not finished");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_comes_back() {
        for body in ["", "{}\n", "{\"a\": 1}\n\r\ntext ü\n"] {
            let sealed = seal("state", body);
            assert_eq!(unseal("state", sealed.as_bytes()).as_deref(), Ok(body));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
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
    fn messages_say_what_it_is() {
        let wrong = unseal("revision", seal("state", "").as_bytes()).unwrap_err();
        assert_eq!(wrong, "it is a state, not a revision");
        let newer = seal("state", "").replace(" 1 ", " 2 ");
        let newer = unseal("state", newer.as_bytes()).unwrap_err();
        assert_eq!(newer, "it has format 2; this program knows 1");
    }
}

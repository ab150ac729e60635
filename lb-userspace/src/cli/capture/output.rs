//! The file of a capture, or standard output.
//!
//! Only whole blocks are written, so that the file is valid whenever the capture ends.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, IsTerminal as _, Write as _},
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Mode of a new file: packets are private.
const PRIVATE: u32 = 0o600;

/// Block types of pcapng.
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;
/// Option: a comment.
const COMMENT: u16 = 1;
/// Type and length.
const BLOCK_HEAD: usize = 8;
/// The fields of a statistics block before its options.
const STATISTICS_FIELDS: usize = 12;
/// Most bytes of a block: several times the longest that the controller writes.
const LONGEST_BLOCK: usize = 1 << 20;

pub(super) struct Output {
    /// For messages.
    name: String,
    file: File,
    /// The path of a file that did not exist before.
    created: Option<PathBuf>,
    /// Whether it can be truncated.
    is_regular: bool,
    /// Bytes of whole blocks written.
    written: u64,
    /// The start of a block whose rest has not arrived.
    rest: Vec<u8>,
    frames: u64,
    summary: Option<String>,
}

/// Result of a write.
pub(super) enum Written {
    Done,
    /// The reader of the pipe is gone.
    NoReader,
}

impl Output {
    /// Opens the file, or standard output for `-`.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let is_stdout = path == Path::new("-");
        if is_stdout && io::stdout().is_terminal() {
            bail!("standard output is a terminal: name a file, or pipe into a program");
        }
        let is_new = !is_stdout && fs::symlink_metadata(path).is_err();
        let opened = if is_stdout {
            io::stdout().as_fd().try_clone_to_owned().map(File::from)
        } else {
            let mut options = OpenOptions::new();
            options
                .write(true)
                .create(true)
                .truncate(true)
                .mode(PRIVATE);
            options.open(path)
        };
        let name = if is_stdout {
            "standard output".to_owned()
        } else {
            path.display().to_string()
        };
        let file = opened.with_context(|| format!("cannot write {name}"))?;
        let is_regular = file.metadata().is_ok_and(|found| found.is_file());
        Ok(Self {
            name,
            file,
            created: is_new.then(|| path.to_owned()),
            is_regular: is_regular && !is_stdout,
            written: 0,
            rest: Vec::new(),
            frames: 0,
            summary: None,
        })
    }

    /// Removes a file that did not exist before.
    pub(super) fn discard(self) {
        if let Some(path) = &self.created {
            // It stays empty otherwise.
            let _ = fs::remove_file(path);
        }
    }

    pub(super) const fn frames(&self) -> u64 {
        self.frames
    }

    /// What the controller said at the end of the capture.
    pub(super) fn summary(&self) -> Option<&str> {
        self.summary.as_deref()
    }

    /// Whether anybody reads the pipe, if it is one.
    pub(super) fn has_reader(&self) -> bool {
        let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::empty())];
        let polled = poll(&mut fds, PollTimeout::ZERO);
        let is_broken = fds[0]
            .revents()
            .is_some_and(|e| e.contains(PollFlags::POLLERR));
        polled.is_err() || !is_broken
    }

    /// Writes the blocks that are complete with these bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<Written> {
        self.rest.extend_from_slice(bytes);
        let mut whole = 0;
        while let Some(len) = block_len(&self.rest[whole..])? {
            let block = &self.rest[whole..whole + len];
            match word(block, 0) {
                Some(PACKET) => self.frames += 1,
                Some(STATISTICS) => {
                    let options = block.get(BLOCK_HEAD + STATISTICS_FIELDS..);
                    self.summary = options.and_then(comment);
                }
                _ => {}
            }
            whole += len;
        }
        match self.file.write_all(&self.rest[..whole]) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(Written::NoReader),
            Err(error) => {
                if self.is_regular {
                    // Without the start of a block. The first error is the one to report.
                    let _ = self.file.set_len(self.written);
                }
                return Err(error).with_context(|| format!("cannot write {}", self.name));
            }
        }
        self.written += whole as u64;
        self.rest.drain(..whole);
        Ok(Written::Done)
    }
}

/// Length of the first block, if it is complete.
fn block_len(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(len) = word(bytes, 4) else {
        return Ok(None);
    };
    let len = len as usize;
    if !(BLOCK_HEAD + 4..=LONGEST_BLOCK).contains(&len) || !len.is_multiple_of(4) {
        bail!("the controller sent a block of {len} bytes, which no capture has");
    }
    Ok((len <= bytes.len()).then_some(len))
}

/// A number of four bytes.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// The comment among options, if it is the first.
fn comment(options: &[u8]) -> Option<String> {
    let head = word(options, 0)?;
    let (code, len) = (head as u16, (head >> 16) as usize);
    let text = options.get(4..4 + len)?;
    (code == COMMENT).then(|| String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block with this content.
    fn block(kind: u32, content: &[u8]) -> Vec<u8> {
        let len = (content.len() + 12) as u32;
        let mut bytes = [kind.to_le_bytes(), len.to_le_bytes()].concat();
        bytes.extend(content);
        bytes.extend(len.to_le_bytes());
        bytes
    }

    fn statistics(text: &str) -> Vec<u8> {
        let mut content = vec![0; STATISTICS_FIELDS];
        content.extend(COMMENT.to_le_bytes());
        content.extend((text.len() as u16).to_le_bytes());
        content.extend(text.as_bytes());
        content.resize(content.len().next_multiple_of(4), 0);
        content.extend([0; 4]);
        block(STATISTICS, &content)
    }

    #[test]
    fn writes_whole_blocks_however_they_arrive() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let stream = [
            block(6, &[7; 40]),
            block(6, &[8; 4]),
            statistics("2 packets"),
        ]
        .concat();
        for size in [1, 3, 50, 1000] {
            let mut output = Output::open(&path).unwrap();
            for chunk in stream.chunks(size) {
                output.write(chunk).unwrap();
            }
            assert_eq!(fs::read(&path).unwrap(), stream, "{size}");
            assert_eq!((output.frames(), output.summary()), (2, Some("2 packets")));
        }
        // A block that does not arrive is not in the file.
        let mut output = Output::open(&path).unwrap();
        output.write(&stream[..60]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), &stream[..52]);
    }

    #[test]
    fn a_new_file_is_private_and_removed_if_nothing_was_captured() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let output = Output::open(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        output.discard();
        assert!(!path.exists());
        fs::write(&path, "kept").unwrap();
        Output::open(&path).unwrap().discard();
        assert!(path.exists());
        let error = format!("{:#}", Output::open(folder.path()).err().unwrap());
        assert!(error.contains("cannot write"), "{error}");
    }

    #[test]
    fn a_full_disk_is_an_error_and_a_closed_pipe_is_not() {
        let mut full = Output::open(Path::new("/dev/full")).unwrap();
        let error = format!("{:#}", full.write(&block(6, &[7; 4])).err().unwrap());
        assert!(error.starts_with("cannot write /dev/full: "), "{error}");
        let (reader, writer) = io::pipe().unwrap();
        let mut piped = Output::open(Path::new("/dev/null")).unwrap();
        piped.file = File::from(std::os::fd::OwnedFd::from(writer));
        assert!(piped.has_reader());
        drop(reader);
        assert!(!piped.has_reader());
        assert!(matches!(
            piped.write(&block(6, &[7; 4])),
            Ok(Written::NoReader)
        ));
    }

    #[test]
    fn rejects_what_is_no_capture() {
        let mut output = Output::open(Path::new("/dev/null")).unwrap();
        assert!(output.write(b"{\"error\": 1}").is_err());
    }
}

//! Captures built byte by byte, by the writer, and by tcpdump.

mod classic;
mod hostile;
mod ng;
mod recorded;
mod writing;

use std::{io::Cursor, path::Path, time::Duration};

use super::{ByteOrder, Capture, CaptureError, Frame};

/// Builder of records in one byte order.
#[derive(Clone)]
struct Bytes {
    order: ByteOrder,
    bytes: Vec<u8>,
}

impl Bytes {
    fn new(order: ByteOrder) -> Self {
        Self {
            order,
            bytes: Vec::new(),
        }
    }

    fn u16(self, value: u16) -> Self {
        self.ordered(value.to_be_bytes())
    }

    fn u32(self, value: u32) -> Self {
        self.ordered(value.to_be_bytes())
    }

    fn i64(self, value: i64) -> Self {
        self.ordered(value.to_be_bytes())
    }

    fn ordered<const N: usize>(self, mut big: [u8; N]) -> Self {
        if self.order == ByteOrder::Little {
            big.reverse();
        }
        self.raw(&big)
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    /// Zeroes up to a multiple of four.
    fn padded(mut self) -> Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }
}

fn open(bytes: &[u8]) -> Result<Capture, CaptureError> {
    Capture::new(
        Path::new("some.pcap"),
        Box::new(Cursor::new(bytes.to_vec())),
    )
}

/// Reads all frames, and the error that ended the capture.
fn read(bytes: &[u8]) -> (Vec<Frame>, Option<CaptureError>) {
    let capture = match open(bytes) {
        Ok(capture) => capture,
        Err(error) => return (Vec::new(), Some(error)),
    };
    let mut frames = Vec::new();
    for item in capture {
        match item {
            Ok(frame) => frames.push(frame),
            Err(error) => return (frames, Some(error)),
        }
    }
    (frames, None)
}

#[track_caller]
fn read_all(bytes: &[u8]) -> Vec<Frame> {
    let (frames, error) = read(bytes);
    assert!(error.is_none(), "{}", error.unwrap());
    frames
}

#[track_caller]
fn error_of(bytes: &[u8]) -> String {
    read(bytes).1.expect("an error").to_string()
}

fn frame(seconds: u64, nanoseconds: u32, data: &[u8], original_len: u32) -> Frame {
    Frame {
        timestamp: Duration::new(seconds, nanoseconds),
        data: data.to_vec(),
        original_len,
    }
}

//! Packet captures, which `simulate` reads and writes.
//!
//! [`read`] accepts classic pcap and pcapng in both byte orders and yields one [`Frame`] at a time, so
//! a capture may be larger than memory. [`Writer`] writes classic pcap, which every tool reads.
//!
//! Two traps of the formats:
//!
//! - The captured length can be less than the frame length: `tcpdump -s 96` keeps only the first 96
//!   bytes. Such frames are counted ([`Capture::cut_frames`]), as the program sees a truncated packet.
//! - `tcpdump -i any` does not write Ethernet frames but "Linux cooked" ones. Any link type but
//!   Ethernet is an error.
//!
//! Captures come from strangers: no length in a file is believed before the bytes are there. The
//! formats are read here and not by the `pcap-file` crate, since 2.0 of it refuses classic captures with
//! frames cut by the snap length, hands padding over as data of simple packets, and takes every pcapng timestamp for
//! nanoseconds; tests use it as the second opinion on what is written.
//!
//! References: <https://datatracker.ietf.org/doc/draft-ietf-opsawg-pcap/> and
//! <https://datatracker.ietf.org/doc/draft-ietf-opsawg-pcapng/>.

mod classic;
mod error;
mod fields;
mod ng;
mod source;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

pub use error::CaptureError;
pub use writer::Writer;

use error::Fault;
use fields::ByteOrder;
use source::Source;

/// The link type of Ethernet, in both formats.
const ETHERNET: u32 = 1;

/// Maximum captured length; libpcap has the same limit.
const MAX_FRAME_LEN: u32 = 262_144;

/// An Ethernet frame of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Time since 1970. Zero for pcapng's simple packets, which have no timestamp.
    pub timestamp: Duration,
    /// The captured bytes.
    pub data: Vec<u8>,
    /// Frame length; never less than the captured length.
    pub original_len: u32,
}

impl Frame {
    /// Creates a frame; a frame length below the captured length is corrected.
    fn new(timestamp: Duration, data: Vec<u8>, original_len: u32) -> Self {
        let kept = u32::try_from(data.len()).unwrap_or(u32::MAX);
        Self {
            timestamp,
            data,
            original_len: original_len.max(kept),
        }
    }

    /// Whether the snap length truncated the frame.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.data.len() < self.original_len as usize
    }
}

enum Format {
    Classic(classic::Reader),
    Ng(ng::Reader),
}

/// Iterator over the frames of a capture. An error ends it; the frames before it are valid.
pub struct Capture {
    path: PathBuf,
    source: Source,
    format: Format,
    frames: u64,
    cut_frames: u64,
    ended: bool,
}

/// Opens a capture and reads its header.
///
/// # Errors
///
/// The file cannot be opened or read, or is not a capture. Classic pcap fails here on a wrong link
/// type, pcapng at the first packet of such an interface.
pub fn read(path: impl AsRef<Path>) -> Result<Capture, CaptureError> {
    let path = path.as_ref();
    let file = File::open(path).map_err(|source| CaptureError::Open {
        path: path.to_owned(),
        source,
    })?;
    Capture::new(path, Box::new(file))
}

impl Capture {
    fn new(path: &Path, reader: Box<dyn Read + Send>) -> Result<Self, CaptureError> {
        let mut source = Source::new(reader);
        let format = detect(&mut source).map_err(|fault| fault.at(path, 0, &source))?;
        let path = path.to_owned();
        Ok(Self {
            path,
            source,
            format,
            frames: 0,
            cut_frames: 0,
            ended: false,
        })
    }

    /// Number of frames read so far.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Number of these that were truncated by the snap length.
    #[must_use]
    pub fn cut_frames(&self) -> u64 {
        self.cut_frames
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, Fault> {
        match &mut self.format {
            Format::Classic(reader) => reader.next_frame(&mut self.source),
            Format::Ng(reader) => reader.next_frame(&mut self.source),
        }
    }
}

impl Iterator for Capture {
    type Item = Result<Frame, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        match self.next_frame() {
            Ok(Some(frame)) => {
                self.frames += 1;
                self.cut_frames += u64::from(frame.is_cut());
                Some(Ok(frame))
            }
            Ok(None) => {
                self.ended = true;
                None
            }
            Err(fault) => {
                self.ended = true;
                Some(Err(fault.at(&self.path, self.frames, &self.source)))
            }
        }
    }
}

impl std::iter::FusedIterator for Capture {}

/// Detects the format by the first four bytes and reads the file header.
fn detect(source: &mut Source) -> Result<Format, Fault> {
    let mut magic = [0; 4];
    match source.begin(&mut magic) {
        Ok(true) => {}
        Ok(false) => return Err(Fault::Unknown("it is empty")),
        Err(Fault::Cut) => return Err(Fault::Unknown("it has less than four bytes")),
        Err(fault) => return Err(fault),
    }
    if u32::from_be_bytes(magic) == ng::SECTION_HEADER {
        return ng::Reader::open(source).map(Format::Ng);
    }
    if let Some((order, unit)) = classic::kind(magic) {
        return classic::Reader::open(source, order, unit).map(Format::Classic);
    }
    Err(Fault::Unknown(match magic {
        [0x1f, 0x8b, ..] => "it is compressed: run `gunzip` on it first",
        [0x28, 0xb5, 0x2f, 0xfd] => "it is compressed: run `unzstd` on it first",
        [0xfd, b'7', b'z', b'X'] => "it is compressed: run `unxz` on it first",
        _ => "it starts with neither the magic number of pcap nor that of pcapng",
    }))
}

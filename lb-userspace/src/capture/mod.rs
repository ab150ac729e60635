//! Packet captures: what `simulate` reads and writes.
//!
//! [`read`] takes both formats that exist in the wild, classic pcap and pcapng, in both byte orders,
//! and yields one [`Frame`] at a time, so that a capture may be larger than memory. [`Writer`]
//! writes classic pcap, which every tool reads.
//!
//! Two traps of the formats:
//!
//! - The *captured* length can be less than the frame's own: `tcpdump -s 96` keeps only the first 96
//!   bytes. A program that gets such a frame sees a truncated packet and will say so. That is not the
//!   traffic's fault, so such frames are counted ([`Capture::cut_frames`]) for the reader to report.
//! - The link type decides what the bytes are. `tcpdump -i any` does not write Ethernet frames but
//!   "Linux cooked" ones; read as Ethernet they would be nonsense. Anything but Ethernet is an error.
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

/// The longest frame that is believed; libpcap has the same limit.
const MAX_FRAME_LEN: u32 = 262_144;

/// One Ethernet frame of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// When it was seen, since 1970. Zero for pcapng's simple packets, which have no time.
    pub timestamp: Duration,
    /// What was kept of it.
    pub data: Vec<u8>,
    /// How long it was on the wire; never less than what was kept.
    pub original_len: u32,
}

impl Frame {
    /// A frame; files that say it was shorter on the wire than what they kept of it are not believed.
    fn new(timestamp: Duration, data: Vec<u8>, original_len: u32) -> Self {
        let kept = u32::try_from(data.len()).unwrap_or(u32::MAX);
        Self {
            timestamp,
            data,
            original_len: original_len.max(kept),
        }
    }

    /// Whether the capture kept only the beginning of it.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.data.len() < self.original_len as usize
    }
}

enum Format {
    Classic(classic::Reader),
    Ng(ng::Reader),
}

/// The frames of a capture, in the file's order.
///
/// Frames before a fault of the file are good; after an error there are no more.
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
/// [`CaptureError::Open`] and [`CaptureError::Read`] if the system says so, [`CaptureError::NotACapture`], and,
/// for classic pcap (in pcapng each packet's interface decides), [`CaptureError::LinkType`].
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
        let format = recognize(&mut source).map_err(|fault| fault.at(path, 0, &source))?;
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

    /// How many frames were read until now.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// How many of these were cut by the capture's snap length.
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

/// Tells the format by the first four bytes, and reads the file's header.
fn recognize(source: &mut Source) -> Result<Format, Fault> {
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
        _ => "its first bytes are neither those of pcap nor those of pcapng",
    }))
}

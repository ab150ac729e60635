//! What can be wrong with a capture.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{MAX_FRAME_LEN, source::Source};

/// What went wrong with a capture, where in the file, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// The file could not be opened.
    #[error("open the capture {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file could not be read.
    #[error("read the capture {} at byte {offset}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Bytes read before.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The file is something else.
    #[error("{} is not a packet capture: {why}; needed is classic pcap or pcapng", path.display())]
    NotACapture {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        why: &'static str,
    },
    /// The file has other frames than Ethernet.
    #[error(
        "{}: packet {packet} has link type {found}{}, but Ethernet (1) is needed: capture on one \
         Ethernet interface (`tcpdump -i eth0`, not `-i any`)",
        path.display(),
        link_type_name(*found)
    )]
    LinkType {
        /// The file.
        path: PathBuf,
        /// The first packet of this type, from 1; with classic pcap that is the first one.
        packet: u64,
        /// The link type, as <https://www.tcpdump.org/linktypes.html> numbers them.
        found: u32,
    },
    /// The file ends in the middle of something.
    #[error(
        "{} is cut off: it ends at byte {end}, in the middle of what begins at byte {start}, after {packets} \
         whole packets",
        path.display()
    )]
    CutOff {
        /// The file.
        path: PathBuf,
        /// Packets that are whole; they have been handed out.
        packets: u64,
        /// Where the record or block begins that is not whole.
        start: u64,
        /// The file's length.
        end: u64,
    },
    /// The file contradicts its format.
    #[error("{}: {what}, in what begins at byte {start}, after {packets} good packets", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Packets that are good; they have been handed out.
        packets: u64,
        /// Where the record or block begins that is wrong.
        start: u64,
        /// What is wrong.
        what: String,
    },
    /// The output could not be written; there is no output file then, or the one from before.
    #[error("{operation} the capture {}: {source}", path.display())]
    Write {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A frame that no reader would take back.
    #[error(
        "write packet {packet} to {}: {len} bytes are more than the {MAX_FRAME_LEN} that a capture's frame can have",
        path.display()
    )]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Number of the packet, from 1.
        packet: u64,
        /// Its length.
        len: usize,
    },
    /// A time that the format can't hold.
    #[error(
        "write packet {packet} to {}: classic pcap has no room for times after 2106 ({seconds} s since 1970)",
        path.display()
    )]
    TooLate {
        /// The file.
        path: PathBuf,
        /// Number of the packet, from 1.
        packet: u64,
        /// The time.
        seconds: u64,
    },
}

/// What the format readers find; they know neither the file's name nor the packet's number.
#[derive(Debug)]
pub(super) enum Fault {
    /// The system could not read on.
    Io(io::Error),
    /// The file ends too early.
    Cut,
    /// The file is no capture.
    Unknown(&'static str),
    /// Frames of another kind.
    LinkType(u32),
    /// A contradiction.
    Malformed(String),
}

impl Fault {
    /// A contradiction.
    pub(super) fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed(what.into())
    }

    /// Adds where it was found.
    pub(super) fn at(self, path: &Path, packets: u64, source: &Source) -> CaptureError {
        let path = path.to_owned();
        match self {
            Self::Io(error) => CaptureError::Read {
                path,
                offset: source.offset(),
                source: error,
            },
            Self::Cut => CaptureError::CutOff {
                path,
                packets,
                start: source.start(),
                end: source.offset(),
            },
            Self::Unknown(why) => CaptureError::NotACapture { path, why },
            Self::LinkType(found) => CaptureError::LinkType {
                path,
                packet: packets + 1,
                found,
            },
            Self::Malformed(what) => CaptureError::Malformed {
                path,
                packets,
                start: source.start(),
                what,
            },
        }
    }
}

/// The link types that people capture by accident.
fn link_type_name(link_type: u32) -> &'static str {
    match link_type {
        0 => " (BSD loopback)",
        9 => " (PPP)",
        12 | 14 | 101 => " (IP without a link header, as on a tunnel)",
        105 | 127 => " (802.11)",
        113 | 276 => " (Linux cooked capture, as of `tcpdump -i any`)",
        228 => " (IPv4 without a link header)",
        229 => " (IPv6 without a link header)",
        _ => "",
    }
}

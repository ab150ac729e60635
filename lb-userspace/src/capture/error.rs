//! Errors of captures.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{MAX_FRAME_LEN, source::Source};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    #[error("cannot open the capture {}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot read the capture {} at byte {offset}: {source}", path.display())]
    Read {
        path: PathBuf,
        offset: u64,
        source: io::Error,
    },
    #[error("{} is not a packet capture: {why}; expected classic pcap or pcapng", path.display())]
    NotACapture { path: PathBuf, why: &'static str },
    #[error(
        "{}: packet {packet} has link type {found}{}, expected Ethernet (1): capture on an Ethernet \
         interface (`tcpdump -i eth0`, not `-i any`)",
        path.display(),
        link_type_name(*found)
    )]
    LinkType {
        path: PathBuf,
        /// Number of the first packet of this type; 1 for classic pcap.
        packet: u64,
        /// Link type as in <https://www.tcpdump.org/linktypes.html>.
        found: u32,
    },
    #[error(
        "{} is truncated: it ends at byte {end}, within the record at byte {start}, after {packets} \
         complete packets",
        path.display()
    )]
    CutOff {
        path: PathBuf,
        /// Number of complete packets, which have been returned.
        packets: u64,
        /// Offset of the incomplete record or block.
        start: u64,
        end: u64,
    },
    #[error("{} is damaged: {what}, in the record at byte {start}, after {packets} valid packets", path.display())]
    Malformed {
        path: PathBuf,
        /// Number of valid packets, which have been returned.
        packets: u64,
        /// Offset of the damaged record or block.
        start: u64,
        what: String,
    },
    /// An existing output file is left unchanged.
    #[error("cannot {operation} the capture {}: {source}", path.display())]
    Write {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// A frame that readers would reject.
    #[error(
        "cannot write packet {packet} to {}: {len} bytes exceed the maximum of {MAX_FRAME_LEN}",
        path.display()
    )]
    TooLong {
        path: PathBuf,
        packet: u64,
        len: usize,
    },
    /// A timestamp that the format cannot represent.
    #[error(
        "cannot write packet {packet} to {}: classic pcap cannot store times after 2106 ({seconds} s since 1970)",
        path.display()
    )]
    TooLate {
        path: PathBuf,
        packet: u64,
        seconds: u64,
    },
}

/// Error of a format reader, without the name of the file and the number of the packet.
#[derive(Debug)]
pub(super) enum Fault {
    Io(io::Error),
    Cut,
    Unknown(&'static str),
    LinkType(u32),
    Malformed(String),
}

impl Fault {
    pub(super) fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed(what.into())
    }

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

/// Names of link types that are captured by accident.
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

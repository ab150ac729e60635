//! Writes pcapng: a section with two interfaces, `in` and `out`.
//!
//! Blocks and options are those of <https://datatracker.ietf.org/doc/draft-ietf-opsawg-pcapng/>. A crate
//! (`pcap-file`) would do the same; tests use it and tshark to read what is written here, and a writer
//! needs no more than this file.

use lb_common::capture::Record;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;

const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
/// The link type of Ethernet.
const ETHERNET: u16 = 1;

const COMMENT: u16 = 1;
const SECTION_APPLICATION: u16 = 4;
const INTERFACE_NAME: u16 = 2;
const INTERFACE_DESCRIPTION: u16 = 3;
const INTERFACE_TIME_UNIT: u16 = 9;
const PACKET_FLAGS: u16 = 2;
const PACKET_ID: u16 = 5;
const PACKET_VERDICT: u16 = 7;
const STATISTICS_FILTERED: u16 = 6;
const STATISTICS_DROPPED: u16 = 7;
const STATISTICS_DELIVERED: u16 = 8;

/// Times are in nanoseconds: 10 to the power of minus nine.
const NANOSECONDS: u8 = 9;
/// Type of a verdict: an XDP action follows.
const XDP_VERDICT: u8 = 2;

/// Side of the data path that a frame was captured on: the number of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    In = 0,
    Out = 1,
}

/// A captured frame.
pub(super) struct Frame<'a> {
    pub(super) side: Side,
    /// Nanoseconds since 1970.
    pub(super) time_ns: u64,
    /// Frame length.
    pub(super) len: u32,
    pub(super) bytes: &'a [u8],
    pub(super) comment: &'a str,
    /// The same for all frames of a packet.
    pub(super) packet: u64,
    /// XDP action.
    pub(super) verdict: u32,
}

/// Counts at the end of a capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) matched: u64,
    pub(super) delivered: u64,
    pub(super) lost: u64,
}

/// Blocks of a section.
#[derive(Debug, Default)]
pub(super) struct Blocks(pub(super) Vec<u8>);

impl Blocks {
    /// Begins a section with its interfaces.
    pub(super) fn begin(&mut self, comment: &str, snap: u32) {
        self.block(SECTION, |block| {
            block.u32(BYTE_ORDER_MAGIC);
            // Version 1.0.
            block.u16(1);
            block.u16(0);
            // Of unknown length.
            block.u64(u64::MAX);
            block.option(COMMENT, comment.as_bytes());
            let application = concat!("evenkeel ", env!("CARGO_PKG_VERSION"));
            block.option(SECTION_APPLICATION, application.as_bytes());
        });
        for (name, description) in [
            ("in", "frames as received"),
            ("out", "frames as transmitted"),
        ] {
            self.block(INTERFACE, |block| {
                block.u16(ETHERNET);
                block.u16(0);
                block.u32(snap);
                block.option(INTERFACE_NAME, name.as_bytes());
                block.option(INTERFACE_DESCRIPTION, description.as_bytes());
                block.option(INTERFACE_TIME_UNIT, &[NANOSECONDS]);
            });
        }
    }

    pub(super) fn frame(&mut self, frame: &Frame<'_>) {
        self.block(PACKET, |block| {
            block.u32(frame.side as u32);
            block.time(frame.time_ns);
            block.u32(frame.bytes.len() as u32);
            block.u32(frame.len);
            block.padded(frame.bytes);
            block.option(COMMENT, frame.comment.as_bytes());
            // Direction: 1 inbound, 2 outbound.
            block.option(PACKET_FLAGS, &(frame.side as u32 + 1).to_le_bytes());
            block.option(PACKET_ID, &frame.packet.to_le_bytes());
            let mut verdict = [0; 9];
            verdict[0] = XDP_VERDICT;
            verdict[1..].copy_from_slice(&u64::from(frame.verdict).to_le_bytes());
            block.option(PACKET_VERDICT, &verdict);
        });
    }

    /// Ends the section with what was captured and lost.
    pub(super) fn end(&mut self, comment: &str, time_ns: u64, totals: &Totals) {
        self.block(STATISTICS, |block| {
            block.u32(Side::In as u32);
            block.time(time_ns);
            block.option(COMMENT, comment.as_bytes());
            block.option(STATISTICS_FILTERED, &totals.matched.to_le_bytes());
            block.option(STATISTICS_DROPPED, &totals.lost.to_le_bytes());
            block.option(STATISTICS_DELIVERED, &totals.delivered.to_le_bytes());
        });
    }

    /// Appends a block: type, length, content with options, length.
    fn block(&mut self, kind: u32, write: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.u32(kind);
        self.u32(0);
        write(self);
        // The end of the options.
        self.u32(0);
        let len = (self.0.len() - start + 4) as u32;
        self.u32(len);
        self.0[start + 4..start + 8].copy_from_slice(&len.to_le_bytes());
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        let value = &value[..value.len().min(usize::from(u16::MAX))];
        self.u16(code);
        self.u16(value.len() as u16);
        self.padded(value);
    }

    fn padded(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let rest = bytes.len().next_multiple_of(4) - bytes.len();
        self.0.extend_from_slice(&[0; 3][..rest]);
    }

    /// The halves of a time, the upper one first.
    fn time(&mut self, time_ns: u64) {
        self.u32((time_ns >> 32) as u32);
        self.u32(time_ns as u32);
    }

    fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
}

/// Appends the frames of a record. Returns whether there were any.
pub(super) fn write_record(
    blocks: &mut Blocks,
    record: &Record,
    frames: [&[u8]; 2],
    since_1970_ns: u64,
    packet: u64,
    comment: &str,
) {
    let lengths = [record.in_len, record.out_len];
    let sides = [Side::In, Side::Out];
    for ((side, bytes), len) in sides.into_iter().zip(frames).zip(lengths) {
        // A side that was not captured has no bytes.
        if !bytes.is_empty() {
            blocks.frame(&Frame {
                side,
                time_ns: since_1970_ns + record.time_ns,
                len,
                bytes,
                comment,
                packet,
                verdict: record.trace.verdict,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use pcap_file::pcapng::{
        Block, PcapNgReader,
        blocks::{
            enhanced_packet::EnhancedPacketOption,
            interface_description::InterfaceDescriptionOption,
            interface_statistics::InterfaceStatisticsOption,
        },
    };

    use super::*;

    /// Reads blocks with another implementation.
    fn read(bytes: &[u8]) -> Vec<Block<'static>> {
        let mut reader = PcapNgReader::new(bytes).unwrap();
        let mut blocks = Vec::new();
        while let Some(block) = reader.next_block() {
            blocks.push(block.unwrap().into_owned());
        }
        blocks
    }

    #[test]
    fn another_implementation_reads_what_is_written() {
        let mut blocks = Blocks::default();
        blocks.begin("a capture", 128);
        // Of each remainder modulo four.
        for len in 1..=5_u8 {
            let bytes: Vec<u8> = (0..len).collect();
            for side in [Side::In, Side::Out] {
                blocks.frame(&Frame {
                    side,
                    time_ns: 1_796_000_000_123_456_789,
                    len: 900,
                    bytes: &bytes,
                    comment: &"x".repeat(len.into()),
                    packet: len.into(),
                    verdict: 3,
                });
            }
        }
        let totals = Totals {
            matched: 9,
            delivered: 5,
            lost: 4,
        };
        blocks.end("the end", 1_796_000_000_123_456_789, &totals);
        let found = read(&blocks.0);
        let [interfaces @ .., _, _, _, _, _, _, _, _, _, _, last] = &found[..] else {
            panic!("{found:?}")
        };
        for (block, name) in interfaces.iter().zip(["in", "out"]) {
            let Block::InterfaceDescription(interface) = block else {
                panic!("{block:?}")
            };
            assert_eq!(interface.snaplen, 128);
            let named = InterfaceDescriptionOption::IfName(Cow::Borrowed(name));
            assert!(interface.options.contains(&named), "{interface:?}");
        }
        let packets = &found[interfaces.len()..found.len() - 1];
        for (number, block) in packets.iter().enumerate() {
            let Block::EnhancedPacket(packet) = block else {
                panic!("{block:?}")
            };
            let (len, side) = (number / 2 + 1, number as u32 % 2);
            assert_eq!(packet.interface_id, side);
            assert_eq!(packet.original_len, 900);
            let expected: Vec<u8> = (0..len as u8).collect();
            assert_eq!(packet.data, expected);
            assert_eq!(packet.timestamp.as_nanos(), 1_796_000_000_123_456_789);
            let comment = EnhancedPacketOption::Comment("x".repeat(len).into());
            assert!(packet.options.contains(&comment), "{packet:?}");
            assert!(
                packet
                    .options
                    .contains(&EnhancedPacketOption::Flags(side + 1))
            );
        }
        let Block::InterfaceStatistics(statistics) = last else {
            panic!("{last:?}")
        };
        for option in [
            InterfaceStatisticsOption::IsbFilterAccept(9),
            InterfaceStatisticsOption::IsbOsDrop(4),
            InterfaceStatisticsOption::IsbUsrDeliv(5),
        ] {
            assert!(statistics.options.contains(&option), "{statistics:?}");
        }
    }
}

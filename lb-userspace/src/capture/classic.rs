//! Classic pcap: a header of 24 bytes, then packets, each with a header of 16 bytes.

use std::time::Duration;

use super::{ByteOrder, ETHERNET, Frame, MAX_FRAME_LEN, Source, error::Fault, fields::Fields};

/// Unit of a timestamp's fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Microseconds,
    Nanoseconds,
}

/// Byte order and unit by the magic number, which is in the byte order of the writer.
pub(super) fn kind(magic: [u8; 4]) -> Option<(ByteOrder, Unit)> {
    Some(match u32::from_be_bytes(magic) {
        0xa1b2_c3d4 => (ByteOrder::Big, Unit::Microseconds),
        0xd4c3_b2a1 => (ByteOrder::Little, Unit::Microseconds),
        0xa1b2_3c4d => (ByteOrder::Big, Unit::Nanoseconds),
        0x4d3c_b2a1 => (ByteOrder::Little, Unit::Nanoseconds),
        _ => return None,
    })
}

pub(super) struct Reader {
    order: ByteOrder,
    unit: Unit,
}

impl Reader {
    /// Reads the rest of the file header, after the magic number.
    pub(super) fn open(source: &mut Source, order: ByteOrder, unit: Unit) -> Result<Self, Fault> {
        let mut header = [0; 20];
        source.fill(&mut header)?;
        let mut fields = Fields::new(&header, order);
        let (major, minor) = (fields.u16()?, fields.u16()?);
        // Before 2.4 (1998) the two lengths of a packet are swapped in some files.
        if major != 2 || minor < 4 {
            return Err(Fault::malformed(format!(
                "version {major}.{minor} of pcap is not supported, only 2.4"
            )));
        }
        // Time zone, accuracy and snap length.
        fields.bytes(12)?;
        // The upper 16 bits describe the frame check sequence, which is read as padding.
        let link_type = fields.u32()? & 0xffff;
        if link_type != ETHERNET {
            return Err(Fault::LinkType(link_type));
        }
        Ok(Self { order, unit })
    }

    pub(super) fn next_frame(&mut self, source: &mut Source) -> Result<Option<Frame>, Fault> {
        let mut header = [0; 16];
        if !source.begin(&mut header)? {
            return Ok(None);
        }
        let mut fields = Fields::new(&header, self.order);
        let (seconds, fraction) = (fields.u32()?, fields.u32()?);
        let (captured_len, original_len) = (fields.u32()?, fields.u32()?);
        if captured_len > MAX_FRAME_LEN {
            return Err(Fault::malformed(format!(
                "captured length {captured_len} exceeds the maximum of {MAX_FRAME_LEN}"
            )));
        }
        // Some writers store fractions of a second or more.
        let fraction = match self.unit {
            Unit::Microseconds => Duration::from_micros(fraction.into()),
            Unit::Nanoseconds => Duration::from_nanos(fraction.into()),
        };
        let timestamp = Duration::from_secs(seconds.into()) + fraction;
        Ok(Some(Frame::new(
            timestamp,
            source.take(captured_len)?,
            original_len,
        )))
    }
}

//! pcapng: blocks with a type and a length. Each section has a byte order and interfaces, each
//! interface a link type and a time unit; packets refer to an interface.

use std::time::Duration;

use super::{ByteOrder, ETHERNET, Frame, MAX_FRAME_LEN, Source, error::Fault, fields::Fields};

/// Block type of a section header, a palindrome.
pub(super) const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
/// The obsolete packet block, which some tools still write.
const OLD_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
/// Type, and the length at both ends.
const BLOCK_FRAMING_LEN: u32 = 12;
/// Maximum block length; libpcap has the same limit.
const MAX_BLOCK_LEN: u32 = 16 << 20;

const OPTION_END: u16 = 0;
const OPTION_TIME_RESOLUTION: u16 = 9;
const OPTION_TIME_OFFSET: u16 = 14;

struct Interface {
    link_type: u32,
    /// 0: none.
    snap_len: u32,
    /// Time units per second; `None` if they overflow: all times are then below a nanosecond.
    units_per_second: Option<u128>,
    /// Seconds to add to timestamps.
    offset_seconds: i64,
}

impl Interface {
    fn time(&self, units: u64) -> Duration {
        let Some(per_second) = self.units_per_second else {
            return Duration::ZERO;
        };
        let units = u128::from(units);
        // Fits: there are at most 2^64 units, and a second has at least one.
        let seconds = u64::try_from(units / per_second).unwrap_or(u64::MAX);
        let nanoseconds = (units % per_second) * 1_000_000_000 / per_second;
        Duration::new(
            seconds.saturating_add_signed(self.offset_seconds),
            u32::try_from(nanoseconds).unwrap_or(0),
        )
    }
}

pub(super) struct Reader {
    order: ByteOrder,
    interfaces: Vec<Interface>,
}

impl Reader {
    /// Reads the first section header, after its block type.
    pub(super) fn open(source: &mut Source) -> Result<Self, Fault> {
        let mut reader = Self {
            order: ByteOrder::Big,
            interfaces: Vec::new(),
        };
        reader.read_section_header(source)?;
        Ok(reader)
    }

    /// Reads blocks up to the next packet.
    pub(super) fn next_frame(&mut self, source: &mut Source) -> Result<Option<Frame>, Fault> {
        loop {
            let mut block_type = [0; 4];
            if !source.begin(&mut block_type)? {
                return Ok(None);
            }
            let block_type = Fields::new(&block_type, self.order).u32()?;
            if block_type == SECTION_HEADER {
                self.read_section_header(source)?;
                continue;
            }
            let body_len = self.read_length(source)? - BLOCK_FRAMING_LEN;
            if !matches!(
                block_type,
                INTERFACE | OLD_PACKET | SIMPLE_PACKET | ENHANCED_PACKET
            ) {
                source.skip(body_len)?;
                self.check_length_again(source, body_len)?;
                continue;
            }
            let body = source.take(body_len)?;
            self.check_length_again(source, body_len)?;
            let fields = Fields::new(&body, self.order);
            match block_type {
                INTERFACE => self.interfaces.push(interface(fields)?),
                OLD_PACKET => return self.old_packet(fields).map(Some),
                SIMPLE_PACKET => return self.simple_packet(fields).map(Some),
                _ => return self.enhanced_packet(fields).map(Some),
            }
        }
    }

    /// Reads a section header, whose byte-order magic also applies to its own length.
    fn read_section_header(&mut self, source: &mut Source) -> Result<(), Fault> {
        let mut start = [0; 8];
        source.fill(&mut start)?;
        let (len, magic) = start.split_at(4);
        let order = [ByteOrder::Big, ByteOrder::Little].into_iter().find(|order| {
            matches!(Fields::new(magic, *order).u32(), Ok(magic) if magic == BYTE_ORDER_MAGIC)
        });
        self.order =
            order.ok_or_else(|| Fault::malformed("section header without the byte-order magic"))?;
        let len = check_length(Fields::new(len, self.order).u32()?)?;
        let Some(rest) = len.checked_sub(BLOCK_FRAMING_LEN + 4) else {
            return Err(Fault::malformed(format!("section header of {len} bytes")));
        };
        let body = source.take(rest)?;
        let mut fields = Fields::new(&body, self.order);
        let (major, minor) = (fields.u16()?, fields.u16()?);
        if major != 1 {
            return Err(Fault::malformed(format!(
                "version {major}.{minor} of pcapng is not supported, only 1.x"
            )));
        }
        self.interfaces.clear();
        self.check_length_again(source, rest + 4)
    }

    fn read_length(&self, source: &mut Source) -> Result<u32, Fault> {
        let mut len = [0; 4];
        source.fill(&mut len)?;
        check_length(Fields::new(&len, self.order).u32()?)
    }

    /// Checks that the length at the end of a block equals the one at its start.
    fn check_length_again(&self, source: &mut Source, body_len: u32) -> Result<(), Fault> {
        let (first, second) = (body_len + BLOCK_FRAMING_LEN, self.read_length(source)?);
        if first == second {
            return Ok(());
        }
        Err(Fault::malformed(format!(
            "block length is {first} at its start and {second} at its end"
        )))
    }

    fn enhanced_packet(&self, mut fields: Fields<'_>) -> Result<Frame, Fault> {
        let interface = self.interface(fields.u32()?)?;
        packet(interface, fields)
    }

    fn old_packet(&self, mut fields: Fields<'_>) -> Result<Frame, Fault> {
        let interface = self.interface(fields.u16()?.into())?;
        let _dropped = fields.u16()?;
        packet(interface, fields)
    }

    /// A simple packet belongs to the first interface; its captured length follows from the snap length.
    fn simple_packet(&self, mut fields: Fields<'_>) -> Result<Frame, Fault> {
        let interface = self.interface(0)?;
        let original_len = fields.u32()?;
        let captured_len = match interface.snap_len {
            0 => original_len,
            limit => original_len.min(limit),
        };
        Ok(Frame::new(
            Duration::ZERO,
            frame_data(&mut fields, captured_len)?,
            original_len,
        ))
    }

    /// Returns the interface of a packet; it must have Ethernet frames.
    fn interface(&self, number: u32) -> Result<&Interface, Fault> {
        let known = self.interfaces.len();
        let interface = self.interfaces.get(number as usize).ok_or_else(|| {
            Fault::malformed(format!(
                "packet of interface {number}, but the section has {known}"
            ))
        })?;
        if interface.link_type != ETHERNET {
            return Err(Fault::LinkType(interface.link_type));
        }
        Ok(interface)
    }
}

/// The common part of enhanced and old packets. The options that follow are not needed.
fn packet(interface: &Interface, mut fields: Fields<'_>) -> Result<Frame, Fault> {
    let (high, low) = (fields.u32()?, fields.u32()?);
    let (captured_len, original_len) = (fields.u32()?, fields.u32()?);
    let timestamp = interface.time(u64::from(high) << 32 | u64::from(low));
    Ok(Frame::new(
        timestamp,
        frame_data(&mut fields, captured_len)?,
        original_len,
    ))
}

fn frame_data(fields: &mut Fields<'_>, captured_len: u32) -> Result<Vec<u8>, Fault> {
    if captured_len > MAX_FRAME_LEN {
        return Err(Fault::malformed(format!(
            "captured length {captured_len} exceeds the maximum of {MAX_FRAME_LEN}"
        )));
    }
    fields.bytes(captured_len as usize).map(<[u8]>::to_vec)
}

fn interface(mut fields: Fields<'_>) -> Result<Interface, Fault> {
    let link_type = fields.u16()?.into();
    let _reserved = fields.u16()?;
    let snap_len = fields.u32()?;
    let mut interface = Interface {
        link_type,
        snap_len,
        // Default: microseconds.
        units_per_second: Some(1_000_000),
        offset_seconds: 0,
    };
    // The end-of-options option may be missing.
    while fields.len() > 0 {
        let (code, len) = (fields.u16()?, fields.u16()?);
        if code == OPTION_END {
            break;
        }
        let mut value = Fields::new(fields.bytes(len.into())?, fields.order());
        fields.bytes(usize::from(len).next_multiple_of(4) - usize::from(len))?;
        match code {
            OPTION_TIME_RESOLUTION => interface.units_per_second = units_per_second(value.u8()?),
            OPTION_TIME_OFFSET => interface.offset_seconds = value.i64()?,
            _ => {}
        }
    }
    Ok(interface)
}

/// A power of ten, or of two if the most significant bit is set.
fn units_per_second(resolution: u8) -> Option<u128> {
    let exponent = u32::from(resolution & 0x7f);
    let base: u128 = if resolution & 0x80 == 0 { 10 } else { 2 };
    base.checked_pow(exponent)
}

fn check_length(len: u32) -> Result<u32, Fault> {
    if (BLOCK_FRAMING_LEN..=MAX_BLOCK_LEN).contains(&len) && len.is_multiple_of(4) {
        return Ok(len);
    }
    Err(Fault::malformed(format!(
        "block length {len} must be a multiple of 4 between {BLOCK_FRAMING_LEN} and {MAX_BLOCK_LEN}"
    )))
}

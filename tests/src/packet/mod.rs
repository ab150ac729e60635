//! Frames made by hand, byte for byte, and the proof that a frame is what it should be.
//!
//! [`Frame`] says what is on the wire as a person would say it; [`Frame::bytes`] writes it down with all
//! lengths and checksums right. A test makes its input and what it expects by the same means, from
//! scratch each, so that a checksum that the data path updated is compared with one that was computed.
//! [`check`] is a second opinion, by a parser that shares no code with either.

pub mod check;
mod frame;
mod ip;
mod transport;

pub use frame::{Frame, Mac, OUTSIDE, OWN};
pub use ip::{Extension, Fragment, Ip, V4, V6};
pub use transport::{ACK, FIN, PSH, RST, SYN, Transport, icmp, icmp6, tcp, udp};

/// Sum of 16-bit words (RFC 1071), in host order.
fn sum(bytes: &[u8]) -> u32 {
    let words = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | word.get(1).copied().map_or(0, u32::from));
    words.fold(0, |total, word| {
        let total = total + word;
        (total & 0xffff) + (total >> 16)
    })
}

/// The checksum of bytes whose checksum field is 0.
#[must_use]
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let total: u32 = parts.iter().map(|part| sum(part)).sum();
    let total = (total & 0xffff) + (total >> 16);
    let total = (total & 0xffff) + (total >> 16);
    !(total as u16)
}

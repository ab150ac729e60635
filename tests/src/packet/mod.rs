//! Builds frames, and checks frames with an independent parser.
//!
//! A [`Frame`] describes a frame; [`Frame::bytes`] encodes it with all lengths and checksums. Tests build both
//! input and expected output from scratch, so that a checksum that the data path updated incrementally is
//! compared with a computed one. [`check`] parses frames with etherparse, which shares no code with the
//! data path or this builder. That is why frames are not built with etherparse.

pub mod check;
mod frame;
mod ip;
mod transport;

pub use frame::{Frame, Mac, OUTSIDE, OWN};
pub use ip::{Extension, Fragment, Ip, V4, V6};
pub use transport::{
    ACK, BACKEND_ISN, CLIENT_ISN, FIN, PSH, RST, SYN, Transport, icmp, icmp6, tcp, udp,
};

/// Returns the sum of 16-bit words (RFC 1071) in host order.
fn sum(bytes: &[u8]) -> u32 {
    let words = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | word.get(1).copied().map_or(0, u32::from));
    words.fold(0, |total, word| {
        let total = total + word;
        (total & 0xffff) + (total >> 16)
    })
}

/// Returns the checksum of bytes whose checksum field is 0.
#[must_use]
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let total: u32 = parts.iter().map(|part| sum(part)).sum();
    let total = (total & 0xffff) + (total >> 16);
    let total = (total & 0xffff) + (total >> 16);
    !(total as u16)
}

//! State of the TCP connection of a session, and what RFC 5961 and RFC 6191 conclude from it.

use crate::map_type;

map_type! {
    /// What the headers of a TCP connection have told (host order). All 0 for UDP.
    pub struct TcpState [16] {
        /// Sequence number that the backend expects next from the client: its last acknowledgement.
        /// Before the backend's first packet: the number after the client's SYN.
        pub expected: u32,
        /// Embryonic sessions: the number after the backend's SYN, which the client must acknowledge.
        pub backend_next: u32,
        /// Established sessions: the number after the client's FIN; 0: none seen.
        pub fin_end: u32,
        /// Established sessions: timestamp (RFC 7323) of the client's FIN; 0: none. Embryonic ones:
        /// when the session was created, in jiffies.
        pub time: u32,
    }
}

impl TcpState {
    /// Whether a segment of the client that acknowledges `ack` proves that the client has received
    /// the backend's SYN. More than the SYN may be acknowledged, in case the first acknowledgement
    /// was lost.
    #[inline(always)]
    #[must_use]
    pub const fn is_proof(&self, ack: u32) -> bool {
        ack.wrapping_sub(self.backend_next) <= PROOF_WINDOW
    }

    /// Whether a FIN that ends at `end` may be the client's: it is in the window from what the
    /// backend has acknowledged.
    #[inline(always)]
    #[must_use]
    pub const fn may_end(&self, end: u32) -> bool {
        let ahead = end.wrapping_sub(self.expected);
        ahead != 0 && ahead <= FIN_WINDOW
    }

    /// Whether the backend, whose side of the connection may be in TIME-WAIT, accepts a SYN with this
    /// sequence number and timestamp (0: none) as a new connection (RFC 6191, RFC 9293 §3.10.7.4).
    #[inline(always)]
    #[must_use]
    pub const fn accepts(&self, seq: u32, timestamp: u32) -> bool {
        if self.time != 0 && timestamp != 0 {
            (timestamp.wrapping_sub(self.time) as i32) > 0
        } else {
            self.fin_end != 0 && (seq.wrapping_sub(self.fin_end) as i32) > 0
        }
    }
}

/// Bytes that the client's first acknowledgement may be ahead of the backend's SYN.
const PROOF_WINDOW: u32 = 1 << 14;

/// Bytes that the client's FIN may be ahead of the backend's acknowledgement: the largest window
/// (RFC 7323 §2.3).
const FIN_WINDOW: u32 = 1 << 30;

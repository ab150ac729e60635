//! Health checks through a VIP: the data that `evenkeel_probe` and the controller share.
//!
//! The socket of a check connects to the backend's own address and marks its packets with the
//! member ([`mark`]). On egress the program rewrites them to the VIP and sends them as the balancer
//! would; on ingress it rewrites the replies to the address that the socket expects.

use crate::{Address, map_type};

/// Packet marks (`SO_MARK`): the upper half identifies a probe, the lower half is the member index.
pub mod mark {
    /// Upper half of the mark of a probe.
    pub const PROBE: u32 = 0xec00_0000;
    /// Mask of the upper half.
    pub const MASK: u32 = 0xffff_0000;

    /// Mark of a probe that was rewritten. Below an interface on top of another, the program sees it
    /// again. Its lower half is no member index.
    pub const SENT: u32 = PROBE | !MASK;
    const _: () = assert!(crate::ring::MAX_MEMBERS <= SENT & !MASK);

    /// Returns the mark of a member's probes.
    #[must_use]
    pub const fn of(member: u32) -> u32 {
        PROBE | member & !MASK
    }

    /// Returns the member index of a mark, or `None` if it does not mark a probe.
    #[inline(always)]
    #[must_use]
    pub const fn member(mark: u32) -> Option<u32> {
        if mark & MASK == PROBE {
            Some(mark & !MASK)
        } else {
            None
        }
    }
}

map_type! {
    /// Where the probes of a member are sent. Indexed by member.
    pub struct ProbePath [24] {
        /// Address of the VIP; same family as the backend.
        pub vip: Address,
        /// [`crate::vip::forward`]: `L2` or `IPIP`. 0: probes are sent directly to the backend.
        pub forward: u32,
        /// Padding.
        pub _pad: u32,
    }
}

map_type! {
    /// Flow of a probe, as its replies identify it.
    pub struct ProbeFlow [40] {
        /// Address of the VIP.
        pub vip: Address,
        /// Address of the node.
        pub node: Address,
        /// Port of the VIP (packet order).
        pub vip_port_be: u16,
        /// Port of the node (packet order).
        pub node_port_be: u16,
        /// Protocol.
        pub protocol: u8,
        /// Family.
        pub family: u8,
        /// Padding.
        pub _pad: u16,
    }
}

map_type! {
    /// The backend that a probe was sent to.
    pub struct ProbedBackend [16] {
        /// Address that the socket is connected to.
        pub address: Address,
    }
}

map_type! {
    /// Counters of the program.
    pub struct ProbeCounters [48] {
        /// Probes sent to a VIP.
        pub sent: u64,
        /// Replies rewritten to come from the backend's address.
        pub answers: u64,
        /// ICMP errors about probes, rewritten to quote the backend's address.
        pub errors: u64,
        /// Packets dropped because the member has no next hop.
        pub no_next_hop: u64,
        /// Packets dropped because they could not be rewritten.
        pub failed: u64,
        /// Probes sent directly to the backend because the member has no path.
        pub direct: u64,
    }
}

/// Maximum number of probe flows remembered.
pub const MAX_PROBE_FLOWS: u32 = 16_384;

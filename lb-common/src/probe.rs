//! Health checks by the way of a VIP's traffic: what `evenkeel_probe` and the controller agree on.
//!
//! A probe's socket connects to the backend's own address, and marks its packets with the member
//! ([`mark`]). On their way out the program makes them packets to the VIP, sent as the balancer would send
//! them; on the way in it gives the answers the address that the socket knows.

use crate::{Address, map_type};

/// Marks of packets (`SO_MARK`): what is in the upper half says that it is ours, the lower half is the
/// index of the member.
pub mod mark {
    /// Upper half of the mark of a probe.
    pub const PROBE: u32 = 0xec00_0000;
    /// The bits that say so.
    pub const MASK: u32 = 0xffff_0000;

    /// The mark of probes of a member.
    #[must_use]
    pub const fn of(member: u32) -> u32 {
        PROBE | member & !MASK
    }

    /// The member that a mark stands for; `None` for a mark that is not ours.
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
    /// Where probes of a member are to go; its place in the table is that in the member table.
    pub struct ProbePath [24] {
        /// Address of the VIP, of the backend's family.
        pub vip: Address,
        /// [`crate::vip::forward`]: `L2` or `IPIP`. 0: probes go straight to the backend.
        pub forward: u32,
        /// Unused.
        pub _pad: u32,
    }
}

map_type! {
    /// A flow of a probe, as its answers have it.
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
        /// Unused.
        pub _pad: u16,
    }
}

map_type! {
    /// The backend that a probe was for.
    pub struct ProbedBackend [16] {
        /// Its address, which the socket is connected to.
        pub address: Address,
    }
}

map_type! {
    /// What the program did.
    pub struct ProbeCounters [48] {
        /// Packets that went out to a VIP's address.
        pub sent: u64,
        /// Answers that were given the backend's address.
        pub answers: u64,
        /// ICMP errors about probes that were given the backend's address.
        pub errors: u64,
        /// Packets dropped because the member has no next hop.
        pub no_next_hop: u64,
        /// Packets dropped because they could not be changed.
        pub failed: u64,
        /// Packets that went straight to the backend: the member has no path.
        pub direct: u64,
    }
}

/// Flows of probes that are remembered.
pub const MAX_PROBE_FLOWS: u32 = 16_384;

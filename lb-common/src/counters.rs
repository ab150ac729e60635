//! Counters. All are per CPU and only increase; userspace adds up the CPUs.

use crate::{
    map_type,
    reason::{COUNTED_REASONS, REASONS},
    ring::MAX_MEMBERS,
    trace::Trace,
    vip::MAX_VIPS,
};

map_type! {
    /// Counters of one member.
    pub struct MemberCounters [64] {
        /// Packets sent to it.
        pub packets: u64,
        /// Bytes of these packets: whole frames as received.
        pub bytes: u64,
        /// New flows: TCP packets with SYN and without ACK, and first packets of tracked UDP flows.
        pub new_flows: u64,
        /// Packets from clients with RST. Expected: few.
        pub resets: u64,
        /// Packets of flows that stay on this member although the ring maps them to another one.
        /// Expected: 0, except after a change, or if a bound spills flows.
        pub kept: u64,
        /// ICMP errors about the member's flows. Expected: few.
        pub icmp_errors: u64,
        /// `nat`: packets from the backend.
        pub reply_packets: u64,
        /// `nat`: bytes of these packets.
        pub reply_bytes: u64,
    }
}

map_type! {
    /// Counters of one VIP, besides those of its members.
    pub struct VipCounters [64] {
        /// Tracking lookups that found the flow. Expected: 0 on a TCP VIP that has not changed
        /// recently.
        pub track_hits: u64,
        /// Tracking lookups that did not find the flow.
        pub track_misses: u64,
        /// Cells written for untracked flows.
        pub track_inserts: u64,
        /// Packets of flows that found no room in the table, or lost their cell before their second
        /// packet. Expected: 0; otherwise the table is too small.
        pub track_full: u64,
        /// Packets dropped because no member could take them. Expected: 0.
        pub no_member: u64,
        /// `nat`: sessions created.
        pub nat_sessions: u64,
        /// `nat`: new flows dropped because no port was free. Expected: 0.
        pub nat_no_port: u64,
        /// `nat`: sessions that took the port of a connection that was over.
        pub nat_reused: u64,
    }
}

map_type! {
    /// Counters of the node: one per [`crate::reason::Reason`], in the order of its variants.
    pub struct NodeCounters [512] {
        /// Packets by reason; entries past the last reason stay 0.
        pub reasons: [u64; COUNTED_REASONS],
    }
}

const _: () = assert!(REASONS.len() <= COUNTED_REASONS);

/// Everything that one CPU writes: its counters, and the trace of its last packet.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CpuBlock {
    /// Counters of the node.
    pub node: NodeCounters,
    /// Counters of the VIPs, by VIP index.
    pub vips: [VipCounters; MAX_VIPS as usize],
    /// Counters of the members, by member index.
    pub members: [MemberCounters; MAX_MEMBERS as usize],
    /// Decisions about the last packet, written if [`crate::node::setting::TRACING`] is set.
    pub trace: Trace,
    /// Unused.
    pub _pad: [u64; 3],
}

/// Bytes of a cache line: blocks of different CPUs share none.
const LINE: usize = 64;
const _: () = assert!(size_of::<CpuBlock>().is_multiple_of(LINE));

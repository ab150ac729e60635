//! Counters. All are per CPU and only ever grow; userspace adds the CPUs up.

use crate::{
    map_type,
    reason::{COUNTED_REASONS, REASONS},
    ring::MAX_MEMBERS,
    trace::Trace,
    vip::MAX_VIPS,
};

map_type! {
    /// What a member got.
    pub struct MemberCounters [64] {
        /// Packets sent to it.
        pub packets: u64,
        /// Bytes of these, whole frames as they came in.
        pub bytes: u64,
        /// New flows: TCP packets with SYN and without ACK, first packets of tracked UDP flows.
        pub new_flows: u64,
        /// Packets of clients with RST. Normal: few.
        pub resets: u64,
        /// Packets of flows that stay here although the ring names another member now. Normal: 0,
        /// except after a change.
        pub kept: u64,
        /// ICMP errors about its flows. Normal: few.
        pub icmp_errors: u64,
        /// `nat`: packets that came back.
        pub reply_packets: u64,
        /// `nat`: bytes of these.
        pub reply_bytes: u64,
    }
}

map_type! {
    /// What happened to a VIP's packets besides going to members.
    pub struct VipCounters [64] {
        /// Lookups in the tracking table that found the flow. Normal: 0 on a TCP VIP that has not
        /// changed lately.
        pub track_hits: u64,
        /// Lookups that did not.
        pub track_misses: u64,
        /// Cells written for flows that had none.
        pub track_inserts: u64,
        /// Flows that found no free cell. Normal: 0; if not, the table is too small.
        pub track_full: u64,
        /// Packets dropped because no member could take them. Normal: 0.
        pub no_member: u64,
        /// `nat`: sessions begun.
        pub nat_sessions: u64,
        /// `nat`: new flows dropped because no port was free. Normal: 0.
        pub nat_no_port: u64,
        /// Packets dropped by a limit. Normal: 0.
        pub limited: u64,
    }
}

map_type! {
    /// What happened on the node: one counter for each [`crate::reason::Reason`], in its order.
    pub struct NodeCounters [512] {
        /// The counters; those past the last reason stay 0.
        pub reasons: [u64; COUNTED_REASONS],
    }
}

const _: () = assert!(REASONS.len() <= COUNTED_REASONS);

/// What one CPU writes: all its counters, and the trace of its last packet.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CpuBlock {
    /// Those of the node.
    pub node: NodeCounters,
    /// Those of the VIPs.
    pub vips: [VipCounters; MAX_VIPS as usize],
    /// Those of the members.
    pub members: [MemberCounters; MAX_MEMBERS as usize],
    /// What was decided about the last packet, when settings ask for that.
    pub trace: Trace,
    /// Unused.
    pub _pad: [u64; 3],
}

/// Bytes of a line of the cache: no two CPUs write to the same.
const LINE: usize = 64;
const _: () = assert!(size_of::<CpuBlock>().is_multiple_of(LINE));

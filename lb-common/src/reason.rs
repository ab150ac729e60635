//! Why a packet was sent, passed or dropped. Every packet is counted under exactly one reason.

/// Fate of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Sent by the data path.
    Sent,
    /// Passed to the host.
    Passed,
    /// Dropped.
    Dropped,
}

/// Description of a reason.
#[derive(Clone, Copy, Debug)]
pub struct ReasonText {
    /// The reason.
    pub reason: Reason,
    /// Name in output and metrics.
    pub name: &'static str,
    /// What becomes of the packet.
    pub fate: Fate,
    /// One sentence on what it means, and what is expected.
    pub text: &'static str,
}

/// Number of counters, a power of two; those past the last reason stay 0.
pub const COUNTED_REASONS: usize = 64;

macro_rules! reasons {
    ($($variant:ident $name:literal $fate:ident $text:literal)*) => {
        /// Why a packet was sent, passed or dropped. The number is the index of its counter.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason { $(#[doc = $text] $variant,)* }

        /// All reasons, in the order of their counters.
        pub const REASONS: &[ReasonText] = &[$(
            ReasonText { reason: Reason::$variant, name: $name, fate: Fate::$fate, text: $text },
        )*];
    };
}

reasons! {
    Forwarded "FORWARDED" Sent "Sent to a backend. Expected: nearly all packets."
    NatReply "NAT_REPLY" Sent "Reply from a backend, sent to the client. Expected: about as many as FORWARDED on VIPs with forward = \"nat\"."
    IcmpErrorForwarded "ICMP_ERROR_FORWARDED" Sent "ICMP error about a flow, sent to the backend that has the flow. Expected: few."
    EchoAnswered "ECHO_ANSWERED" Sent "ICMP echo request to a VIP, answered. Expected: as many as monitoring sends."
    FragmentationNeeded "FRAGMENTATION_NEEDED" Sent "IPv4 packet larger than the MTU of the path to the backend, answered with \"fragmentation needed\". Expected: few; many if the backend network has no room for the outer header."
    PacketTooBig "PACKET_TOO_BIG" Sent "IPv6 packet larger than the MTU of the path to the backend, answered with \"packet too big\". Expected: few."
    TimeExceeded "TIME_EXCEEDED" Sent "Packet whose TTL or hop limit expired, answered with \"time exceeded\". Expected: few (traceroute)."
    NotIp "NOT_IP" Passed "Neither IPv4 nor IPv6 (ARP, LLDP), or more than two VLAN tags. Expected: few."
    Truncated "TRUNCATED" Passed "Too short to contain a destination address. Expected: 0."
    NoVip "NO_VIP" Passed "Destination address is not a VIP. Expected: the host's own traffic."
    NoService "NO_SERVICE" Passed "Destination address is a VIP, but no VIP has the port and protocol. Expected: few (scans)."
    IcmpOther "ICMP_OTHER" Passed "ICMP to a VIP address, neither an echo request nor an error. Expected: few (neighbour discovery)."
    LinkGroup "LINK_GROUP" Passed "To a VIP or NAT source in a broadcast or multicast frame, which must not be forwarded (RFC 1812 §5.3.4). Expected: 0."
    OtherHost "OTHER_HOST" Passed "To a VIP or NAT source, in a frame for another host's MAC address: the interface is promiscuous, or the switch floods. Expected: 0."
    TunnelMtu "TUNNEL_MTU" Passed "\"Fragmentation needed\" or \"packet too big\" about a packet encapsulated for a backend: larger packets to the backend are answered accordingly from then on. Expected: few; many if the backend network has no room for the outer header."
    NatNoSession "NAT_NO_SESSION" Passed "To a NAT source address without a session: the host's own traffic, including replies to its health checks, or a late packet. Expected: few besides these replies."
    BadHeader "BAD_HEADER" Dropped "To a VIP, with an IP header that is inconsistent or longer than the frame. Expected: 0."
    BadChecksum "BAD_CHECKSUM" Dropped "To a VIP, with a wrong IPv4 header checksum. Expected: 0."
    BadTransport "BAD_TRANSPORT" Dropped "To a VIP, with a TCP, UDP or ICMP header that is inconsistent or longer than the packet. Expected: 0."
    MartianSource "MARTIAN_SOURCE" Dropped "To a VIP, from a martian source (multicast, broadcast, loopback, unspecified) or from the VIP itself: a forged packet. Expected: 0."
    ExtensionHeaders "EXTENSION_HEADERS" Dropped "To a VIP, with more IPv6 extension headers than are followed, or a routing header with segments left. Expected: 0."
    FragmentTiny "FRAGMENT_TINY" Dropped "First fragment too short for its TCP or UDP header (RFC 1858, RFC 7112). Expected: 0."
    FragmentOrphan "FRAGMENT_ORPHAN" Dropped "Later fragment whose first fragment was not seen. Expected: few."
    NoMember "NO_MEMBER" Dropped "To a VIP without an eligible backend. Expected: 0."
    MemberDown "MEMBER_DOWN" Dropped "Belongs to a flow whose backend is down and that no other backend can take over. Expected: 0, except while a backend is down."
    NoNextHop "NO_NEXT_HOP" Dropped "No next hop for the backend: no route, or the neighbour does not answer. Expected: 0."
    TooBig "TOO_BIG" Dropped "Larger than the MTU of the path to the backend, and the ICMP error was withheld (rate limit, or the packet must not be answered). Expected: 0."
    HopLimit "HOP_LIMIT" Dropped "TTL or hop limit expired, and the ICMP error was withheld. Expected: few."
    IcmpNoFlow "ICMP_NO_FLOW" Dropped "ICMP error to a VIP that is too short or quotes a packet of none of its flows. Expected: few."
    NatNoFlow "NAT_NO_FLOW" Dropped "TCP to a VIP with forward = \"nat\" that belongs to no session and does not start one. Expected: few (after a restart of the host)."
    NatNoPort "NAT_NO_PORT" Dropped "New flow for which no port was free that its client may use. Expected: 0."
    NoRoom "NO_ROOM" Dropped "The driver left no headroom for an outer header. Expected: 0."
    Internal "INTERNAL" Dropped "A table did not have the expected contents. Expected: 0; report it."
    Denied "DENIED" Dropped "To a VIP, from a source that its configuration denies. Expected: what the operator denies."
    SourceFlowLimit "SOURCE_FLOW_LIMIT" Dropped "New flow over the limit for a source of the VIP. Expected: 0, except in an attack."
    SourcePacketLimit "SOURCE_PACKET_LIMIT" Dropped "Packet over the limit for a source of the VIP. Expected: 0, except in an attack."
    VipFlowLimit "VIP_FLOW_LIMIT" Dropped "New flow over the limit of the VIP. Expected: 0, except in an attack or a spike."
    VipPacketLimit "VIP_PACKET_LIMIT" Dropped "Packet over the limit of the VIP. Expected: 0, except in an attack or a spike."
    FirstSyn "FIRST_SYN" Dropped "First SYN of a flow over a limit with on_excess = \"second_syn\"; its retransmission passes. Expected: 0, except in an attack or a spike."
}

impl Reason {
    /// Returns name, fate and meaning.
    #[must_use]
    pub const fn text(self) -> &'static ReasonText {
        &REASONS[self as usize]
    }
}

/// First reason to pass; those before it are sent.
pub const FIRST_PASSED: Reason = Reason::NotIp;

/// First reason to drop; those from [`FIRST_PASSED`] up to it are passed.
pub const FIRST_DROPPED: Reason = Reason::BadHeader;

// The data path derives the fate from the number.
const _: () = {
    let mut i = 0;
    while i < REASONS.len() {
        let by_number = if i < FIRST_PASSED as usize {
            Fate::Sent as u8
        } else if i < FIRST_DROPPED as usize {
            Fate::Passed as u8
        } else {
            Fate::Dropped as u8
        };
        assert!(REASONS[i].fate as u8 == by_number);
        i += 1;
    }
};

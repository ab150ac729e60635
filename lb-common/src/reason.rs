//! Why a packet was sent, passed or dropped. Every packet is counted under exactly one reason.

/// What became of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Sent by the data path.
    Sent,
    /// Passed to the host.
    Passed,
    /// Dropped.
    Dropped,
}

/// What one reason means.
#[derive(Clone, Copy, Debug)]
pub struct ReasonText {
    /// The reason.
    pub reason: Reason,
    /// Its name in output and metrics.
    pub name: &'static str,
    /// What becomes of the packet.
    pub fate: Fate,
    /// What it means and what is normal.
    pub text: &'static str,
}

/// Reasons that there are counters for, a power of two; those past the last reason stay 0.
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
    Forwarded "FORWARDED" Sent "Sent to a member. Normal: nearly all."
    NatReply "NAT_REPLY" Sent "A backend's packet, sent on to the client. Normal: as many as forwarded, on VIPs with forward = \"nat\"."
    IcmpErrorForwarded "ICMP_ERROR_FORWARDED" Sent "An ICMP error about a flow, sent to the member that has it. Normal: few."
    EchoAnswered "ECHO_ANSWERED" Sent "An echo request to a VIP, answered. Normal: as many as monitoring sends."
    FragmentationNeeded "FRAGMENTATION_NEEDED" Sent "An IPv4 packet that does not fit the path to the backend, answered with fragmentation needed. Normal: few; many when the network to the backends has no room for the outer header."
    PacketTooBig "PACKET_TOO_BIG" Sent "An IPv6 packet that does not fit the path to the backend, answered with packet too big. Normal: few."
    TimeExceeded "TIME_EXCEEDED" Sent "A packet at the end of its hop count, answered as a router does. Normal: few (traceroute)."
    NotIp "NOT_IP" Passed "Not IPv4 or IPv6 (ARP, LLDP), or more than two VLAN tags. Normal: few."
    Truncated "TRUNCATED" Passed "Shorter than the headers that would tell its destination. Normal: 0."
    NoVip "NO_VIP" Passed "For an address that no VIP has. Normal: the host's own traffic."
    NoService "NO_SERVICE" Passed "For a VIP's address, but another port or protocol. Normal: few (scans)."
    IcmpOther "ICMP_OTHER" Passed "ICMP for a VIP's address that is neither an echo request nor an error. Normal: few (neighbour discovery)."
    LinkGroup "LINK_GROUP" Passed "For a VIP or a NAT source, in a frame to many stations (broadcast, multicast): nobody forwards such (RFC 1812 §5.3.4). Normal: 0."
    NatNoSession "NAT_NO_SESSION" Passed "For a NAT source address, but of no session: the host's own traffic, answers to its health checks among it, or a packet that came late. Normal: few besides these answers."
    BadHeader "BAD_HEADER" Dropped "For a VIP, with an IP header that contradicts itself or the frame. Normal: 0."
    BadChecksum "BAD_CHECKSUM" Dropped "For a VIP, with a wrong IPv4 header checksum. Normal: 0."
    BadTransport "BAD_TRANSPORT" Dropped "For a VIP, with a TCP or UDP header that contradicts itself or the packet. Normal: 0."
    MartianSource "MARTIAN_SOURCE" Dropped "For a VIP, from a source that is no single host (multicast, broadcast, loopback, unspecified) or is the VIP itself: forged. Normal: 0."
    ExtensionHeaders "EXTENSION_HEADERS" Dropped "For a VIP, with more IPv6 extension headers than are followed, or a routing header with segments left. Normal: 0."
    FragmentTiny "FRAGMENT_TINY" Dropped "A first fragment too short for its TCP or UDP header (RFC 1858, RFC 7112). Normal: 0."
    FragmentOrphan "FRAGMENT_ORPHAN" Dropped "A later fragment whose first one was not seen. Normal: few."
    NoMember "NO_MEMBER" Dropped "For a VIP that has no member to take it. Normal: 0."
    MemberDown "MEMBER_DOWN" Dropped "Of a flow whose member is down and that no other can take over. Normal: 0, except while a member is down."
    NoNextHop "NO_NEXT_HOP" Dropped "The way to the member is not known: no route, or the neighbour does not answer. Normal: 0."
    TooBig "TOO_BIG" Dropped "Does not fit the path to the backend, and the answer was withheld (rate limit, or the packet is one that must not be answered). Normal: 0."
    HopLimit "HOP_LIMIT" Dropped "At the end of its hop count, and the answer was withheld. Normal: few."
    IcmpNoFlow "ICMP_NO_FLOW" Dropped "An ICMP error to a VIP about a packet that no flow of it can have sent, or that is too short. Normal: few."
    NatNoFlow "NAT_NO_FLOW" Dropped "TCP to a VIP with forward = \"nat\" that belongs to no session and does not open one. Normal: few (after a restart of the host)."
    NatNoPort "NAT_NO_PORT" Dropped "A new flow for which no port of the NAT source was free. Normal: 0."
    NoRoom "NO_ROOM" Dropped "The driver left no room for an outer header. Normal: 0."
    Internal "INTERNAL" Dropped "A table was not as the program expects it. Normal: 0; report it."
}

impl Reason {
    /// Name, fate and meaning.
    #[must_use]
    pub const fn text(self) -> &'static ReasonText {
        &REASONS[self as usize]
    }
}

/// The first reason to pass: those before it are sent.
pub const FIRST_PASSED: Reason = Reason::NotIp;

/// The first reason to drop: those from [`FIRST_PASSED`] on and before it are passed.
pub const FIRST_DROPPED: Reason = Reason::BadHeader;

// The data path reads the fate off the number.
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

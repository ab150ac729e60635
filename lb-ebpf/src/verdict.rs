//! Verdicts on packets, and the stages that produce them.

use core::hint::black_box;

use aya_ebpf::bindings::xdp_action;
use lb_common::reason::{FIRST_DROPPED, FIRST_PASSED, Reason};

use crate::{counters, trace};

/// Either final: XDP action in bits 0–5, "already counted" in bit 6, [`Reason`] in bits 8–15. Or,
/// with bit 7 set, the next [`Stage`] in bits 0–6, an offset in bits 8–15 and a number in bits
/// 16–31.
///
/// One word, because a BPF function returns one register; global functions return it as a plain
/// number.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Verdict(pub(crate) u32);

const NEXT: u32 = 0x80;
const COUNTED: u32 = 0x40;

impl Verdict {
    /// Passes or drops the packet, as the reason says.
    #[inline(always)]
    pub(crate) const fn of(reason: Reason) -> Self {
        let number = reason as u32;
        let action = if number >= FIRST_PASSED as u32 && number < FIRST_DROPPED as u32 {
            xdp_action::XDP_PASS
        } else {
            xdp_action::XDP_DROP
        };
        Self(number << 8 | action)
    }

    /// Converts the result of a stage. To the verifier a stage may return any number; `black_box`
    /// keeps the compiler, which knows the possible values, from removing bounds checks.
    #[inline(always)]
    pub(crate) fn from_stage(number: u32) -> Self {
        Self(black_box(number))
    }

    /// Drops or passes an invalid packet. A packet to a NAT source may be the host's own, so it is
    /// passed and the host decides.
    #[inline(always)]
    pub(crate) fn refused(reason: Reason, to_nat_source: bool) -> Self {
        if to_nat_source && reason as u32 >= FIRST_DROPPED as u32 {
            return Self::of(Reason::NatNoSession);
        }
        Self::of(reason)
    }

    /// Passes the packet for the reason with this number.
    #[inline(always)]
    pub(crate) const fn passed(reason: u32) -> Self {
        Self(reason << 8 | xdp_action::XDP_PASS)
    }

    /// Drops the packet for the reason with this number.
    #[inline(always)]
    pub(crate) const fn dropped(reason: u32) -> Self {
        Self(reason << 8 | xdp_action::XDP_DROP)
    }

    /// Transmits the packet by this XDP action. It is counted already, together with its member's
    /// counters.
    #[inline(always)]
    pub(crate) const fn counted(reason: Reason, action: u32) -> Self {
        Self((reason as u32) << 8 | COUNTED | action)
    }

    /// Transmits the packet by this XDP action.
    #[inline(always)]
    pub(crate) const fn sent(reason: Reason, action: u32) -> Self {
        Self((reason as u32) << 8 | action)
    }

    /// Continues with a stage.
    #[inline(always)]
    pub(crate) const fn next(stage: Stage, offset: u32, number: u32) -> Self {
        Self(NEXT | stage as u32 | (offset & 0xff) << 8 | number << 16)
    }

    /// Returns the next stage, if there is one, with its offset and number.
    #[inline(always)]
    pub(crate) fn next_stage(self) -> Option<(u32, u32, u32)> {
        if self.0 & NEXT == 0 {
            return None;
        }
        Some((self.0 & 0x7f, self.0 >> 8 & 0xff, self.0 >> 16))
    }

    /// Whether the verdict is final. If it is for a member's packet, the packet was transmitted.
    #[inline(always)]
    pub(crate) const fn is_last(self) -> bool {
        self.0 & NEXT == 0
    }

    /// Counts the packet under its reason unless it was counted, and returns the XDP action.
    #[inline(always)]
    pub(crate) fn finish(self) -> u32 {
        let (reason, action) = (self.0 >> 8, self.0 & 0x3f);
        if self.0 & COUNTED == 0 {
            counters::count_reason(reason);
        }
        trace::finished(reason, action);
        action
    }
}

/// What the fast path made of a packet.
///
/// An enum and no [`Verdict`], whose bits would be asked again: the most frequent end takes the fewest
/// instructions.
#[derive(Clone, Copy)]
pub(crate) enum FastPath {
    /// Transmitted by this XDP action, and counted as forwarded.
    Sent(u32),
    Other(Verdict),
}

impl FastPath {
    /// The XDP action of a packet that was transmitted.
    #[inline(always)]
    pub(crate) fn finish(action: u32) -> u32 {
        trace::finished(Reason::Forwarded as u32, action);
        action
    }

    /// The same as a verdict, for a stage.
    #[inline(always)]
    pub(crate) fn verdict(self) -> Verdict {
        match self {
            Self::Sent(action) => Verdict::counted(Reason::Forwarded, action),
            Self::Other(verdict) => verdict,
        }
    }
}

impl From<Verdict> for FastPath {
    #[inline(always)]
    fn from(verdict: Verdict) -> Self {
        Self::Other(verdict)
    }
}

/// A stage of the slow path.
#[repr(u32)]
#[derive(Clone, Copy)]
pub(crate) enum Stage {
    /// A frame with VLAN tags. Takes the offset of the IP header, and 1 for IPv6.
    Tagged,
    /// An IPv4 packet that is not plain TCP or UDP. Takes the offset of the IP header.
    SlowPathV4,
    /// An IPv6 packet that is not plain TCP or UDP. Takes the offset of the IP header.
    SlowPathV6,
    /// A packet for a VIP. Takes the limits that have admitted it, with [`crate::bound::DECIDED`], and the
    /// VIP index. The headers are in the scratch, as for all stages below unless they take the offset of a
    /// header.
    Forward,
    /// A packet for a VIP that may be over a limit. Takes what is asked ([`crate::limits::limit`]), and
    /// the VIP index.
    Limit,
    /// A packet that opens a flow of a VIP with bounded load, or has to prove that it belongs to a spilled
    /// one. Takes what is asked ([`crate::bound::bound`]), and the VIP index.
    Bound,
    /// A later fragment. Takes 1 if limits have admitted it.
    Fragment,
    /// A first fragment for no service. Takes the reason.
    PassFirst,
    /// A client's packet for a `nat` VIP. Takes the VIP index.
    NatRequest,
    /// The same, of an embryonic session or one that needs an update. Takes the VIP index.
    NatSession,
    /// The same, of no session. Takes [`crate::bound::DECIDED`] or 0, and the VIP index.
    NatCreate,
    /// The same, of a session that is to be confirmed or refreshed. Takes the VIP index.
    NatRefresh,
    /// The same, with its session in the scratch. Takes the VIP index.
    NatSend,
    /// A packet to a NAT source. Takes the index of the source.
    NatReply,
    /// ICMP or ICMPv6 to one of our addresses.
    Icmp,
    /// An echo request.
    Echo,
    /// An ICMP error about an IPv4 packet.
    ErrorV4,
    /// An ICMPv6 error. Takes the protocol of the quoted packet, and the offset of its transport
    /// header.
    ErrorV6,
    /// An ICMP error about a NAT session.
    NatError,
    /// "Fragmentation needed" about a packet that this node may have encapsulated. Takes the offset
    /// of the IP header, and the reason to pass it otherwise.
    TunnelV4,
    /// "Packet too big" about such a packet. Takes the same.
    TunnelV6,
    /// Sends an ICMP error. Takes the offset of the IP header, and the MTU (0: time exceeded).
    GenerateV4,
    /// Sends an ICMPv6 error. Takes the offset of the IP header, and the MTU (0: time exceeded).
    GenerateV6,
    /// Drops a valid packet and logs it. Takes the reason.
    Refuse,
}

//! What becomes of a packet, and why.

use core::hint::black_box;

use aya_ebpf::bindings::xdp_action;
use lb_common::reason::{FIRST_DROPPED, FIRST_PASSED, Reason};

use crate::{counters, trace};

/// The end of a packet's way: the XDP action in bits 0–5, whether it was counted under its reason in bit 6, the
/// reason in bits 8–15. Or, with bit 7, the stage that comes next in bits 0–6, an offset in bits 8–15 and a number
/// in bits 16–31.
///
/// One word, because a BPF function returns one register; a plain number where the function is a
/// global one, which returns nothing else.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Verdict(pub(crate) u32);

const NEXT: u32 = 0x80;
const COUNTED: u32 = 0x40;

impl Verdict {
    /// The packet is passed or dropped, as the reason says.
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

    /// The verdict of a stage that the verifier checks by itself: to it, any number may come back. The
    /// compiler sees which ones do, and must not drop a bound because of that.
    #[inline(always)]
    pub(crate) fn from_stage(number: u32) -> Self {
        Self(black_box(number))
    }

    /// What becomes of a packet that is refused. One to a NAT source may be the host's own: it is passed,
    /// and the host decides.
    #[inline(always)]
    pub(crate) fn refused(reason: Reason, to_nat_source: bool) -> Self {
        if to_nat_source && reason as u32 >= FIRST_DROPPED as u32 {
            return Self::of(Reason::NatNoSession);
        }
        Self::of(reason)
    }

    /// The packet is passed for the reason with this number.
    #[inline(always)]
    pub(crate) const fn passed(reason: u32) -> Self {
        Self(reason << 8 | xdp_action::XDP_PASS)
    }

    /// The packet is dropped for the reason with this number.
    #[inline(always)]
    pub(crate) const fn dropped(reason: u32) -> Self {
        Self(reason << 8 | xdp_action::XDP_DROP)
    }

    /// The packet is sent by this XDP action; it was counted already, together with what its member got.
    #[inline(always)]
    pub(crate) const fn counted(reason: Reason, action: u32) -> Self {
        Self((reason as u32) << 8 | COUNTED | action)
    }

    /// The packet is sent by this XDP action.
    #[inline(always)]
    pub(crate) const fn sent(reason: Reason, action: u32) -> Self {
        Self((reason as u32) << 8 | action)
    }

    /// The packet goes on to a stage.
    #[inline(always)]
    pub(crate) const fn next(stage: Stage, offset: u32, number: u32) -> Self {
        Self(NEXT | stage as u32 | (offset & 0xff) << 8 | number << 16)
    }

    /// The stage that comes next, if one does, with the offset and the number that it takes.
    #[inline(always)]
    pub(crate) fn next_stage(self) -> Option<(u32, u32, u32)> {
        if self.0 & NEXT == 0 {
            return None;
        }
        Some((self.0 & 0x7f, self.0 >> 8 & 0xff, self.0 >> 16))
    }

    /// Whether no stage comes next. A packet to a member then is sent; else its sender is told something.
    #[inline(always)]
    pub(crate) const fn is_last(self) -> bool {
        self.0 & NEXT == 0
    }

    /// Counts the packet under its reason, and gives the action to return to the kernel.
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

/// A stage.
#[repr(u32)]
#[derive(Clone, Copy)]
pub(crate) enum Stage {
    /// A frame with VLAN tags. Takes the offset of the IP header, and 1 for IPv6.
    Tagged,
    /// IPv4 that is not plain TCP or UDP. Takes the offset of the header.
    SlowPathV4,
    /// The same for IPv6.
    SlowPathV6,
    /// A packet for a VIP, with its headers in the scratch. Takes the VIP.
    Forward,
    /// A later fragment.
    Fragment,
    /// A first fragment for no service. Takes the reason.
    PassFirst,
    /// A client's packet for a VIP with `nat`. Takes the VIP.
    NatRequest,
    /// The same, of a session that is not established, or to be written down. Takes the VIP.
    NatSession,
    /// The same, of no session: begins one. Takes the VIP.
    NatCreate,
    /// The same, of a session that is to be confirmed or kept. Takes the VIP.
    NatRefresh,
    /// The same, with its session in the scratch. Takes the VIP.
    NatSend,
    /// A packet to a NAT source. Takes the source.
    NatReply,
    /// ICMP or ICMPv6 to one of our addresses.
    Icmp,
    /// An echo request.
    Echo,
    /// An ICMP error.
    ErrorV4,
    /// An ICMPv6 error. Takes the protocol of the quoted packet, and the offset of its header.
    ErrorV6,
    /// An ICMP error about a NAT session.
    NatError,
    /// Tell an IPv4 sender. Takes the offset of the header, and the MTU (0: time exceeded).
    GenerateV4,
    /// The same for IPv6.
    GenerateV6,
    /// The node can't send the packet: drop it, and say so. Takes the reason.
    Refuse,
}

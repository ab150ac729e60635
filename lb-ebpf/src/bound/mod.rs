//! Bounded load: where new flows go whose member is full. [`lb_common::bound`] has the rules.
//!
//! Only packets that open a flow come here, and those whose cell is unproven. What a packet may change is
//! what it proves: until a segment continues the sequence of a spilled SYN, packets with other numbers go
//! where they would without it.

use core::hint::black_box;

use aya_ebpf::bindings::xdp_md;
use lb_common::{
    bound::{jump, room},
    reason::Reason,
    ring::{MemberIndex, NO_MEMBER},
    vip::{forward, track},
};

use crate::{
    clock, first_syns,
    headers::Headers,
    limits::{NAT_SESSION, NEW_FLOWS},
    maps::BOUNDS,
    packet::Packet,
    route::is_serving,
    scratch::{Scratch, scratch},
    select::{self, ring_of, slot_hash},
    spilled::{has_spilled, note_spilled},
    tables,
    verdict::{Stage, Verdict},
    wire,
};

mod load;
mod proof;

use load::{bound_candidate, bound_count, bound_room, count_vip_load};
use proof::{DECIDED_BEFORE, MEMBER, NEW, REOPENED, bound_insert, bound_known, bound_reopen};

/// What [`bound`] is asked besides the kinds of new flows in [`crate::limits`]: a packet of a flow with an
/// unproven cell.
pub(crate) const PROOF: u32 = 4;

/// A SYN that matches a `nat` session whose connection is over.
pub(crate) const NAT_REOPENED: u32 = 5;

/// The member of the packet is decided, and in the scratch: a bit beside those of
/// [`lb_common::vip::limited`].
pub(crate) const DECIDED: u32 = 1;

/// The member that was decided for a packet, if `marks` say so; otherwise [`NO_MEMBER`].
#[inline(always)]
pub(crate) fn decided(scratch: &Scratch, marks: u32) -> MemberIndex {
    if marks & DECIDED == 0 {
        NO_MEMBER
    } else {
        scratch.decided
    }
}

/// Decides where a packet goes that opens a flow, or proves that it belongs to a spilled one. The headers
/// are in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn bound(ctx: *mut xdp_md, what: u32, vip_index: u32) -> u32 {
    let Some(scratch) = scratch() else {
        return Verdict::of(Reason::Internal).0;
    };
    let member = decide(ctx, &scratch.headers, what, vip_index as u16);
    scratch.decided = member;
    let decided = if member == NO_MEMBER { 0 } else { DECIDED };
    if what == NAT_REOPENED {
        // Of the ring, it is that of the session: otherwise the packet would not match it.
        let session = &scratch.session;
        if member == NO_MEMBER || member == session.request.member {
            let stage = if session.refresh_due {
                Stage::NatRefresh
            } else {
                Stage::NatSend
            };
            return Verdict::next(stage, 0, vip_index).0;
        }
    }
    if what == NAT_SESSION || what == NAT_REOPENED {
        return Verdict::next(Stage::NatCreate, decided, vip_index).0;
    }
    Verdict::next(Stage::Forward, u32::from(NEW_FLOWS) | decided, vip_index).0
}

/// A packet while it is decided.
struct Query {
    vip: u16,
    flow_hash: u64,
    /// Where the search for candidates begins.
    slot: u32,
    /// The slot's member.
    current: MemberIndex,
    /// Its member in its last clean state.
    previous: MemberIndex,
    /// Sequence number of a TCP segment.
    sequence: u32,
    is_tcp: bool,
    /// Whether a cell makes later packets go to the same member; otherwise a `nat` session does.
    has_cell: bool,
    /// Whether the packet is a SYN whose retransmissions have to be recognised.
    is_noted: bool,
    now_ns: u64,
}

/// Returns the member of the packet; [`NO_MEMBER`] if it is the one that ring and tracking table say.
#[inline(always)]
fn decide(ctx: *mut xdp_md, headers: &Headers, what: u32, vip_index: u16) -> MemberIndex {
    let vip = tables::vip(vip_index);
    let flow_hash = headers.flow_hash(vip);
    if ring_of(vip).1 == 0 {
        return NO_MEMBER;
    }
    let Ok(slot) = select::slot(vip, vip_index, slot_hash(vip, headers, flow_hash)) else {
        return NO_MEMBER;
    };
    let query = Query {
        vip: vip_index,
        flow_hash,
        slot: slot.slot,
        current: slot.current(),
        previous: if slot.has_changed() {
            slot.previous()
        } else {
            slot.current()
        },
        sequence: sequence(ctx, headers),
        is_tcp: headers.is_tcp(),
        has_cell: vip.mode() != forward::NAT,
        is_noted: headers.opens() && (vip.mode() != forward::NAT || what == NAT_REOPENED),
        now_ns: clock::now_ns(),
    };
    if query.current == NO_MEMBER && what != PROOF {
        return NO_MEMBER;
    }
    // Otherwise no flow of the slot has a cell.
    let may_be_known =
        vip.track == track::ALWAYS || slot.has_changed() || has_spilled(query.current);
    let may_be_known = may_be_known || what == PROOF;
    let known = if query.is_tcp && query.has_cell && may_be_known {
        let members = u32::from(query.current) | u32::from(query.previous) << 16;
        let flags = headers.tcp_flags.into();
        black_box(bound_known(flow_hash, members, query.sequence, flags))
    } else {
        NEW
    };
    match known & !MEMBER {
        NEW if what != PROOF => open(&query),
        REOPENED if what != PROOF => reopen(&query, known as MemberIndex),
        DECIDED_BEFORE => {
            let member = known as MemberIndex;
            if headers.opens() && member != query.current {
                count_spill(&query, member);
            } else if headers.opens() {
                count(&query, member);
            }
            member
        }
        _ => NO_MEMBER,
    }
}

/// Decides where a new flow goes.
#[inline(always)]
fn open(query: &Query) -> MemberIndex {
    let room = query.room(query.current);
    if room != room::FREE && !query.was_seen() {
        let jump = jump(query.flow_hash, ring_of(tables::vip(query.vip)).1);
        let member = black_box(bound_candidate(
            query.vip.into(),
            query.slot,
            jump,
            room,
            query.now_ns,
        ));
        if member == u32::from(NO_MEMBER) {
            count_vip_load(query.vip, |load| load.all_full += 1);
        } else if query.has_cell && !query.insert(member as MemberIndex) {
            count_vip_load(query.vip, |load| load.no_room += 1);
        } else {
            count_spill(query, member as MemberIndex);
            return member as MemberIndex;
        }
    }
    // Of a slot in transition, an earlier connection may have no cell yet: the SYN must not move it.
    if query.is_tcp && query.has_cell && query.current != query.previous {
        if query.insert(query.current) {
            count(query, query.current);
            return query.current;
        }
        if is_serving(query.previous) {
            // Where its next packets will go.
            count_spill(query, query.previous);
            return query.previous;
        }
    }
    query.note();
    count(query, query.current);
    NO_MEMBER
}

/// Decides where a SYN goes whose flow has a cell for a connection that is closed, or seems to be: the cell
/// stays until the new connection is proven.
#[inline(always)]
fn reopen(query: &Query, member: MemberIndex) -> MemberIndex {
    let stays =
        query.was_seen() || has_share(member) && query.room(query.current) > query.room(member);
    if stays || black_box(bound_reopen(query.flow_hash, query.sequence)) == 0 {
        query.note();
        count_spill(query, member);
        return member;
    }
    count(query, query.current);
    query.current
}

/// Whether a member is to get new flows: drained ones are not.
#[inline(always)]
fn has_share(member: MemberIndex) -> bool {
    BOUNDS
        .get(member.into())
        .is_some_and(|bound| bound.share != 0)
}

impl Query {
    /// Whether a member can take another flow, as one of [`room`].
    #[inline(always)]
    fn room(&self, member: MemberIndex) -> u32 {
        black_box(bound_room(self.vip.into(), member.into(), self.now_ns))
    }

    /// Whether the packet is a SYN that was noted: its member may have answered the first one.
    #[inline(always)]
    fn was_seen(&self) -> bool {
        self.is_noted && first_syns::was_seen(self.noted_hash(), self.now_ns)
    }

    /// Notes a SYN that leaves no other trace, for its retransmissions.
    #[inline(always)]
    fn note(&self) {
        if self.is_noted {
            first_syns::note(self.noted_hash(), self.now_ns);
        }
    }

    /// With the sequence number: a new connection from the same port is no retransmission. And another
    /// one than that of SYNs that were dropped ([`crate::limits`]).
    #[inline(always)]
    const fn noted_hash(&self) -> u64 {
        !self.flow_hash ^ (self.sequence as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// Inserts the cell of a spilled flow; false if there is no room.
    #[inline(always)]
    fn insert(&self, member: MemberIndex) -> bool {
        if member != self.current {
            note_spilled(self.current, clock::now_s());
        }
        let member = u32::from(member) | u32::from(self.is_tcp) << 16;
        black_box(bound_insert(
            self.flow_hash,
            member,
            self.sequence,
            self.vip.into(),
        )) != 0
    }
}

/// The sequence number of a segment; 0 if the packet is none.
#[inline(always)]
fn sequence(ctx: *mut xdp_md, headers: &Headers) -> u32 {
    if !headers.is_tcp() {
        return 0;
    }
    let header = Packet::of(ctx).view::<{ wire::tcp::LEN }>(headers.l4());
    header.map_or(0, |header| header.be32(wire::tcp::SEQ))
}

/// Counts a new flow of a member.
#[inline(always)]
fn count(query: &Query, member: MemberIndex) {
    let members = u32::from(member) | u32::from(NO_MEMBER) << 16;
    black_box(bound_count(query.vip.into(), members, query.now_ns));
}

/// Counts a flow that was spilled to a member.
#[inline(always)]
fn count_spill(query: &Query, member: MemberIndex) {
    let members = u32::from(member) | u32::from(query.current) << 16;
    black_box(bound_count(query.vip.into(), members, query.now_ns));
}

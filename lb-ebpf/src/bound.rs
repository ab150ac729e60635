//! Bounded load: where new flows go whose member is full. [`lb_common::bound`] has the rules.
//!
//! Only packets that open a flow come here, and those whose cell is unproven. What a packet may change is
//! what it proves: until a segment continues the sequence of a spilled SYN, packets with other numbers go
//! where they would without it.

use core::hint::black_box;

use aya_ebpf::bindings::xdp_md;
use lb_common::{
    bound::{CANDIDATES, CpuLoads, MemberLoad, ONE_FLOW, SynNote, VipLoad, jump, second},
    limit::units,
    ring::{MAX_MEMBERS, MemberIndex, NO_MEMBER},
    track::{Cell, FREE, Place, WAYS, is_spare},
    vip::{MAX_VIPS, forward, track},
};

use crate::{
    clock,
    counters::{count_vip, cpu},
    first_syns,
    headers::{Headers, tcp},
    limits::{NAT_SESSION, NEW_FLOWS, draw_from_word},
    maps::{BOUNDS, CAPACITY_CELLS, LOADS, SPILLED, SPILLED_SYNS, TRACK, TRACK_MASK},
    packet::Packet,
    route::is_serving,
    scratch::{Scratch, scratch},
    select::{self, ring_of, slot_hash},
    tables, tracking,
    verdict::{Stage, Verdict},
    wire,
};

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

/// Whether flows of a member's slots may have been spilled, so that packets have to be looked up.
#[inline(always)]
pub(crate) fn has_spilled(member: MemberIndex) -> bool {
    // SAFETY: a word of a mapped array; the controller resets it atomically.
    let load = |stamp: *mut u64| unsafe { stamp.read_volatile() };
    SPILLED.get_ptr_mut(member.into()).map_or(0, load) != 0
}

/// Notes that a member has spilled a flow, or had a packet of one. Before the flow's cell is written.
#[inline(always)]
pub(crate) fn note_spilled(member: MemberIndex, now_s: u64) {
    if let Some(stamp) = SPILLED.get_ptr_mut(member.into()) {
        // SAFETY: as in `has_spilled`.
        unsafe {
            if stamp.read_volatile() != now_s {
                stamp.write_volatile(now_s);
            }
        }
    }
}

/// Decides where a packet goes that opens a flow, or proves that it belongs to a spilled one. The headers
/// are in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn bound(ctx: *mut xdp_md, what: u32, vip_index: u32) -> u32 {
    let Some(scratch) = scratch() else {
        return Verdict::of(lb_common::reason::Reason::Internal).0;
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
    if query.is_full(query.current) && !query.was_seen() {
        let jump = jump(query.flow_hash, ring_of(tables::vip(query.vip)).1);
        let member = black_box(bound_candidate(
            query.vip.into(),
            query.slot,
            jump,
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
    let stays = query.was_seen()
        || query.is_full(query.current) && has_share(member) && !query.is_full(member);
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
    #[inline(always)]
    fn is_full(&self, member: MemberIndex) -> bool {
        black_box(bound_is_full(self.vip.into(), member.into(), self.now_ns)) != 0
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

// The steps are global functions, which the verifier checks once, and take numbers.

/// Results of [`bound_known`], with a member in the lower half: the flow has no cell.
const NEW: u32 = 1 << 16;
/// It has a proven one, with which the packet has nothing to prove.
const ORDINARY: u32 = 2 << 16;
/// Its cell is that of a closed connection with this member, and the packet is a SYN.
const REOPENED: u32 = 3 << 16;
/// The packet is this member's.
const DECIDED_BEFORE: u32 = 4 << 16;
const MEMBER: u32 = 0xffff;

/// Looks up the cell of a flow, and proves it. `members`: the slot's, and in the upper half the previous
/// one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn bound_known(flow_hash: u64, members: u32, sequence: u32, flags: u32) -> u32 {
    let place = Place::of(flow_hash);
    let (current, previous) = (members as MemberIndex, (members >> 16) as MemberIndex);
    let flags = flags as u8;
    let Some(bucket) = TRACK.get_ptr_mut(place.bucket & TRACK_MASK.load()) else {
        return NEW;
    };
    let Some((way, cell)) = tracking::find(bucket, place) else {
        return NEW;
    };
    if !is_serving(cell.member) {
        // The ordinary lookup frees it.
        return if tcp::opens(flags) { NEW } else { ORDINARY };
    }
    if !cell.unproven {
        return if !tcp::opens(flags) || !cell.closed {
            ORDINARY
        } else if current == previous && cell.member != current {
            REOPENED | u32::from(cell.member)
        } else {
            NEW
        };
    }
    let Some(note) = SPILLED_SYNS.get_ptr_mut(SynNote::index(place)) else {
        return ORDINARY;
    };
    // SAFETY: a word of a mapped array.
    let noted = SynNote(unsafe { note.read_volatile() });
    let is_noted = noted.is_of(place);
    let is_late = !is_noted || noted.is_over(second(clock::now_ns()));
    let now_s = clock::now_s();
    let seen_s = now_s as u16;
    // Without the cell.
    let of_slot = if is_serving(previous) {
        previous
    } else if current != NO_MEMBER {
        current
    } else {
        cell.member
    };
    // A SYN that reopened the flow went to the slot's member, which is the previous one now if the ring has
    // changed.
    let (of_syn, without_syn) = if cell.confirmed {
        (of_slot, cell.member)
    } else {
        (cell.member, of_slot)
    };
    let member = if tcp::opens(flags) {
        if is_noted && noted.is_repeated(sequence) {
            let repeated = Cell { seen_s, ..cell };
            tracking::store(bucket, way, repeated.pack());
            let _is_noted = note_syn(place, sequence);
            of_syn
        } else if is_late && !cell.confirmed {
            // The client has given up.
            tracking::store(bucket, way, FREE);
            return NEW;
        } else {
            without_syn
        }
    } else if is_noted && noted.is_continued(sequence, cell.closed) {
        let proven = Cell {
            confirmed: true,
            closed: tcp::closes(flags),
            unproven: false,
            seen_s,
            ..cell
        };
        // SAFETY: as above.
        unsafe { note.write_volatile(0) };
        note_spilled(current, now_s);
        let word = if cell.confirmed { FREE } else { proven.pack() };
        tracking::store(bucket, way, word);
        of_syn
    } else {
        let unproven = if is_late && !cell.confirmed {
            // The SYN was forged. What it kept from being recorded is a flow of the previous member.
            let recorded = Cell {
                member: without_syn,
                confirmed: true,
                closed: tcp::closes(flags),
                unproven: false,
                seen_s,
                ..cell
            };
            if current == previous {
                FREE
            } else {
                recorded.pack()
            }
        } else {
            let disputed = Cell {
                closed: true,
                unproven: !is_late,
                ..cell
            };
            disputed.pack()
        };
        tracking::store(bucket, way, unproven);
        without_syn
    };
    DECIDED_BEFORE | u32::from(member)
}

/// Inserts the unproven cell of a spilled flow; returns 0 if there is no room. `member`: the flow's in the
/// lower half; bit 16: it is of TCP.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn bound_insert(flow_hash: u64, member: u32, sequence: u32, vip: u32) -> u32 {
    let place = Place::of(flow_hash);
    let now_s = clock::now_s() as u16;
    let is_tcp = member >> 16 != 0;
    let Some(bucket) = TRACK.get_ptr_mut(place.bucket & TRACK_MASK.load()) else {
        return 0;
    };
    // Its own, of a member that does not serve or of a connection that is closed; a free one; or that of
    // another flow that has ended.
    let (mut own, mut free, mut ended) = (WAYS, WAYS, WAYS);
    for step in 0..WAYS {
        let way = place.way(step);
        let word = tracking::load(bucket, way);
        if word == FREE {
            free = way;
        } else if (word >> 32) as u32 == place.tag {
            own = way;
        } else if is_spare(word, now_s) {
            ended = way;
        }
    }
    let spare = if own != WAYS {
        own
    } else if free != WAYS {
        free
    } else {
        ended
    };
    if spare == WAYS || is_tcp && !note_syn(place, sequence) {
        return 0;
    }
    let cell = Cell {
        tag: place.tag,
        member: member as MemberIndex,
        confirmed: false,
        closed: false,
        redundant: false,
        unproven: is_tcp,
        seen_s: now_s,
    };
    tracking::store(bucket, spare, cell.pack());
    count_vip(vip as u16, |counters| counters.track_inserts += 1);
    1
}

/// Makes the next packet of a flow with a closed connection prove which connection it belongs to: returns
/// 0 if that can't be.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn bound_reopen(flow_hash: u64, sequence: u32) -> u32 {
    let place = Place::of(flow_hash);
    let Some(bucket) = TRACK.get_ptr_mut(place.bucket & TRACK_MASK.load()) else {
        return 0;
    };
    let Some((way, cell)) = tracking::find(bucket, place) else {
        return 0;
    };
    if !note_syn(place, sequence) {
        return 0;
    }
    let reopened = Cell {
        unproven: true,
        seen_s: clock::now_s() as u16,
        ..cell
    };
    tracking::store(bucket, way, reopened.pack());
    1
}

/// Notes the sequence number of a SYN; false if another flow has the place.
#[inline(always)]
fn note_syn(place: Place, sequence: u32) -> bool {
    let Some(note) = SPILLED_SYNS.get_ptr_mut(SynNote::index(place)) else {
        return false;
    };
    // SAFETY: a word of a mapped array.
    let noted = SynNote(unsafe { note.read_volatile() });
    let second = second(clock::now_ns());
    if !noted.is_of(place) && !noted.is_over(second) {
        return false;
    }
    // SAFETY: as above.
    unsafe { note.write_volatile(SynNote::new(place, sequence, second).0) };
    true
}

/// Returns the first candidate of a flow that serves and is not full; [`NO_MEMBER`] if there is none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn bound_candidate(vip: u32, slot: u32, jump: u32, now_ns: u64) -> u32 {
    let (image, size) = ring_of(tables::vip(vip as u16));
    let Some(own) = select::member_of(image, slot) else {
        return NO_MEMBER.into();
    };
    let mut at = slot;
    for _ in 0..CANDIDATES {
        at = at.wrapping_add(jump);
        if at >= size {
            at = at.wrapping_sub(size);
        }
        let member = select::member_of(image, at).unwrap_or(NO_MEMBER);
        if member != own
            && is_serving(member)
            && black_box(bound_is_full(vip, member.into(), now_ns)) == 0
        {
            return member.into();
        }
    }
    NO_MEMBER.into()
}

/// Returns 1 if a member can't take another flow.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn bound_is_full(vip: u32, member: u32, now_ns: u64) -> u32 {
    let Some(bound) = BOUNDS.get(member) else {
        return 0;
    };
    if bound.capacity.is_set()
        && let Some(cell) = CAPACITY_CELLS.get_ptr_mut(member)
    {
        // SAFETY: a word of a mapped array.
        let cell = lb_common::limit::Cell(unsafe { cell.read_volatile() });
        if bound.capacity.debt(cell, units(now_ns)) > bound.capacity.room {
            return 1;
        }
    }
    let Some(loads) = loads() else { return 0 };
    let second = second(now_ns);
    // SAFETY: in bounds; the block of this CPU, which nothing else writes while the program runs.
    let (member, vip) = unsafe {
        (
            &(*member_load(loads, member)).recent,
            &(*vip_load(loads, vip)).recent,
        )
    };
    let all = vip.now(second) + ONE_FLOW;
    bound
        .is_exceeded(member.now(second), all, member.spills(second))
        .into()
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

/// Counts a new flow. `members`: where it goes; in the upper half, the member that spilled it, or
/// [`NO_MEMBER`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn bound_count(vip: u32, members: u32, now_ns: u64) -> u32 {
    let (to, from) = (members & 0xffff, members >> 16);
    if let Some(bound) = BOUNDS.get(to)
        && bound.capacity.is_set()
        && let Some(cell) = CAPACITY_CELLS.get_ptr_mut(to)
    {
        // If it is used up, all candidates are full.
        let _is_full = !draw_from_word(&bound.capacity, cell, units(now_ns));
    }
    let Some(loads) = loads() else { return 0 };
    let second = second(now_ns);
    // SAFETY: as in `bound_is_full`.
    unsafe {
        (*vip_load(loads, vip)).recent.add(second);
        let member = member_load(loads, to);
        (*member).recent.add(second);
        if from != u32::from(NO_MEMBER) {
            (*member).received += 1;
            let from = member_load(loads, from);
            (*from).spilled += 1;
            (*from).recent.spilled = second + 1;
        }
    }
    0
}

#[inline(always)]
fn count_vip_load(vip: u16, change: impl FnOnce(&mut VipLoad)) {
    if let Some(loads) = loads() {
        // SAFETY: as in `bound_is_full`.
        change(unsafe { &mut *vip_load(loads, vip.into()) });
    }
}

/// What this CPU knows.
#[inline(always)]
fn loads() -> Option<*mut CpuLoads> {
    LOADS.get_ptr_mut(cpu())
}

#[inline(always)]
fn member_load(loads: *mut CpuLoads, member: u32) -> *mut MemberLoad {
    let member = member as usize & (MAX_MEMBERS as usize - 1);
    // SAFETY: in bounds.
    unsafe { (&raw mut (*loads).members).cast::<MemberLoad>().add(member) }
}

#[inline(always)]
fn vip_load(loads: *mut CpuLoads, vip: u32) -> *mut VipLoad {
    let vip = vip as usize & (MAX_VIPS as usize - 1);
    // SAFETY: in bounds.
    unsafe { (&raw mut (*loads).vips).cast::<VipLoad>().add(vip) }
}

//! Rate limits: what a VIP and each of its sources may send. [`lb_common::limit`] has the algorithm.
//!
//! Only packets that a limit may apply to come here: with limits of new flows, those that open one. The
//! clock is read for them alone.

use core::{arch::asm, hint::black_box};

use aya_ebpf::btf_maps::lpm_trie::Key;
use lb_common::{
    Address, hash,
    limit::{
        Cell, Draw, Kind, LIST_KEY_BITS, Limit, LimitCounters, LimitedKey, MAX_RECORDED_PER_S,
        Rate, WAYS, area_of, draw, excess, list_key, place, source_hash, units,
    },
    reason::Reason,
    ring::NO_MEMBER,
    trace::decision,
    vip::{Vip, forward, limited},
};

use crate::{
    budget, clock, first_syns,
    headers::{Headers, ports_hash},
    maps::{
        DENIED_AREAS, LIMIT_CELLS, LIMIT_COUNTERS, LIMIT_VIPS, LIMITED, LIMITED_BUDGET, LIMITS,
        PREFIXES, below,
    },
    scratch::scratch,
    tables, trace,
    verdict::{Stage, Verdict},
};

/// What [`limit`] is asked: a packet, before anything else is done with it.
const PACKET: u32 = 0;
/// A packet that would create a `nat` session.
pub(crate) const NAT_SESSION: u32 = 1;
/// A packet that would begin a tracked flow of UDP.
pub(crate) const UDP_FLOW: u32 = 2;
/// A later fragment.
pub(crate) const FRAGMENT: u32 = 3;

/// What is asked about new flows, here and by [`crate::bound`].
pub(crate) const NEW_FLOWS: u8 = limited::FLOWS | limited::BOUND;

/// Whether a limit of its VIP may apply to a packet, so that it has to go to [`limit`]. New flows of
/// `nat` and UDP are known later: when a session is created, or the tracking table has no entry.
#[inline(always)]
pub(crate) fn may_apply(vip: &Vip, headers: &Headers) -> bool {
    vip.is_limited(limited::PACKETS | limited::DENY)
        || headers.opens() && vip.is_limited(NEW_FLOWS) && vip.mode() != forward::NAT
}

/// Holds a packet against the limits of its VIP. The headers are in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn limit(what: u32, vip_index: u32) -> u32 {
    let Some(scratch) = scratch() else {
        return Verdict::of(Reason::Internal).0;
    };
    let headers = &scratch.headers;
    if let Err(reason) = hold(headers, what, vip_index as u16) {
        return Verdict::of(reason).0;
    }
    let vip = tables::vip(vip_index as u16);
    let opens = what != PACKET || headers.opens() && vip.mode() != forward::NAT;
    if what == FRAGMENT {
        Verdict::next(Stage::Fragment, 1, 0).0
    } else if opens && vip.is_limited(limited::BOUND) {
        Verdict::next(Stage::Bound, what, vip_index).0
    } else if what == NAT_SESSION {
        Verdict::next(Stage::NatCreate, 0, vip_index).0
    } else if what == UDP_FLOW {
        Verdict::next(Stage::Forward, NEW_FLOWS.into(), vip_index).0
    } else {
        Verdict::next(Stage::Forward, 0, vip_index).0
    }
}

#[inline(always)]
fn hold(headers: &Headers, what: u32, vip_index: u16) -> Result<(), Reason> {
    let vip = tables::vip(vip_index);
    let is_packet = what == PACKET || what == FRAGMENT;
    if is_packet {
        packet(headers, vip_index)?;
    }
    let opens = !is_packet || headers.opens() && vip.mode() != forward::NAT;
    if !opens || !vip.is_limited(limited::FLOWS) {
        return Ok(());
    }
    flow(headers, vip_index)
}

/// Holds a packet against the limits of packets, and its source against the denied ones.
#[inline(always)]
fn packet(headers: &Headers, vip: u16) -> Result<(), Reason> {
    let who = Who::of(headers, vip, Kind::Packets);
    let [high, low] = headers.source;
    let may_be_denied = tables::vip(vip).is_limited(limited::DENY)
        && is_in_denied_area(&headers.source, headers.family);
    if may_be_denied && black_box(limit_denies(who.0, high, low)) != 0 {
        trace::vip(vip);
        return Err(Reason::Denied);
    }
    if !tables::vip(vip).is_limited(limited::PACKETS) {
        return Ok(());
    }
    check(headers, vip, who).map_err(|of_vip| match of_vip {
        Over::Source => Reason::SourcePacketLimit,
        Over::Vip => Reason::VipPacketLimit,
        Over::FirstSyn => Reason::FirstSyn,
    })
}

/// Holds a new flow against the limits of new flows.
#[inline(always)]
fn flow(headers: &Headers, vip: u16) -> Result<(), Reason> {
    let who = Who::of(headers, vip, Kind::Flows);
    check(headers, vip, who).map_err(|of_vip| match of_vip {
        Over::Source => Reason::SourceFlowLimit,
        Over::Vip => Reason::VipFlowLimit,
        Over::FirstSyn => Reason::FirstSyn,
    })
}

/// Why a packet is not admitted.
enum Over {
    Source,
    Vip,
    FirstSyn,
}

#[inline(always)]
fn check(headers: &Headers, vip: u16, who: Who) -> Result<(), Over> {
    let [high, low] = headers.source;
    let ports = hash::ports_word(headers.source_be, headers.dest_be) as u32;
    let mut drawn = black_box(limit_draw(who.0, high, low, ports));
    let mut fate = ADMITTED;
    let mut over = Over::Source;
    if drawn == OVER_SOURCE {
        fate = black_box(limit_excess(who.0, high, low, ports));
        if fate == ADMITTED {
            drawn = black_box(limit_draw(who.0 | Who::OF_VIP, high, low, ports));
        }
    }
    if drawn == OVER_VIP {
        over = Over::Vip;
        fate = black_box(limit_excess(who.0 | Who::OF_VIP, high, low, ports));
    }
    if fate == ADMITTED {
        return Ok(());
    }
    trace::vip(vip);
    // The slot's, if the packet got so far.
    trace::member(NO_MEMBER, decision::NOT_MADE);
    Err(if fate == DROPPED {
        over
    } else {
        Over::FirstSyn
    })
}

/// What [`limit_draw`] finds used up; 0: nothing.
const OVER_SOURCE: u32 = 1;
const OVER_VIP: u32 = 2;

/// What [`limit_excess`] makes of a packet over a limit.
const ADMITTED: u32 = 0;
const DROPPED: u32 = 1;
const FIRST_SYN: u32 = 2;

/// Whose limit is asked for, as a number: the steps below are global functions, which the verifier checks
/// once, and take only numbers. VIP in bits 0–15, address family in bits 16–23.
#[derive(Clone, Copy)]
struct Who(u32);

impl Who {
    /// [`Kind::Packets`], otherwise new flows.
    const PACKETS: u32 = 1 << 24;
    /// The limit of the VIP alone, otherwise that of the source, or both.
    const OF_VIP: u32 = 1 << 25;
    /// The packet is a SYN.
    const SYN: u32 = 1 << 26;

    #[inline(always)]
    fn of(headers: &Headers, vip: u16, kind: Kind) -> Self {
        let kind = match kind {
            Kind::Flows => 0,
            Kind::Packets => Self::PACKETS,
        };
        let syn = if headers.opens() { Self::SYN } else { 0 };
        Self(u32::from(vip) | u32::from(headers.family) << 16 | kind | syn)
    }

    #[inline(always)]
    const fn vip(self) -> u16 {
        self.0 as u16
    }

    #[inline(always)]
    const fn family(self) -> u8 {
        (self.0 >> 16) as u8
    }

    #[inline(always)]
    const fn has(self, flag: u32) -> bool {
        self.0 & flag != 0
    }

    #[inline(always)]
    const fn kind(self) -> Kind {
        if self.has(Self::PACKETS) {
            Kind::Packets
        } else {
            Kind::Flows
        }
    }

    #[inline(always)]
    fn limit(self) -> Option<&'static Limit> {
        // SAFETY: an element of a mapped array; the controller changes it word by word.
        LIMITS
            .get_ptr(self.vip().into())
            .map(|limit| unsafe { &*limit })
    }

    #[inline(always)]
    fn count(self, change: impl FnOnce(&mut LimitCounters)) {
        if let Some(counters) = LIMIT_COUNTERS.get_ptr_mut(self.vip().into()) {
            // SAFETY: this CPU's entry; nothing else uses it while the program runs.
            change(unsafe { &mut *counters });
        }
    }
}

/// Returns 1 if the source is denied.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn limit_denies(who: u32, high: u64, low: u64) -> u32 {
    let who = Who(who);
    let Some(limit) = who.limit() else { return 0 };
    if lists_of(&[high, low], who.family()) & limit.deny == 0 {
        return 0;
    }
    who.count(|counters| counters.denied += 1);
    1
}

/// Draws from the limit of the source, unless only that of the VIP is asked, and from that of the VIP.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn limit_draw(who: u32, high: u64, low: u64, ports: u32) -> u32 {
    let who = Who(who);
    let Some(limit) = who.limit() else { return 0 };
    let (of_source, of_vip, chunk) = match who.kind() {
        Kind::Flows => (&limit.source_flows, &limit.vip_flows, 1),
        Kind::Packets => (&limit.source_packets, &limit.vip_packets, limit.chunk),
    };
    let now = units(clock::now_ns());
    if of_source.is_set() && !who.has(Who::OF_VIP) {
        let (source, block) = limit.source(&[high, low], who.family(), ports as u16);
        let key = &tables::vip(who.vip()).hash_key;
        let hash = source_hash(key, who.family(), &source, block, who.kind());
        match draw_from_source(of_source, hash, now) {
            Draw::Admitted => {}
            Draw::Evicted => who.count(|counters| counters.evicted += 1),
            Draw::Over => return OVER_SOURCE,
        }
    }
    if of_vip.is_set() && !draw_from_vip(who, of_vip, chunk, now) {
        return OVER_VIP;
    }
    0
}

/// Draws from the limit of a VIP; false if it is used up. Packets are drawn in chunks, so that CPUs seldom
/// write to the same line.
#[inline(always)]
fn draw_from_vip(who: Who, rate: &Rate, chunk: u16, now: u64) -> bool {
    let Some(line) = LIMIT_VIPS.get_ptr_mut(who.vip().into()) else {
        return true;
    };
    let word = line.cast::<u64>().wrapping_add(who.kind() as usize);
    if chunk <= 1 {
        return draw_from_word(rate, word, now);
    }
    let Some(counters) = LIMIT_COUNTERS.get_ptr_mut(who.vip().into()) else {
        return true;
    };
    // SAFETY: as in `Who::count`.
    let counters = unsafe { &mut *counters };
    if counters.drawn > 0 {
        counters.drawn -= 1;
        return true;
    }
    let admitted = draw_from_word(rate, word, now);
    if admitted {
        counters.drawn = u64::from(chunk - 1);
    }
    admitted
}

#[inline(always)]
pub(crate) fn draw_from_word(rate: &Rate, word: *mut u64, now: u64) -> bool {
    // SAFETY: in bounds of the line.
    let cell = Cell(unsafe { word.read_volatile() });
    let debt = rate.debt(cell, now);
    if debt > rate.room {
        return false;
    }
    if debt == 0 {
        // SAFETY: as above.
        unsafe { word.write_volatile(Cell::begun(0, now, rate.cost).0) };
    } else {
        add(word, Cell::addition(rate.cost));
    }
    true
}

#[inline(always)]
fn draw_from_source(rate: &Rate, hash: u64, now: u64) -> Draw {
    let (line, tag) = place(hash);
    let Some(line) = LIMIT_CELLS.get_ptr_mut(line) else {
        return Draw::Admitted;
    };
    let cell = |way| line.cast::<u64>().wrapping_add(below::<WAYS>(way));
    draw(
        rate,
        tag,
        now,
        // SAFETY: in bounds of the line.
        |way| unsafe { cell(way).read_volatile() },
        |way, addition| add(cell(way), addition),
        // SAFETY: in bounds of the line.
        |way, word| unsafe { cell(way).write_volatile(word) },
    )
}

/// Adds to a word of a map atomically.
#[inline(always)]
fn add(word: *mut u64, addition: u64) {
    // The target has no atomic types: those need the exchanges of Linux 5.12.
    // SAFETY: a word of a map, aligned; other CPUs access it atomically too.
    unsafe {
        asm!(
            "lock *(u64 *)({word} + 0) += {addition}",
            word = in(reg) word,
            addition = in(reg) addition,
            options(nostack),
        );
    }
}

/// What becomes of a packet over a limit: [`ADMITTED`], [`DROPPED`] or [`FIRST_SYN`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn limit_excess(who: u32, high: u64, low: u64, ports: u32) -> u32 {
    let who = Who(who);
    let Some(limit) = who.limit() else {
        return ADMITTED;
    };
    if limit.exempt != 0 && lists_of(&[high, low], who.family()) & limit.exempt != 0 {
        who.count(|counters| counters.exempted += 1);
        return ADMITTED;
    }
    who.count(|counters| {
        let counter = match (who.has(Who::OF_VIP), who.kind()) {
            (false, Kind::Flows) => &mut counters.source_flows,
            (false, Kind::Packets) => &mut counters.source_packets,
            (true, Kind::Flows) => &mut counters.vip_flows,
            (true, Kind::Packets) => &mut counters.vip_packets,
        };
        *counter += 1;
    });
    let (source, block) = limit.source(&[high, low], who.family(), ports as u16);
    record(LimitedKey {
        source,
        vip: who.vip(),
        block,
        kind: who.kind() as u8,
        family: who.family(),
        of_vip: who.has(Who::OF_VIP).into(),
        _pad: [0; 9],
    });
    let excess = if who.has(Who::OF_VIP) {
        limit.vip_excess
    } else {
        limit.source_excess
    };
    let is_new = who.kind() == Kind::Flows && who.has(Who::SYN);
    if excess == excess::COUNT {
        ADMITTED
    } else if excess == excess::SECOND_SYN && is_new {
        let vip = tables::vip(who.vip());
        let hash = ports_hash(vip, who.family(), &[high, low], ports.into());
        let now_ns = clock::now_ns();
        if first_syns::was_seen(hash, now_ns) {
            who.count(|counters| counters.second_syns += 1);
            ADMITTED
        } else {
            first_syns::note(hash, now_ns);
            who.count(|counters| counters.first_syns += 1);
            FIRST_SYN
        }
    } else {
        DROPPED
    }
}

/// Counts a packet over a limit for its source, as often as this CPU may in this second.
#[inline(always)]
fn record(key: LimitedKey) {
    if !budget::take(&LIMITED_BUDGET, clock::now_s(), MAX_RECORDED_PER_S) {
        return;
    }
    if let Some(count) = LIMITED.get_ptr_mut(&key) {
        // SAFETY: the entry was just found. Two CPUs may lose a count.
        unsafe { *count += 1 };
        return;
    }
    // A failed insert only loses a count.
    let _lost = LIMITED.insert(&key, &1, 0);
}

/// The lists with a prefix that contains the address, a bit for each.
#[inline(always)]
fn lists_of(address: &Address, family: u8) -> u64 {
    let key = Key::new(LIST_KEY_BITS, list_key(address, family));
    PREFIXES.get(&key).copied().unwrap_or(0)
}

/// Whether a denied prefix touches the area of the address.
#[inline(always)]
fn is_in_denied_area(address: &Address, family: u8) -> bool {
    let area = area_of(address, family);
    DENIED_AREAS
        .get(area / u64::BITS)
        .is_some_and(|bits| bits >> (area % u64::BITS) & 1 != 0)
}

//! Exceptions: the flows that other nodes have to know, because a miss would answer otherwise.
//!
//! Only confirmed cells that are not redundant are shared: a flood of SYNs makes none, and flows that the
//! ring alone keeps on their member have none. A cell of another node is written like one of a flow that
//! needs its cell, but takes the place of no confirmed flow, and changes no flow whose own packets this
//! node has seen.

use std::sync::atomic::{AtomicU64, Ordering};

use lb_common::{
    ring::MemberIndex,
    track::{Cell, FREE, Newcomer, Place, REPLACE_IDLE_S, REPLACE_UNCONFIRMED_S, WAYS, idle_s},
};

use super::Tracking;

/// A known flow is told again when it was seen this much later: other nodes keep its cell meanwhile.
const RENEW_S: u16 = 16;

/// Mark of a known word that another node told. An exception is never unproven, so its bit is free.
const TOLD: u64 = 1 << 28;

/// Bits of a word that say when the flow was last seen.
const SEEN: u64 = 0xffff;

/// A flow that only its cell keeps on its member. Its bucket and tag are the same on all nodes with the same
/// hash seed and size of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Index of the bucket in bits 0–27, and of the cell in it in bits 28–31.
    pub at: u32,
    /// Tag of the cell.
    pub tag: u32,
    /// Index of the member, of the node that told.
    pub member: MemberIndex,
    /// Whether the client has closed the flow.
    pub closed: bool,
    /// Seconds since it was last seen.
    pub idle_s: u16,
    /// Whether it is none any more: its cell was freed, or the ring says the same.
    pub ended: bool,
}

/// What happened to a cell that another node told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The flow has a cell now.
    Written,
    /// It had one for this member, which may have been renewed.
    Known,
    /// Its own packets say otherwise.
    Kept,
    /// Its bucket has only cells that others need.
    NoRoom,
}

/// The tracking table, with what other nodes have been told of it.
#[derive(Debug)]
pub struct Exceptions {
    tracking: Tracking,
    /// Each word as it was told, or as another node told it; [`FREE`] for all that are no exceptions.
    known: Vec<u64>,
}

/// Whether other nodes have to know a flow.
const fn is_exception(word: u64) -> bool {
    let cell = Cell::unpack(word);
    word != FREE && cell.confirmed && !cell.redundant && !cell.unproven
}

impl Exceptions {
    /// Nothing has been told yet. Whether packets of the flows that are there came to this node is not known.
    #[must_use]
    pub fn new(tracking: Tracking) -> Self {
        let words = tracking.table.words().iter();
        let words = words.map(|word| word.load(Ordering::Relaxed));
        let known = words.map(|word| {
            if is_exception(word) {
                word | TOLD
            } else {
                FREE
            }
        });
        let known = known.collect();
        Self { tracking, known }
    }

    /// Number of buckets: the same on nodes that can share exceptions.
    #[must_use]
    pub fn buckets(&self) -> u32 {
        self.tracking.table.len()
    }

    fn words(&self) -> &[AtomicU64] {
        self.tracking.table.words()
    }

    /// All exceptions.
    pub fn all(&self, now_s: u64) -> impl Iterator<Item = Exception> + '_ {
        let words = self.words().iter().enumerate();
        let words = words.map(|(at, word)| (at, word.load(Ordering::Relaxed)));
        let exceptions = words.filter(|(_, word)| is_exception(*word));
        exceptions.map(move |(at, word)| exception(at, word, now_s as u16))
    }

    /// The exceptions that changed since the last call.
    pub fn changed(&mut self, now_s: u64) -> Vec<Exception> {
        let now_s = now_s as u16;
        let mut changed = Vec::new();
        let words = self.tracking.table.words();
        for (at, (word, known)) in words.iter().zip(&mut self.known).enumerate() {
            let word = word.load(Ordering::Relaxed);
            let told = *known & !TOLD;
            if word == told {
                continue;
            }
            let is_own = *known & TOLD == 0;
            if !is_exception(word) {
                // One that lost its cell to another flow may be known elsewhere.
                let has_ended = word == FREE || (word ^ told) >> 32 == 0;
                if is_own && told != FREE && has_ended {
                    changed.push(Exception {
                        ended: true,
                        ..exception(at, told, now_s)
                    });
                }
                *known = FREE;
                continue;
            }
            let is_same = (word ^ told) & !SEEN == 0;
            let later_s = (word as u16).wrapping_sub(told as u16);
            if is_same && is_own && later_s < RENEW_S {
                continue;
            }
            *known = word;
            changed.push(exception(at, word, now_s));
        }
        changed
    }

    /// Takes a flow of another node over. `member`: its member on this node. `vip`: the member's VIP;
    /// `vip_of`: that of each member.
    pub fn take_over(
        &mut self,
        told: &Exception,
        (member, vip): (MemberIndex, u16),
        now_s: u64,
        vip_of: impl Fn(MemberIndex) -> u16,
    ) -> Told {
        let now_s = now_s as u16;
        let start = (told.at & (self.tracking.table.len() - 1)) as usize * WAYS;
        let Some(bucket) = self.read_bucket(start) else {
            return Told::NoRoom;
        };
        let found = bucket
            .iter()
            .position(|&word| word != FREE && (word >> 32) as u32 == told.tag);
        let was_told = |way: usize| self.known[start + way] == bucket[way] | TOLD;
        if told.ended {
            if let Some(way) = found.filter(|way| was_told(*way)) {
                self.exchange(start + way, bucket[way], FREE);
            }
            return Told::Known;
        }
        let new = Cell {
            tag: told.tag,
            member,
            confirmed: true,
            closed: told.closed,
            redundant: false,
            unproven: false,
            seen_s: now_s.wrapping_sub(told.idle_s),
        };
        let decided = match found {
            Some(way) => {
                let present = Cell::unpack(bucket[way]);
                let renewal = renewal(told, member, present, was_told(way), now_s);
                renewal.map(|outcome| (way, outcome))
            }
            None => {
                let newcomer = Newcomer {
                    place: Place {
                        bucket: told.at,
                        tag: told.tag,
                    },
                    vip,
                    redundant: false,
                    now_s,
                };
                let way = way_of_newcomer(&newcomer, &bucket, vip_of);
                way.map(|way| (way, Told::Written)).ok_or(Told::NoRoom)
            }
        };
        let (way, outcome) = match decided {
            Ok(decided) => decided,
            Err(outcome) => return outcome,
        };
        match self.exchange(start + way, bucket[way], new.pack()) {
            true => outcome,
            // The flow, or another one, was seen just now.
            false => Told::Kept,
        }
    }

    /// Reads a bucket once, and all is decided on that: a cell that changes meanwhile is not written.
    fn read_bucket(&self, start: usize) -> Option<[u64; WAYS]> {
        let ways = self.words().get(start..start + WAYS)?;
        Some(std::array::from_fn(|way| ways[way].load(Ordering::Relaxed)))
    }

    /// Replaces a word as another node told, unless it has changed.
    fn exchange(&mut self, at: usize, seen: u64, new: u64) -> bool {
        let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
        let word = &self.tracking.table.words()[at];
        let is_exchanged = word.compare_exchange(seen, new, success, failure).is_ok();
        if is_exchanged {
            self.known[at] = if new == FREE { FREE } else { new | TOLD };
        }
        is_exchanged
    }
}

/// What it means to write a told cell over the present one of the flow, or why it is not written.
fn renewal(
    told: &Exception,
    member: MemberIndex,
    present: Cell,
    was_told: bool,
    now_s: u16,
) -> Result<Told, Told> {
    let own_idle_s = idle_s(present.seen_s, now_s);
    // A flow may be closed and opened again within a second.
    let is_newer = told.idle_s < own_idle_s || was_told && told.idle_s == own_idle_s;
    let is_same = present.member == member && present.confirmed;
    match (is_same, is_newer) {
        (true, true) => Ok(Told::Known),
        (true, false) => Err(Told::Known),
        (false, true) if was_told || is_abandoned(present, own_idle_s) => Ok(Told::Written),
        (false, _) => Err(Told::Kept),
    }
}

/// The cell for a flow that has none, if no confirmed flow needs it.
fn way_of_newcomer(
    newcomer: &Newcomer,
    bucket: &[u64; WAYS],
    vip_of: impl Fn(MemberIndex) -> u16,
) -> Option<usize> {
    let may_take = |way: &usize| {
        let cell = Cell::unpack(bucket[*way]);
        bucket[*way] == FREE || cell.redundant || !cell.confirmed
    };
    newcomer.way(|way| bucket[way], vip_of).filter(may_take)
}

/// Whether nothing is known of a flow but a first packet some time ago, or its end.
const fn is_abandoned(cell: Cell, idle_s: u16) -> bool {
    if cell.confirmed {
        cell.closed && idle_s >= REPLACE_IDLE_S
    } else {
        idle_s >= REPLACE_UNCONFIRMED_S
    }
}

fn exception(at: usize, word: u64, now_s: u16) -> Exception {
    let cell = Cell::unpack(word);
    Exception {
        at: (at / WAYS) as u32 | ((at % WAYS) as u32) << 28,
        tag: cell.tag,
        member: cell.member,
        closed: cell.closed,
        idle_s: idle_s(cell.seen_s, now_s),
        ended: false,
    }
}

#[cfg(test)]
mod tests;

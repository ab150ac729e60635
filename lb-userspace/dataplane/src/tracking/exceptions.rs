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
}

/// What became of a cell of another node.
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
    /// Nothing has been told yet.
    #[must_use]
    pub fn new(tracking: Tracking) -> Self {
        let known = vec![FREE; tracking.capacity()];
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
            if !is_exception(word) {
                *known = FREE;
                continue;
            }
            let is_own = *known & TOLD == 0;
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
        let place = Place {
            bucket: told.at,
            tag: told.tag,
        };
        let start = (told.at & (self.tracking.table.len() - 1)) as usize * WAYS;
        let Some(ways) = self.tracking.table.words().get(start..start + WAYS) else {
            return Told::NoRoom;
        };
        let load = |way: usize| ways[way].load(Ordering::Relaxed);
        let new = Cell {
            tag: told.tag,
            member,
            confirmed: true,
            closed: told.closed,
            redundant: false,
            unproven: false,
            seen_s: now_s.wrapping_sub(told.idle_s),
        }
        .pack();
        let has_tag = |way: &usize| load(*way) != FREE && (load(*way) >> 32) as u32 == told.tag;
        let (way, outcome) = match (0..WAYS).find(has_tag) {
            Some(way) => {
                let cell = Cell::unpack(load(way));
                let own_idle_s = idle_s(cell.seen_s, now_s);
                let was_told = self.known[start + way] == load(way) | TOLD;
                let is_newer = told.idle_s < own_idle_s;
                if cell.member == member && cell.confirmed {
                    if !is_newer {
                        return Told::Known;
                    }
                    (way, Told::Known)
                } else if is_newer && (was_told || is_abandoned(cell, own_idle_s)) {
                    (way, Told::Written)
                } else {
                    return Told::Kept;
                }
            }
            None => {
                let newcomer = Newcomer {
                    place,
                    vip,
                    redundant: false,
                    now_s,
                };
                let way = newcomer.way(load, vip_of);
                let may_take = |way: &usize| {
                    let cell = Cell::unpack(load(*way));
                    load(*way) == FREE || cell.redundant || !cell.confirmed
                };
                match way.filter(may_take) {
                    Some(way) => (way, Told::Written),
                    None => return Told::NoRoom,
                }
            }
        };
        let seen = load(way);
        let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
        match ways[way].compare_exchange(seen, new, success, failure) {
            Ok(_) => {
                self.known[start + way] = new | TOLD;
                outcome
            }
            // The flow, or another one, was seen just now.
            Err(_) => Told::Kept,
        }
    }
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
    }
}

#[cfg(test)]
mod tests {
    use lb_common::track::Bucket;

    use super::*;
    use crate::mapping::Mapped;

    const NOW_S: u64 = 70_000;

    fn table() -> Exceptions {
        Exceptions::new(Tracking::new(
            Mapped::<Bucket>::anonymous("TRACK", 4).unwrap(),
        ))
    }

    fn cell(tag: u32, member: MemberIndex) -> Cell {
        Cell {
            tag,
            member,
            confirmed: true,
            closed: false,
            redundant: false,
            unproven: false,
            seen_s: NOW_S as u16,
        }
    }

    fn put(table: &Exceptions, at: usize, cell: Cell) {
        table.words()[at].store(cell.pack(), Ordering::Relaxed);
    }

    fn at(table: &Exceptions, at: usize) -> Cell {
        Cell::unpack(table.words()[at].load(Ordering::Relaxed))
    }

    fn take(table: &mut Exceptions, told: &Exception, member: MemberIndex) -> Told {
        table.take_over(told, (member, 0), NOW_S, |_| 0)
    }

    #[test]
    fn tells_what_a_miss_would_not_answer_once() {
        let mut table = table();
        put(&table, 17, cell(1, 3));
        let unconfirmed = Cell {
            confirmed: false,
            ..cell(2, 3)
        };
        let redundant = Cell {
            redundant: true,
            ..cell(3, 3)
        };
        let unproven = Cell {
            unproven: true,
            ..cell(4, 3)
        };
        for (way, other) in [unconfirmed, redundant, unproven].into_iter().enumerate() {
            put(&table, way, other);
        }
        let told = table.changed(NOW_S + 2);
        let expected = Exception {
            at: 1 | 1 << 28,
            tag: 1,
            member: 3,
            closed: false,
            idle_s: 2,
        };
        assert_eq!(told, [expected]);
        assert_eq!(table.all(NOW_S + 2).collect::<Vec<_>>(), told);
        assert_eq!(table.changed(NOW_S + 2), []);
        // Seen again: told again only after a while, or if something else changed.
        for (later_s, count) in [(15, 0), (16, 1)] {
            let seen_s = (NOW_S + later_s) as u16;
            put(
                &table,
                17,
                Cell {
                    seen_s,
                    ..cell(1, 3)
                },
            );
            assert_eq!(table.changed(NOW_S + later_s).len(), count, "{later_s} s");
        }
        let closed = Cell {
            closed: true,
            seen_s: (NOW_S + 16) as u16,
            ..cell(1, 3)
        };
        put(&table, 17, closed);
        assert!(table.changed(NOW_S + 16)[0].closed);
        // Freed, and the same flow again.
        table.words()[17].store(FREE, Ordering::Relaxed);
        assert_eq!(table.changed(NOW_S + 16), []);
        put(&table, 17, closed);
        assert_eq!(table.changed(NOW_S + 16).len(), 1);
    }

    #[test]
    fn a_flow_that_was_told_is_not_told_on() {
        let (mut one, mut two) = (table(), table());
        put(&one, 20, cell(9, 3));
        let told = one.changed(NOW_S);
        assert_eq!(take(&mut two, &told[0], 5), Told::Written);
        assert_eq!(
            at(&two, 20),
            cell(9, 5),
            "the same place, the index of this node"
        );
        assert_eq!(two.changed(NOW_S), []);
        assert_eq!(take(&mut two, &told[0], 5), Told::Known);
        assert_eq!(
            two.all(NOW_S).count(),
            1,
            "a node that asks is told all the same"
        );
        // Its packets come here now.
        put(
            &two,
            20,
            Cell {
                seen_s: (NOW_S + 1) as u16,
                ..cell(9, 5)
            },
        );
        assert_eq!(two.changed(NOW_S + 1).len(), 1);
    }

    #[test]
    fn own_packets_count_more_than_another_node() {
        let other = Exception {
            at: 2,
            tag: 7,
            member: 1,
            closed: false,
            idle_s: 0,
        };
        let old = |seconds: u64, cell: Cell| Cell {
            seen_s: (NOW_S - seconds) as u16,
            ..cell
        };
        let unconfirmed = Cell {
            confirmed: false,
            ..cell(7, 4)
        };
        let closed = Cell {
            closed: true,
            ..cell(7, 4)
        };
        for (own, outcome) in [
            (old(3000, cell(7, 4)), Told::Kept),
            (old(2, unconfirmed), Told::Kept),
            (old(3, unconfirmed), Told::Written),
            (old(59, closed), Told::Kept),
            (old(60, closed), Told::Written),
            (old(5, cell(7, 6)), Told::Known),
        ] {
            let mut table = table();
            put(&table, 2 * WAYS + 1, own);
            assert_eq!(take(&mut table, &other, 6), outcome, "{own:?}");
            let kept = at(&table, 2 * WAYS + 1);
            assert_eq!(kept == own, outcome == Told::Kept, "{own:?}");
        }
        // What was only told before is replaced by what is newer.
        let mut table = table();
        let earlier = Exception { idle_s: 9, ..other };
        assert_eq!(take(&mut table, &earlier, 4), Told::Written);
        assert_eq!(take(&mut table, &other, 6), Told::Written);
        assert_eq!(take(&mut table, &earlier, 4), Told::Kept);
        assert_eq!(at(&table, 2 * WAYS), cell(7, 6));
    }

    #[test]
    fn a_full_bucket_keeps_the_flows_that_need_it() {
        let mut table = table();
        let idle = Cell {
            seen_s: (NOW_S - 3000) as u16,
            ..cell(0, 1)
        };
        for way in 0..WAYS {
            put(
                &table,
                way,
                Cell {
                    tag: way as u32 + 1,
                    ..idle
                },
            );
        }
        let told = Exception {
            at: 0,
            tag: 99,
            member: 1,
            closed: false,
            idle_s: 0,
        };
        assert_eq!(take(&mut table, &told, 1), Told::NoRoom);
        let redundant = Cell {
            redundant: true,
            ..cell(5, 1)
        };
        put(&table, 4, redundant);
        assert_eq!(take(&mut table, &told, 1), Told::Written);
        assert_eq!(at(&table, 4), cell(99, 1));
    }
}

//! The tracking table: counting flows and freeing the cells of ended ones.
//!
//! The data path writes cells at any time. A cell is freed by compare-and-exchange: one that was
//! refreshed meanwhile stays.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering},
};

use lb_common::{
    ring::{MAX_MEMBERS, MemberIndex},
    track::{self, Bucket, Cell, FREE, Newcomer, Place, REPLACE_IDLE_S, WAYS},
};

use super::mapping::Mapped;

mod exceptions;

pub use exceptions::{Exception, Exceptions, Told};

#[derive(Debug)]
pub struct Tracking {
    table: Mapped<Bucket>,
}

impl Tracking {
    #[must_use]
    pub fn new(table: Mapped<Bucket>) -> Self {
        Self { table }
    }

    /// Number of flows that fit in the table.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.table.words().len()
    }

    /// The cell of the flow with this 5-tuple hash.
    #[must_use]
    pub fn find(&self, flow_hash: u64) -> Option<Cell> {
        let place = Place::of(flow_hash);
        let words = self.bucket(place)?.iter();
        words
            .map(|word| word.load(Ordering::Relaxed))
            .filter(|&word| word != FREE)
            .map(Cell::unpack)
            .find(|cell| cell.tag == place.tag)
    }

    /// Whether a flow without a cell would get one, given the VIP of each member.
    pub fn has_room(&self, newcomer: Newcomer, vip_of: impl Fn(MemberIndex) -> u16) -> bool {
        self.bucket(newcomer.place).is_some_and(|ways| {
            let load = |way: usize| ways[way].load(Ordering::Relaxed);
            newcomer.way(load, vip_of).is_some()
        })
    }

    /// Whether a spilled flow would get a cell.
    #[must_use]
    pub fn has_spare(&self, place: Place, now_s: u16) -> bool {
        let ways = self.bucket(place).unwrap_or_default();
        let is_spare = |word: &AtomicU64| track::is_spare(word.load(Ordering::Relaxed), now_s);
        ways.iter().any(is_spare)
    }

    fn bucket(&self, place: Place) -> Option<&[AtomicU64]> {
        // The length is a power of two: the data path's mask is derived from it.
        let start = (place.bucket & (self.table.len() - 1)) as usize * WAYS;
        self.table.words().get(start..start + WAYS)
    }

    /// All flows in the table.
    pub fn cells(&self) -> impl Iterator<Item = Cell> + '_ {
        let words = self
            .table
            .words()
            .iter()
            .map(|word| word.load(Ordering::Relaxed));
        words.filter(|&word| word != FREE).map(Cell::unpack)
    }

    /// Number of flows in the table.
    #[must_use]
    pub fn count(&self) -> usize {
        self.cells().count()
    }

    /// Number of flows of each member, by its index.
    #[must_use]
    pub fn count_by_member(&self) -> Vec<u32> {
        let mut counts = vec![0; MAX_MEMBERS as usize];
        for cell in self.cells() {
            if let Some(count) = counts.get_mut(usize::from(cell.member)) {
                *count += 1;
            }
        }
        counts
    }

    /// Frees the cells of flows that were idle for at least `idle_s`, and of SYNs that nothing has
    /// continued for [`REPLACE_IDLE_S`]: a flood leaves many. Returns how many. `now_s` is from
    /// [`super::Clock::now_s`]. Must be called at least every nine hours.
    pub fn expire(&self, now_s: u64, idle_s: u16) -> usize {
        self.free_where(|cell| {
            let limit_s = if cell.unproven && !cell.confirmed {
                idle_s.min(REPLACE_IDLE_S)
            } else {
                idle_s
            };
            track::idle_s(cell.seen_s, now_s as u16) >= limit_s
        })
    }

    /// Frees all cells of some members; returns how many.
    pub fn purge_members(&self, members: &BTreeSet<MemberIndex>) -> usize {
        self.free_where(|cell| members.contains(&cell.member))
    }

    fn free_where(&self, ended: impl Fn(Cell) -> bool) -> usize {
        let mut freed = 0;
        for word in self.table.words() {
            let seen = word.load(Ordering::Relaxed);
            if seen != FREE && ended(Cell::unpack(seen)) {
                let exchanged =
                    word.compare_exchange(seen, FREE, Ordering::Relaxed, Ordering::Relaxed);
                freed += usize::from(exchanged.is_ok());
            }
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(cells: &[Cell]) -> Tracking {
        let table = Mapped::<Bucket>::anonymous("TRACK", 16).unwrap();
        for (word, cell) in table.words().iter().step_by(3).zip(cells) {
            word.store(cell.pack(), Ordering::Relaxed);
        }
        Tracking::new(table)
    }

    fn cell(member: MemberIndex, seen_s: u16) -> Cell {
        Cell {
            tag: 7,
            member,
            confirmed: true,
            closed: false,
            redundant: false,
            unproven: false,
            seen_s,
        }
    }

    #[test]
    fn expires_idle_flows_across_a_clock_wrap() {
        let tracking = table(&[cell(1, 65_530), cell(2, 5), cell(3, 9), cell(4, 11)]);
        // Ten seconds after the wrap: idle for 16, 5, 1 and −1 seconds.
        assert_eq!(tracking.expire(65_536 + 10, 100), 0);
        assert_eq!(tracking.expire(65_536 + 10, 5), 2);
        let left: Vec<_> = tracking.cells().map(|cell| cell.member).collect();
        assert_eq!(left, [3, 4], "a cell stamped one second ahead is fresh");
    }

    #[test]
    fn expires_syns_that_nothing_continued() {
        let syn = Cell {
            confirmed: false,
            unproven: true,
            ..cell(1, 100)
        };
        let reopened = Cell {
            unproven: true,
            closed: true,
            ..cell(2, 100)
        };
        let tracking = table(&[syn, reopened, cell(3, 100)]);
        assert_eq!(tracking.expire(100 + 59, 3600), 0);
        assert_eq!(tracking.expire(100 + 60, 3600), 1);
        let left: Vec<_> = tracking.cells().map(|cell| cell.member).collect();
        assert_eq!(left, [2, 3], "a connection may still be open");
    }

    #[test]
    fn counts_and_purges_flows_by_member() {
        let tracking = table(&[cell(1, 1), cell(2, 1), cell(1, 2), cell(4095, 3)]);
        let counts = tracking.count_by_member();
        assert_eq!(
            (counts[1], counts[2], counts[4095], counts[0]),
            (2, 1, 1, 0)
        );
        assert_eq!(tracking.purge_members(&BTreeSet::from([1])), 2);
        assert_eq!(tracking.count(), 2);
        assert_eq!(tracking.purge_members(&BTreeSet::from([2, 3])), 1);
        assert_eq!(tracking.count(), 1);
    }
}

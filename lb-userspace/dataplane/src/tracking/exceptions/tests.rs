//! Tests of which cells are told to other nodes, and which of theirs are written.

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
        ended: false,
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
    let ended = table.changed(NOW_S + 16);
    assert!(ended[0].ended && (ended[0].tag, ended.len()) == (1, 1));
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
    let ended = Exception {
        ended: true,
        ..told[0]
    };
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
    // It has ended elsewhere, and not here.
    take(&mut two, &ended, 5);
    assert_eq!(at(&two, 20).member, 5);
    let mut three = table();
    take(&mut three, &told[0], 6);
    take(&mut three, &ended, 6);
    assert_eq!(
        (three.tracking.count(), three.changed(NOW_S)),
        (0, Vec::new())
    );
}

#[test]
fn what_follows_within_a_second_is_taken_over() {
    let mut table = table();
    let told = |member, closed| Exception {
        at: 0,
        tag: 7,
        member,
        closed,
        idle_s: 0,
        ended: false,
    };
    assert_eq!(take(&mut table, &told(1, false), 1), Told::Written);
    assert_eq!(take(&mut table, &told(1, true), 1), Told::Known);
    assert!(at(&table, 0).closed);
    assert_eq!(take(&mut table, &told(2, false), 2), Told::Written);
    assert_eq!(at(&table, 0), cell(7, 2));
}

#[test]
fn a_controller_that_starts_knows_no_flow_better() {
    let adopted = table();
    put(&adopted, 3, cell(7, 1));
    let mut adopted = Exceptions::new(adopted.tracking);
    assert_eq!(adopted.changed(NOW_S), []);
    assert_eq!(adopted.all(NOW_S).count(), 1);
    let newer = Exception {
        at: 0,
        tag: 7,
        member: 1,
        closed: false,
        idle_s: 0,
        ended: false,
    };
    assert_eq!(take(&mut adopted, &newer, 2), Told::Written);
}

#[test]
fn own_packets_count_more_than_another_node() {
    let other = Exception {
        at: 2,
        tag: 7,
        member: 1,
        closed: false,
        idle_s: 0,
        ended: false,
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
        ended: false,
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

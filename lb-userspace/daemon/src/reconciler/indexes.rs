//! Allocation of indexes for VIPs, members and NAT sources.
//!
//! Indexes are used round-robin: one that was just freed is reused last, when nothing refers to it any
//! more (a fragment of the past minute, for example).

/// The first free index after `last`, wrapping around at `limit`.
pub(super) fn next_free(last: Option<u16>, limit: u32, taken: impl Fn(u16) -> bool) -> Option<u16> {
    let limit = limit.min(u32::from(u16::MAX)) as u16;
    let start = last.map_or(0, |last| last.saturating_add(1));
    (start..limit)
        .chain(0..start.min(limit))
        .find(|&index| !taken(index))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reuses_a_freed_index_last() {
        let taken = BTreeSet::from([0, 1]);
        assert_eq!(next_free(Some(2), 4, |i| taken.contains(&i)), Some(3));
        assert_eq!(next_free(Some(3), 4, |i| taken.contains(&i)), Some(2));
        assert_eq!(next_free(Some(3), 2, |i| taken.contains(&i)), None);
        assert_eq!(next_free(None, 4, |_| false), Some(0));
    }

    proptest! {
        #[test]
        fn allocates_only_free_indexes(
            taken in prop::collection::btree_set(0u16..20, 0..20),
            last in prop::option::of(0u16..20),
        ) {
            let given = next_free(last, 20, |i| taken.contains(&i));
            prop_assert_eq!(given.is_none(), taken.len() == 20);
            prop_assert!(given.is_none_or(|i| i < 20 && !taken.contains(&i)));
        }
    }
}

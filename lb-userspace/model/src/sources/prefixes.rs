//! Which prefixes of a list contain a source.

use crate::config::Prefix;

/// A sorted list of prefixes, to be searched.
#[derive(Clone, Debug)]
pub struct Prefixes<'a> {
    sorted: &'a [Prefix],
    /// The lengths that occur.
    lengths: Vec<u8>,
}

impl<'a> Prefixes<'a> {
    /// Takes prefixes as the configuration has them: sorted.
    #[must_use]
    pub fn new(sorted: &'a [Prefix]) -> Self {
        let mut occurs = [false; 129];
        for prefix in sorted {
            occurs[usize::from(prefix.length())] = true;
        }
        let lengths = (0..=128).filter(|length| occurs[usize::from(*length)]);
        Self {
            sorted,
            lengths: lengths.collect(),
        }
    }

    /// The shortest prefix that contains the whole of another one.
    #[must_use]
    pub fn containing(&self, inner: &Prefix) -> Option<Prefix> {
        let lengths = self.lengths.iter();
        let mut wider = lengths.take_while(|length| **length <= inner.length());
        wider.find_map(|length| {
            let prefix = Prefix::containing(inner.address(), *length);
            self.sorted.binary_search(&prefix).ok()?;
            Some(prefix)
        })
    }

    /// Whether a prefix of the list has an address in common with another one.
    #[must_use]
    pub fn overlaps(&self, other: &Prefix) -> bool {
        let first = self.sorted.partition_point(|prefix| prefix < other);
        let inside = self
            .sorted
            .get(first)
            .is_some_and(|prefix| Prefix::containing(prefix.address(), other.length()) == *other);
        inside || self.containing(other).is_some()
    }
}

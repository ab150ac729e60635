//! The short window: observed and expected flows of each member over the last observations.

/// Counts of one observation, or their sum over several.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WindowCounts {
    /// New flows.
    pub(super) observed: f64,
    /// Upper bound of the expected flows.
    pub(super) expected_max: f64,
    /// Lower bound of the expected flows.
    pub(super) expected_min: f64,
}

#[derive(Clone, Debug)]
pub(super) struct ShortWindow {
    length: usize,
    /// Indexed by observation, then member.
    cells: Vec<WindowCounts>,
    sums: Vec<WindowCounts>,
    next: usize,
}

impl ShortWindow {
    pub(super) fn new(length: usize, members: usize) -> Self {
        Self {
            length,
            cells: vec![WindowCounts::default(); length * members],
            sums: vec![WindowCounts::default(); members],
            next: 0,
        }
    }

    /// Starts the next observation; [`Self::set`] must be called for every member.
    pub(super) fn advance(&mut self) {
        self.next = (self.next + 1) % self.length;
    }

    pub(super) fn set(&mut self, member: usize, counted: WindowCounts) {
        let cell = &mut self.cells[self.next * self.sums.len() + member];
        let sum = &mut self.sums[member];
        // Rounding of floating-point sums must not make them negative.
        sum.observed = (sum.observed + counted.observed - cell.observed).max(0.0);
        sum.expected_max = (sum.expected_max + counted.expected_max - cell.expected_max).max(0.0);
        sum.expected_min = (sum.expected_min + counted.expected_min - cell.expected_min).max(0.0);
        *cell = counted;
    }

    pub(super) fn sum(&self, member: usize) -> WindowCounts {
        self.sums[member]
    }

    /// The last argument of [`Self::set`].
    pub(super) fn latest(&self, member: usize) -> WindowCounts {
        self.cells[self.next * self.sums.len() + member]
    }

    /// The windows for a new list of members: `places` has the old index of each, if it had one.
    pub(super) fn rearranged(&self, places: &[Option<usize>]) -> Self {
        let mut new = Self::new(self.length, places.len());
        new.next = self.next;
        let had = self.sums.len();
        for (member, place) in places.iter().enumerate() {
            let Some(place) = *place else { continue };
            new.sums[member] = self.sums[place];
            for observation in 0..self.length {
                new.cells[observation * places.len() + member] =
                    self.cells[observation * had + place];
            }
        }
        new
    }
}

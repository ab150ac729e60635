//! The short window: what each member got, and should have got, in the last observations.

/// One observation, or the sum of some.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    /// New flows.
    pub(super) got: f64,
    /// What should have come, at most.
    pub(super) most: f64,
    /// What should have come, at least.
    pub(super) least: f64,
}

/// The short window of all members.
#[derive(Clone, Debug)]
pub(super) struct Recent {
    length: usize,
    /// Observation by observation, all members of one together.
    cells: Vec<Counted>,
    sums: Vec<Counted>,
    next: usize,
}

impl Recent {
    pub(super) fn new(length: usize, members: usize) -> Self {
        Self {
            length,
            cells: vec![Counted::default(); length * members],
            sums: vec![Counted::default(); members],
            next: 0,
        }
    }

    /// Goes on to the next observation; [`Self::set`] must follow for every member.
    pub(super) fn advance(&mut self) {
        self.next = (self.next + 1) % self.length;
    }

    pub(super) fn set(&mut self, member: usize, counted: Counted) {
        let cell = &mut self.cells[self.next * self.sums.len() + member];
        let sum = &mut self.sums[member];
        // Shares are no whole numbers: a sum must not go below zero by rounding.
        sum.got = (sum.got + counted.got - cell.got).max(0.0);
        sum.most = (sum.most + counted.most - cell.most).max(0.0);
        sum.least = (sum.least + counted.least - cell.least).max(0.0);
        *cell = counted;
    }

    pub(super) fn sum(&self, member: usize) -> Counted {
        self.sums[member]
    }

    /// What [`Self::set`] was told last.
    pub(super) fn latest(&self, member: usize) -> Counted {
        self.cells[self.next * self.sums.len() + member]
    }

    /// The same windows for other members: for each, the place that it had, if it was there.
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

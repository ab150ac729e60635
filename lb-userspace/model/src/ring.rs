//! Builds the ring of a VIP, which maps slots to members.
//!
//! Three rules, in this order:
//!
//! 1. **Shares.** Every member's slots are within one of `ring_size × weight / total weight`
//!    (quotas by largest remainder). A member whose share is below one slot may get none; the
//!    planner decides whether that is acceptable.
//! 2. **Reproducible.** The ring depends only on the members' addresses, ports and weights: not on
//!    their order, names or indexes, the machine, or the version. There is no floating point, and
//!    `tests/golden/ring.txt` would show any change.
//! 3. **Little movement.** When a member is added, removed or reweighted, few slots move beyond
//!    those that the new quotas require.
//!
//! # Algorithm
//!
//! As in Maglev (Eisenbud et al., NSDI 2016), each member walks a permutation of the slots, given
//! by an offset and a step that are hashes of its identity, and takes free slots. The order of turns
//! differs. In Maglev members take turns, and a member on its turn walks on until it finds a free
//! slot: when one leaves, every later turn shifts a little, and slots move between unrelated
//! members. Here each member walks **by a clock of its own** that no other member influences: it
//! passes its r-th slot at the time `H(r) / weight`, where `H(r)` is the expected r-th smallest of
//! `ring_size` exponential variables, `1/n + 1/(n-1) + …`. The first to pass a slot is then the
//! winner of weighted rendezvous hashing, which moves the minimum; the quotas correct the few slots
//! by which rendezvous hashing misses the shares.
//!
//! # Measurements
//!
//! Slots that move when one member leaves, or when one weight changes from 100 to 50, in percent of
//! 65,537 slots, beside the minimum that the quotas require (means of four sets of members):
//!
//! | members | change | minimum | turns by quota | turns by weight | clock `r / weight` | this |
//! | ---: | --- | ---: | ---: | ---: | ---: | ---: |
//! | 3 | 100 → 50 | 13.33 | 13.35 | 13.35 | 15.17 | 13.34 |
//! | 10 | leaves | 10.00 | 10.23 | 10.23 | 10.17 | 10.17 |
//! | 10 | 100 → 50 | 4.74 | 4.94 | 4.94 | 5.15 | 4.88 |
//! | 100 | leaves | 1.00 | 1.57 | 1.55 | 1.30 | 1.30 |
//! | 100 | 100 → 50 | 0.50 | 0.99 | 0.95 | 0.74 | 0.74 |
//! | 100, mixed weights | leaves | 0.84 | 1.35 | 1.40 | 1.10 | 1.08 |
//! | 1000 | leaves | 0.10 | 1.30 | 0.73 | 0.42 | 0.42 |
//!
//! "Turns" are two ways to order the turns of weighted Maglev. Adding a member is the reverse of
//! removing one. All take 3–5 ms for 1,000 members.

use std::{
    cmp::Reverse,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use lb_common::ring::{MAX_RING_SIZE, MemberIndex, NO_MEMBER};
use siphasher::sip128::SipHasher24;

/// The number of slots of a ring: a prime, so that any step visits all slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RingSize(u32);

impl RingSize {
    /// The smallest ring.
    pub const MIN: u32 = 251;
    /// The largest ring, and the default.
    pub const MAX: u32 = MAX_RING_SIZE;

    /// A ring size; `None` unless it is a prime from [`Self::MIN`] to [`Self::MAX`].
    #[must_use]
    pub fn new(slots: u32) -> Option<Self> {
        ((Self::MIN..=Self::MAX).contains(&slots) && is_prime(slots)).then_some(Self(slots))
    }

    /// The number of slots.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The nearest valid sizes: at most one below or equal, one above or equal.
    #[must_use]
    pub fn around(slots: i64) -> (Option<Self>, Option<Self>) {
        let (min, max) = (i64::from(Self::MIN), i64::from(Self::MAX));
        let valid = |slots: i64| u32::try_from(slots).ok().and_then(Self::new);
        let below = (min..=slots.clamp(min - 1, max)).rev().find_map(valid);
        let above = (slots.clamp(min, max + 1)..=max).find_map(valid);
        (below, above)
    }
}

impl Default for RingSize {
    fn default() -> Self {
        Self(Self::MAX)
    }
}

fn is_prime(n: u32) -> bool {
    n >= 2
        && (2..)
            .take_while(|d| d * d <= n)
            .all(|d| !n.is_multiple_of(d))
}

/// What identifies a member in the ring: address and port. Renaming or reordering backends moves no
/// slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// Address of the backend.
    pub address: IpAddr,
    /// Port of the backend; 0 when the packet's port is kept.
    pub port: u16,
}

/// Keys of the hash of identities. They are public and fixed, so that the ring is the same on all
/// nodes; the secret key of the flow hash keeps others from steering flows to a member.
const IDENTITY_KEYS: (u64, u64) = (0x6576_656e_6b65_656c, 0x7269_6e67_2076_3100);

impl Identity {
    /// Two independent hash words.
    fn hash(&self) -> (u64, u64) {
        let mut bytes = [0; 19];
        match self.address {
            IpAddr::V4(address) => {
                bytes[0] = 4;
                bytes[1..5].copy_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                bytes[0] = 6;
                bytes[1..17].copy_from_slice(&address.octets());
            }
        }
        bytes[17..].copy_from_slice(&self.port.to_be_bytes());
        let (k0, k1) = IDENTITY_KEYS;
        let hash = SipHasher24::new_with_keys(k0, k1).hash(&bytes);
        (hash.h1, hash.h2)
    }
}

/// A member to place in a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingMember {
    /// What its place in the ring depends on.
    pub identity: Identity,
    /// 0: no slots.
    pub weight: u32,
    /// The value of its slots.
    pub member: MemberIndex,
}

/// Builds a ring. If no member has a weight, all slots are [`NO_MEMBER`].
#[must_use]
pub fn build(members: &[RingMember], ring_size: RingSize) -> Vec<MemberIndex> {
    let (form, indexes) = Form::of(members, ring_size);
    filled_in(&form.build(), &indexes)
}

/// Everything that a ring depends on except the indexes of its members. VIPs with the same servers,
/// ports and weights share a form, which is built only once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Form {
    ring_size: RingSize,
    /// Members with a weight, sorted.
    members: Vec<(Identity, u32)>,
}

/// The ring of a built form, for members with these indexes.
#[must_use]
pub fn filled_in(places: &[Place], indexes: &[MemberIndex]) -> Vec<MemberIndex> {
    let index = |&place: &Place| indexes.get(usize::from(place));
    let slots = places.iter().map(index);
    slots.map(|index| *index.unwrap_or(&NO_MEMBER)).collect()
}

/// The position of a member in a form.
pub type Place = MemberIndex;

impl Form {
    /// The form of a ring, and the indexes of its members in the order of the form.
    #[must_use]
    pub fn of(members: &[RingMember], ring_size: RingSize) -> (Self, Vec<MemberIndex>) {
        let mut members: Vec<_> = members.iter().filter(|m| m.weight > 0).collect();
        members.sort_unstable_by_key(|m| (m.identity, m.weight, m.member));
        let indexes = members.iter().map(|m| m.member).collect();
        let members = members.iter().map(|m| (m.identity, m.weight)).collect();
        (Self { ring_size, members }, indexes)
    }

    /// The place of the member of each slot. Without members, all slots are [`NO_MEMBER`].
    #[must_use]
    pub fn build(&self) -> Vec<Place> {
        let ring_size = self.ring_size.get();
        if self.members.is_empty() {
            return vec![NO_MEMBER; ring_size as usize];
        }
        let weights: Vec<u32> = self.members.iter().map(|(_, weight)| *weight).collect();
        let hashes: Vec<(u64, u64)> = self.members.iter().map(|(who, _)| who.hash()).collect();
        let quotas = quotas(&weights, &hashes, ring_size);
        let each = (0..).zip(&weights).zip(&hashes).zip(quotas);
        let walkers = each
            .filter(|(_, quota)| *quota > 0)
            .map(|(((place, &weight), &hash), quota)| {
                Walker::new(place, weight, hash, quota, ring_size)
            })
            .collect();
        let total = weights.iter().map(|&weight| u64::from(weight)).sum();
        Walk::new(ring_size, total).fill(walkers)
    }
}

/// Largest remainder: each member gets the whole slots of its share, and the remaining slots go to
/// the largest fractions, equal ones in the order of their hashes.
fn quotas(weights: &[u32], hashes: &[(u64, u64)], ring_size: u32) -> Vec<u32> {
    let total: u64 = weights.iter().map(|&w| u64::from(w)).sum();
    let scaled = |i: usize| u64::from(weights[i]) * u64::from(ring_size);
    let mut quotas: Vec<u32> = (0..weights.len())
        .map(|i| (scaled(i) / total) as u32)
        .collect();
    let left = ring_size - quotas.iter().sum::<u32>();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|&i| (Reverse(scaled(i) % total), hashes[i]));
    for &i in order.iter().take(left as usize) {
        quotas[i] += 1;
    }
    quotas
}

/// Fixed-point scale of `H(r)`.
const CLOCK_BITS: u32 = 36;
/// Extra bits of times over `H(r)`, so that dividing by the weight loses nothing.
const TIME_BITS: u32 = 20;

/// Fixed-point scale of [`Walker::phase`]: two steps of the clock are 2^36 apart at most.
const PHASE_BITS: u32 = 24;

/// A member that walks through the slots.
struct Walker {
    place: Place,
    weight: u64,
    /// Remaining quota.
    left: u32,
    /// The next slot, and the step to the one after.
    slot: u32,
    step: u32,
    /// Slots passed.
    passed: u32,
    /// Offset between two steps of the clock, in units of 2^-24, so that members of equal weight don't
    /// walk in lockstep.
    phase: u64,
}

impl Walker {
    fn new(place: Place, weight: u32, hash: (u64, u64), quota: u32, ring_size: u32) -> Self {
        Self {
            place,
            weight: u64::from(weight),
            left: quota,
            slot: (u64::from(hash.0 as u32) % u64::from(ring_size)) as u32,
            step: (hash.1 % u64::from(ring_size - 1)) as u32 + 1,
            passed: 0,
            phase: hash.0 >> (64 - PHASE_BITS),
        }
    }

    /// Clock time (before dividing by the weight) at which it passes the next slot.
    fn clock(&self, clock: &[u64]) -> u64 {
        let (now, next) = (clock[self.passed as usize], clock[self.passed as usize + 1]);
        now + (((next - now) * self.phase) >> PHASE_BITS)
    }

    fn advance(&mut self, ring_size: u32) -> u32 {
        let slot = self.slot;
        self.slot += self.step;
        if self.slot >= ring_size {
            self.slot -= ring_size;
        }
        self.passed += 1;
        slot
    }
}

/// A walker passes a free slot: time, place of the walker in the order of identities (the tie-breaker),
/// slot.
type Passing = (u64, u32, u32);

/// The first passing of each slot in an interval.
struct Firsts {
    passings: Vec<Passing>,
    /// For each slot, its index in `passings`, if it is there.
    place: Vec<u32>,
    /// Number of passings of each walker.
    taken: Vec<u32>,
}

impl Firsts {
    fn new(ring_size: u32, walkers: usize) -> Self {
        Self {
            passings: Vec::new(),
            place: vec![0; ring_size as usize],
            taken: vec![0; walkers],
        }
    }

    fn find(&mut self, all: &[Passing]) {
        self.passings.clear();
        self.taken.fill(0);
        for passing in all {
            let (_, i, slot) = *passing;
            let place = &mut self.place[slot as usize];
            // A leftover from an earlier interval names no passing, or that of another slot.
            match self.passings.get_mut(*place as usize) {
                Some(first) if first.2 == slot => {
                    if passing < first {
                        self.taken[first.1 as usize] -= 1;
                        self.taken[i as usize] += 1;
                        *first = *passing;
                    }
                }
                _ => {
                    *place = self.passings.len() as u32;
                    self.passings.push(*passing);
                    self.taken[i as usize] += 1;
                }
            }
        }
    }
}

/// `H(r)` for every r from 0 to the ring size. The last result is cached, since most rings have the
/// same size.
fn clock(ring_size: u32) -> Arc<[u64]> {
    static LAST: Mutex<Option<Arc<[u64]>>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(clock) = &*last
        && clock.len() == ring_size as usize + 1
    {
        return Arc::clone(clock);
    }
    let mut sum = 0;
    let each = (1..=u64::from(ring_size)).rev().map(|left| {
        sum += (1 << CLOCK_BITS) / left;
        sum
    });
    let clock: Arc<[u64]> = std::iter::once(0).chain(each).collect();
    *last = Some(Arc::clone(&clock));
    clock
}

/// The walk of all members through the slots.
struct Walk {
    ring_size: u32,
    clock: Arc<[u64]>,
    /// The time in which all walkers together pass `ring_size` slots.
    lap: u128,
    slots: Vec<Place>,
    free: u32,
}

impl Walk {
    fn new(ring_size: u32, total_weight: u64) -> Self {
        Self {
            ring_size,
            clock: clock(ring_size),
            lap: (1u128 << (CLOCK_BITS + TIME_BITS)) / u128::from(total_weight),
            slots: vec![NO_MEMBER; ring_size as usize],
            free: ring_size,
        }
    }

    /// Advances the walkers until no slot is free.
    ///
    /// Passings are handled in the order of time, interval by interval: those of slots that were taken
    /// before the interval are dropped at once. As long as no walker reaches its quota, an interval need
    /// not be sorted, and most are not. The lengths of intervals change the cost, not the result.
    fn fill(mut self, mut walkers: Vec<Walker>) -> Vec<Place> {
        let mut passings: Vec<Passing> = Vec::new();
        let mut firsts = Firsts::new(self.ring_size, walkers.len());
        let mut until = self.lap / u128::from(self.ring_size) + 1;
        let mut active: Vec<u32> = (0..walkers.len() as u32).collect();
        while self.free > 0 {
            passings.clear();
            for &i in &active {
                self.walk(i, &mut walkers[i as usize], until, &mut passings);
            }
            if !self.give_unsorted(&passings, &mut walkers, &mut firsts) {
                passings.sort_unstable();
                for &(_, i, slot) in &passings {
                    self.claim(&mut walkers[i as usize], slot);
                }
            }
            active.retain(|&i| walkers[i as usize].left > 0);
            until += (until / 8).max(self.lap / 8) + 1;
        }
        self.slots
    }

    /// Gives each slot to the first walker that passes it, if no walker exceeds its quota that way: then
    /// the order does not matter. Otherwise gives none and returns `false`.
    fn give_unsorted(
        &mut self,
        passings: &[Passing],
        walkers: &mut [Walker],
        firsts: &mut Firsts,
    ) -> bool {
        firsts.find(passings);
        let mut taken = walkers.iter().zip(&firsts.taken);
        if taken.any(|(walker, taken)| *taken > walker.left) {
            return false;
        }
        for &(_, i, slot) in &firsts.passings {
            self.claim(&mut walkers[i as usize], slot);
        }
        true
    }

    /// Advances a walker to the time `until` and records the free slots that it passes.
    fn walk(&self, i: u32, walker: &mut Walker, until: u128, passings: &mut Vec<Passing>) {
        // (clock << TIME_BITS) / weight < until, solved for clock.
        let limit = (until * u128::from(walker.weight)).div_ceil(1 << TIME_BITS) as u64;
        while walker.passed < self.ring_size {
            let clock = walker.clock(&self.clock);
            if clock >= limit {
                break;
            }
            let slot = walker.advance(self.ring_size);
            if self.slots[slot as usize] == NO_MEMBER {
                passings.push(((clock << TIME_BITS) / walker.weight, i, slot));
            }
        }
    }

    fn claim(&mut self, walker: &mut Walker, slot: u32) {
        if walker.left > 0 && self.slots[slot as usize] == NO_MEMBER {
            self.slots[slot as usize] = walker.place;
            walker.left -= 1;
            self.free -= 1;
        }
    }
}

#[cfg(test)]
mod tests;

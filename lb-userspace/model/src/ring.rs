//! Builds the ring of a VIP: which member has which slot.
//!
//! Three laws, in this order:
//!
//! 1. **Shares.** Every member's slots are within one of `ring_size × weight / total weight`
//!    (quotas by largest remainder). A member whose share is below one slot may get none; whether
//!    that is acceptable is for the plan to say, not for the builder.
//! 2. **The same everywhere, for all time.** The ring depends on the members' addresses, ports and
//!    weights and on nothing else: not on their order, names or indexes, the machine, or the
//!    version. There is no floating point, and `tests/golden/ring.txt` would show any change.
//! 3. **Little moves.** When a member comes, goes or changes its weight, few slots move beyond
//!    those that the new quotas force to.
//!
//! # How
//!
//! As in Maglev (Eisenbud et al., NSDI 2016), each member walks a permutation of the slots, given
//! by an offset and a step that are hashes of its identity, and takes what is free. What differs is
//! whose turn it is. Maglev's members take turns, and a member on its turn walks on until it finds a
//! free slot: when one leaves, every later turn shifts a little, and slots move between members that
//! have nothing to do with it. Here each member walks **by a clock of its own** that no other member
//! influences: it passes its r-th slot at the time `H(r) / weight`, where `H(r)` is the expected
//! r-th smallest of `ring_size` exponential variables, `1/n + 1/(n-1) + …`. That makes the first to
//! pass a slot the winner of weighted rendezvous hashing, which moves the minimum; the quotas
//! then correct the few slots by which rendezvous hashing misses the shares.
//!
//! # What it gives
//!
//! Slots that move when one member leaves, or when one weight goes from 100 to 50, in percent of
//! 65,537 slots, beside the minimum that the quotas force (means of four sets of members):
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
//! "Turns" are two ways to order the turns of weighted Maglev. A member that comes is one that
//! leaves, seen backwards. All take 3–5 ms for 1,000 members.

use std::{
    cmp::Reverse,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use lb_common::ring::{MAX_RING_SIZE, MemberIndex, NO_MEMBER};
use siphasher::sip128::SipHasher24;

/// The number of slots of a ring: a prime, so that every step visits all slots.
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

/// What a member is to the ring: its address and port. A backend may be renamed or listed in
/// another order, and no slot moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// Address of the backend.
    pub address: IpAddr,
    /// Port of the backend; 0 when the packet's port is kept.
    pub port: u16,
}

/// Keys of the hash of identities. Public and fixed: the ring is the same on all nodes; what keeps
/// others from aiming at a member is the secret key of the flow hash.
const IDENTITY_KEYS: (u64, u64) = (0x6576_656e_6b65_656c, 0x7269_6e67_2076_3100);

impl Identity {
    /// Two independent words of hash.
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

/// A member that wants slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingMember {
    /// What its place in the ring depends on.
    pub identity: Identity,
    /// Its weight; 0: no slots.
    pub weight: u32,
    /// What is written into its slots.
    pub member: MemberIndex,
}

/// Builds a ring. Without any weight, all slots are [`NO_MEMBER`].
#[must_use]
pub fn build(members: &[RingMember], ring_size: RingSize) -> Vec<MemberIndex> {
    let (form, indexes) = Form::of(members, ring_size);
    filled_in(&form.build(), &indexes)
}

/// All that a ring depends on, but for the indexes of its members: rings of VIPs with the same servers, ports and
/// weights have one form, and it need be built only once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Form {
    ring_size: RingSize,
    /// Those with a weight, in order.
    members: Vec<(Identity, u32)>,
}

/// The ring of a form, of members with these indexes.
#[must_use]
pub fn filled_in(places: &[Place], indexes: &[MemberIndex]) -> Vec<MemberIndex> {
    let index = |&place: &Place| indexes.get(usize::from(place));
    let slots = places.iter().map(index);
    slots.map(|index| *index.unwrap_or(&NO_MEMBER)).collect()
}

/// Where a member is in the order of a form.
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

    /// Builds it: the place of each slot's member. Without any member, all slots are [`NO_MEMBER`].
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

/// Largest remainder: everybody gets the whole slots of the share, and the slots that are left go to
/// the largest fractions. Equal fractions are ordered by hash.
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
/// Bits by which times are finer than `H(r)`, so that dividing by the weight loses nothing.
const TIME_BITS: u32 = 20;

/// Fixed-point scale of [`Walker::phase`]: two steps of the clock are 2^36 apart at most.
const PHASE_BITS: u32 = 24;

/// A member on its way through the slots.
struct Walker {
    place: Place,
    weight: u64,
    /// Slots that it may still take.
    left: u32,
    /// The next slot, and the step to the one after.
    slot: u32,
    step: u32,
    /// Slots passed.
    passed: u32,
    /// Where between two steps of the clock it passes, in units of 2^-24: members of equal
    /// weight don't walk in lockstep.
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

    /// Time on the clock (without the weight) at which the next slot is passed.
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

/// The passing of a free slot by a walker: time, place of the walker in the order of identities
/// (which decides when two pass a slot at the same time), slot.
type Passing = (u64, u32, u32);

/// The first passing of each slot in a piece of time.
struct Firsts {
    passings: Vec<Passing>,
    /// For each slot, where in `passings` it is, if it is there.
    place: Vec<u32>,
    /// How many each walker has.
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
            // What is left of another piece names no passing, or one of another slot.
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

/// `H(r)` for every r from 0 to the size of a ring. That of the last size that was asked for is kept, since most
/// rings are of one size.
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

/// The walk of all members.
struct Walk {
    ring_size: u32,
    clock: Arc<[u64]>,
    /// The time in which all walkers together pass as many slots as the ring has.
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

    /// Lets the walkers go until no slot is free.
    ///
    /// Everything happens in the order of time, which is cut into pieces: passings of slots that were
    /// taken before the piece began are dropped at once. As long as nobody takes the last slot that it may, a
    /// piece need not be sorted, and most are not. How it is cut changes the cost, not the result.
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

    /// Gives each slot to whoever passes it first, if nobody gets more slots that way than it may take:
    /// then the order in which they are given does not matter. Else gives none, and says so.
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

    /// Walks one member up to the time `until`, noting the free slots it passes.
    fn walk(&self, i: u32, walker: &mut Walker, until: u128, passings: &mut Vec<Passing>) {
        // time = (clock << TIME_BITS) / weight < until, turned around.
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

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

use std::{cmp::Reverse, net::IpAddr};

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
    let mut members: Vec<RingMember> = members.iter().filter(|m| m.weight > 0).copied().collect();
    members.sort_unstable_by_key(|m| (m.identity, m.weight, m.member));
    if members.is_empty() {
        return vec![NO_MEMBER; ring_size.get() as usize];
    }
    let weights: Vec<u32> = members.iter().map(|m| m.weight).collect();
    let hashes: Vec<(u64, u64)> = members.iter().map(|m| m.identity.hash()).collect();
    let quotas = quotas(&weights, &hashes, ring_size.get());
    let walkers = (members.iter().zip(&hashes).zip(quotas))
        .filter(|(_, quota)| *quota > 0)
        .map(|((m, hash), quota)| Walker::new(m, *hash, quota, ring_size.get()))
        .collect();
    Walk::new(
        ring_size.get(),
        members.iter().map(|m| u64::from(m.weight)).sum(),
    )
    .fill(walkers)
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
    member: MemberIndex,
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
    fn new(m: &RingMember, hash: (u64, u64), quota: u32, ring_size: u32) -> Self {
        Self {
            member: m.member,
            weight: u64::from(m.weight),
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

/// The walk of all members.
struct Walk {
    ring_size: u32,
    /// `H(r)` for every r.
    clock: Vec<u64>,
    /// The time in which all walkers together pass as many slots as the ring has.
    lap: u128,
    slots: Vec<MemberIndex>,
    free: u32,
}

impl Walk {
    fn new(ring_size: u32, total_weight: u64) -> Self {
        let mut sum = 0;
        let clock = std::iter::once(0)
            .chain((1..=u64::from(ring_size)).rev().map(|left| {
                sum += (1 << CLOCK_BITS) / left;
                sum
            }))
            .collect();
        Self {
            ring_size,
            clock,
            lap: (1u128 << (CLOCK_BITS + TIME_BITS)) / u128::from(total_weight),
            slots: vec![NO_MEMBER; ring_size as usize],
            free: ring_size,
        }
    }

    /// Lets the walkers go until no slot is free.
    ///
    /// Everything happens in the order of time. To sort only what matters, time is cut into pieces:
    /// passings of slots that were taken before the piece began are dropped before the sorting. How
    /// it is cut changes the cost, not the result.
    fn fill(mut self, mut walkers: Vec<Walker>) -> Vec<MemberIndex> {
        let mut passings: Vec<Passing> = Vec::new();
        let mut until = self.lap / u128::from(self.ring_size) + 1;
        let mut active: Vec<u32> = (0..walkers.len() as u32).collect();
        while self.free > 0 {
            passings.clear();
            for &i in &active {
                self.walk(i, &mut walkers[i as usize], until, &mut passings);
            }
            passings.sort_unstable();
            for &(_, i, slot) in &passings {
                self.claim(&mut walkers[i as usize], slot);
            }
            active.retain(|&i| walkers[i as usize].left > 0);
            until += (until / 8).max(self.lap / 8) + 1;
        }
        self.slots
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
            self.slots[slot as usize] = walker.member;
            walker.left -= 1;
            self.free -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fmt::Write,
        net::{Ipv4Addr, Ipv6Addr},
    };

    use proptest::prelude::*;

    use super::*;

    fn size(slots: u32) -> RingSize {
        RingSize::new(slots).unwrap()
    }

    fn member(index: u32, weight: u32) -> RingMember {
        let address = Ipv4Addr::from(0x0a00_0000 + index * 7 + 1).into();
        RingMember {
            identity: Identity { address, port: 80 },
            weight,
            member: index as u16,
        }
    }

    fn members(weights: &[u32]) -> Vec<RingMember> {
        (0..).zip(weights).map(|(i, &w)| member(i, w)).collect()
    }

    fn count(ring: &[u16], member: u16) -> u64 {
        ring.iter().filter(|&&m| m == member).count() as u64
    }

    /// Slots per member by index.
    fn counts(ring: &[u16], members: usize) -> Vec<u64> {
        let mut counts = vec![0; members];
        ring.iter().for_each(|&m| counts[usize::from(m)] += 1);
        counts
    }

    #[test]
    fn sizes_are_primes_in_range() {
        assert!(
            [251, 257, 4093, 65_537]
                .iter()
                .all(|&n| RingSize::new(n).is_some())
        );
        assert!(
            [0, 1, 2, 241, 252, 65_536, 65_539]
                .iter()
                .all(|&n| RingSize::new(n).is_none())
        );
        let (below, above) = RingSize::around(1000);
        assert_eq!((below, above), (RingSize::new(997), RingSize::new(1009)));
        assert_eq!(RingSize::around(-5), (None, RingSize::new(251)));
        assert_eq!(RingSize::around(i64::MAX), (RingSize::new(65_537), None));
        assert_eq!(
            RingSize::around(65_000),
            (RingSize::new(64_997), RingSize::new(65_003))
        );
    }

    #[test]
    fn weights_two_to_one_give_slots_two_to_one() {
        let ring = build(&members(&[200, 100]), size(65_537));
        assert_eq!(counts(&ring, 2), [43_691, 21_846]);
    }

    #[test]
    fn nobody_has_weight() {
        assert!(build(&[], size(251)).iter().all(|&m| m == NO_MEMBER));
        assert!(
            build(&members(&[0, 0]), size(251))
                .iter()
                .all(|&m| m == NO_MEMBER)
        );
    }

    #[test]
    fn one_member_has_all() {
        assert_eq!(build(&[member(9, 1)], size(65_537)), vec![9; 65_537]);
    }

    #[test]
    fn as_many_members_as_slots() {
        assert_eq!(
            counts(&build(&members(&[7; 251]), size(251)), 251),
            [1; 251]
        );
    }

    #[test]
    fn more_members_than_slots() {
        let ring = build(&members(&[7; 600]), size(251));
        assert_eq!(counts(&ring, 600).iter().filter(|&&n| n == 1).count(), 251);
    }

    #[test]
    fn extreme_weights_end() {
        let mut weights = vec![1; 4096];
        weights[17] = u32::MAX;
        assert!(count(&build(&members(&weights), size(65_537)), 17) >= 65_535);
        let ring = build(&members(&vec![u32::MAX; 4096]), size(65_537));
        assert!(counts(&ring, 4096).iter().all(|n| (16..=17).contains(n)));
    }

    fn moved(a: &[u16], b: &[u16]) -> usize {
        a.iter().zip(b).filter(|(a, b)| a != b).count()
    }

    /// Slots that must move: those that members have less of than before.
    fn forced(a: &[u16], b: &[u16], members: usize) -> usize {
        let pairs = counts(a, members).into_iter().zip(counts(b, members));
        pairs.map(|(a, b)| a.saturating_sub(b) as usize).sum()
    }

    #[test]
    fn little_moves() {
        // (members, new weight of one, moved / forced in percent at most)
        for (k, weight, at_most) in [
            (3, 50, 101),
            (10, 0, 103),
            (10, 50, 105),
            (100, 0, 140),
            (100, 50, 160),
            (1000, 0, 500),
        ] {
            let mut weights = vec![100; k];
            let before = build(&members(&weights), size(65_537));
            weights[k / 2] = weight;
            let after = build(&members(&weights), size(65_537));
            let (moved, forced) = (moved(&before, &after), forced(&before, &after, k));
            assert!(
                moved >= forced && moved * 100 <= forced * at_most,
                "{k}: {moved}/{forced}"
            );
        }
    }

    /// Rings that must never change, as text: small ones in full, big ones as a digest.
    fn golden() -> String {
        let six = |i: u32, weight| RingMember {
            identity: Identity {
                address: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, i as u16 + 1).into(),
                port: 0,
            },
            ..member(i, weight)
        };
        let mut text = String::new();
        for (name, members) in [
            ("three equal", members(&[100; 3])),
            ("2:1", members(&[200, 100])),
            ("1..=9", members(&[1, 2, 3, 4, 5, 6, 7, 8, 9])),
            ("one in 65535", members(&[65_535, 1, 300])),
            (
                "IPv6 and IPv4",
                vec![six(0, 10), six(1, 20), member(2, 30), six(3, 0)],
            ),
            ("251 equal", members(&[1; 251])),
        ] {
            writeln!(text, "{name}, 251 slots:").unwrap();
            for row in build(&members, size(251)).chunks(25) {
                let row: Vec<String> = row.iter().map(ToString::to_string).collect();
                writeln!(text, "  {}", row.join(" ")).unwrap();
            }
        }
        let mixed: Vec<u32> = (1..=1000u32).map(|i| i * i % 257 * 255).collect();
        for (name, weights, slots) in [
            ("ten equal", vec![100; 10], 65_537),
            ("hundred equal", vec![100; 100], 65_537),
            ("thousand mixed", mixed, 65_537),
            ("4096 equal", vec![1; 4096], 65_537),
            ("ten equal", vec![1; 10], 4093),
        ] {
            let digest = fnv1a(&build(&members(&weights), size(slots)));
            writeln!(text, "{name}, {slots} slots: FNV-1a {digest:016x}").unwrap();
        }
        text
    }

    /// FNV-1a of the slots in little-endian order.
    fn fnv1a(ring: &[u16]) -> u64 {
        ring.iter()
            .flat_map(|m| m.to_le_bytes())
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            })
    }

    #[test]
    fn rings_are_what_they_have_always_been() {
        if let Some(path) = std::env::var_os("EVENKEEL_WRITE_GOLDEN_RING") {
            std::fs::write(path, golden()).unwrap();
        }
        assert_eq!(
            golden(),
            include_str!("../tests/golden/ring.txt"),
            "nodes of different versions would send flows to different members"
        );
    }

    /// Not a proof, only a guard against a gross mistake: tests are built with little optimization,
    /// and machines differ. In release mode it takes 3-5 ms.
    #[test]
    fn is_built_quickly() {
        let members = members(&vec![100; 1000]);
        let best = (0..5)
            .map(|_| {
                let start = std::time::Instant::now();
                assert_eq!(build(&members, size(65_537)).len(), 65_537);
                start.elapsed()
            })
            .min();
        println!("1,000 members in 65,537 slots: {best:?}");
        assert!(best.unwrap().as_millis() < 200);
    }

    fn weights() -> impl Strategy<Value = Vec<u32>> {
        let weight = prop_oneof![Just(0), Just(1), Just(100), 0u32..=65_535];
        prop::collection::vec(weight, 1..200)
    }

    fn slots() -> impl Strategy<Value = u32> {
        prop::sample::select(vec![251, 257, 1021, 4093, 65_537])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn every_share_is_within_one_slot(weights in weights(), slots in slots()) {
            let total: u64 = weights.iter().map(|&w| u64::from(w)).sum();
            prop_assume!(total > 0);
            let ring = build(&members(&weights), size(slots));
            prop_assert_eq!(ring.len(), slots as usize);
            prop_assert!(ring.iter().all(|&m| usize::from(m) < weights.len()));
            for (has, &weight) in counts(&ring, weights.len()).into_iter().zip(&weights) {
                let wants = u64::from(weight) * u64::from(slots);
                prop_assert!((has * total).abs_diff(wants) < total, "{} of {}", has, weight);
                prop_assert!(weight > 0 || has == 0);
            }
        }

        #[test]
        fn the_order_of_members_does_not_matter(
            (straight, shuffled) in weights().prop_flat_map(|weights| {
                let members = members(&weights);
                (Just(members.clone()), Just(members).prop_shuffle())
            }),
            slots in slots(),
        ) {
            prop_assert_eq!(build(&straight, size(slots)), build(&shuffled, size(slots)));
        }

        #[test]
        fn indexes_are_only_labels(weights in weights(), shift in 1u16..1000) {
            let members = members(&weights);
            let mut renamed = members.clone();
            renamed.iter_mut().for_each(|m| m.member += shift);
            let ring = build(&members, size(1021)).into_iter();
            let ring: Vec<u16> = ring.map(|m| if m == NO_MEMBER { m } else { m + shift }).collect();
            prop_assert_eq!(ring, build(&renamed, size(1021)));
        }
    }
}

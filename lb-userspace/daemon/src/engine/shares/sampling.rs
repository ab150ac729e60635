//! How many flows are sampled: as many as the table of samples and the processor can bear.
//!
//! Of a quiet VIP every flow is sampled, so that the one elephant, the few flows that a backend does not answer, the source
//! behind which half of the clients hide are all seen. Of a busy VIP a part is enough. So each VIP has a mask of
//! its own ([`lb_common::vip::Vip::sample_mask`]), which follows what was counted in the last seconds: up at once, down
//! when ten seconds were quieter. What a node may sample is divided among its VIPs: those that want less than an even part
//! get what they want, the others share what is left.
//!
//! Masks are powers of two minus one, and a flow that a mask samples is sampled by all smaller ones. So whoever looks
//! at a stretch of time in which the mask changed takes the flows that the **coarsest** mask of that stretch samples
//! ([`Sampling::coarsest`]): every flow had the same chance to be among them.

use std::collections::{BTreeMap, VecDeque};

/// Flows that a node adds to the table a second: each of the 4,096 stays for ten seconds, longer than it takes to
/// see whether it was answered.
const BEGUN_PER_S: f64 = 400.0;
/// Packets of sampled flows a second: some 50 ns each, half a hundredth of a core.
const PACKETS_PER_S: f64 = 100_000.0;
/// The same while a large flow is looked for.
const SEARCH_PACKETS_PER_S: f64 = 500_000.0;
/// How long it is looked for, and how long not again, seconds.
const SEARCH_S: u64 = 8;
const SEARCH_PAUSE_S: u64 = 60;
/// Seconds that a mask is chosen by.
const SECONDS: usize = 10;
/// How long masks are remembered, seconds.
const MEMORY_S: u64 = 90;
/// The coarsest mask.
const COARSEST: u32 = (1 << 20) - 1;

/// What a VIP had in the last second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Demand {
    /// Index of the VIP.
    pub(super) vip: u16,
    /// New flows a second.
    pub(super) new_flows: f64,
    /// Packets a second.
    pub(super) packets: f64,
    /// Flows that came into the table of samples a second: old ones, too, that had been displaced.
    pub(super) begun: f64,
    /// Whether a large flow is looked for.
    pub(super) search: bool,
    /// The mask that the kernel has.
    pub(super) mask: u32,
}

#[derive(Clone, Debug)]
struct Rate {
    mask: u32,
    /// Flows and packets a second that would be sampled with mask 0, of the last seconds.
    seconds: VecDeque<[f64; 2]>,
    /// Since when which mask was in force; the newest last.
    masks: VecDeque<(u64, u32)>,
    search_s: Option<u64>,
}

/// The masks of all VIPs.
#[derive(Debug, Default)]
pub(super) struct Sampling {
    vips: BTreeMap<u16, Rate>,
}

impl Rate {
    fn new(mask: u32) -> Self {
        Self {
            mask,
            seconds: VecDeque::with_capacity(SECONDS),
            masks: VecDeque::from([(0, mask)]),
            search_s: None,
        }
    }

    fn note(&mut self, now_s: u64, demand: &Demand) {
        if self.seconds.len() == SECONDS {
            self.seconds.pop_front();
        }
        let begun = demand.begun * (f64::from(self.mask) + 1.0);
        self.seconds
            .push_back([demand.new_flows.max(begun), demand.packets]);
        let searched = self.search_s.map(|began_s| now_s.saturating_sub(began_s));
        if demand.search && searched.is_none_or(|ago_s| ago_s >= SEARCH_S + SEARCH_PAUSE_S) {
            self.search_s = Some(now_s);
        }
        if self.mask != demand.mask {
            // Something else wrote it, or it is another VIP's.
            self.set(now_s, demand.mask);
        }
    }

    fn is_searching(&self, now_s: u64) -> bool {
        let ago_s = self.search_s.map(|began_s| now_s.saturating_sub(began_s));
        ago_s.is_some_and(|ago_s| ago_s < SEARCH_S)
    }

    /// The most of the last seconds.
    fn most(&self) -> [f64; 2] {
        let [mut flows, mut packets] = [0.0_f64; 2];
        for second in &self.seconds {
            flows = flows.max(second[0]);
            packets = packets.max(second[1]);
        }
        [flows, packets]
    }

    fn set(&mut self, now_s: u64, mask: u32) {
        self.mask = mask;
        self.masks.push_back((now_s, mask));
        // The one before the oldest moment that is asked for was in force at that moment.
        while self.masks.len() > 1 && self.masks[1].0 + MEMORY_S < now_s {
            self.masks.pop_front();
        }
    }
}

impl Sampling {
    /// The masks that are to be other ones, by VIP. `finest` is the finest that the operator allows.
    pub(super) fn adapt(&mut self, now_s: u64, demands: &[Demand], finest: u32) -> Vec<(u16, u32)> {
        let is_there = |vip: &u16| demands.iter().any(|demand| demand.vip == *vip);
        self.vips.retain(|vip, _| is_there(vip));
        for demand in demands {
            let rate = self.vips.entry(demand.vip);
            let rate = rate.or_insert_with(|| Rate::new(demand.mask));
            rate.note(now_s, demand);
        }
        let all: Vec<[f64; 2]> = self.vips.values().map(Rate::most).collect();
        let begun = even_part(BEGUN_PER_S, all.iter().map(|most| most[0]).collect());
        let packets = even_part(PACKETS_PER_S, all.iter().map(|most| most[1]).collect());
        let mut changed = Vec::new();
        for ((&vip, rate), [own_flows, own_packets]) in self.vips.iter_mut().zip(all) {
            let wanted = if rate.is_searching(now_s) {
                mask_for(own_packets, SEARCH_PACKETS_PER_S)
            } else {
                mask_for(own_flows, begun).max(mask_for(own_packets, packets))
            };
            let wanted = wanted.max(finest);
            if wanted != rate.mask {
                rate.set(now_s, wanted);
                changed.push((vip, wanted));
            }
        }
        changed
    }

    /// The coarsest mask that a VIP has had since then. A flow that it samples was sampled all the time.
    pub(super) fn coarsest(&self, vip: u16, since_s: u64) -> u32 {
        let Some(rate) = self.vips.get(&vip) else {
            return 0;
        };
        let mut coarsest = rate.mask;
        for (began_s, mask) in rate.masks.iter().rev() {
            coarsest = coarsest.max(*mask);
            if *began_s < since_s {
                break;
            }
        }
        coarsest
    }
}

/// What each may have at the most, so that together they have no more than `limit`: infinite, when all can have what
/// they want.
fn even_part(limit: f64, mut wanted: Vec<f64>) -> f64 {
    wanted.sort_by(f64::total_cmp);
    let mut left = limit;
    let mut who = wanted.len() as f64;
    for want in wanted {
        if want > left / who {
            return left / who;
        }
        left -= want;
        who -= 1.0;
    }
    f64::INFINITY
}

/// The finest mask with which no more than `part` of `whole` are sampled.
fn mask_for(whole: f64, part: f64) -> u32 {
    let mut mask = 0;
    while mask < COARSEST && whole > part * (f64::from(mask) + 1.0) {
        mask = 2 * mask + 1;
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(vip: u16, new_flows: f64, packets: f64, mask: u32) -> Demand {
        Demand {
            vip,
            new_flows,
            packets,
            begun: 0.0,
            search: false,
            mask,
        }
    }

    /// What the kernel has after so many seconds of the same.
    fn settle(sampling: &mut Sampling, from_s: u64, demands: &mut [Demand], seconds: u64) {
        for now_s in from_s..from_s + seconds {
            for (vip, mask) in sampling.adapt(now_s, demands, 0) {
                let of = demands.iter_mut().find(|demand| demand.vip == vip);
                of.unwrap().mask = mask;
            }
        }
    }

    #[test]
    fn a_quiet_vip_is_sampled_whole_and_a_busy_one_in_part() {
        for (flows, packets, mask) in [
            (0.0, 0.0, 0),
            (200.0, 1_200.0, 0),
            (400.0, 20_000.0, 0),
            (401.0, 2_000.0, 1),
            (3_000.0, 20_000.0, 7),
            (1e6, 1e6, 4095),
            (10.0, 1e6, 15),
            (0.0, 1e12, COARSEST),
        ] {
            let mut sampling = Sampling::default();
            let changed = sampling.adapt(100, &[demand(3, flows, packets, 1023)], 0);
            assert_eq!(changed, [(3, mask)], "{flows} {packets}");
            assert!(flows / f64::from(mask + 1) <= BEGUN_PER_S);
        }
    }

    #[test]
    fn a_flood_is_answered_at_once_and_forgotten_after_ten_seconds() {
        let mut sampling = Sampling::default();
        assert_eq!(sampling.adapt(1, &[demand(0, 100.0, 600.0, 0)], 0), []);
        let flood = demand(0, 4e6, 4e6, 0);
        assert_eq!(sampling.adapt(2, &[flood], 0), [(0, 16383)]);
        for now_s in 3..12 {
            assert_eq!(
                sampling.adapt(now_s, &[demand(0, 100.0, 600.0, 16383)], 0),
                []
            );
        }
        assert_eq!(
            sampling.adapt(12, &[demand(0, 100.0, 600.0, 16383)], 0),
            [(0, 0)]
        );
    }

    #[test]
    fn vips_share_what_a_node_samples() {
        let mut sampling = Sampling::default();
        let mut demands = [
            demand(0, 100.0, 600.0, 0),
            demand(1, 50_000.0, 300_000.0, 0),
            demand(2, 1_000.0, 6_000.0, 0),
        ];
        settle(&mut sampling, 1, &mut demands, 3);
        // 150 for each of the two that want more.
        assert_eq!(demands.map(|demand| demand.mask), [0, 511, 7]);
        let sampled = demands.map(|demand| demand.new_flows / f64::from(demand.mask + 1));
        assert!(sampled.iter().sum::<f64>() <= BEGUN_PER_S);
    }

    #[test]
    fn old_flows_that_crowd_the_table_count_too() {
        let mut sampling = Sampling::default();
        let mut demands = [demand(0, 1.0, 50_000.0, 0)];
        demands[0].begun = 2000.0;
        settle(&mut sampling, 1, &mut demands, 1);
        assert_eq!(demands[0].mask, 7);
        // A fifth of the sampled flows are displaced and come again.
        demands[0].begun = 250.0;
        settle(&mut sampling, 2, &mut demands, 20);
        assert_eq!(demands[0].mask, 7);
    }

    #[test]
    fn a_large_flow_is_looked_for_but_not_for_ever() {
        let mut sampling = Sampling::default();
        let mut demands = [demand(0, 20_000.0, 200_000.0, 0)];
        settle(&mut sampling, 1, &mut demands, 5);
        assert_eq!(demands[0].mask, 63);
        demands[0].search = true;
        settle(&mut sampling, 6, &mut demands, SEARCH_S);
        assert_eq!(demands[0].mask, 0);
        settle(&mut sampling, 6 + SEARCH_S, &mut demands, SEARCH_PAUSE_S);
        assert_eq!(demands[0].mask, 63);
        settle(
            &mut sampling,
            6 + SEARCH_S + SEARCH_PAUSE_S,
            &mut demands,
            1,
        );
        assert_eq!(demands[0].mask, 0);
    }

    #[test]
    fn the_operator_may_allow_less() {
        let mut sampling = Sampling::default();
        let quiet = [demand(0, 1.0, 5.0, 0)];
        assert_eq!(sampling.adapt(1, &quiet, 1023), [(0, 1023)]);
    }

    #[test]
    fn over_a_change_the_coarsest_mask_counts() {
        let mut sampling = Sampling::default();
        sampling.adapt(100, &[demand(0, 100.0, 600.0, 0)], 0);
        let changed = sampling.adapt(110, &[demand(0, 3_000.0, 18_000.0, 0)], 0);
        assert_eq!(changed, [(0, 7)]);
        for now_s in 111..=120 {
            sampling.adapt(now_s, &[demand(0, 100.0, 600.0, 7)], 0);
        }
        // 7 until 120, then 0.
        assert_eq!(sampling.vips[&0].mask, 0);
        assert_eq!(sampling.coarsest(0, 121), 0);
        assert_eq!(sampling.coarsest(0, 120), 7);
        assert_eq!(sampling.coarsest(0, 50), 7);
        assert_eq!(sampling.coarsest(9, 50), 0);
    }
}

//! Adapts the sampling rate to the capacity of the sample map and the CPU.
//!
//! All flows of a quiet VIP are sampled, so that single elephants, unanswered flows and shared source
//! addresses are seen; of a busy VIP a part is enough. Each VIP has its own mask
//! ([`lb_common::vip::Vip::sample_mask`]), which follows the recent rates: coarser at once, finer after
//! ten quieter seconds. The node's budget is divided evenly among its VIPs; what some do not need goes to
//! the others.
//!
//! Masks are powers of two minus one, and a flow sampled by a mask is sampled by all smaller ones. Over a
//! time in which the mask changed, the flows sampled by its **coarsest** mask ([`Sampling::coarsest`])
//! are a uniform sample.

use std::collections::{BTreeMap, VecDeque};

/// Flows added to the map per second: each of its 4,096 entries lasts ten seconds, longer than it takes
/// to see a reply.
const BEGUN_PER_S: f64 = 400.0;
/// Packets of sampled flows per second: about 50 ns each, 0.5 % of a core.
const PACKETS_PER_S: f64 = 100_000.0;
/// The same during the search for a large flow.
const SEARCH_PACKETS_PER_S: f64 = 500_000.0;
/// Duration of a search, and pause after it, seconds.
const SEARCH_S: u64 = 8;
const SEARCH_PAUSE_S: u64 = 60;
/// Seconds of rates that determine a mask.
const SECONDS: usize = 10;
/// How long old masks are remembered, seconds.
const MEMORY_S: u64 = 90;
const COARSEST: u32 = (1 << 20) - 1;

/// Traffic of a VIP in the last second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Demand {
    /// VIP index.
    pub(super) vip: u16,
    /// Per second.
    pub(super) new_flows: f64,
    /// Per second.
    pub(super) packets: f64,
    /// Flows added to the sample map per second, including displaced ones that were added again.
    pub(super) begun: f64,
    /// Whether to search for a large flow.
    pub(super) search: bool,
    /// The mask in the kernel.
    pub(super) mask: u32,
}

#[derive(Clone, Debug)]
struct Rate {
    mask: u32,
    /// Flows and packets per second that mask 0 would sample, in the last seconds.
    seconds: VecDeque<[f64; 2]>,
    /// Masks and when each was set, the newest last.
    masks: VecDeque<(u64, u32)>,
    search_s: Option<u64>,
}

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
            // Changed from outside, or the index was reused by another VIP.
            self.set(now_s, demand.mask);
        }
    }

    fn is_searching(&self, now_s: u64) -> bool {
        let ago_s = self.search_s.map(|began_s| now_s.saturating_sub(began_s));
        ago_s.is_some_and(|ago_s| ago_s < SEARCH_S)
    }

    /// Maxima of the last seconds.
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
        // Keeps the mask that was set before the start of the remembered time.
        while self.masks.len() > 1 && self.masks[1].0 + MEMORY_S < now_s {
            self.masks.pop_front();
        }
    }
}

impl Sampling {
    /// The masks to change, by VIP index. `finest`: the finest one allowed by the configuration.
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

    /// The coarsest mask of a VIP since a time: a flow that it samples was sampled all that time.
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

/// The most that each may have so that the sum is within `limit`; infinite if all get what they want.
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

/// The finest mask that samples at most `part` of `whole`.
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

    /// Runs for some seconds with constant demands.
    fn settle(sampling: &mut Sampling, from_s: u64, demands: &mut [Demand], seconds: u64) {
        for now_s in from_s..from_s + seconds {
            for (vip, mask) in sampling.adapt(now_s, demands, 0) {
                let of = demands.iter_mut().find(|demand| demand.vip == vip);
                of.unwrap().mask = mask;
            }
        }
    }

    #[test]
    fn samples_all_flows_of_a_quiet_vip_and_some_of_a_busy_one() {
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
    fn a_flood_coarsens_the_mask_at_once_for_ten_seconds() {
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
    fn vips_share_the_budget_of_the_node() {
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
    fn displaced_flows_count_too() {
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
    fn the_search_for_a_large_flow_pauses() {
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
    fn the_configuration_limits_the_finest_mask() {
        let mut sampling = Sampling::default();
        let quiet = [demand(0, 1.0, 5.0, 0)];
        assert_eq!(sampling.adapt(1, &quiet, 1023), [(0, 1023)]);
    }

    #[test]
    fn coarsest_mask_covers_changes() {
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

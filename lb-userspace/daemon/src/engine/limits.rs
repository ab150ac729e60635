//! What the limits of VIPs caught in the last seconds, and from whom.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, VecDeque},
    time::Instant,
};

use lb_common::{
    ip_of,
    limit::{Limit, LimitCounters, LimitedKey},
};
use lb_dataplane::{Limits, Result};
use lb_model::config;

use crate::node::{ExcessSource, LimitUse};

/// Seconds over which packets and sources are counted.
const WINDOW: usize = 10;
/// Sources that are named.
const NAMED: usize = 5;

/// A [`LimitedKey`] as a hash key.
type Key = [u64; 4];

/// Counters of a VIP, the newest last.
type Readings = VecDeque<(Instant, LimitCounters)>;

#[derive(Debug, Default)]
pub(super) struct LimitWatch {
    /// Counters by VIP.
    past: BTreeMap<u16, Readings>,
    /// Their limits at the last reading.
    limits: BTreeMap<u16, Limit>,
    /// Packets recorded of each source at the last reading.
    recorded: HashMap<Key, u64>,
    /// What was recorded in each of the last seconds.
    fresh: VecDeque<HashMap<Key, u64>>,
}

impl LimitWatch {
    /// Reads the counters of VIPs with limits.
    pub(super) fn read(&mut self, limits: &Limits, vips: impl Iterator<Item = u16>) -> Result<()> {
        let now = Instant::now();
        let mut past = BTreeMap::new();
        let is_first = self.fresh.is_empty();
        let mut is_rising = false;
        for vip in vips {
            let mut readings = self.past.remove(&vip).unwrap_or_default();
            // What was over other limits is not over these.
            let limit = limits.read(vip)?;
            if self.limits.insert(vip, limit) != Some(limit) {
                readings.clear();
            }
            let counters = limits.counters(vip)?;
            let last = readings.back().map(|(_, counters)| *counters);
            is_rising |= last.is_none_or(|last| over(&last) != over(&counters));
            readings.push_back((now, counters));
            while readings.len() > WINDOW + 1 {
                readings.pop_front();
            }
            past.insert(vip, readings);
        }
        self.past = past;
        // Most of the time nobody is over a limit, and the table of sources need not be read.
        let fresh = match is_rising {
            true => self.take_sources(&limits.limited()?),
            false => HashMap::new(),
        };
        // What was recorded before the controller started is not of these seconds.
        let fresh = if is_first { HashMap::new() } else { fresh };
        self.fresh.push_back(fresh);
        while self.fresh.len() > WINDOW {
            self.fresh.pop_front();
        }
        Ok(())
    }

    fn take_sources(&mut self, limited: &[(LimitedKey, u64)]) -> HashMap<Key, u64> {
        let mut fresh = HashMap::new();
        let before = std::mem::take(&mut self.recorded);
        for (key, packets) in limited {
            let key: Key = bytemuck::cast(*key);
            let known = before.get(&key).copied().filter(|known| known <= packets);
            let new = packets - known.unwrap_or(0);
            if new > 0 {
                fresh.insert(key, new);
            }
            self.recorded.insert(key, *packets);
        }
        fresh
    }

    /// The counters of a VIP at the last reading; none if it has no limits.
    pub(super) fn counters(&self, vip: u16) -> Option<LimitCounters> {
        let newest = self.past.get(&vip).and_then(VecDeque::back);
        newest.map(|(_, counters)| *counters)
    }

    /// What the limits of a VIP caught in the last seconds; none if it has none.
    pub(super) fn of(&self, vip: u16, limit: &config::Limit) -> Option<LimitUse> {
        let readings = self.past.get(&vip)?;
        let ((then, old), (now, new)) = (readings.front()?, readings.back()?);
        let seconds = now.duration_since(*then).as_secs_f64().max(1.0);
        let rate = |count: fn(&LimitCounters) -> u64| {
            count(new).saturating_sub(count(old)) as f64 / seconds
        };
        Some(LimitUse {
            source_new_flows_per_s: rate(|c| c.source_flows),
            source_packets_per_s: rate(|c| c.source_packets),
            new_flows_per_s: rate(|c| c.vip_flows),
            packets_per_s: rate(|c| c.vip_packets),
            denied_per_s: rate(|c| c.denied),
            source_on_excess: limit.source.on_excess,
            on_excess: limit.on_excess,
            sources: self.sources(vip, limit),
        })
    }

    /// The sources of most packets over a limit.
    fn sources(&self, vip: u16, limit: &config::Limit) -> Vec<ExcessSource> {
        let mut sources: HashMap<String, u64> = HashMap::new();
        let mut all = 0_u64;
        for (key, packets) in self.fresh.iter().flatten() {
            let key: LimitedKey = bytemuck::cast(*key);
            if key.vip == vip {
                *sources.entry(show(&key, limit)).or_default() += packets;
                all += packets;
            }
        }
        let mut sources: Vec<_> = sources.into_iter().collect();
        sources.sort_by(|a, b| (Reverse(a.1), &a.0).cmp(&(Reverse(b.1), &b.0)));
        sources.truncate(NAMED);
        let named = sources.into_iter().map(|(source, packets)| ExcessSource {
            source,
            share: packets as f64 / all.max(1) as f64,
        });
        named.collect()
    }
}

/// Packets over any limit.
const fn over(counters: &LimitCounters) -> u64 {
    let flows = counters.source_flows + counters.vip_flows;
    flows + counters.source_packets + counters.vip_packets
}

/// The prefix of a source, with the ports of its block.
fn show(key: &LimitedKey, limit: &config::Limit) -> String {
    let prefix = limit.source.prefix_of(ip_of(&key.source, key.family));
    let is_address = prefix.length() == if prefix.address().is_ipv4() { 32 } else { 128 };
    let prefix = match is_address {
        true => prefix.address().to_string(),
        false => prefix.to_string(),
    };
    match limit.source.port_block {
        Some(ports) => {
            let first = u32::from(key.block) * ports;
            format!("{prefix} ports {first}-{}", first + ports - 1)
        }
        None => prefix,
    }
}

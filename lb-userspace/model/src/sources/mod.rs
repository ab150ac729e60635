//! What the sources of a VIP sent in the last hour, as far as sampled flows show it.
//!
//! A [`SourceHistory`] consists of windows of ten seconds. Each has the traffic of the VIP, which is
//! exact, and what was sampled of its busiest sources: IPv4 addresses and IPv6 /64 networks. Sources of
//! a shorter prefix are added up within each window, because their peaks need not coincide.
//!
//! # From samples to rates
//!
//! One flow in `mask + 1` is sampled. `n` sampled flows of a source with `p` packets stand for about
//! `p · (mask + 1)` packets, with a relative error of 1/√n. The largest of many such estimates is
//! nearly always too large, so [`Window::rates`] subtracts one standard deviation; but it never returns
//! less than what was sampled, nor more than the traffic of the VIP. If all flows are sampled, the rates
//! are exact. With `affinity = "source"` all flows of a source have one hash: it counts as one flow, and
//! its rate is what was sampled of it.

mod prefixes;
mod suggestion;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

pub use lb_api::LimitSuggestion;
pub use prefixes::Prefixes;
pub use suggestion::suggestion;
pub(crate) use suggestion::{counts_flows, drops};

use crate::config::{Limit, Prefix, SourceLimit};

/// Length of a window in seconds.
pub const WINDOW_S: f64 = 10.0;
/// Windows kept: those of an hour.
pub const WINDOWS: usize = 360;
/// Bits of an IPv6 address that sources are told apart by.
pub const FINEST_V6: u8 = 64;

/// Counts of the sampled flows of a source in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// New flows: SYNs of TCP, first packets of UDP.
    pub new_flows: u32,
    /// Flows that these belong to.
    pub opened: u32,
    /// Packets.
    pub packets: u32,
    /// Flows that these belong to.
    pub flows: u32,
}

impl Counts {
    /// Adds the counts of other flows.
    pub const fn add(&mut self, other: &Self) {
        self.new_flows = self.new_flows.saturating_add(other.new_flows);
        self.opened = self.opened.saturating_add(other.opened);
        self.packets = self.packets.saturating_add(other.packets);
        self.flows = self.flows.saturating_add(other.flows);
    }
}

/// Rates per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SourceRates {
    /// New flows per second.
    pub new_flows: f64,
    /// Packets per second.
    pub packets: f64,
}

impl SourceRates {
    const fn raise(&mut self, other: Self) {
        self.new_flows = self.new_flows.max(other.new_flows);
        self.packets = self.packets.max(other.packets);
    }
}

/// Ten seconds of a VIP.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Window {
    /// Its length in seconds.
    pub seconds: f64,
    /// The coarsest sampling mask during the window.
    pub mask: u32,
    /// New flows of the VIP.
    pub new_flows: u64,
    /// Packets of the VIP.
    pub packets: u64,
    /// Highest rates of the VIP over ten seconds that end in the window.
    pub peak: SourceRates,
    /// The sampled sources, in the form of [`source_of`].
    pub sources: Box<[(u64, Counts)]>,
    /// Whether sources are missing: only the busiest ones are kept.
    pub is_cut: bool,
    /// Whether so many flows began at once that not all could be sampled: rates may be too low.
    pub is_overrun: bool,
}

impl Window {
    /// Rates of a source or, with added counts, of several.
    #[must_use]
    pub fn rates(&self, counts: &Counts) -> SourceRates {
        let rate = |sampled: u32, flows: u32, all: u64| {
            let sampled = f64::from(sampled);
            // The counters of the VIP are read a moment before the sampled flows.
            let most = all as f64 * 1.1;
            let lowered = 1.0 - 1.0 / f64::from(flows.max(1)).sqrt();
            let estimate = sampled * (f64::from(self.mask) + 1.0) * lowered;
            estimate.max(sampled).min(most) / self.seconds.max(1.0)
        };
        SourceRates {
            new_flows: rate(counts.new_flows, counts.opened, self.new_flows),
            packets: rate(counts.packets, counts.flows, self.packets),
        }
    }
}

/// The source of an address: an IPv4 address, or the upper half of an IPv6 one.
#[must_use]
pub fn source_of(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => (u128::from(address) >> 64) as u64,
    }
}

/// A source with its peaks over ten seconds, and what it sent in all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SeenSource {
    /// Its prefix.
    pub prefix: Prefix,
    /// Highest rates; not necessarily at the same time.
    pub peak: SourceRates,
    /// Estimated number of new flows.
    pub new_flows: f64,
    /// Estimated number of packets.
    pub packets: f64,
}

/// What the controller has seen of a VIP in the last hour.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceHistory {
    is_ipv6: bool,
    windows: VecDeque<Arc<Window>>,
}

impl SourceHistory {
    /// The empty history of a VIP with this address.
    #[must_use]
    pub const fn new(vip: IpAddr) -> Self {
        Self {
            is_ipv6: vip.is_ipv6(),
            windows: VecDeque::new(),
        }
    }

    /// Adds the newest window.
    pub fn push(&mut self, window: Arc<Window>) {
        if self.windows.len() == WINDOWS {
            self.windows.pop_front();
        }
        self.windows.push_back(window);
    }

    /// Whether nothing was seen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// Whole minutes seen.
    #[must_use]
    pub fn minutes(&self) -> u32 {
        let seconds: f64 = self.windows.iter().map(|window| window.seconds).sum();
        ((seconds + 1.0) / 60.0) as u32
    }

    /// Highest rates of the VIP over ten seconds.
    #[must_use]
    pub fn peak(&self) -> SourceRates {
        let mut peak = SourceRates::default();
        for window in &self.windows {
            peak.raise(window.peak);
        }
        peak
    }

    /// New flows and packets of the VIP.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        let mut totals = (0, 0);
        for window in &self.windows {
            totals.0 += window.new_flows;
            totals.1 += window.packets;
        }
        totals
    }

    /// Whether only the busiest sources of a window were kept.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.windows.iter().any(|window| window.is_cut)
    }

    /// Whether rates may be too low.
    #[must_use]
    pub fn is_overrun(&self) -> bool {
        self.windows.iter().any(|window| window.is_overrun)
    }

    /// One flow in so many was sampled in the busiest window.
    #[must_use]
    pub fn sampled_one_in(&self) -> u32 {
        let masks = self.windows.iter().map(|window| window.mask);
        masks.max().unwrap_or(0).saturating_add(1)
    }

    /// The finest prefix of a source.
    #[must_use]
    pub fn finest(&self, source: u64) -> Prefix {
        if self.is_ipv6 {
            let address = Ipv6Addr::from(u128::from(source) << 64);
            Prefix::containing(address.into(), FINEST_V6)
        } else {
            Prefix::containing(Ipv4Addr::from(source as u32).into(), 32)
        }
    }

    /// All sources seen, at the finest granularity.
    pub fn seen(&self) -> impl Iterator<Item = Prefix> {
        let windows = self.windows.iter();
        let sources = windows.flat_map(|window| window.sources.iter().map(|(source, _)| *source));
        let sources: std::collections::BTreeSet<u64> = sources.collect();
        sources.into_iter().map(|source| self.finest(source))
    }

    /// The sources that limits apply to, with prefixes as in `limit.source`: without those that are
    /// exempt or denied. IPv6 prefixes longer than /64 are taken for /64.
    #[must_use]
    pub fn limited_sources(&self, limit: &Limit) -> Vec<SeenSource> {
        let (exempt, deny) = (
            Prefixes::new(&limit.exempt_prefixes),
            Prefixes::new(&limit.deny_prefixes),
        );
        self.sources(&limit.source, |source| {
            exempt.containing(source).is_none() && deny.containing(source).is_none()
        })
    }

    fn sources(
        &self,
        limit: &SourceLimit,
        is_counted: impl Fn(&Prefix) -> bool,
    ) -> Vec<SeenSource> {
        // The place of a source's prefix in `seen`; none if it is not counted.
        let mut places: HashMap<u64, Option<usize>> = HashMap::new();
        let mut by_prefix: HashMap<Prefix, usize> = HashMap::new();
        let mut seen: Vec<SeenSource> = Vec::new();
        let mut counts: Vec<Counts> = Vec::new();
        let mut touched: Vec<usize> = Vec::new();
        for window in &self.windows {
            for (source, more) in &window.sources {
                let place = *places.entry(*source).or_insert_with(|| {
                    let finest = self.finest(*source);
                    is_counted(&finest).then_some(())?;
                    let prefix = widened(finest, limit);
                    Some(*by_prefix.entry(prefix).or_insert_with(|| {
                        seen.push(SeenSource::new(prefix));
                        counts.push(Counts::default());
                        seen.len() - 1
                    }))
                });
                if let Some(place) = place {
                    if counts[place] == Counts::default() {
                        touched.push(place);
                    }
                    counts[place].add(more);
                }
            }
            for place in touched.drain(..) {
                let rates = window.rates(&std::mem::take(&mut counts[place]));
                seen[place].add(rates, window.seconds);
            }
        }
        seen
    }
}

impl SeenSource {
    const fn new(prefix: Prefix) -> Self {
        let peak = SourceRates {
            new_flows: 0.0,
            packets: 0.0,
        };
        Self {
            prefix,
            peak,
            new_flows: 0.0,
            packets: 0.0,
        }
    }

    fn add(&mut self, rates: SourceRates, seconds: f64) {
        self.peak.raise(rates);
        self.new_flows += rates.new_flows * seconds;
        self.packets += rates.packets * seconds;
    }

    /// The address, or the prefix if it has more than one.
    #[must_use]
    pub fn name(&self) -> String {
        name_of(&self.prefix)
    }
}

/// An IPv4 address without `/32`; other prefixes as they are.
#[must_use]
pub fn name_of(prefix: &Prefix) -> String {
    match (prefix.address(), prefix.length()) {
        (IpAddr::V4(address), 32) => address.to_string(),
        _ => prefix.to_string(),
    }
}

fn widened(finest: Prefix, limit: &SourceLimit) -> Prefix {
    let wanted = limit.prefix_of(finest.address());
    Prefix::containing(finest.address(), wanted.length().min(finest.length()))
}

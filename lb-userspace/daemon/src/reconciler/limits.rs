//! The entries of rate limits, and the lists of prefixes that they refer to.

use std::{collections::BTreeMap, num::NonZeroU64, sync::Arc};

use lb_common::{
    address_of,
    limit::{Limit, MAX_LISTS, Rate, excess},
    vip::limited,
};
use lb_dataplane::ListedPrefixes;
use lb_model::config::{self, OnExcess, Prefix};

use super::error::{ReconcilerError, Result};

/// Packets that a CPU draws at once from the limit of a VIP, at most.
const MAX_CHUNK: u32 = 64;
/// CPUs for which a burst has room for two chunks of each.
const CPUS: u32 = 64;

/// The kinds of limits that a VIP has ([`limited`]).
pub(super) fn kinds(limit: &config::Limit) -> u8 {
    let source = &limit.source;
    let flows = limit.flow_rate().is_some() || source.flow_rate().is_some();
    let packets = limit.packet_rate().is_some() || source.packet_rate().is_some();
    let denies = !limit.deny_prefixes.is_empty();
    let bit = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
    bit(flows, limited::FLOWS) | bit(packets, limited::PACKETS) | bit(denies, limited::DENY)
}

/// The entry of a VIP in the table of limits.
pub(super) fn entry(limit: &config::Limit, lists: &Lists) -> Limit {
    let source = &limit.source;
    let vip_packets = limit.packet_rate();
    let chunk = vip_packets.map_or(1, |rate| (rate.burst / (4 * CPUS)).clamp(1, MAX_CHUNK));
    let mask = |bits: u32, all: &str| {
        let ones = all.parse().map(|ones| Prefix::containing(ones, bits as u8));
        ones.map_or([0; 2], |ones| address_of(ones.address()).0)
    };
    Limit {
        source_flows: rate(source.flow_rate()),
        source_packets: rate(source.packet_rate()),
        vip_flows: rate(limit.flow_rate()),
        vip_packets: vip_packets.map_or(Rate::NONE, |rate| {
            // What CPUs have drawn and not used belongs to the burst.
            let ahead = if chunk > 1 { 2 * CPUS * chunk } else { 0 };
            Rate::new(rate.per_s, rate.burst - ahead, chunk)
        }),
        mask_v4: mask(source.prefix_v4, "255.255.255.255"),
        mask_v6: mask(source.prefix_v6, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        exempt: lists.bit_of(&limit.exempt_prefixes),
        deny: lists.bit_of(&limit.deny_prefixes),
        port_shift: source.port_block.map_or(16, u32::trailing_zeros) as u8,
        source_excess: excess_of(source.on_excess),
        vip_excess: excess_of(limit.on_excess),
        _pad: [0; 3],
        chunk: chunk as u16,
        _unused: 0,
    }
}

fn rate(rate: Option<config::Rate>) -> Rate {
    rate.map_or(Rate::NONE, |rate| Rate::new(rate.per_s, rate.burst, 1))
}

const fn excess_of(on_excess: OnExcess) -> u8 {
    match on_excess {
        OnExcess::Drop => excess::DROP,
        OnExcess::Count => excess::COUNT,
        OnExcess::SecondSyn => excess::SECOND_SYN,
    }
}

/// What is known of a list.
#[derive(Clone, Debug)]
enum List {
    Configured(Arc<[Prefix]>),
    /// Only known from the tables: those of its prefixes that no other one contains.
    Adopted(Vec<Prefix>),
}

impl List {
    fn is(&self, list: &Arc<[Prefix]>) -> bool {
        match self {
            Self::Configured(known) => Arc::ptr_eq(known, list) || known == list,
            Self::Adopted(outermost) => outermost.iter().eq(outermost_of(list)),
        }
    }
}

/// The prefixes of a sorted list that no other one contains.
fn outermost_of(list: &[Prefix]) -> impl Iterator<Item = &Prefix> {
    let mut last: Option<&Prefix> = None;
    list.iter().filter(move |prefix| {
        let is_outermost = !last.is_some_and(|last| last.contains(prefix));
        if is_outermost {
            last = Some(prefix);
        }
        is_outermost
    })
}

/// The lists of prefixes of a state. Each has a number, by which limits refer to it; a list that changes
/// gets another one, so that a VIP changes from one to the other with one word.
#[derive(Clone, Debug, Default)]
pub(super) struct Lists {
    by_bit: BTreeMap<NonZeroU64, List>,
    /// The prefixes of all of them.
    listed: Arc<ListedPrefixes>,
}

impl PartialEq for Lists {
    fn eq(&self, other: &Self) -> bool {
        let is_same = Arc::ptr_eq(&self.listed, &other.listed) || self.listed == other.listed;
        is_same && self.by_bit.keys().eq(other.by_bit.keys())
    }
}

impl Eq for Lists {}

impl Lists {
    /// The lists that adopted limits refer to.
    pub(super) fn adopted<'a>(
        limits: impl Iterator<Item = &'a Limit>,
        listed: &ListedPrefixes,
    ) -> Self {
        let used = limits.fold(0, |used, limit| used | limit.exempt | limit.deny);
        let mut outermost: BTreeMap<_, _> = bits(used).map(|bit| (bit, Vec::new())).collect();
        let mut around = Around::default();
        for (prefix, lists) in listed {
            let outer = around.enter(prefix);
            for bit in bits(used & lists & !outer) {
                outermost.entry(bit).or_default().push(*prefix);
            }
            around.add(*prefix, *lists);
        }
        let adopted = outermost
            .into_iter()
            .map(|(bit, list)| (bit, List::Adopted(list)));
        Self {
            by_bit: adopted.collect(),
            listed: Arc::new(listed.clone()),
        }
    }

    /// The lists of the next state, with these limits.
    pub(super) fn next<'a>(&self, limits: impl Iterator<Item = &'a config::Limit>) -> Result<Self> {
        let lists = limits.flat_map(|limit| [&limit.exempt_prefixes, &limit.deny_prefixes]);
        let mut next = Self::default();
        for list in lists.filter(|list| !list.is_empty()) {
            if next.find(list).is_some() {
                continue;
            }
            let free = || {
                bits(u64::MAX)
                    .find(|bit| !self.by_bit.contains_key(bit) && !next.by_bit.contains_key(bit))
            };
            let bit = self.find(list).or_else(free);
            let bit = bit.ok_or_else(|| ReconcilerError::Full {
                what: "a list of prefixes".to_owned(),
                limit: MAX_LISTS,
                hint: "a changed list takes two places during the change; let VIPs share lists: the same \
                       prefixes and files in the same order of the VIPs' keys are one list",
            })?;
            next.by_bit.insert(bit, List::Configured(Arc::clone(list)));
        }
        next.listed = if next.has_the_lists_of(self) {
            Arc::clone(&self.listed)
        } else {
            Arc::new(next.list())
        };
        Ok(next)
    }

    fn has_the_lists_of(&self, other: &Self) -> bool {
        let is_configured = |list: &List| matches!(list, List::Configured(_));
        // Of one number, both have the same list. With what was adopted, leftovers may be in the tables.
        self.by_bit.keys().eq(other.by_bit.keys()) && other.by_bit.values().all(is_configured)
    }

    fn find(&self, list: &Arc<[Prefix]>) -> Option<NonZeroU64> {
        let found = self.by_bit.iter().find(|(_, known)| known.is(list));
        found.map(|(bit, _)| *bit)
    }

    /// The bit of a list; 0 if it is empty.
    fn bit_of(&self, list: &Arc<[Prefix]>) -> u64 {
        self.find(list).map_or(0, NonZeroU64::get)
    }

    /// The prefixes of all lists, as the data path has them: the longest that contains an address names
    /// all lists with the address.
    pub(super) fn listed(&self) -> &ListedPrefixes {
        &self.listed
    }

    /// The prefixes of both states.
    pub(super) fn listed_with(&self, other: &Self) -> ListedPrefixes {
        let mut both = self.listed.as_ref().clone();
        for (prefix, lists) in other.listed.iter() {
            *both.entry(*prefix).or_default() |= lists;
        }
        inherit(&mut both);
        both
    }

    fn list(&self) -> ListedPrefixes {
        let mut listed = ListedPrefixes::new();
        for (bit, list) in &self.by_bit {
            let List::Configured(list) = list else {
                continue;
            };
            for prefix in list.iter() {
                *listed.entry(*prefix).or_default() |= bit.get();
            }
        }
        inherit(&mut listed);
        listed
    }
}

/// Adds to each prefix the lists of those that contain it.
fn inherit(listed: &mut ListedPrefixes) {
    let mut around = Around::default();
    for (prefix, lists) in listed {
        *lists |= around.enter(prefix);
        around.add(*prefix, *lists);
    }
}

/// The prefixes around the current one of a sorted walk, with their lists: what contains a prefix comes
/// before it.
#[derive(Default)]
struct Around(Vec<(Prefix, u64)>);

impl Around {
    /// Goes on to a prefix; returns the lists of what contains it.
    fn enter(&mut self, prefix: &Prefix) -> u64 {
        let is_over = |(outer, _): &mut (Prefix, u64)| !outer.contains(prefix);
        while self.0.pop_if(is_over).is_some() {}
        self.0.last().map_or(0, |(_, lists)| *lists)
    }

    fn add(&mut self, prefix: Prefix, lists: u64) {
        self.0.push((prefix, lists));
    }
}

/// The bits that are set.
fn bits(set: u64) -> impl Iterator<Item = NonZeroU64> {
    (0..MAX_LISTS).filter_map(move |number| NonZeroU64::new(set & 1 << number))
}

//! Evaluates sampled flows: elephants, backends that do not reply, and heavy sources.
//!
//! The sampling rate follows the traffic ([`super::sampling`]), so counts over a time window use only
//! flows that were sampled during the whole window.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
};

use lb_common::{
    Address,
    hash::is_sampled,
    ip_of, proto,
    ring::MemberIndex,
    sample::{FlowKey, FlowSample},
    vip::forward,
};

use super::{sampling::Sampling, sources::Delta};
use crate::reconciler::{VipReport, reported};
use lb_model::config;
use lb_skew::{Elephant, SampledFlows, Samples, Source};

/// Seconds after which a flow must have had a reply.
const PATIENCE_S: u64 = 3;
/// Packets of a client without a reply: SYN, the end of the handshake, a request. A client that got a
/// reply has acknowledged it or closed.
const UNANSWERED: u64 = 3;
/// Openings remembered per member, and for how long.
const OPENINGS: usize = 32;
const OPENINGS_S: u64 = 60;
/// Windows in which flows are counted by source. The shortest with enough flows is used, so that little
/// from before a fault is counted.
const SOURCE_WINDOWS_S: [u64; 3] = [3, 10, 30];
const ENOUGH_IN_WINDOW: usize = 300;
/// Minimum number of flows of a significant source, and number of sources and elephants reported.
const ENOUGH_FLOWS: u32 = 20;
const NAMED: usize = 8;
/// Flows told to other nodes in a second.
const SOME: usize = 32;

/// A flow as a hash key.
type Flow = [u64; 5];

/// A flow with its packets and bytes per second since the last reading.
type Rated<'a> = (&'a FlowKey, &'a FlowSample, [f64; 2]);

/// State kept between readings.
#[derive(Debug, Default)]
pub(super) struct Sampled {
    flows: HashMap<Flow, Known>,
    read_s: u64,
    /// Flows of each VIP added to the map in the last whole second.
    begun: BTreeMap<u16, u32>,
    openings: BTreeMap<(u16, MemberIndex), VecDeque<(u64, bool)>>,
    vips: BTreeMap<String, Samples>,
    /// What the flows did since the last reading.
    deltas: Vec<Delta>,
    /// Some of them, as text, with their members.
    some: Vec<(String, MemberIndex)>,
    /// Whether `vips` is from this tick.
    fresh: bool,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    packets: u64,
    bytes: u64,
    syns: u32,
    first_s: u32,
    judged: bool,
}

impl Sampled {
    /// The samples of a VIP; none if there was no reading in this tick.
    pub(super) fn of(&self, vip: &str) -> Option<&Samples> {
        self.vips.get(vip).filter(|_| self.fresh)
    }

    /// Flows of a VIP added to the map per second.
    pub(super) fn begun_per_s(&self, vip: u16) -> f64 {
        self.begun.get(&vip).copied().unwrap_or(0).into()
    }

    /// Flows of all VIPs added to the map in the last whole second.
    pub(super) fn all_begun(&self) -> u64 {
        self.begun.values().map(|begun| u64::from(*begun)).sum()
    }

    /// What the flows did between the last two readings.
    pub(super) fn deltas(&self) -> &[Delta] {
        &self.deltas
    }

    /// Some flows with packets between the last two readings.
    pub(super) fn some_flows(&self) -> &[(String, MemberIndex)] {
        &self.some
    }

    /// Begins a tick.
    pub(super) fn age(&mut self) {
        self.fresh = false;
        self.some.clear();
    }

    /// Takes a reading. `now_s` is from the data path's clock.
    pub(super) fn take(
        &mut self,
        now_s: u64,
        flows: &[(FlowKey, FlowSample)],
        report: &[VipReport],
        vips: &[config::Vip],
        sampling: &Sampling,
    ) {
        let read_s = self.read_s;
        let seconds = now_s.saturating_sub(read_s).max(1) as f64;
        self.begun.clear();
        self.deltas.clear();
        let had = std::mem::take(&mut self.flows);
        let mut rates: BTreeMap<u16, Vec<Rated<'_>>> = BTreeMap::new();
        for (key, flow) in flows {
            let same = |known: &&Known| known.first_s == flow.first_s;
            let known = had.get(&flow_of(key)).filter(same);
            if u64::from(flow.first_s) + 1 == now_s {
                *self.begun.entry(flow.vip).or_default() += 1;
            }
            let judged = known.is_some_and(|known| known.judged);
            let judged = judged || self.judge(now_s, key, flow, sampling);
            // All counts of a flow that was not in the last reading are new.
            let is_new = u64::from(flow.first_s) >= read_s;
            let since = |now: u64, before: Option<u64>| {
                let before = before.unwrap_or(if is_new { 0 } else { now });
                now.saturating_sub(before) as f64 / seconds
            };
            let rate = [
                since(flow.packets, known.map(|known| known.packets)),
                since(flow.bytes, known.map(|known| known.bytes)),
            ];
            rates.entry(flow.vip).or_default().push((key, flow, rate));
            // The time of packets counted before the first reading is unknown.
            if (known.is_some() || is_new) && read_s > 0 {
                let packets =
                    flow.packets - known.map_or(0, |known| known.packets.min(flow.packets));
                let syns = flow.syns - known.map_or(0, |known| known.syns.min(flow.syns));
                if packets > 0 {
                    let is_new = known.is_none();
                    self.deltas
                        .push(Delta::new(key, flow, syns, packets, is_new));
                }
            }
            self.flows.insert(
                flow_of(key),
                Known {
                    packets: flow.packets,
                    bytes: flow.bytes,
                    syns: flow.syns,
                    first_s: flow.first_s,
                    judged,
                },
            );
        }
        self.choose_some(now_s, flows, &had, report);
        self.read_s = now_s;
        self.forget_old(now_s);
        self.vips.clear();
        for (configured, vip) in reported(vips, report) {
            let theirs = rates.remove(&vip.index).unwrap_or_default();
            let samples = self.samples(now_s, vip, configured, &theirs, sampling);
            self.vips.insert(vip.name.clone(), samples);
        }
        self.fresh = true;
    }

    /// Chooses other flows in each reading.
    fn choose_some(
        &mut self,
        now_s: u64,
        flows: &[(FlowKey, FlowSample)],
        had: &HashMap<Flow, Known>,
        report: &[VipReport],
    ) {
        let is_nat = |vip: u16| {
            let mut vips = report.iter();
            vips.any(|known| known.index == vip && known.forward == forward::NAT)
        };
        let has_moved = |(key, flow): &&(FlowKey, FlowSample)| {
            let before = had.get(&flow_of(key));
            let before = before.map_or(0, |known| known.packets);
            // A flow of SYNs only has no entry that other nodes know, and may go elsewhere there.
            let is_confirmed = flow.packets >= u64::from(flow.syns) + 2;
            flow.packets > before && is_confirmed && !is_nat(flow.vip)
        };
        let moved: Vec<_> = flows.iter().filter(has_moved).collect();
        let step = moved.len().div_ceil(SOME).max(1);
        let first = now_s as usize % step;
        let chosen = moved.into_iter().skip(first).step_by(step);
        self.some = chosen.map(|(key, flow)| (show(key), flow.member)).collect();
    }

    /// Records the opening of a flow once it is old enough. Returns whether it was judged.
    fn judge(&mut self, now_s: u64, key: &FlowKey, flow: &FlowSample, sampling: &Sampling) -> bool {
        let age_s = now_s.saturating_sub(flow.first_s.into());
        if key.protocol != proto::TCP || flow.syns == 0 || age_s < PATIENCE_S {
            return false;
        }
        // A client that gave up at once (a check, a scan) is not a missing reply.
        let gave_up = flow.resets > 0 && flow.syns == 1;
        // Later packets of a flow that is no longer sampled are not seen.
        let coarsest = sampling.coarsest(flow.vip, flow.first_s.into());
        if age_s <= 2 * PATIENCE_S + 2 && !gave_up && is_sampled(flow.hash.into(), coarsest) {
            let bad = flow.packets <= UNANSWERED || flow.packets == u64::from(flow.syns);
            let openings = self.openings.entry((flow.vip, flow.member)).or_default();
            if openings.len() == OPENINGS {
                openings.pop_front();
            }
            openings.push_back((now_s, bad));
        }
        true
    }

    fn forget_old(&mut self, now_s: u64) {
        for openings in self.openings.values_mut() {
            openings.retain(|(at_s, _)| now_s - at_s.min(&now_s) <= OPENINGS_S);
        }
        self.openings.retain(|_, openings| !openings.is_empty());
    }

    fn samples(
        &self,
        now_s: u64,
        vip: &VipReport,
        configured: &config::Vip,
        flows: &[Rated<'_>],
        sampling: &Sampling,
    ) -> Samples {
        let name_of = |index: MemberIndex| {
            let member = vip.members.iter().find(|member| member.index == index);
            member.map(|member| std::sync::Arc::<str>::from(member.name.as_str()))
        };
        let openings = self.openings.range((vip.index, 0)..=(vip.index, u16::MAX));
        let openings = openings.filter_map(|((_, member), flows)| {
            Some(SampledFlows {
                member: name_of(*member)?,
                flows: flows.len() as u32,
                unanswered: flows.iter().filter(|(_, bad)| *bad).count() as u32,
            })
        });
        let mut largest: Vec<_> = flows.iter().filter(|(_, _, [p, _])| *p >= 1.0).collect();
        largest.sort_by(|a, b| b.2[1].total_cmp(&a.2[1]));
        largest.truncate(NAMED);
        let elephants = largest.into_iter().filter_map(|(key, flow, rate)| {
            Some(Elephant {
                flow: show(key),
                member: name_of(flow.member)?,
                packets_per_s: rate[0],
                bytes_per_s: rate[1],
            })
        });
        // Of a VIP with a bound, a source is where its flows would go without it.
        let assigned = |key: &FlowKey, flow: &FlowSample| {
            let assignment = vip.assignment.as_ref();
            let member = assignment.and_then(|assignment| assignment.member(key));
            member.unwrap_or(flow.member)
        };
        Samples {
            flows_by_member: openings.collect(),
            elephants: elephants.collect(),
            sources: sources(
                &newest(now_s, configured, flows, vip.index, sampling),
                assigned,
                name_of,
            ),
        }
    }
}

/// The newest flows of a VIP, a uniform sample.
fn newest<'f>(
    now_s: u64,
    vip: &config::Vip,
    flows: &[Rated<'f>],
    index: u16,
    sampling: &Sampling,
) -> Vec<(&'f FlowKey, &'f FlowSample)> {
    let mut newest = Vec::new();
    for window_s in SOURCE_WINDOWS_S {
        let first = now_s.saturating_sub(window_s);
        let coarsest = sampling.coarsest(index, first);
        let is_new = |flow: &FlowSample| {
            // A displaced flow that was added again is not new.
            let opened = vip.protocol != config::Protocol::Tcp || flow.syns > 0;
            opened && u64::from(flow.first_s) > first && is_sampled(flow.hash.into(), coarsest)
        };
        let inside = flows.iter().filter(|(_, flow, _)| is_new(flow));
        newest = inside.map(|(key, flow, _)| (*key, *flow)).collect();
        if newest.len() >= ENOUGH_IN_WINDOW {
            break;
        }
    }
    newest
}

fn sources(
    flows: &[(&FlowKey, &FlowSample)],
    assigned: impl Fn(&FlowKey, &FlowSample) -> MemberIndex,
    name_of: impl Fn(MemberIndex) -> Option<std::sync::Arc<str>>,
) -> Vec<Source> {
    let mut by_source: BTreeMap<IpAddr, BTreeMap<MemberIndex, u32>> = BTreeMap::new();
    for (key, flow) in flows {
        let members = by_source.entry(prefix(key)).or_default();
        *members.entry(assigned(key, flow)).or_default() += 1;
    }
    let all = flows.len() as f64;
    let mut sources: Vec<Source> = by_source
        .into_iter()
        .filter_map(|(source, members)| {
            let flows: u32 = members.values().sum();
            let (member, most) = members.into_iter().max_by_key(|(_, flows)| *flows)?;
            (flows >= ENOUGH_FLOWS).then_some(())?;
            Some(Source {
                prefix: show_prefix(source),
                share: (f64::from(flows) / all.max(1.0)).min(1.0),
                member: name_of(member)?,
                at_member: f64::from(most) / f64::from(flows),
            })
        })
        .collect();
    sources.sort_by(|a, b| b.share.total_cmp(&a.share));
    sources.truncate(NAMED);
    sources
}

fn flow_of(key: &FlowKey) -> Flow {
    bytemuck::cast(*key)
}

/// The source address, or the /64 network of an IPv6 one.
fn prefix(key: &FlowKey) -> IpAddr {
    match ip_of(&key.source, key.family) {
        IpAddr::V6(source) => Ipv6Addr::from(u128::from(source) >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

fn show_prefix(prefix: IpAddr) -> String {
    match prefix {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(network) => format!("{network}/64"),
    }
}

/// A flow in the syntax of `explain`.
pub(crate) fn show(key: &FlowKey) -> String {
    let protocol = if key.protocol == proto::TCP {
        "tcp"
    } else {
        "udp"
    };
    let end = |at: Address, port_be: u16| {
        std::net::SocketAddr::new(ip_of(&at, key.family), u16::from_be(port_be))
    };
    let (source, dest) = (end(key.source, key.source_be), end(key.dest, key.dest_be));
    format!("{protocol} {source} > {dest}")
}

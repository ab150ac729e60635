//! Sampled flows: what they tell of elephants, of members that don't answer, and of heavy sources.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use lb_common::{
    Address, family, proto,
    ring::MemberIndex,
    sample::{FlowKey, FlowSample},
};

use crate::{
    config,
    controller::VipReport,
    skew::{Elephant, Openings, Samples, Source},
    traffic::Traffic,
};

/// Seconds after which a flow must have had an answer.
const PATIENCE_S: u64 = 3;
/// Packets of a client that nobody answered: SYN, the end of the handshake, a request. Whoever got an answer
/// has acknowledged it, or closed.
const UNANSWERED: u64 = 3;
/// Flows of a member whose beginnings are remembered, and for how long.
const OPENINGS: usize = 32;
const OPENINGS_S: u64 = 60;
/// Seconds in which flows are counted by source.
const SOURCE_WINDOW: Duration = Duration::from_secs(10);
/// Flows that make a source's share more than chance, and sources that are named.
const ENOUGH_FLOWS: u32 = 20;
const NAMED: usize = 8;

/// A flow as the key of a table.
type Flow = [u64; 5];

/// A flow with its packets and bytes a second since the last reading.
type Rated<'a> = (&'a FlowKey, &'a FlowSample, [f64; 2]);

/// What is kept from one reading to the next.
#[derive(Debug, Default)]
pub(super) struct Sampled {
    flows: HashMap<Flow, Known>,
    read_s: u64,
    openings: BTreeMap<(u16, MemberIndex), VecDeque<(u64, bool)>>,
    vips: BTreeMap<String, Samples>,
    /// Whether a VIP's samples were told: each is told once.
    fresh: bool,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    packets: u64,
    bytes: u64,
    first_s: u32,
    judged: bool,
}

impl Sampled {
    /// What the newest reading says of a VIP; none when there was none since it was asked last.
    pub(super) fn of(&self, vip: &str) -> Option<&Samples> {
        self.vips.get(vip).filter(|_| self.fresh)
    }

    /// Between two readings there is nothing new.
    pub(super) fn age(&mut self) {
        self.fresh = false;
    }

    /// Takes a reading. `now_s` is the time of the data path's clock.
    pub(super) fn take(
        &mut self,
        now_s: u64,
        flows: &[(FlowKey, FlowSample)],
        report: &[VipReport],
        vips: &[config::Vip],
        traffic: &Traffic,
    ) {
        let seconds = now_s.saturating_sub(self.read_s).max(1) as f64;
        let had = std::mem::take(&mut self.flows);
        let mut rates: BTreeMap<u16, Vec<Rated<'_>>> = BTreeMap::new();
        for (key, flow) in flows {
            let same = |known: &&Known| known.first_s == flow.first_s;
            let known = had.get(&flow_of(key)).filter(same);
            let judged = known.is_some_and(|known| known.judged);
            let judged = judged || self.judge(now_s, key, flow);
            let since = |now: u64, before: Option<u64>| {
                now.saturating_sub(before.unwrap_or(now)) as f64 / seconds
            };
            let rate = [
                since(flow.packets, known.map(|known| known.packets)),
                since(flow.bytes, known.map(|known| known.bytes)),
            ];
            rates.entry(flow.vip).or_default().push((key, flow, rate));
            self.flows.insert(
                flow_of(key),
                Known {
                    packets: flow.packets,
                    bytes: flow.bytes,
                    first_s: flow.first_s,
                    judged,
                },
            );
        }
        self.read_s = now_s;
        self.forget_old(now_s);
        self.vips.clear();
        for vip in report {
            let Some(configured) = vips.iter().find(|v| v.name == vip.name) else {
                continue;
            };
            let theirs = rates.remove(&vip.index).unwrap_or_default();
            let samples = self.samples(now_s, vip, configured, &theirs, traffic);
            self.vips.insert(vip.name.clone(), samples);
        }
        self.fresh = true;
    }

    /// Notes how a flow began, once it is old enough; says whether it was noted.
    fn judge(&mut self, now_s: u64, key: &FlowKey, flow: &FlowSample) -> bool {
        let age_s = now_s.saturating_sub(flow.first_s.into());
        if key.protocol != proto::TCP || flow.syns == 0 || age_s < PATIENCE_S {
            return false;
        }
        // Who gave up at once (a check, a scan) was answered well enough.
        let gave_up = flow.resets > 0 && flow.syns == 1;
        if age_s <= 2 * PATIENCE_S + 2 && !gave_up {
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
        traffic: &Traffic,
    ) -> Samples {
        let name_of = |index: MemberIndex| {
            let member = vip.members.iter().find(|member| member.index == index);
            member.map(|member| std::sync::Arc::<str>::from(member.name.as_str()))
        };
        let openings = self.openings.range((vip.index, 0)..=(vip.index, u16::MAX));
        let openings = openings.filter_map(|((_, member), flows)| {
            Some(Openings {
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
        Samples {
            openings: openings.collect(),
            elephants: elephants.collect(),
            sources: sources(now_s, configured, flows, traffic, name_of),
        }
    }
}

/// The sources of the newest flows.
fn sources(
    now_s: u64,
    vip: &config::Vip,
    flows: &[Rated<'_>],
    traffic: &Traffic,
    name_of: impl Fn(MemberIndex) -> Option<std::sync::Arc<str>>,
) -> Vec<Source> {
    let first = now_s.saturating_sub(SOURCE_WINDOW.as_secs());
    let new = flows
        .iter()
        .filter(|(_, flow, _)| u64::from(flow.first_s) > first);
    let mut by_source: BTreeMap<IpAddr, BTreeMap<MemberIndex, u32>> = BTreeMap::new();
    let mut counted = 0;
    for (key, flow, _) in new {
        let members = by_source.entry(prefix(key)).or_default();
        *members.entry(flow.member).or_default() += 1;
        counted += 1;
    }
    // Where sources are hashed, they are sampled whole or not at all: their share is one of all flows.
    let all = match vip.affinity {
        config::Affinity::Flow => f64::from(counted),
        config::Affinity::Source => {
            let window = traffic.window(&vip.name, SOURCE_WINDOW);
            window.map_or(0.0, |window| window.total.new_flows as f64)
        }
    };
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

fn address(address: Address, of: u8) -> IpAddr {
    let [high, low] = address;
    let [a, b, c, d, e, f, g, h] = high.to_ne_bytes();
    if of == family::V4 {
        return Ipv4Addr::new(a, b, c, d).into();
    }
    let [i, j, k, l, m, n, o, p] = low.to_ne_bytes();
    Ipv6Addr::from([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]).into()
}

/// Who has an IPv6 network has all addresses of it.
fn prefix(key: &FlowKey) -> IpAddr {
    match address(key.source, key.family) {
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

/// As `explain` takes it.
fn show(key: &FlowKey) -> String {
    let protocol = if key.protocol == proto::TCP {
        "tcp"
    } else {
        "udp"
    };
    let end = |at: Address, port_be: u16| {
        std::net::SocketAddr::new(address(at, key.family), u16::from_be(port_be))
    };
    let (source, dest) = (end(key.source, key.source_be), end(key.dest, key.dest_be));
    format!("{protocol} {source} > {dest}")
}

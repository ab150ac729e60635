//! Traffic of the fleet: what this node tells the others of its own, the shares of all nodes together, and how
//! routers spread the flows over the nodes.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
};

use lb_skew::{Detector, Finding, Member, Observation, UnevenNode, uneven};
use sha2::{Digest as _, Sha256};

use super::{ShareMonitor, VipMonitor, conditions::Conditions, facts, thresholds};
use crate::{
    alerts::{Condition, Severity},
    reconciler::{ServiceId, VipReport, reported},
    revision::Store,
};
use lb_model::{
    config::{self, Config},
    ring::Identity,
};

/// Seconds over which flows are compared between nodes.
const WINDOW_S: f64 = 10.0;

/// A node that has had no new flow for so many seconds, and announces nothing, may be a standby.
const IDLE_S: f64 = 600.0;

/// Nodes that were not heard for so many seconds do not count.
const SILENT_S: f64 = 4.0;

/// New flows as the ring assigned them, and as members got them.
pub(crate) type Counts = [u64; 2];

/// Traffic of a VIP since the last tick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VipTraffic {
    pub(crate) service: ServiceId,
    /// Equal on nodes whose rings have the same shares.
    pub(crate) ring: u64,
    /// How routers rank the node: those of the lowest rank are to get the same share. None: nothing is
    /// expected.
    pub(crate) rank: Option<u32>,
    /// Members that had new flows.
    pub(crate) members: Vec<(Identity, Counts)>,
}

impl VipTraffic {
    fn new_flows(&self) -> u64 {
        let flows = self.members.iter().map(|(_, counts)| counts[1]);
        flows.fold(0, u64::saturating_add)
    }
}

/// Seconds after a change of a ring in which flows may still be told as they were before.
const SETTLED_S: f64 = 3.0;

/// New flows of a node in the last seconds.
#[derive(Debug, Default)]
struct NodeFlows {
    heard_s: f64,
    ring: u64,
    /// When its ring changed, or was first heard of.
    changed_s: f64,
    rank: Option<u32>,
    /// A place for each second.
    flows: VecDeque<(f64, u64)>,
}

impl NodeFlows {
    fn add(&mut self, now_s: f64, traffic: &VipTraffic) {
        if self.flows.is_empty() || self.ring != traffic.ring {
            self.changed_s = now_s;
        }
        self.heard_s = now_s;
        self.ring = traffic.ring;
        self.rank = traffic.rank;
        match self.flows.back_mut() {
            Some((at_s, flows)) if now_s - *at_s < 0.5 => {
                *flows = flows.saturating_add(traffic.new_flows());
            }
            _ => self.flows.push_back((now_s, traffic.new_flows())),
        }
        while self
            .flows
            .front()
            .is_some_and(|(at_s, _)| now_s - at_s > WINDOW_S)
        {
            self.flows.pop_front();
        }
    }

    fn sum(&self) -> u64 {
        let flows = self.flows.iter().map(|(_, flows)| *flows);
        flows.fold(0, u64::saturating_add)
    }
}

/// A VIP on all nodes.
#[derive(Debug)]
struct FleetVip {
    detector: Detector,
    /// The settings that the detector has.
    skew: config::Skew,
    /// Sums over the nodes whose rings have the same shares as this one's.
    totals: BTreeMap<Identity, Counts>,
    /// By name; this node has an empty one.
    nodes: BTreeMap<String, NodeFlows>,
    /// What routers spread unevenly.
    uneven: Vec<UnevenNode>,
    /// When this node last had a new flow.
    flows_at_s: Option<f64>,
}

/// The fleet's traffic.
#[derive(Debug, Default)]
pub(super) struct FleetShares {
    vips: BTreeMap<ServiceId, (String, FleetVip)>,
    /// Own totals at the last tick.
    told: BTreeMap<(ServiceId, Identity), Counts>,
    conditions: Conditions,
}

fn totals_of(member: &Member) -> Counts {
    [
        member.ring_flows.unwrap_or(member.new_flows),
        member.new_flows,
    ]
}

/// A digest of members and table shares.
fn ring_digest(monitor: &VipMonitor) -> u64 {
    let members = monitor.identities.iter().zip(&monitor.members);
    let mut members: Vec<_> = members
        .map(|(identity, member)| (*identity, member.table_share.to_bits()))
        .collect();
    members.sort_unstable();
    let mut digest = Sha256::new();
    for (identity, share) in members {
        match identity.address {
            IpAddr::V4(address) => digest.update(address.octets()),
            IpAddr::V6(address) => digest.update(address.octets()),
        }
        digest.update(identity.port.to_be_bytes());
        digest.update(share.to_be_bytes());
    }
    let digest = digest.finalize();
    u64::from_be_bytes(digest[..8].try_into().expect("eight bytes"))
}

impl ShareMonitor {
    /// The traffic since the last tick, for the other nodes; it is also counted here. `rank`: how routers rank
    /// this node for a VIP, given whether it has had new flows lately.
    pub(crate) fn fleet_traffic(
        &mut self,
        config: &Config,
        report: &[VipReport],
        rank: impl Fn(&config::Vip, bool) -> Option<u32>,
    ) -> Vec<VipTraffic> {
        let now_s = self.now_s();
        let mut traffic = Vec::new();
        let mut told = BTreeMap::new();
        for (vip, reported) in reported(&config.vips, report) {
            let Some(monitor) = self.vips.get(&vip.name) else {
                continue;
            };
            let service = reported.service;
            let mut members = Vec::new();
            for (identity, member) in monitor.identities.iter().zip(&monitor.members) {
                let now = totals_of(member);
                let before = self.fleet.told.get(&(service, *identity));
                told.insert((service, *identity), now);
                // A smaller total means that the counter was reset.
                let since = |which: usize| {
                    let before = before.map_or(now[which], |before| before[which]);
                    now[which].checked_sub(before).unwrap_or(now[which])
                };
                let counts: Counts = std::array::from_fn(since);
                if counts != [0; 2] {
                    members.push((*identity, counts));
                }
            }
            let known = self.fleet.vips.get_mut(&service);
            let has_flows = known.is_some_and(|(_, vip)| {
                if members.iter().any(|(_, counts)| counts[1] > 0) {
                    vip.flows_at_s = Some(now_s);
                }
                vip.flows_at_s.is_some_and(|at_s| now_s - at_s < IDLE_S)
            });
            traffic.push(VipTraffic {
                service,
                ring: ring_digest(monitor),
                rank: rank(vip, has_flows),
                members,
            });
        }
        self.fleet.told = told;
        self.hear_traffic("", &traffic);
        traffic
    }

    /// Counts the traffic of a node; this one has an empty name.
    pub(crate) fn hear_traffic(&mut self, node: &str, traffic: &[VipTraffic]) {
        let now_s = self.now_s();
        for told in traffic {
            let Some((_, vip)) = self.fleet.vips.get_mut(&told.service) else {
                continue;
            };
            let known = vip.nodes.entry(node.to_owned()).or_default();
            known.add(now_s, told);
            let own = vip.nodes.get("").map(|own| own.ring);
            // Flows of another ring have other shares.
            if own != Some(told.ring) {
                continue;
            }
            for (identity, counts) in &told.members {
                let sums = vip.totals.entry(*identity).or_default();
                for (sum, count) in sums.iter_mut().zip(counts) {
                    *sum = sum.saturating_add(*count);
                }
            }
        }
    }

    /// Whether the rings of a node and of this one have stayed as they are for some seconds, so that what is
    /// told of flows is of these rings.
    pub(crate) fn is_settled(&self, node: &str, service: &ServiceId) -> bool {
        let vip = self.fleet.vips.get(service);
        let nodes = vip.and_then(|(_, vip)| Some([vip.nodes.get(node)?, vip.nodes.get("")?]));
        let now_s = self.now_s();
        nodes.is_some_and(|nodes| nodes.iter().all(|it| now_s - it.changed_s > SETTLED_S))
    }

    /// Whether a node's ring has the same shares as this one's; none if that is not known.
    pub(crate) fn has_equal_ring(&self, node: &str, service: &ServiceId) -> Option<bool> {
        let (_, vip) = self.fleet.vips.get(service)?;
        Some(vip.nodes.get(node)?.ring == vip.nodes.get("")?.ring)
    }

    /// Judges the sums. `own`: the name of this node.
    pub(crate) fn judge_fleet(&mut self, own: &str, config: &Config, report: &[VipReport]) {
        let now_s = self.now_s();
        let mut vips = std::mem::take(&mut self.fleet.vips);
        for (vip, reported) in reported(&config.vips, report) {
            let Some(monitor) = self.vips.get(&vip.name) else {
                continue;
            };
            let known = vips.remove(&reported.service);
            let known = known.filter(|(_, known)| known.detector.facts() == facts(vip));
            let mut fleet = known.map_or_else(
                || FleetVip {
                    detector: Detector::new(thresholds(&vip.skew), facts(vip)),
                    skew: vip.skew,
                    flows_at_s: None,
                    totals: BTreeMap::new(),
                    nodes: BTreeMap::new(),
                    uneven: Vec::new(),
                },
                |(_, known)| known,
            );
            fleet
                .nodes
                .retain(|_, node| now_s - node.heard_s < SILENT_S);
            let current: BTreeSet<&Identity> = monitor.identities.iter().collect();
            fleet.totals.retain(|member, _| current.contains(member));
            if fleet.skew != vip.skew {
                fleet.detector.set_thresholds(thresholds(&vip.skew));
                fleet.skew = vip.skew;
            }
            fleet.uneven = fleet.spread(own);
            let members = fleet.members(monitor);
            let change = self.changes.newest(&vip.name, now_s);
            fleet.detector.observe(&Observation {
                at_s: now_s,
                members: &members,
                ring_size: reported.slots,
                in_transition: reported.counts.in_transition > 0
                    && vip.track != config::Track::Always,
                change: change.as_ref(),
                // Those of one node do not explain the sum.
                samples: None,
                bounded: reported.assignment.is_some(),
            });
            let name = vip.name.clone();
            self.fleet.vips.insert(reported.service, (name, fleet));
        }
    }

    /// What is wrong with the sums, where this node alone does not see it, and how flows are spread over nodes.
    pub(crate) fn fleet_conditions(&mut self, store: &Store) -> Vec<Condition> {
        let now_s = self.now_s();
        let is_seen = |vip: &str, found: &Finding| {
            self.vips.get(vip).is_some_and(|monitor| {
                let mut findings = monitor.detector.findings().iter();
                findings.any(|own| {
                    own.severity > lb_skew::Severity::Note
                        && own.kind == found.kind
                        && own.members.iter().any(|own| {
                            let mut members = found.members.iter();
                            members.any(|member| member.name == own.name)
                        })
                })
            })
        };
        let together = self.fleet.vips.values();
        let together = together.filter(|(_, fleet)| fleet.nodes.len() > 1);
        let findings = together.flat_map(|(name, fleet)| {
            let findings = fleet.detector.findings().iter();
            findings.map(move |finding| (name.as_str(), finding))
        });
        let findings = findings.filter(|(vip, finding)| !is_seen(vip, finding));
        let findings: Vec<_> = findings.collect();
        let found = self
            .fleet
            .conditions
            .update(now_s, &findings, |number, vip| {
                super::RevisionFacts::read(store, number, vip)
            });
        let found = found.into_iter().map(|condition| Condition {
            key: format!("fleet_{}", condition.key),
            summary: format!("all nodes together: {}", condition.summary),
            part_of: None,
            ..condition
        });
        let uneven = self.fleet.vips.values();
        let uneven =
            uneven.filter_map(|(name, fleet)| ecmp(name, fleet.nodes.len(), &fleet.uneven));
        found.chain(uneven).collect()
    }
}

impl FleetVip {
    /// The members of this node, with the counters of all nodes.
    fn members(&self, monitor: &VipMonitor) -> Vec<Member> {
        let members = monitor.identities.iter().zip(&monitor.members);
        let with_sums = |(identity, member): (&Identity, &Member)| {
            let [ring_flows, new_flows] = self.totals.get(identity).copied().unwrap_or_default();
            Member {
                new_flows,
                ring_flows: Some(ring_flows),
                // Which flows have most of them, only their node knows.
                packets: 0,
                bytes: 0,
                ..member.clone()
            }
        };
        members.map(with_sums).collect()
    }

    fn spread(&self, own: &str) -> Vec<UnevenNode> {
        let best = self.nodes.values().filter_map(|node| node.rank).min();
        let nodes = self.nodes.iter();
        let nodes = nodes.filter(|(_, node)| node.rank.is_some() && node.rank == best);
        let flows = nodes.map(|(name, node)| {
            let name = if name.is_empty() { own } else { name };
            (name, node.sum())
        });
        uneven(&flows.collect::<Vec<_>>())
    }
}

/// Routers spread the flows of a VIP unevenly over the nodes.
fn ecmp(vip: &str, nodes: usize, uneven: &[UnevenNode]) -> Option<Condition> {
    if uneven.is_empty() {
        return None;
    }
    let of = |it: &UnevenNode| {
        let (share, fair) = (it.share * 100.0, it.fair * 100.0);
        format!("{} gets {share:.0} % (expected {fair:.0} %)", it.node)
    };
    let named: Vec<String> = uneven.iter().map(of).collect();
    let summary = format!(
        "VIP {vip}: of the new flows of {nodes} nodes, {}",
        named.join(", ")
    );
    let key = format!("ecmp_skew:{vip}");
    let condition = Condition::new(key, "ecmp_skew", Severity::Warning, summary).vip(vip);
    Some(condition.cause(
        "routers spread the flows unevenly over the nodes; the rings are not the cause. Look at the next hops and \
         MEDs of the routers, and whether they hash ports: a hash of addresses alone does this with few clients",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uneven_routers_are_named_with_their_shares() {
        assert_eq!(ecmp("web", 3, &[]), None);
        let nodes = [UnevenNode {
            node: "lb-1".to_owned(),
            share: 0.97,
            fair: 1.0 / 3.0,
        }];
        let found = ecmp("web", 3, &nodes).unwrap();
        assert_eq!(
            found.summary,
            "VIP web: of the new flows of 3 nodes, lb-1 gets 97 % (expected 33 %)"
        );
    }
}

//! A healthy node of any size.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use bytemuck::Zeroable as _;
use jiff::Timestamp;
use lb_common::{
    counters::{MemberCounters, VipCounters},
    reason::REASONS,
};
use lb_dataplane::{Overfull, Spills};
use lb_fleet::{
    FleetExchange, FleetHead, FleetHealth, FleetNodeState, FleetPeer, FleetState, FleetSuspect,
};

use super::*;
use crate::{
    health::HealthStatus,
    node::{
        Announced, AnnouncedAddress, Announcement, Announcing, BgpSession, BoundUse, DrainPhase,
        FileStatus, Interface, InterfaceMode, LimitUse, MemberPhase, MemberState, NodeInfo,
        PortUse, RingSlots, RouteTable, SourceState, VipState,
    },
    revision::{RevisionInfo, RevisionState},
    traffic::{MemberSample, Rates, Sample, Totals, Traffic, VipSample},
};
use lb_model::{
    config::{BackendState, Bound, BoundFactor, Forward, OnExcess, Protocol},
    membership::{Families, Member, MemberSet, MemberSource, name_of},
};

pub(crate) struct Example {
    pub(crate) state: NodeState,
    pub(crate) traffic: Traffic,
    pub(crate) facts: Facts,
}

/// `vips` VIPs with `members` members each.
pub(crate) fn example(vips: usize, members: usize) -> Example {
    let at = Timestamp::from_second(1_800_000_000).unwrap();
    let state = NodeState {
        at,
        node: NodeInfo {
            host: "lb-1".to_owned(),
            version: "0.1.0",
            pid: 7,
            started_at: at,
            adopted: true,
            program_id: 42,
            interfaces: vec![Interface {
                name: "eth0".to_owned(),
                mode: InterfaceMode::Native,
                program_id: Some(42),
            }],
        },
        revision: Some(RevisionInfo {
            number: 3,
            parent: Some(2),
            at,
            who: "root".to_owned(),
            how: "start".to_owned(),
            why: None,
            forced: Vec::new(),
            state: RevisionState::Applied,
            digest: String::new(),
        }),
        file: FileStatus::default(),
        vips: (0..vips).map(|index| vip(index, members)).collect(),
        sources: (vips > 0).then(source).into_iter().collect(),
        announcing: Some(announcing(vips)),
        alerts: Vec::new(),
        reasons: REASONS.iter().map(|r| (r.name, 7)).collect(),
        fleet: Some(FleetState {
            fleet: "edge".to_owned(),
            node: "lb-1".to_owned(),
            connected: true,
            contact_age_s: Some(2.5),
            leader: Some("lb-1".to_owned()),
            state: FleetNodeState::InSync,
            head: Some(FleetHead {
                revision: 4,
                digest: String::new(),
            }),
            confirmed: Some(FleetHead {
                revision: 4,
                digest: String::new(),
            }),
            exchange: Some(FleetExchange {
                peers: vec![FleetPeer {
                    node: "lb-2".to_owned(),
                    address: "10.0.0.2:7946".to_owned(),
                    connected: true,
                    error: None,
                }],
                ..FleetExchange::default()
            }),
            health: Some(FleetHealth {
                suspect: Some(FleetSuspect {
                    node: "lb-2".to_owned(),
                    backends: 2,
                    of: 4,
                }),
                ..FleetHealth::default()
            }),
            ..FleetState::default()
        }),
    };
    let facts = Facts {
        maps: vec![MapFacts {
            name: "members".to_owned(),
            entries: Some(4),
            max_entries: 4096,
            bytes: Some(262_144),
        }],
        ..Facts::default()
    };
    Example {
        traffic: traffic(&state),
        state,
        facts,
    }
}

/// The source of the first VIP.
fn source() -> SourceState {
    let members = [1, 2].map(|last| {
        let address = Ipv4Addr::new(10, 0, 0, last).into();
        let member = Member {
            name: name_of(address, None),
            address,
            port: None,
            weight: 100,
            state: BackendState::Up,
        };
        (member, false)
    });
    SourceState {
        source: MemberSource::Api {
            name: "web".to_owned(),
        },
        families: Families::Both,
        vips: vec!["vip-0".to_owned()],
        members: MemberSet::restored(members, Duration::ZERO)
            .members()
            .to_vec(),
        answered_at: Timestamp::from_second(1_799_999_997).ok(),
        failures: 0,
        error: None,
        is_failing: false,
        held: None,
        failed: 1,
        refused: 0,
    }
}

/// All of it announced to two peers, and in a table.
fn announcing(vips: usize) -> Announcing {
    let addresses = (0..vips).map(|index| address(index).into());
    let session = |peer: &str| BgpSession {
        peer: peer.to_owned(),
        address: Ipv4Addr::new(192, 0, 2, 1).into(),
        state: "Established".to_owned(),
        is_up: true,
        for_s: 60.0,
        last_error: None,
        flaps: 2,
        routes_sent: vips as u64,
        problems: Vec::new(),
    };
    let answer = Announced {
        drain: DrainPhase::No,
        sessions: vec![session("tor-1"), session("tor-2")],
        table: Some(RouteTable {
            number: 7411,
            in_sync: true,
            last_error: None,
        }),
        unmet: Vec::new(),
        addresses: (0..vips)
            .map(|index| AnnouncedAddress {
                address: address(index).into(),
                state: Announcement::Announced,
                for_s: 50.0,
                vips: vec![format!("vip-{index}")],
                unmet: Vec::new(),
                reason: None,
                waits: false,
            })
            .collect(),
    };
    Announcing {
        wanted: addresses.collect(),
        peers: vec!["tor-1".to_owned(), "tor-2".to_owned()],
        answer: Ok(Arc::new(answer)),
    }
}

const fn address(vip: usize) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, vip as u8)
}

fn vip(index: usize, members: usize) -> VipState {
    VipState {
        name: format!("vip-{index}"),
        address: IpAddr::V4(address(index)),
        port: 443,
        protocol: Protocol::Tcp,
        forward: Forward::L2,
        panic: false,
        ring: RingSlots {
            total: 65_537,
            in_transition: 0,
            settling: 0,
        },
        rates: Rates {
            packets_per_s: 1000.0,
            bytes_per_s: 1e6,
            new_flows_per_s: 140.0,
        },
        peak_new_flows_per_s: 0.0,
        target_utilisation: 0.7,
        tracked_flows: 0,
        untracked_packets: 0,
        limit: (index == 0).then(|| LimitUse {
            source_new_flows_per_s: 0.0,
            source_packets_per_s: 0.0,
            new_flows_per_s: 0.0,
            packets_per_s: 0.0,
            denied_per_s: 0.0,
            source_on_excess: OnExcess::Drop,
            on_excess: OnExcess::SecondSyn,
            sources: Vec::new(),
        }),
        bound: (index == 0).then(|| BoundUse {
            bound: Bound {
                factor: BoundFactor::new(1.25),
                capacity: false,
            },
            new_flows_per_s: 140.0,
            spilled_per_s: 0.0,
            all_full_per_s: 0.0,
            no_room_per_s: 0.0,
            spilling: Vec::new(),
            receiving: Vec::new(),
        }),
        members: (0..members).map(|i| member(index, i, members)).collect(),
    }
}

fn member(vip: usize, index: usize, members: usize) -> MemberState {
    let address = Ipv4Addr::new(10, vip as u8, (index >> 8) as u8, index as u8);
    MemberState {
        backend: format!("backend-{index}"),
        address: address.into(),
        port: 443,
        phase: MemberPhase::Up,
        weight: 100,
        effective_weight: 100,
        capacity: Some(1000),
        health: Some(HealthStatus {
            healthy: true,
            uncertain: false,
            since: std::time::Instant::now(),
            last_ok: Some(true),
            last_error: None,
            last_cause: None,
            inconclusive: None,
            latency: Some(std::time::Duration::from_nanos(473_100)),
            damped: false,
        }),
        route_problem: None,
        totals: Totals::default(),
        rates: Rates::default(),
        tracked_flows: 0,
        nat_ports: Some(PortUse {
            in_use: 1_966,
            over: 300,
            total: 16_384,
        }),
        intended_share: 1.0 / members as f64,
        table_share: (65_537 / members) as f64 / 65_537.0,
        observed_share: Some(1.01 / members as f64),
    }
}

fn traffic(state: &NodeState) -> Traffic {
    let mut traffic = Traffic::new("example");
    let start = Instant::now();
    for second in 0..12 {
        let counters = MemberCounters {
            packets: 1_234_567_890 + second * 1000,
            bytes: 987_654_321_000 + second * 100_000,
            new_flows: 123_456_789 + second * 10,
            ..MemberCounters::zeroed()
        };
        let members = state.vips.iter().flat_map(|vip| {
            let members = vip.members.iter();
            members.map(|member| (vip.name.as_str(), member.backend.as_str()))
        });
        let members = members
            .enumerate()
            .map(|(index, (vip, backend))| MemberSample {
                vip,
                backend,
                index: index as u16,
                generation: 1,
                counters,
                spills: Some(Spills {
                    spilled: 30 * (second + 1),
                    received: 20 * (second + 1),
                }),
            });
        let vips = state.vips.iter().enumerate().map(|(index, vip)| VipSample {
            vip: &vip.name,
            index: index as u16,
            counters: VipCounters::zeroed(),
            limits: None,
            overfull: Some(Overfull {
                all_full: 4 * (second + 1),
                no_room: second + 1,
            }),
        });
        traffic.observe(&Sample {
            at: start + Duration::from_secs(second),
            wall: state.at,
            members: members.collect(),
            vips: vips.collect(),
        });
    }
    traffic
}

pub(crate) fn snapshot(vips: usize, members: usize) -> Snapshot {
    let example = example(vips, members);
    let count = |severity| crate::alerts::Firing {
        kind: "share_skew".to_owned(),
        severity,
        count: 1,
    };
    Snapshot {
        state: Arc::new(example.state),
        totals: example.traffic.copy(),
        facts: Arc::new(example.facts),
        firing: vec![count(crate::alerts::Severity::Warning)],
        refused: 0,
        receivers: vec![ReceiverCounts {
            kind: "webhook",
            receiver: "http://127.0.0.1:8080".to_owned(),
            sent: 2,
            failed: 1,
            superseded: 0,
        }],
    }
}

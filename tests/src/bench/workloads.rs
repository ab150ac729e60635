//! The workloads of the benchmark.

use anyhow::Result;
use lb_common::{
    bench::Plan,
    family, proto,
    reason::Reason,
    vip::{affinity, forward, limited, track},
};
use lb_dataplane::{Dataplane, LoadOptions};

use super::{
    balancer::{Service, establish, load},
    packets::{ALL_DISTINCT, ELSEWHERE_V4, Packets, Payload, flags},
    wrapper::{Floor, Wrapper},
};

const KI: u32 = 1024;
const MI: u32 = 1024 * 1024;

/// Expected result of the lookup in the tracking table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// No lookup.
    NoLookup,
    Hit,
    Miss,
}

/// Preparation before the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    Nothing,
    /// Inserts all flows into the tracking table and confirms them.
    Track,
    /// Establishes all sessions.
    Establish,
}

#[derive(Clone, Copy, Debug)]
pub struct Workload {
    pub name: &'static str,
    pub packets: Packets,
    pub service: Service,
    pub floor: Floor,
    pub before: Before,
    /// Expected reason of every packet.
    pub reason: Reason,
    pub tracking: Tracking,
}

const STATELESS: Service = Service {
    forward: forward::IPIP,
    track: track::ON_CHANGE,
    affinity: affinity::FLOW,
    member_family: family::V4,
    in_transition: false,
    sampled: false,
    limits: 0,
};

const fn established(name: &'static str, of: u8, flows: u32) -> Workload {
    Workload {
        name,
        packets: Packets::tcp(of, flags::ACK, flows),
        service: Service {
            member_family: of,
            ..STATELESS
        },
        floor: if of == family::V4 {
            Floor::Encap4
        } else {
            Floor::Encap6
        },
        before: Before::Nothing,
        reason: Reason::Forwarded,
        tracking: Tracking::NoLookup,
    }
}

const fn tracked_udp(name: &'static str, flows: u32) -> Workload {
    let tcp = established(name, family::V4, flows);
    Workload {
        packets: Packets {
            payload: Payload::Udp,
            ..tcp.packets
        },
        service: Service {
            track: track::ALWAYS,
            ..STATELESS
        },
        before: Before::Track,
        tracking: Tracking::Hit,
        ..tcp
    }
}

const fn transition(name: &'static str, hit: bool) -> Workload {
    let flows = if hit { 16 * KI } else { ALL_DISTINCT };
    Workload {
        service: Service {
            in_transition: true,
            ..STATELESS
        },
        before: if hit { Before::Track } else { Before::Nothing },
        tracking: if hit { Tracking::Hit } else { Tracking::Miss },
        ..established(name, family::V4, flows)
    }
}

const fn nat(name: &'static str, of: u8, flows: u32) -> Workload {
    Workload {
        service: Service {
            forward: forward::NAT,
            member_family: of,
            ..STATELESS
        },
        floor: Floor::Encap4,
        before: Before::Establish,
        ..established(name, of, flows)
    }
}

const fn with_limits(name: &'static str, limits: u8, flags: u8, flows: u32) -> Workload {
    Workload {
        packets: Packets::tcp(family::V4, flags, flows),
        service: Service {
            limits,
            ..STATELESS
        },
        ..established(name, family::V4, flows)
    }
}

const fn bounded(name: &'static str, flags: u8, flows: u32) -> Workload {
    let limited = with_limits(name, limited::BOUND, flags, flows);
    Workload {
        service: Service {
            track: track::ON_SPILL,
            ..limited.service
        },
        ..limited
    }
}

const fn encapsulated(name: &'static str, inner: u8, outer: u8) -> Workload {
    Workload {
        packets: Packets::tcp(inner, flags::ACK, 16 * KI),
        ..established(name, outer, 16 * KI)
    }
}

const fn not_balanced(name: &'static str, payload: Payload, reason: Reason) -> Workload {
    let tcp = established(name, family::V4, 16 * KI);
    Workload {
        packets: Packets {
            payload,
            ..tcp.packets
        },
        floor: Floor::Tx,
        reason,
        ..tcp
    }
}

#[must_use]
pub fn all() -> Vec<Workload> {
    let (v4, v6) = (family::V4, family::V6);
    let base = established("", v4, 16 * KI);
    vec![
        established("tcp4_established_1", v4, 1),
        established("tcp4_established_16ki", v4, 16 * KI),
        established("tcp4_established_128ki", v4, 128 * KI),
        established("tcp4_established_1mi", v4, MI),
        Workload {
            packets: Packets::tcp(v4, flags::SYN, ALL_DISTINCT),
            ..established("tcp4_syn", v4, ALL_DISTINCT)
        },
        established("tcp6_established_1", v6, 1),
        established("tcp6_established_16ki", v6, 16 * KI),
        established("tcp6_established_128ki", v6, 128 * KI),
        established("tcp6_established_1mi", v6, MI),
        transition("tcp4_transition_hit", true),
        transition("tcp4_transition_miss", false),
        tracked_udp("udp4_tracked_1", 1),
        tracked_udp("udp4_tracked_16ki", 16 * KI),
        tracked_udp("udp4_tracked_128ki", 128 * KI),
        tracked_udp("udp4_tracked_1mi", MI),
        Workload {
            name: "source_affinity",
            service: Service {
                affinity: affinity::SOURCE,
                ..STATELESS
            },
            ..base
        },
        Workload {
            name: "l2",
            service: Service {
                forward: forward::L2,
                ..STATELESS
            },
            ..base
        },
        encapsulated("ipip_4in6", v4, v6),
        encapsulated("ipip_6in4", v6, v4),
        nat("nat4_established_1", v4, 1),
        nat("nat4_established_1mi", v4, MI),
        nat("nat6_established_1", v6, 1),
        Workload {
            packets: Packets::tcp(v4, flags::SYN, ALL_DISTINCT),
            before: Before::Nothing,
            ..nat("nat4_syn", v4, ALL_DISTINCT)
        },
        Workload {
            packets: Packets {
                payload: Payload::Udp,
                ..base.packets
            },
            before: Before::Nothing,
            ..nat("nat4_udp_one_way", v4, 16 * KI)
        },
        Workload {
            name: "tcp4_sampled",
            service: Service {
                sampled: true,
                ..STATELESS
            },
            packets: Packets::tcp(v4, flags::ACK, 1),
            ..base
        },
        with_limits(
            "tcp4_flow_limits_established",
            limited::FLOWS,
            flags::ACK,
            1,
        ),
        with_limits(
            "tcp4_flow_limits_syn",
            limited::FLOWS,
            flags::SYN,
            ALL_DISTINCT,
        ),
        with_limits("tcp4_packet_limits", limited::PACKETS, flags::ACK, 1),
        with_limits("tcp4_denied_sources", limited::DENY, flags::ACK, 1),
        bounded("tcp4_bounded_established", flags::ACK, 1),
        bounded("tcp4_bounded_syn", flags::SYN, ALL_DISTINCT),
        Workload {
            name: "256_vips",
            packets: Packets {
                dests: 256,
                ..base.packets
            },
            ..base
        },
        Workload {
            packets: Packets {
                dest: ELSEWHERE_V4,
                ..base.packets
            },
            ..not_balanced("no_vip", Payload::Tcp(flags::ACK), Reason::NoVip)
        },
        not_balanced("icmp_echo", Payload::Echo, Reason::EchoAnswered),
        not_balanced("not_ip", Payload::Arp, Reason::NotIp),
    ]
}

impl Workload {
    /// Returns whether all flows are distinct.
    const fn is_flood(&self) -> bool {
        self.packets.flows == ALL_DISTINCT
    }

    fn options(&self) -> LoadOptions {
        let flows = if self.is_flood() {
            1
        } else {
            self.packets.flows
        };
        let default = LoadOptions::default();
        let tracked = self.before == Before::Track;
        let sessions = if self.before == Before::Establish {
            // More than needed: the kernel evicts entries before such a table is full.
            flows + flows / 8 + 1024
        } else {
            1024
        };
        LoadOptions {
            // Half full.
            track_buckets: if tracked {
                (flows / 8).max(1024)
            } else {
                default.track_buckets
            },
            nat_sessions: sessions,
            // Twice the sessions that only the client's packets have seen.
            nat_embryonic: if self.service.forward == forward::NAT && !self.is_flood() {
                (2 * flows).max(1024)
            } else {
                1024
            },
            icmp_rate: u32::MAX,
            jiffies_shift: Some(8),
            ..default
        }
    }

    /// Loads its balancer and prepares the flows.
    pub fn prepare(&self, wrapper: &mut Wrapper) -> Result<Dataplane> {
        let mut dataplane = load(&self.options(), &self.service, &self.packets)?;
        match self.before {
            Before::Nothing => {}
            Before::Track => self.track(wrapper, &dataplane)?,
            Before::Establish => establish(&mut dataplane, &self.packets)?,
        }
        Ok(dataplane)
    }

    /// Opens every flow and sends a second packet of each.
    fn track(&self, wrapper: &mut Wrapper, dataplane: &Dataplane) -> Result<()> {
        wrapper.choose_balancer(dataplane)?;
        let open = if self.packets.payload.protocol() == proto::TCP {
            Payload::Tcp(flags::SYN)
        } else {
            self.packets.payload
        };
        for payload in [open, self.packets.payload] {
            let packets = Packets {
                payload,
                ..self.packets
            };
            let mut plan: Plan = packets.plan();
            wrapper.run(&mut plan, self.packets.flows)?;
        }
        Ok(())
    }
}

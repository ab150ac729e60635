//! Kinds of traffic and events without a fault.

use lb_skew::Phase;

use super::{random::Random, world::World};

/// Seconds of a day.
pub const DAY_S: f64 = 86_400.0;

/// A kind of traffic, with events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Poisson arrivals, equal weights.
    Poisson,
    /// Weights between 1 and 1,000.
    Weights,
    /// Rates that vary strongly from second to second, and bursts.
    Bursty,
    /// Nineteen times more flows by day than by night.
    DayNight,
    /// Zipf clients, flows hashed one by one; one SYN in fifty is repeated twice.
    ZipfClients,
    /// Zipf clients, `affinity = "source"`: each client uses one member and opens flows in bursts.
    ZipfSource,
    /// Half of the flows from five NATs that reuse their ports as soon as possible.
    NatPorts,
    /// A quarter of the flows from twenty NATs, `affinity = "source"`.
    NatSource,
    /// Heavy-tailed sizes of flows, in bytes and packets.
    HeavyTailed,
    /// Ten times the flows for ten minutes, four times a day.
    FlashCrowd,
    /// All backends are drained, replaced and slow-started one by one, every two hours.
    RollingDeploy,
    /// The same with UDP, where existing flows are counted again.
    RollingDeployUdp,
    /// A backend that goes up and down every few seconds.
    Flapping,
    /// Late observations and counter resets.
    LateTicks,
    /// Untracked UDP: each packet counts as a flow, and a session stays on its member.
    UntrackedUdp,
    /// Short requests and replies.
    Browsing,
    /// Most requests are answered after half a minute.
    LongPolling,
    /// Most connections are opened in advance.
    IdleKeepAlive,
    /// The same with backends replaced one by one: a returning backend has no old connections.
    KeepAliveDeploy,
    /// Most clients only receive.
    ServerPush,
    /// Of twenty clients one never completes its handshake and repeats its SYN five times, two
    /// vanish after their request.
    HalfOpenMobiles,
    /// All backends reply after 5 to 30 s.
    SlowAnswers,
    /// Two thirds of the flows are single SYNs.
    Scanned,
}

impl Scenario {
    pub const ALL: [Self; 23] = [
        Self::Poisson,
        Self::Weights,
        Self::Bursty,
        Self::DayNight,
        Self::ZipfClients,
        Self::ZipfSource,
        Self::NatPorts,
        Self::NatSource,
        Self::HeavyTailed,
        Self::FlashCrowd,
        Self::RollingDeploy,
        Self::RollingDeployUdp,
        Self::Flapping,
        Self::LateTicks,
        Self::UntrackedUdp,
        Self::Browsing,
        Self::LongPolling,
        Self::IdleKeepAlive,
        Self::KeepAliveDeploy,
        Self::ServerPush,
        Self::HalfOpenMobiles,
        Self::SlowAnswers,
        Self::Scanned,
    ];

    /// Name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Poisson => "poisson",
            Self::Weights => "weights_1_to_1000",
            Self::Bursty => "bursty",
            Self::DayNight => "day_and_night",
            Self::ZipfClients => "zipf_clients",
            Self::ZipfSource => "zipf_clients_source_affinity",
            Self::NatPorts => "large_nats",
            Self::NatSource => "large_nats_source_affinity",
            Self::HeavyTailed => "heavy_tailed_flows",
            Self::FlashCrowd => "flash_crowd",
            Self::RollingDeploy => "rolling_deploy",
            Self::RollingDeployUdp => "rolling_deploy_udp",
            Self::Flapping => "flapping_backend",
            Self::LateTicks => "late_ticks_and_resets",
            Self::UntrackedUdp => "untracked_udp",
            Self::Browsing => "browsing",
            Self::LongPolling => "long_polling",
            Self::IdleKeepAlive => "idle_keep_alive",
            Self::KeepAliveDeploy => "idle_keep_alive_rolling_deploy",
            Self::ServerPush => "server_push",
            Self::HalfOpenMobiles => "half_open_mobiles",
            Self::SlowAnswers => "slow_answers",
            Self::Scanned => "scanned",
        }
    }

    pub(super) fn is_tcp(self) -> bool {
        !matches!(self, Self::RollingDeployUdp | Self::UntrackedUdp)
    }

    pub(super) fn has_volume(self) -> bool {
        matches!(
            self,
            Self::HeavyTailed | Self::RollingDeploy | Self::Flapping | Self::FlashCrowd
        )
    }

    pub(super) fn weight(self, _member: usize, random: &mut Random) -> f64 {
        match self {
            Self::Weights => 10f64.powf(3.0 * random.unit()).round(),
            Self::LongPolling => 10f64.powf(1.5 * random.unit()).round(),
            _ => 100.0,
        }
    }

    /// Standard deviation of a member's share due to reused ports, divided by √(t(1−t)).
    ///
    /// A port stays on its member, so the number of draws is the number of ports, not of flows. The
    /// smallest realistic number is used: 1,024 per NAT (the order of the port blocks of carriers),
    /// and enough to leave each port unused for a minute (TIME_WAIT).
    pub(super) fn reused_ports(self, flows_per_s: f64) -> f64 {
        const NATS: f64 = 5.0;
        const PART: f64 = 0.5;
        match self {
            Self::NatPorts => PART / (NATS * 1024.0).max(60.0 * PART * flows_per_s).sqrt(),
            _ => 0.0,
        }
    }

    /// Mean number of flows of a burst, which goes to one member.
    pub(super) fn bunch(self) -> f64 {
        match self {
            Self::ZipfSource | Self::NatSource => 6.0,
            Self::UntrackedUdp => 20.0,
            _ => 1.0,
        }
    }

    /// Part of the flows whose SYN is repeated.
    pub(super) fn repeated(self) -> f64 {
        match self {
            Self::ZipfClients => 0.02,
            _ => 0.0,
        }
    }

    /// Seconds until the next observation.
    pub(super) fn tick(self, random: &mut Random) -> f64 {
        match self {
            Self::LateTicks if random.unit() < 1.0 / 300.0 => 1.0 + 4.0 * random.unit(),
            Self::LateTicks => 0.9 + 0.2 * random.unit(),
            _ => 1.0,
        }
    }
}

/// The rate of the VIP over time.
#[derive(Clone, Debug)]
pub(super) struct RateProfile {
    scenario: Scenario,
    burst_until_s: f64,
    next_burst_s: f64,
}

impl RateProfile {
    pub(super) fn new(scenario: Scenario, random: &mut Random) -> Self {
        let mean = if scenario == Scenario::FlashCrowd {
            DAY_S / 4.0
        } else {
            60.0
        };
        Self {
            scenario,
            burst_until_s: 0.0,
            next_burst_s: 600.0 + random.exponential(mean),
        }
    }

    /// Multiple of the mean rate in the interval that starts at `now_s`.
    pub(super) fn times(&mut self, now_s: f64, length_s: f64, random: &mut Random) -> f64 {
        let day = |swing: f64| 1.0 + swing * (std::f64::consts::TAU * now_s / DAY_S).sin();
        match self.scenario {
            Scenario::DayNight => day(0.9),
            Scenario::ZipfClients
            | Scenario::ZipfSource
            | Scenario::NatSource
            | Scenario::UntrackedUdp
            | Scenario::HalfOpenMobiles => day(0.5),
            Scenario::Bursty => {
                let burst = self.burst(now_s, 8.0, 60.0, random);
                let second = random.gamma(0.5 * length_s.max(0.1), 1.0);
                if burst { 6.0 * second } else { second }
            }
            Scenario::FlashCrowd => {
                let crowd = self.burst(now_s, 600.0, DAY_S / 4.0, random);
                if crowd { 10.0 } else { 1.0 }
            }
            _ => 1.0,
        }
    }

    fn burst(&mut self, now_s: f64, length_s: f64, pause_s: f64, random: &mut Random) -> bool {
        if now_s >= self.next_burst_s {
            self.burst_until_s = now_s + random.exponential(length_s);
            self.next_burst_s = self.burst_until_s + random.exponential(pause_s);
        }
        now_s < self.burst_until_s
    }
}

/// Events of the members: deploys and flaps.
#[derive(Clone, Debug, Default)]
pub(super) struct MemberEvents {
    next_s: Option<f64>,
    /// The member that a deploy replaces, and its stage.
    member: usize,
    stage: u32,
}

/// Steps of a slow start.
const RAMP: u32 = 10;

impl MemberEvents {
    pub(super) fn new(scenario: Scenario, members: usize, random: &mut Random) -> Self {
        let next_s = match scenario {
            _ if members < 2 => None,
            Scenario::RollingDeploy | Scenario::RollingDeployUdp | Scenario::KeepAliveDeploy => {
                Some(1800.0)
            }
            Scenario::Flapping => Some(300.0 + random.exponential(8.0)),
            _ => None,
        };
        Self {
            next_s,
            ..Self::default()
        }
    }

    pub(super) fn is_due(&self, now_s: f64) -> bool {
        self.next_s.is_some_and(|next_s| next_s <= now_s)
    }

    /// Applies the event that is due. Returns whether it is a revision.
    pub(super) fn apply(&mut self, world: &mut World) -> bool {
        if world.setting.scenario == Scenario::Flapping {
            self.flap(world);
            return false;
        }
        self.deploy(world)
    }

    fn flap(&mut self, world: &mut World) {
        let member = &mut world.members[0];
        let up = member.phase == Phase::Serving;
        member.phase = if up { Phase::Out } else { Phase::Serving };
        world.weights[0] = if up { 0.0 } else { 100.0 };
        self.next_s = Some(world.now_s + 1.0 + world.random.exponential(8.0));
    }

    /// Drained for 20 s, out for 10 s, back with a tenth of its weight that grows every 3 s.
    fn deploy(&mut self, world: &mut World) -> bool {
        let member = self.member;
        let (phase, weight, wait_s) = match self.stage {
            0 => (Phase::Draining, 0.0, 20.0),
            1 => (Phase::Out, 0.0, 10.0),
            stage if stage < RAMP + 1 => {
                let part = f64::from(stage - 1) / f64::from(RAMP);
                (Phase::SlowStart, (100.0 * part).max(1.0), 3.0)
            }
            _ => (Phase::Serving, 100.0, 10.0),
        };
        world.members[member].phase = phase;
        world.weights[member] = weight;
        if phase == Phase::Out {
            world.close_connections(member);
        }
        let revised = self.stage == 0 || self.stage == 2;
        self.stage += 1;
        let mut wait_s = wait_s;
        if self.stage > RAMP + 1 {
            self.stage = 0;
            self.member = (member + 1) % world.members.len();
            if self.member == 0 {
                wait_s = 7200.0;
            }
        }
        self.next_s = Some(world.now_s + wait_s);
        revised
    }
}

//! Kinds of traffic and of events in which nothing is wrong.

use lb_skew::Phase;

use super::{random::Random, world::World};

/// Seconds of a day.
pub const DAY_S: f64 = 86_400.0;

/// A kind of traffic, with what happens meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Poisson arrivals, equal weights.
    Poisson,
    /// Weights between 1 and 1,000.
    Weights,
    /// Seconds and bursts of very different rates.
    Bursty,
    /// Nineteen times more by day than by night.
    DayNight,
    /// Zipf clients, each flow hashed by itself; one SYN in fifty is repeated, twice.
    ZipfClients,
    /// Zipf clients, `affinity = "source"`: each goes to one member, and opens flows in bunches.
    ZipfSource,
    /// Half of the flows from five NATs that use their ports again as soon as they may.
    NatPorts,
    /// A quarter of the flows from twenty NATs, `affinity = "source"`.
    NatSource,
    /// Heavy-tailed sizes of flows, in bytes and packets.
    HeavyTailed,
    /// Ten times the flows for ten minutes, four times a day.
    FlashCrowd,
    /// All backends drained, replaced and started slowly, one by one, every two hours.
    RollingDeploy,
    /// The same over UDP, where old flows are counted again.
    RollingDeployUdp,
    /// A backend that goes up and down every few seconds.
    Flapping,
    /// Observations that come late, counters that begin anew.
    LateTicks,
    /// UDP that is not tracked: each packet counts, and a session of many stays where it is.
    UntrackedUdp,
    /// Clients that ask and are answered.
    Browsing,
    /// Most requests are answered after half a minute.
    LongPolling,
    /// Most connections are opened for later.
    IdleKeepAlive,
    /// The same, and backends are replaced one by one: who comes back has no old connections.
    KeepAliveDeploy,
    /// Most clients only listen.
    ServerPush,
    /// One client in twenty never finishes its handshake and repeats its SYN five times, two vanish after their request.
    HalfOpenMobiles,
    /// All backends answer after 5 to 30 s.
    SlowAnswers,
    /// Two flows of three are single SYNs.
    Scanned,
}

impl Scenario {
    /// All.
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

    /// Its name in tables.
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

    /// Standard deviation of a member's share for ports that are used again, over √(t(1−t)).
    ///
    /// A port stays on its member, so so many flows are only as many draws as there are ports. The fewest: 1,024 for each NAT
    /// (the blocks of ports that carriers give out are of that order), and as many as it takes to
    /// leave each alone for a minute, as TIME_WAIT asks.
    pub(super) fn reused_ports(self, flows_per_s: f64) -> f64 {
        const NATS: f64 = 5.0;
        const PART: f64 = 0.5;
        match self {
            Self::NatPorts => PART / (NATS * 1024.0).max(60.0 * PART * flows_per_s).sqrt(),
            _ => 0.0,
        }
    }

    /// Mean flows of a bunch that goes to one member.
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

    /// How long until the next observation.
    pub(super) fn tick(self, random: &mut Random) -> f64 {
        match self {
            Self::LateTicks if random.unit() < 1.0 / 300.0 => 1.0 + 4.0 * random.unit(),
            Self::LateTicks => 0.9 + 0.2 * random.unit(),
            _ => 1.0,
        }
    }
}

/// How the rate of all flows together changes.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    scenario: Scenario,
    burst_until_s: f64,
    next_burst_s: f64,
}

impl Shape {
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

    /// Times the mean rate, in the time from `now_s` on.
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

/// What happens to the members.
#[derive(Clone, Debug, Default)]
pub(super) struct Bearing {
    next_s: Option<f64>,
    /// Of a deploy: whose turn it is, and how far it got.
    member: usize,
    stage: u32,
}

/// Stages of a slow start.
const RAMP: u32 = 10;

impl Bearing {
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

    /// Does what is due; whether a revision did it.
    pub(super) fn act(&mut self, world: &mut World) -> bool {
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

    /// Drained for 20 s, out for 10 s, back with a tenth of its weight and more every 3 s.
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
            world.cut(member);
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

//! State machine of a BFD session (RFC 5880, section 6.8): packets and times in, packets out. It has no
//! access to sockets or clocks.

use std::time::{Duration, Instant};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::packet::{BfdState, Diagnostic, Packet};
use crate::peer::Bfd;

/// Least interval of transmission while the session is not Up (RFC 5880, section 6.8.3).
const SLOW: Duration = Duration::from_secs(1);

/// One session.
#[derive(Debug)]
pub(super) struct Session {
    config: Bfd,
    random: SmallRng,
    state: BfdState,
    diagnostic: Diagnostic,
    local_discriminator: u32,
    /// 0 until the peer is heard.
    remote_discriminator: u32,
    remote_state: BfdState,
    remote_diagnostic: Diagnostic,
    /// Interval in which the peer accepts packets; `None` if it wants no periodic ones.
    remote_min_rx: Option<Duration>,
    /// A change of our interval is announced until the peer confirms it.
    polling: bool,
    next_transmission: Instant,
    /// When the peer counts as dead.
    detection: Option<Instant>,
    detection_time: Duration,
    /// How often the session went from Up to Down other than by the peer's operator.
    failures: u64,
}

impl Session {
    /// Starts in Down and transmits at once. `discriminator` must be unique in the process and not 0;
    /// `seed` determines the jitter.
    pub(super) fn new(config: Bfd, discriminator: u32, seed: u64, now: Instant) -> Self {
        Self {
            config,
            random: SmallRng::seed_from_u64(seed),
            state: BfdState::Down,
            diagnostic: Diagnostic::NONE,
            local_discriminator: discriminator,
            remote_discriminator: 0,
            remote_state: BfdState::Down,
            remote_diagnostic: Diagnostic::NONE,
            // RFC 5880, section 6.8.1: initially 1 microsecond, so that ours alone counts.
            remote_min_rx: Some(Duration::from_micros(1)),
            polling: false,
            next_transmission: now,
            detection: None,
            detection_time: Duration::ZERO,
            failures: 0,
        }
    }

    pub(super) fn state(&self) -> BfdState {
        self.state
    }

    /// Returns how often the session went from Up to Down, other than because the peer's operator
    /// disabled BFD.
    pub(super) fn failures(&self) -> u64 {
        self.failures
    }

    /// Returns why the session went down last.
    pub(super) fn reason(&self) -> String {
        match self.diagnostic {
            Diagnostic::DETECTION_EXPIRED => {
                format!("no packet from the peer for {:?}", self.detection_time)
            }
            Diagnostic::NEIGHBOR_DOWN => {
                format!("the peer signaled Down ({})", self.remote_diagnostic)
            }
            other => other.to_string(),
        }
    }

    /// Returns when [`Session::expired`] is due.
    pub(super) fn deadline(&self) -> Instant {
        self.detection
            .map_or(self.next_transmission, |it| it.min(self.next_transmission))
    }

    /// Handles a packet for this session; returns the one to send at once, if any.
    pub(super) fn received(&mut self, packet: &Packet, now: Instant) -> Option<Packet> {
        self.remote_discriminator = packet.my_discriminator;
        self.remote_state = packet.state;
        self.remote_diagnostic = packet.diagnostic;
        self.remote_min_rx = match packet.required_min_rx_us {
            0 => None,
            us => Some(Duration::from_micros(us.into())),
        };
        if packet.is_final {
            self.polling = false;
        }
        let remote_interval = Duration::from_micros(packet.desired_min_tx_us.into());
        let interval = self.config.interval.max(remote_interval);
        self.detection_time = interval.saturating_mul(packet.multiplier.into());
        self.detection = Some(now + self.detection_time);
        let before = self.state;
        match (self.state, packet.state) {
            (BfdState::Init | BfdState::Up, BfdState::AdminDown)
            | (BfdState::Up, BfdState::Down) => self.go_down(Diagnostic::NEIGHBOR_DOWN),
            (BfdState::Down, BfdState::Down) => self.state = BfdState::Init,
            (BfdState::Down, BfdState::Init) | (BfdState::Init, BfdState::Init | BfdState::Up) => {
                self.go_up();
            }
            _ => {}
        }
        // The interval may have become shorter.
        self.next_transmission = self.next_transmission.min(now + self.interval());
        if packet.poll {
            return Some(self.packet(true));
        }
        (self.state != before).then(|| self.transmit(now))
    }

    /// Handles the passing of time; returns a packet if one is due.
    pub(super) fn expired(&mut self, now: Instant) -> Option<Packet> {
        if self.detection.is_some_and(|time| time <= now) {
            self.detection = None;
            self.remote_discriminator = 0;
            self.remote_min_rx = Some(Duration::from_micros(1));
            if matches!(self.state, BfdState::Init | BfdState::Up) {
                self.remote_state = BfdState::Down;
                self.go_down(Diagnostic::DETECTION_EXPIRED);
                return Some(self.transmit(now));
            }
        }
        if self.next_transmission > now {
            return None;
        }
        let packet = self.transmit(now);
        self.remote_min_rx.is_some().then_some(packet)
    }

    fn go_up(&mut self) {
        self.state = BfdState::Up;
        self.diagnostic = Diagnostic::NONE;
        // From the slow interval to the configured one.
        self.polling = true;
    }

    fn go_down(&mut self, diagnostic: Diagnostic) {
        // The peer's operator disabled BFD: that says nothing about the path (RFC 5882, section 3.2).
        if self.state == BfdState::Up && self.remote_state != BfdState::AdminDown {
            self.failures += 1;
        }
        self.state = BfdState::Down;
        self.diagnostic = diagnostic;
        self.polling = false;
    }

    /// Least interval of transmission that we want.
    fn desired_min_tx(&self) -> Duration {
        match self.state {
            BfdState::Up => self.config.interval,
            _ => self.config.interval.max(SLOW),
        }
    }

    fn interval(&self) -> Duration {
        self.desired_min_tx()
            .max(self.remote_min_rx.unwrap_or_default())
    }

    /// Returns the periodic packet and schedules the next one.
    fn transmit(&mut self, now: Instant) -> Packet {
        // RFC 5880, section 6.8.7: reduced by up to 25 %; by at least 10 % if one lost packet counts.
        let most = if self.config.multiplier == 1 {
            0.9
        } else {
            1.0
        };
        let jitter = self.random.random_range(0.75..=most);
        self.next_transmission = now + self.interval().mul_f64(jitter);
        self.packet(false)
    }

    fn packet(&self, is_final: bool) -> Packet {
        Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            // Never both: an answer is not a question (RFC 5880, section 6.5).
            poll: self.polling && !is_final,
            is_final,
            multiplier: self.config.multiplier,
            my_discriminator: self.local_discriminator,
            your_discriminator: self.remote_discriminator,
            desired_min_tx_us: micros(self.desired_min_tx()),
            required_min_rx_us: micros(self.config.interval),
        }
    }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;

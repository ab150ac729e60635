use super::*;

const FAST: Bfd = Bfd {
    interval: Duration::from_millis(100),
    multiplier: 3,
};

/// Two sessions that hear each other, and a clock.
struct Pair {
    sessions: [Session; 2],
    now: Instant,
    /// Packets to this one are lost.
    deaf: [bool; 2],
    sent: [usize; 2],
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            sessions: [Session::new(FAST, 7, 1, now), Session::new(FAST, 9, 2, now)],
            now,
            deaf: [false; 2],
            sent: [0; 2],
        }
    }

    fn up() -> Self {
        let mut pair = Self::new();
        pair.run(Duration::from_secs(3));
        assert_eq!(pair.states(), [BfdState::Up; 2]);
        pair
    }

    fn states(&self) -> [BfdState; 2] {
        [self.sessions[0].state(), self.sessions[1].state()]
    }

    fn run(&mut self, length: Duration) {
        let end = self.now + length;
        loop {
            let (at, which) = (0..2)
                .map(|it| (self.sessions[it].deadline(), it))
                .min()
                .unwrap();
            if at > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(at);
            let packet = self.sessions[which].expired(self.now);
            self.deliver(which, packet);
        }
    }

    fn deliver(&mut self, mut from: usize, mut packet: Option<Packet>) {
        while let Some(sent) = packet {
            assert!(!(sent.poll && sent.is_final), "{sent:?}");
            self.sent[from] += 1;
            from = 1 - from;
            let heard = !self.deaf[from];
            packet = heard
                .then(|| self.sessions[from].received(&sent, self.now))
                .flatten();
        }
    }
}

#[test]
fn comes_up_and_polls_to_the_fast_interval() {
    let mut pair = Pair::up();
    assert!(!pair.sessions[0].polling && !pair.sessions[1].polling);
    assert_eq!(pair.sessions[0].detection_time, Duration::from_millis(300));
    pair.sent = [0; 2];
    pair.run(Duration::from_secs(10));
    // Every 75 to 100 ms.
    assert!((100..=134).contains(&pair.sent[0]), "{:?}", pair.sent);
    assert_eq!(pair.sessions[0].failures(), 0);
}

#[test]
fn is_slow_until_it_is_up() {
    let mut pair = Pair::new();
    pair.deaf = [true; 2];
    pair.run(Duration::from_secs(10));
    assert!((10..=14).contains(&pair.sent[0]), "{:?}", pair.sent);
}

#[test]
fn silence_is_detected_after_the_detection_time() {
    let mut pair = Pair::up();
    pair.deaf = [true, false];
    pair.run(Duration::from_millis(301));
    assert_eq!(pair.sessions[0].state(), BfdState::Down);
    assert_eq!(
        pair.sessions[0].reason(),
        "no packet from the peer for 300ms"
    );
    // It still reports that, so the peer knows.
    assert_eq!(pair.sessions[1].state(), BfdState::Down);
    assert!(
        pair.sessions[1]
            .reason()
            .contains("control detection time expired")
    );
    assert_eq!(
        [pair.sessions[0].failures(), pair.sessions[1].failures()],
        [1, 1]
    );
    pair.deaf = [false; 2];
    pair.run(Duration::from_secs(4));
    assert_eq!(pair.states(), [BfdState::Up; 2]);
}

#[test]
fn a_poll_is_answered_at_once() {
    let mut pair = Pair::up();
    let poll = Packet {
        poll: true,
        ..pair.sessions[1].packet(false)
    };
    let answer = pair.sessions[0].received(&poll, pair.now).unwrap();
    assert!(answer.is_final && !answer.poll);
}

#[test]
fn a_disabled_peer_is_no_failure() {
    let mut pair = Pair::up();
    let disabled = Packet {
        state: BfdState::AdminDown,
        diagnostic: Diagnostic(7),
        ..pair.sessions[1].packet(false)
    };
    pair.sessions[0].received(&disabled, pair.now);
    assert_eq!(pair.sessions[0].state(), BfdState::Down);
    assert_eq!(pair.sessions[0].failures(), 0);
}

#[test]
fn the_slower_side_decides_the_interval() {
    let mut pair = Pair::up();
    let slow = Packet {
        desired_min_tx_us: 500_000,
        required_min_rx_us: 1_000_000,
        multiplier: 5,
        ..pair.sessions[1].packet(false)
    };
    let session = &mut pair.sessions[0];
    session.received(&slow, pair.now);
    assert_eq!(session.detection_time, Duration::from_millis(2500));
    assert_eq!(session.interval(), Duration::from_secs(1));
    let unwanted = Packet {
        required_min_rx_us: 0,
        ..slow
    };
    session.received(&unwanted, pair.now);
    let at = session.next_transmission;
    assert_eq!(session.expired(at), None);
}

#[test]
fn with_multiplier_1_the_interval_is_reduced_enough() {
    let config = Bfd {
        multiplier: 1,
        ..FAST
    };
    let start = Instant::now();
    let mut session = Session::new(config, 7, 1, start);
    for _ in 0..100 {
        let at = session.deadline();
        session.expired(at);
        assert!(session.deadline() - at <= SLOW.mul_f64(0.901));
    }
}

//! `[vip.health]`: how backends are checked.

use std::{path::PathBuf, time::Duration};

use super::{CaFile, Fraction, Kind, StatusSet, Via};
use crate::config::{keys::value_of, kind};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const HOUR: Duration = ms(3_600_000);

/// The shortest default of `fast_interval`.
const FASTEST: Duration = ms(100);

table! {
    /// How backends are checked. `port` is 0 for the backend's own.
    Health as TypedHealth, "vip.health";
    input {
        /// The protocol of the check.
        kind: Kind,
            [required "the protocol of the check: `kind = \"tcp\"`, \"http\", \"https\", \"udp\" or \"exec\""],
            kind::word::<Kind>(), Live;
        /// The path of the request.
        path: String, [default "/".to_owned()], kind::http_path(), Live, only for ["http", "https"];
        /// The `Host` header, and the name that the certificate must have (sent as SNI unless it is
        /// an address). The default has the port that a client would write: that of the VIP, or
        /// `port`.
        host: String, [optional "the VIP's address"], kind::host(), Live, only for ["http", "https"];
        /// The status codes that mean healthy. Redirects are not followed.
        expect_status: StatusSet, [default StatusSet::default()], kind::status_set(), Live,
            only for ["http", "https"];
        /// Text that must occur in the first 256 KiB of the body.
        expect_body: String, [optional "not checked"], kind::text("text"), Live,
            only for ["http", "https"];
        /// Whether the certificate must be valid.
        verify: bool, [default true], kind::boolean(), Live, only for ["https"];
        /// Certificates (PEM) of the authorities that may have signed the backends' certificates;
        /// read together with the configuration file. Not with `verify = false`.
        ca_file: PathBuf, [optional "the host's"], kind::path(), Live, only for ["https"];
        /// The payload of the packet. Without it, checks send empty packets and only wait for errors:
        /// see below.
        send: Vec<u8>, [optional "nothing"], kind::payload(), Live, only for ["udp"];
        /// What the reply must contain; needs `send`.
        expect: Vec<u8>, [optional "any reply"], kind::payload(), Live, only for ["udp"];
        /// The program and its arguments, run as `node.exec_user`; exit code 0 means healthy.
        /// Required with `kind = "exec"`.
        command: String, [list "–"], kind::argument(), Live, only for ["exec"];
    }
    keys {
        /// The destination port. Required when the VIP is for any port, except with
        /// `kind = "exec"`.
        port: u16, [default 0, "the backend's"], kind::probe_port(), Live;
        /// Time between the starts of two checks. Rounded up to 10 ms, so that checks start together.
        interval: Duration, [default ms(1000)], kind::duration(ms(100)..=HOUR), Live;
        /// The same while the latest results contradict the state but are too few to change it; at
        /// most `interval`.
        fast_interval: Duration,
            [derived TypedHealth::default_fast_interval, "a quarter of `interval`, at least `100ms`"],
            kind::duration(ms(10)..=HOUR), Live;
        /// Share by which intervals are shortened or lengthened at random, to avoid bursts of checks.
        jitter: Fraction, [default Fraction::TENTH], kind::share_or_zero(Fraction::HALF), Live;
        /// How long a check may take; shorter than `interval`.
        timeout: Duration, [default ms(500)], kind::duration(ms(10)..=ms(60_000)), Live;
        /// Consecutive successes after which a backend is up.
        rise: u32, [default 2], kind::integer(1..=100), Live;
        /// Consecutive failures after which a backend is down.
        fall: u32, [default 3], kind::integer(1..=100), Live;
        /// The path that checks take: that of the VIP's traffic, or straight to the backend's
        /// address. See below.
        via: Via, [default Via::Vip], kind::word::<Via>(), Live, only for ["tcp", "http", "https", "udp"];
        /// Whether a flapping backend is held down for a while.
        damping: bool, [default true], kind::boolean(), Live;
        /// Time in which the weight of a backend that came up grows in ten steps from a tenth to all
        /// of it; zero: at once.
        slow_start: Duration, [default Duration::ZERO], kind::duration(Duration::ZERO..=HOUR), Live;
        /// Panic mode: when a smaller share of the backends than this is eligible, traffic goes to
        /// all of them, with an alert. 0: never.
        panic_threshold: Fraction, [default Fraction::HALF], kind::share_or_zero(Fraction::ALL), Live;
    }
    resolved {
        /// What is sent, and what reply is expected.
        kind: HealthKind;
    }
}

impl TypedHealth {
    pub(in crate::config) fn interval(&self) -> Duration {
        value_of(&self.interval).unwrap_or(ms(1000))
    }

    fn default_fast_interval(&self) -> Option<Duration> {
        let interval = self.interval();
        Some((interval / 4).max(FASTEST).min(interval))
    }
}

/// What a check sends, and what reply it expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthKind {
    /// A TCP connection.
    Tcp,
    /// An HTTP request.
    Http(HttpCheck),
    /// An HTTPS request.
    Https {
        /// The request and the expected response.
        request: HttpCheck,
        /// Whether the certificate must be valid.
        verify: bool,
        /// Authorities that may have signed it; `None`: those that the host trusts.
        ca: Option<CaFile>,
    },
    /// A UDP packet.
    Udp {
        /// The payload; `None`: an empty packet.
        send: Option<Vec<u8>>,
        /// What the reply must contain. `None`: any reply passes.
        expect: Option<Vec<u8>>,
    },
    /// A command that exits with 0.
    Exec {
        /// The program and its arguments.
        command: Vec<String>,
    },
}

impl HealthKind {
    /// Names of the kinds, as `vip.health.kind` has them.
    pub const NAMES: &'static [&'static str] = Kind::NAMES;
}

/// The HTTP request of a check, and the expected response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCheck {
    /// The path of the request.
    pub path: String,
    /// The `Host` header and the name in the certificate; `None`: the VIP's address.
    pub host: Option<String>,
    /// Status codes that mean healthy.
    pub expect_status: StatusSet,
    /// Text that the body must contain.
    pub expect_body: Option<String>,
}

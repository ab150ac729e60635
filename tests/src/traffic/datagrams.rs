//! Numbered datagrams at a constant rate to an echo server ([`super::echo`]), each of which must come back.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::runtime::{Running, Stop, run_inside};
use crate::deadline;
use crate::host::Host;

/// Sockets, and so flows: routers with several next hops spread them.
const FLOWS: usize = 64;
/// Interval between checks of how many are due.
const TICK: Duration = Duration::from_millis(5);
/// Most that are sent at once: a sender that was not scheduled must not overrun queues.
const MOST_AT_ONCE: u64 = 32;
/// How long the last ones may take.
const LAST: Duration = Duration::from_secs(5);
/// Receive buffer: a receiver that is not scheduled for a second must not lose any.
const BUFFER: usize = 8 << 20;

/// Datagrams that are sent until [`Datagrams::stop`].
#[derive(Debug)]
pub struct Datagrams {
    counts: Arc<Mutex<Counts>>,
    running: Running,
}

#[derive(Debug, Default)]
struct Counts {
    sent: u64,
    missing: BTreeSet<u64>,
    /// Errors of send(2).
    errors: Vec<String>,
}

/// Counts of the datagrams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatagramReport {
    pub sent: u64,
    /// Numbers of those that did not come back.
    pub missing: Vec<u64>,
    pub errors: Vec<String>,
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Datagrams {
    /// Starts to send from a host, so many per second.
    pub fn start(host: &Host, to: SocketAddr, per_second: u64) -> Result<Self> {
        let counts = Arc::<Mutex<Counts>>::default();
        let shared = Arc::clone(&counts);
        let running = run_inside(&host.ns.entry(), "datagrams", async move |stop| {
            if let Err(error) = send(to, per_second, &shared, stop).await {
                lock(&shared).errors.push(format!("{error:#}"));
            }
        })?;
        Ok(Self { counts, running })
    }

    /// Waits until this many more were sent.
    pub fn wait_sent(&self, more: u64, limit: Duration) -> Result<()> {
        let before = lock(&self.counts).sent;
        deadline::until("datagrams are sent", limit, || {
            Ok(lock(&self.counts).sent >= before + more)
        })
    }

    /// Stops sending, waits for the datagrams in flight, and returns the counts.
    pub fn stop(self) -> DatagramReport {
        self.running.stop();
        let counts = lock(&self.counts);
        DatagramReport {
            sent: counts.sent,
            missing: counts.missing.iter().copied().collect(),
            errors: counts.errors.clone(),
        }
    }
}

async fn send(
    to: SocketAddr,
    per_second: u64,
    counts: &Arc<Mutex<Counts>>,
    stop: Stop,
) -> Result<()> {
    let mut sockets = Vec::new();
    let mut receivers = JoinSet::new();
    for _ in 0..FLOWS {
        let socket = Arc::new(open(to).await.context("open a socket")?);
        receivers.spawn(receive(Arc::clone(&socket), Arc::clone(counts)));
        sockets.push(socket);
    }
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut owed, mut last) = (0.0, Instant::now());
    while !*stop.borrow() {
        ticks.tick().await;
        owed += last.elapsed().as_secs_f64() * per_second as f64;
        last = Instant::now();
        owed = f64::min(owed, MOST_AT_ONCE as f64);
        while owed >= 1.0 {
            owed -= 1.0;
            let number = {
                let mut counts = lock(counts);
                let number = counts.sent;
                counts.sent += 1;
                counts.missing.insert(number);
                number
            };
            let socket = &sockets[number as usize % FLOWS];
            if let Err(error) = socket.send(number.to_string().as_bytes()).await {
                lock(counts).errors.push(format!("{number}: {error}"));
            }
        }
    }
    let end = Instant::now() + LAST;
    while !lock(counts).missing.is_empty() && Instant::now() < end {
        ticks.tick().await;
    }
    Ok(())
}

async fn open(to: SocketAddr) -> std::io::Result<UdpSocket> {
    let any = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(to).await?;
    enlarge(&socket)?;
    Ok(socket)
}

async fn receive(socket: Arc<UdpSocket>, counts: Arc<Mutex<Counts>>) {
    let mut buffer = [0; 256];
    loop {
        // Errors of earlier datagrams; these are missing.
        let Ok(length) = socket.recv(&mut buffer).await else {
            continue;
        };
        let answer = String::from_utf8_lossy(&buffer[..length]);
        let number = answer.rsplit(' ').next().and_then(|it| it.parse().ok());
        if let Some(number) = number {
            lock(&counts).missing.remove(&number);
        }
    }
}

/// Gives a socket a receive buffer beyond the limit of the host.
pub(super) fn enlarge(socket: &impl AsFd) -> std::io::Result<()> {
    Ok(setsockopt(socket, sockopt::RcvBufForce, &BUFFER)?)
}

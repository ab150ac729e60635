//! Steady traffic: a fixed rate of new connections, one request each, however slow the servers are.
//!
//! Closed-loop clients (`curl`, `wrk`) send less to a slow service, which hides its fault. Here
//! connections are opened at a constant rate. Each has one of many source addresses, so that a hash
//! over the source alone spreads them; some may come from one address, as from clients behind a NAT.
//! The outcome and the latency of every request are recorded.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use rand::{RngExt as _, SeedableRng as _};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};

use super::runtime::{Running, Stop, run_inside};
use crate::host::Host;
use crate::random::Random;

/// Interval between checks of how many connections are due.
const TICK: Duration = Duration::from_millis(5);

/// Limit of the time to open a connection in [`can_connect`].
const CONNECT_LIMIT: Duration = Duration::from_millis(500);

/// Limit of requests without a reply.
const MOST_OPEN: usize = 8000;

/// Source addresses of connections. The host must hold this network.
pub const SOURCES: &str = "198.18.0.0/16";

/// Source address of the clients behind a NAT.
pub const NAT: Ipv4Addr = Ipv4Addr::new(198, 18, 255, 1);

/// Connections that are opened until this is dropped.
#[derive(Debug)]
pub struct SteadyLoad {
    shared: Arc<Shared>,
    running: Running,
}

#[derive(Debug, Default)]
struct Shared {
    /// New connections per second.
    rate: AtomicU64,
    /// Percentage of connections from [`NAT`].
    from_nat: AtomicU64,
    /// Whether open requests are awaited at the end.
    drains: AtomicBool,
    finished: Mutex<Vec<Finished>>,
}

impl Shared {
    fn finished(&self) -> std::sync::MutexGuard<'_, Vec<Finished>> {
        self.finished.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that was answered or lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// When its connection was opened.
    pub began: std::time::Instant,
    pub took: Duration,
    pub outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A complete reply with status 200.
    Answered,
    /// The connection was refused.
    Refused,
    /// The connection was reset or closed without a complete reply.
    Reset,
    /// There was no complete reply in time.
    TimedOut,
}

impl SteadyLoad {
    /// Starts requesting `/1k` at `to`, `rate` times per second. Each reply must arrive within `limit`.
    pub fn start(host: &Host, to: SocketAddr, rate: u64, limit: Duration) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        shared.rate.store(rate, Relaxed);
        let task = Arc::clone(&shared);
        let running = run_inside(&host.ns.entry(), "steady load", move |stop| {
            open_all(task, to, limit, stop)
        })?;
        Ok(Self { shared, running })
    }

    /// Sets the new connections per second.
    pub fn set_rate(&self, rate: u64) {
        self.shared.rate.store(rate, Relaxed);
    }

    /// Sets the percentage of connections from [`NAT`].
    pub fn set_from_nat(&self, percent: u64) {
        self.shared.from_nat.store(percent, Relaxed);
    }

    /// Stops opening connections and returns all requests, once each is answered or lost.
    pub fn finish(self) -> Vec<Finished> {
        self.shared.drains.store(true, Relaxed);
        self.running.stop();
        self.shared.finished().clone()
    }
}

/// Returns whether a connection to `to` opens from one of [`SOURCES`], to which replies may take another
/// route than to the host's own address.
pub fn can_connect(host: &Host, to: SocketAddr) -> bool {
    let connect = || -> std::io::Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::new(198, 18, 0, 1), 0)).into())?;
        socket.connect_timeout(&to.into(), CONNECT_LIMIT)
    };
    host.ns.enter(|| connect().is_ok())
}

async fn open_all(shared: Arc<Shared>, to: SocketAddr, limit: Duration, stop: Stop) {
    let mut ticks = interval(TICK);
    let mut last = Instant::now();
    let (mut due, mut rng) = (0.0, Random::seed_from_u64(0x5eed));
    let mut open = JoinSet::new();
    while !*stop.borrow() {
        ticks.tick().await;
        due += shared.rate.load(Relaxed) as f64 * last.elapsed().as_secs_f64();
        last = Instant::now();
        while due >= 1.0 {
            due -= 1.0;
            let source = source(&mut rng, shared.from_nat.load(Relaxed));
            let shared = Arc::clone(&shared);
            open.spawn(async move {
                let began = Instant::now();
                let outcome = outcome(timeout(limit, request(source, to)).await);
                let finished = Finished {
                    began: began.into_std(),
                    took: began.elapsed(),
                    outcome,
                };
                shared.finished().push(finished);
            });
        }
        while open.try_join_next().is_some() {}
        if open.len() > MOST_OPEN {
            open.join_next().await;
        }
    }
    if shared.drains.load(Relaxed) {
        while open.join_next().await.is_some() {}
    }
}

fn outcome(result: Result<std::io::Result<()>, tokio::time::error::Elapsed>) -> Outcome {
    match result {
        Ok(Ok(())) => Outcome::Answered,
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Outcome::Refused,
        Ok(Err(_)) => Outcome::Reset,
        Err(_) => Outcome::TimedOut,
    }
}

/// Makes one request on a new connection.
async fn request(source: Ipv4Addr, to: SocketAddr) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(IpAddr::V4(source), 0))?;
    let mut connection = socket.connect(to).await?;
    let head = b"GET /1k HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n";
    connection.write_all(head).await?;
    let mut answer = Vec::with_capacity(2048);
    connection.read_to_end(&mut answer).await?;
    if answer.starts_with(b"HTTP/1.1 200") {
        Ok(())
    } else {
        Err(ErrorKind::InvalidData.into())
    }
}

fn source(rng: &mut Random, from_nat: u64) -> Ipv4Addr {
    if rng.random_range(0..100) < from_nat {
        return NAT;
    }
    let host: u32 = rng.random_range(0..50_000);
    Ipv4Addr::new(198, 18, (host / 250) as u8, (host % 250 + 1) as u8)
}

/// One connection that sends continuously until dropped.
#[derive(Debug)]
pub struct Elephant {
    _running: Running,
}

impl Elephant {
    /// Starts sending `bytes_per_s` to `/upload` at `to`.
    pub fn start(host: &Host, to: SocketAddr, bytes_per_s: u64) -> Result<Self> {
        let running = run_inside(&host.ns.entry(), "elephant", move |stop| async move {
            if let Err(error) = send_all(to, bytes_per_s, stop).await {
                eprintln!("lab: the elephant flow ended: {error}");
            }
        })?;
        Ok(Self { _running: running })
    }
}

async fn send_all(to: SocketAddr, bytes_per_s: u64, stop: Stop) -> std::io::Result<()> {
    const PIECE: usize = 64 << 10;
    let mut connection = TcpStream::connect(to).await?;
    let head = "POST /upload HTTP/1.1\r\nHost: lab\r\nContent-Length: 1000000000000000\r\n\r\n";
    connection.write_all(head.as_bytes()).await?;
    let (start, mut sent, piece) = (Instant::now(), 0.0, vec![b'x'; PIECE]);
    while !*stop.borrow() {
        connection.write_all(&piece).await?;
        sent += PIECE as f64;
        let ahead = sent / bytes_per_s as f64 - start.elapsed().as_secs_f64();
        if ahead > 0.0 {
            sleep(Duration::from_secs_f64(ahead)).await;
        }
    }
    Ok(())
}

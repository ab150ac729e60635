//! Steady traffic: a fixed rate of new connections, one request each, however slow the servers are.
//!
//! Closed-loop clients (`curl`, `wrk`) send less to a slow service, which hides its fault. Here
//! connections are opened at a constant rate. Each has one of many source addresses, so that a hash
//! over the source alone spreads them; some may come from one address, as from clients behind a NAT.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Result;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};

use super::runtime::{Running, Stop, run_inside};
use crate::host::Host;
use crate::random::Random;

/// Interval between checks of how many connections are due.
const TICK: Duration = Duration::from_millis(5);

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
    _running: Running,
}

#[derive(Debug, Default)]
struct Shared {
    /// New connections per second.
    rate: AtomicU64,
    /// Percentage of connections from [`NAT`].
    from_nat: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
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
        Ok(Self {
            shared,
            _running: running,
        })
    }

    /// Sets the new connections per second.
    pub fn set_rate(&self, rate: u64) {
        self.shared.rate.store(rate, Relaxed);
    }

    /// Sets the percentage of connections from [`NAT`].
    pub fn set_from_nat(&self, percent: u64) {
        self.shared.from_nat.store(percent, Relaxed);
    }

    /// Returns the number of successful and of failed requests.
    pub fn counts(&self) -> (u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        (count(&self.shared.answered), count(&self.shared.failed))
    }
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
                let outcome = timeout(limit, request(source, to)).await;
                let counter = match outcome {
                    Ok(Ok(())) => &shared.answered,
                    _ => &shared.failed,
                };
                counter.fetch_add(1, Relaxed);
            });
        }
        while open.try_join_next().is_some() {}
        if open.len() > MOST_OPEN {
            open.join_next().await;
        }
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
        Err(std::io::ErrorKind::InvalidData.into())
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

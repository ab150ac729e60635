//! Steady traffic: so many new connections a second, each for one request, however the servers are doing.
//!
//! Clients that wait for each other (`curl`, `wrk`) send less to a service that is slow, which hides what is
//! wrong with it. Here a connection is opened when its time has come. Each comes from one of many addresses, so
//! that a hash over the source alone has something to choose by; a part of them may come from one address, as
//! those of people behind a NAT do.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};

use super::runtime::{Running, Stop, run_inside};
use crate::host::Host;

/// Between two looks at how many connections are due.
const TICK: Duration = Duration::from_millis(5);

/// Requests that may wait for an answer.
const MOST_OPEN: usize = 8000;

/// The addresses that connections come from: the host must hold this network.
pub const SOURCES: &str = "198.18.0.0/16";

/// The address of the NAT.
pub const NAT: Ipv4Addr = Ipv4Addr::new(198, 18, 255, 1);

/// Connections that are opened until this is dropped.
#[derive(Debug)]
pub struct SteadyLoad {
    shared: Arc<Shared>,
    _running: Running,
}

#[derive(Debug, Default)]
struct Shared {
    /// New connections a second.
    rate: AtomicU64,
    /// Of 100 of them, so many come from [`NAT`].
    from_nat: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
}

impl SteadyLoad {
    /// Begins to request `/1k` at `to`, so many times a second, each answer within `limit`.
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

    /// So many new connections a second from now on.
    pub fn set_rate(&self, rate: u64) {
        self.shared.rate.store(rate, Relaxed);
    }

    /// So many of 100 connections come from one address from now on.
    pub fn set_from_nat(&self, percent: u64) {
        self.shared.from_nat.store(percent, Relaxed);
    }

    /// Requests that were answered, and those that were not.
    pub fn counts(&self) -> (u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        (count(&self.shared.answered), count(&self.shared.failed))
    }
}

async fn open_all(shared: Arc<Shared>, to: SocketAddr, limit: Duration, stop: Stop) {
    let mut ticks = interval(TICK);
    let mut last = Instant::now();
    let (mut due, mut random) = (0.0, Random(0x5eed));
    let mut open = JoinSet::new();
    while !*stop.borrow() {
        ticks.tick().await;
        due += shared.rate.load(Relaxed) as f64 * last.elapsed().as_secs_f64();
        last = Instant::now();
        while due >= 1.0 {
            due -= 1.0;
            let source = random.source(shared.from_nat.load(Relaxed));
            let shared = Arc::clone(&shared);
            open.spawn(async move {
                let asked = timeout(limit, ask(source, to)).await;
                let counter = match asked {
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

/// One request on a connection of its own.
async fn ask(source: Ipv4Addr, to: SocketAddr) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(IpAddr::V4(source), 0))?;
    let mut connection = socket.connect(to).await?;
    let request = b"GET /1k HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n";
    connection.write_all(request).await?;
    let mut answer = Vec::with_capacity(2048);
    connection.read_to_end(&mut answer).await?;
    if answer.starts_with(b"HTTP/1.1 200") {
        Ok(())
    } else {
        Err(std::io::ErrorKind::InvalidData.into())
    }
}

/// Xorshift: the same connections in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn source(&mut self, from_nat: u64) -> Ipv4Addr {
        if self.next() % 100 < from_nat {
            return NAT;
        }
        let host = self.next() % 50_000;
        Ipv4Addr::new(198, 18, (host / 250) as u8, (host % 250 + 1) as u8)
    }
}

/// One connection that sends all the time, until this is dropped.
#[derive(Debug)]
pub struct Elephant {
    _running: Running,
}

impl Elephant {
    /// Begins to send so many bytes a second to `/upload` at `to`.
    pub fn start(host: &Host, to: SocketAddr, bytes_per_s: u64) -> Result<Self> {
        let running = run_inside(&host.ns.entry(), "elephant", move |stop| async move {
            if let Err(error) = send_all(to, bytes_per_s, stop).await {
                eprintln!("lab: the elephant ended: {error}");
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

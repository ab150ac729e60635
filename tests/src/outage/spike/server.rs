//! A server that an overload crashes, and the supervisor that restarts it.
//!
//! A fixed number of workers serve requests; the others wait. A server that keeps every waiting request in
//! memory is killed when the memory is used up. This one exits when more requests wait than a limit: its
//! connections are lost, and new ones are refused until the supervisor starts it again, as systemd does
//! with `Restart=on-failure` and `RestartSec=5`.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;

use crate::balancer::sibling;
use crate::host::Host;
use crate::namespace::Entry;
use crate::process::{Daemon, is_listening};

/// Requests that a server serves at once.
pub const WORKERS: usize = 15;
/// Time that a worker needs for a request. Workers sleep, so other programs on the machine do not slow
/// them down.
const SERVICE: Duration = Duration::from_millis(100);
/// Requests per second that a server can take.
pub const CAPACITY: u64 = WORKERS as u64 * 1000 / SERVICE.as_millis() as u64;
/// Waiting requests that fit into its memory: those of two seconds, with which clients still get replies
/// in time.
const WAITING: usize = 2 * CAPACITY as usize;
/// Time between a crash and the next start.
const RESTART: Duration = Duration::from_secs(5);

const PROGRAM: &str = "overrun-server";
const PORT: u16 = 80;
const BACKLOG: u32 = 4096;
const START_LIMIT: Duration = Duration::from_secs(10);
/// Interval in which the supervisor looks after its server.
const INTERVAL: Duration = Duration::from_millis(20);

/// Limits of a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub workers: usize,
    pub service: Duration,
    pub waiting: usize,
}

struct Queue {
    limits: Limits,
    workers: Semaphore,
    waiting: AtomicUsize,
}

/// Serves on all IPv4 addresses of the host. Exits the process when too many requests wait.
pub fn serve(port: u16, limits: Limits) -> Result<Infallible> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let socket = TcpSocket::new_v4()?;
        // Connections of the previous process may still be in TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.bind((Ipv4Addr::UNSPECIFIED, port).into())?;
        let listener = socket.listen(BACKLOG)?;
        let queue = Arc::new(Queue {
            limits,
            workers: Semaphore::new(limits.workers),
            waiting: AtomicUsize::new(0),
        });
        loop {
            let (connection, _) = listener.accept().await.context("accept a connection")?;
            let queue = Arc::clone(&queue);
            // If it fails, the client has gone.
            tokio::spawn(async move { answer(connection, &queue).await.ok() });
        }
    })
}

async fn answer(mut connection: TcpStream, queue: &Queue) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(512);
    while !head.ends_with(b"\r\n\r\n") {
        if connection.read_buf(&mut head).await? == 0 {
            // A health check: it only opens a connection.
            return Ok(());
        }
    }
    let waiting = queue.waiting.fetch_add(1, Relaxed) + 1;
    if waiting > queue.limits.waiting {
        eprintln!("overrun-server: out of memory: {waiting} requests wait");
        std::process::exit(1);
    }
    let permit = queue.workers.acquire().await;
    queue.waiting.fetch_sub(1, Relaxed);
    tokio::time::sleep(queue.limits.service).await;
    drop(permit);
    let mut reply =
        b"HTTP/1.1 200 OK\r\nContent-Length: 1024\r\nConnection: close\r\n\r\n".to_vec();
    reply.resize(reply.len() + 1024, b'x');
    connection.write_all(&reply).await
}

/// A server on a backend host that is started again after each crash. Killed when dropped.
#[derive(Debug)]
pub struct Supervised {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stops: AtomicBool,
    /// Times of the crashes so far, and the error that ended the supervision.
    history: Mutex<(Vec<Instant>, Option<anyhow::Error>)>,
}

impl Supervised {
    /// Starts the server and waits until it listens.
    pub fn start(host: &Host) -> Result<Self> {
        let unit = Unit {
            name: format!("server on {}", host.name),
            inside: host.ns.entry(),
            program: sibling(PROGRAM)?.with_context(|| {
                format!("no `{PROGRAM}` in the target folder of this program: build it (cargo build -p lb-tests)")
            })?,
            log: host.directory().join("server.log"),
        };
        let mut daemon = unit.start()?;
        daemon.wait_ready(START_LIMIT, || is_listening(&host.ns, PORT))?;
        let shared = Arc::new(Shared::default());
        let supervisor = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name(unit.name.clone());
        let thread = thread.spawn(move || {
            if let Err(error) = unit.supervise(daemon, &supervisor) {
                supervisor.history().1 = Some(error);
            }
        })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Returns the times of its crashes.
    ///
    /// # Errors
    /// If it could not be started again.
    pub fn crashes(&self) -> Result<Vec<Instant>> {
        let history = self.shared.history();
        match &history.1 {
            None => Ok(history.0.clone()),
            Some(error) => Err(anyhow!("{error:#}")),
        }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.shared.stops.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic has been printed; a second one in drop would abort.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn history(&self) -> std::sync::MutexGuard<'_, (Vec<Instant>, Option<anyhow::Error>)> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns false if the supervisor is stopped before the end of this time.
    fn pause(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        while Instant::now() < end {
            if self.stops.load(Relaxed) {
                return false;
            }
            sleep(INTERVAL);
        }
        true
    }
}

/// What the supervisor starts.
struct Unit {
    name: String,
    inside: Entry,
    program: PathBuf,
    log: PathBuf,
}

impl Unit {
    fn start(&self) -> Result<Daemon> {
        let mut command = Command::new(&self.program);
        for (option, value) in [
            ("--port", u64::from(PORT)),
            ("--workers", WORKERS as u64),
            ("--service", SERVICE.as_millis() as u64),
            ("--waiting", WAITING as u64),
        ] {
            command.arg(option).arg(value.to_string());
        }
        Daemon::start(&self.name, &self.inside, command, Path::new(&self.log))
    }

    fn supervise(&self, mut daemon: Daemon, shared: &Shared) -> Result<()> {
        while shared.pause(INTERVAL) {
            if daemon.exited()?.is_none() {
                continue;
            }
            shared.history().0.push(Instant::now());
            if !shared.pause(RESTART) {
                break;
            }
            daemon = self.start()?;
        }
        Ok(())
    }
}

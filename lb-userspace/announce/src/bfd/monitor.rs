//! All BFD sessions of a process, in one thread.
//!
//! BFD has deadlines of tens of milliseconds. In the runtime of the process, a task that computes for
//! long would delay packets, and the peer would believe that this node is dead. So the sessions have a
//! thread and a runtime of their own.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use tokio::{
    sync::{
        mpsc::{self, error::TryRecvError},
        watch,
    },
    time::sleep_until,
};
use tracing::{error, info, warn};

use super::{
    packet::{BfdState, LENGTH, Packet},
    session::Session,
    socket::{Receiver, Sender},
};
use crate::peer::Bfd;

/// Interval between attempts to start a session.
const RETRY: Duration = Duration::from_secs(5);

/// Starts and ends sessions. When all clones are dropped, the thread ends, without a packet: peers detect
/// that as they detect a crash.
#[derive(Clone, Debug)]
pub(crate) struct Monitor {
    commands: mpsc::UnboundedSender<Command>,
}

/// A session as its BGP peer sees it. Dropping it ends the session.
#[derive(Debug)]
pub(crate) struct Handle {
    snapshot: watch::Receiver<Snapshot>,
    /// As last returned by `changed`.
    state: BfdState,
    failures: u64,
}

/// A change of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Up,
    /// From Up to Down, with the reason. Not if the peer's operator disabled BFD.
    Down(String),
    Other,
}

#[derive(Clone, Debug, Default)]
struct Snapshot {
    state: BfdState,
    failures: u64,
    reason: String,
    error: Option<String>,
}

#[derive(Debug)]
struct Command {
    peer: IpAddr,
    source: Option<IpAddr>,
    config: Bfd,
    snapshot: watch::Sender<Snapshot>,
}

impl Monitor {
    /// Starts the thread. It inherits the network namespace of the caller.
    pub(crate) fn start() -> Self {
        let (commands, inbox) = mpsc::unbounded_channel();
        let thread = std::thread::Builder::new().name("bfd".to_owned());
        let started = thread.spawn(move || match runtime() {
            Ok(runtime) => runtime.block_on(Sessions::new(inbox).run()),
            Err(error) => error!(%error, "start the runtime of BFD"),
        });
        if let Err(error) = started {
            error!(%error, "start the thread of BFD");
        }
        Self { commands }
    }

    /// Starts a session.
    pub(crate) fn add(&self, peer: IpAddr, source: Option<IpAddr>, config: Bfd) -> Handle {
        let (snapshot, receiver) = watch::channel(Snapshot::default());
        let command = Command {
            peer,
            source,
            config,
            snapshot,
        };
        if let Err(mpsc::error::SendError(command)) = self.commands.send(command) {
            command.snapshot.send_modify(|it| {
                it.error = Some("the thread of BFD has ended".to_owned());
            });
        }
        Handle {
            snapshot: receiver,
            state: BfdState::Down,
            failures: 0,
        }
    }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

impl Handle {
    pub(crate) fn state(&self) -> BfdState {
        self.snapshot.borrow().state
    }

    /// Returns why the session can't run.
    pub(crate) fn error(&self) -> Option<String> {
        self.snapshot.borrow().error.clone()
    }

    /// Waits for the next change. None is missed: an outage shorter than the reaction of the caller is
    /// reported as Down and then Up. Safe to cancel.
    pub(crate) async fn changed(&mut self) -> Change {
        loop {
            let snapshot = self.snapshot.borrow_and_update().clone();
            if snapshot.failures != self.failures {
                self.failures = snapshot.failures;
                self.state = BfdState::Down;
                return Change::Down(snapshot.reason);
            }
            if snapshot.state != self.state {
                self.state = snapshot.state;
                return match snapshot.state {
                    BfdState::Up => Change::Up,
                    _ => Change::Other,
                };
            }
            if self.snapshot.changed().await.is_err() {
                // The session will never change again.
                return std::future::pending().await;
            }
        }
    }
}

/// Packets that are handled before timers are looked at.
const MOST_PACKETS: u32 = 64;

struct Sessions {
    inbox: mpsc::UnboundedReceiver<Command>,
    random: SmallRng,
    v4: Option<Receiver>,
    v6: Option<Receiver>,
    /// By local discriminator.
    running: HashMap<u32, Running>,
    /// Sessions that could not be started, and when to try again.
    failed: Vec<Command>,
    retry: Option<Instant>,
}

struct Running {
    peer: IpAddr,
    session: Session,
    sender: Sender,
    snapshot: watch::Sender<Snapshot>,
}

impl Sessions {
    fn new(inbox: mpsc::UnboundedReceiver<Command>) -> Self {
        Self {
            inbox,
            random: SmallRng::seed_from_u64(RandomState::new().hash_one("bfd")),
            v4: None,
            v6: None,
            running: HashMap::new(),
            failed: Vec::new(),
            retry: None,
        }
    }

    /// Runs until the monitor is dropped.
    async fn run(mut self) {
        let (mut burst, mut v6_first) = (0, false);
        loop {
            // Longer than any packet without authentication.
            let mut buffers = [[0; 2 * LENGTH]; 2];
            let [buffer, other_buffer] = &mut buffers;
            let (receiver, other) = match v6_first {
                false => (self.v4.as_ref(), self.v6.as_ref()),
                true => (self.v6.as_ref(), self.v4.as_ref()),
            };
            let deadlines = self.running.values().map(|it| it.session.deadline());
            let deadline = deadlines.chain(self.retry).min();
            let timer = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            // Packets first: after a stall of this thread, those that have arrived count before timers. But
            // only so many: whoever sends without a pause must not keep us from sending, nor packets of the other
            // family or commands from being read.
            let packets_count = burst < MOST_PACKETS;
            burst += 1;
            tokio::select! {
                biased;
                Ok((length, from)) = receive(receiver, buffer), if packets_count => {
                    self.received(from, &buffer[..length]);
                },
                Ok((length, from)) = receive(other, other_buffer), if packets_count => {
                    self.received(from, &other_buffer[..length]);
                },
                () = std::future::ready(()), if !packets_count => {
                    (burst, v6_first) = (0, !v6_first);
                    self.expired();
                    loop {
                        match self.inbox.try_recv() {
                            Ok(command) => self.start(command),
                            Err(TryRecvError::Empty) => break,
                            Err(TryRecvError::Disconnected) => return,
                        }
                    }
                },
                command = self.inbox.recv() => match command {
                    Some(command) => self.start(command),
                    None => return,
                },
                () = timer => {
                    burst = 0;
                    self.expired();
                }
            }
            self.running.retain(|_, it| !it.snapshot.is_closed());
        }
    }

    fn start(&mut self, command: Command) {
        let sender = match self.bind(&command) {
            Ok(sender) => sender,
            Err(error) => {
                let error = format!(
                    "BFD with {}: {error}; check whether another BFD daemon uses UDP port 3784",
                    command.peer
                );
                return self.fail(command, error);
            }
        };
        command.snapshot.send_modify(|it| it.error = None);
        let discriminator = loop {
            let candidate = self.random.random();
            if candidate != 0 && !self.running.contains_key(&candidate) {
                break candidate;
            }
        };
        let seed = self.random.random();
        let session = Session::new(command.config, discriminator, seed, Instant::now());
        let running = Running {
            peer: command.peer,
            session,
            sender,
            snapshot: command.snapshot,
        };
        self.running.insert(discriminator, running);
    }

    /// Keeps a session for a later attempt: the source address may not be configured yet, or the other
    /// daemon may end.
    fn fail(&mut self, command: Command, error: String) {
        command.snapshot.send_if_modified(|snapshot| {
            let new = snapshot.error.as_ref() != Some(&error);
            if new {
                warn!("{error}");
                snapshot.error = Some(error);
            }
            new
        });
        self.failed.push(command);
        self.retry.get_or_insert(Instant::now() + RETRY);
    }

    fn bind(&mut self, command: &Command) -> io::Result<Sender> {
        let receiver = match command.peer {
            IpAddr::V4(_) => &mut self.v4,
            IpAddr::V6(_) => &mut self.v6,
        };
        if receiver.is_none() {
            *receiver = Some(Receiver::bind(command.peer)?);
        }
        Sender::bind(command.peer, command.source, &mut self.random)
    }

    fn received(&mut self, from: Option<IpAddr>, bytes: &[u8]) {
        let (Some(from), Ok(packet)) = (from, Packet::decode(bytes)) else {
            return;
        };
        let running = match packet.your_discriminator {
            0 => {
                let mut open = self.running.values_mut();
                open.find(|it| it.peer == from && !it.snapshot.is_closed())
            }
            known => self.running.get_mut(&known).filter(|it| it.peer == from),
        };
        if let Some(running) = running {
            let answer = running.session.received(&packet, Instant::now());
            running.after(answer);
        }
    }

    fn expired(&mut self) {
        let now = Instant::now();
        if self.retry.is_some_and(|retry| retry <= now) {
            self.retry = None;
            for command in std::mem::take(&mut self.failed) {
                if !command.snapshot.is_closed() {
                    self.start(command);
                }
            }
        }
        for running in self.running.values_mut() {
            if running.session.deadline() <= now {
                let packet = running.session.expired(now);
                running.after(packet);
            }
        }
    }
}

impl Running {
    /// Sends a packet, if any, and reports the state if it has changed.
    fn after(&mut self, packet: Option<Packet>) {
        if let Some(packet) = packet {
            self.sender.send(&packet.encode());
        }
        let (state, failures) = (self.session.state(), self.session.failures());
        let changed = self.snapshot.send_if_modified(|snapshot| {
            let changed = snapshot.state != state || snapshot.failures != failures;
            if changed {
                snapshot.state = state;
                snapshot.failures = failures;
                snapshot.reason = self.session.reason();
            }
            changed
        });
        if changed {
            let reason = self.session.reason();
            info!(peer = %self.peer, %state, reason, "BFD session changed");
        }
    }
}

async fn receive(
    receiver: Option<&Receiver>,
    buffer: &mut [u8],
) -> io::Result<(usize, Option<IpAddr>)> {
    match receiver {
        Some(receiver) => receiver.receive(buffer).await,
        None => std::future::pending().await,
    }
}

//! Long-lived flows that carry data continuously, to [`super::echo`] servers.
//!
//! Each flow sends a numbered text and checks that the reply is the name of the same backend as
//! before, followed by the text. A flow with a fault ends, so that each fault is counted once. A
//! lost datagram is counted but is no fault.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::runtime::{Running, Stop, run_inside};
use crate::deadline;
use crate::host::Host;

/// Flows that are opened at the same time; more would overrun the servers' queues.
const MOST_OPENING: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    /// Datagrams from one socket per flow.
    Udp,
}

/// Flows to open.
#[derive(Clone, Debug)]
pub struct FlowPlan {
    pub transport: Transport,
    pub to: SocketAddr,
    pub flows: usize,
    /// Length of each text.
    pub text_bytes: usize,
    /// Time between a reply and the next text.
    pub pause: Duration,
    /// Time limit of a reply, after which a TCP flow is broken or a datagram lost.
    pub answer_limit: Duration,
}

impl FlowPlan {
    /// Plans flows with short texts, at most 100 per second each.
    pub fn new(transport: Transport, to: SocketAddr, flows: usize) -> Self {
        Self {
            transport,
            to,
            flows,
            text_bytes: 64,
            pause: Duration::from_millis(10),
            answer_limit: Duration::from_secs(3),
        }
    }
}

/// Why a flow ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    NotOpened(String),
    /// Reset, or sending failed.
    Reset(String),
    /// Closed by the server.
    Closed,
    /// No reply in time.
    Silent,
    /// Another backend replied than before.
    Moved {
        to: String,
    },
    /// The reply was not the text.
    Damaged {
        answer: String,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOpened(why) => write!(f, "not opened: {why}"),
            Self::Reset(why) => write!(f, "reset: {why}"),
            Self::Closed => f.write_str("closed by the server"),
            Self::Silent => f.write_str("no reply in time"),
            Self::Moved { to } => write!(f, "moved to {to}"),
            Self::Damaged { answer } => write!(f, "damaged: {answer:?}"),
        }
    }
}

/// State of one flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// The client's address.
    pub from: Option<SocketAddr>,
    pub backend: Option<String>,
    /// Correct replies.
    pub answers: u64,
    /// Datagrams without a reply.
    pub lost: u64,
    pub fault: Option<Fault>,
}

#[derive(Clone, Debug)]
pub struct FlowReport {
    pub flows: Vec<Flow>,
}

impl FlowReport {
    /// Returns the flows with a fault.
    pub fn broken(&self) -> impl Iterator<Item = &Flow> {
        self.flows.iter().filter(|flow| flow.fault.is_some())
    }

    /// Returns the correct replies of all flows.
    pub fn answers(&self) -> u64 {
        self.flows.iter().map(|flow| flow.answers).sum()
    }

    /// Returns the lost datagrams of all flows.
    pub fn lost(&self) -> u64 {
        self.flows.iter().map(|flow| flow.lost).sum()
    }

    /// Returns the number of flows by backend.
    pub fn per_backend(&self) -> BTreeMap<String, u64> {
        let mut count = BTreeMap::new();
        for backend in self.flows.iter().filter_map(|flow| flow.backend.clone()) {
            *count.entry(backend).or_default() += 1;
        }
        count
    }

    /// Returns the number of faults by description.
    pub fn faults(&self) -> BTreeMap<String, u64> {
        let mut count = BTreeMap::new();
        for fault in self.flows.iter().filter_map(|flow| flow.fault.as_ref()) {
            *count.entry(fault.to_string()).or_default() += 1;
        }
        count
    }
}

/// Running flows, stopped when dropped.
#[derive(Debug)]
pub struct FlowLoad {
    running: Running,
    flows: Flows,
}

impl FlowLoad {
    /// Opens flows from a host in the background: see [`FlowLoad::wait_answers`].
    pub fn start(host: &Host, plan: &FlowPlan) -> Result<Self> {
        let flows = Flows((0..plan.flows).map(|_| Mutex::default()).collect());
        let (task_plan, task_flows) = (plan.clone(), flows.clone());
        let running = run_inside(&host.ns.entry(), "flows", move |stop| {
            run_all(task_plan, task_flows, stop)
        })?;
        Ok(Self { running, flows })
    }

    /// Waits until every flow without a fault has had `more` further replies.
    ///
    /// With 1, directly after the start, this waits until all are open; after a change, until all have
    /// survived it.
    pub fn wait_answers(&self, more: u64, limit: Duration) -> Result<()> {
        let before = self.snapshot();
        let what = format!("each flow has {more} more replies");
        deadline::until(&what, limit, || {
            let now = self.snapshot();
            Ok(now
                .flows
                .iter()
                .zip(&before.flows)
                .all(|(now, before)| now.fault.is_some() || now.answers >= before.answers + more))
        })
    }

    /// Returns the present state.
    pub fn snapshot(&self) -> FlowReport {
        self.flows.report()
    }

    /// Ends each flow after its next reply, and reports.
    pub fn stop(self) -> FlowReport {
        let Self { running, flows } = self;
        running.stop();
        flows.report()
    }
}

#[derive(Clone, Debug)]
struct Flows(Arc<[Mutex<Flow>]>);

impl Flows {
    fn get(&self, index: usize) -> MutexGuard<'_, Flow> {
        // A flow is consistent at any time, also when a task panicked.
        self.0[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self) -> FlowReport {
        FlowReport {
            flows: (0..self.0.len()).map(|i| self.get(i).clone()).collect(),
        }
    }
}

async fn run_all(plan: FlowPlan, flows: Flows, stop: Stop) {
    let plan = Arc::new(plan);
    let opening = Arc::new(Semaphore::new(MOST_OPENING));
    let mut tasks = JoinSet::new();
    for index in 0..flows.0.len() {
        let (plan, flows, opening) = (plan.clone(), flows.clone(), opening.clone());
        let stop = stop.clone();
        tasks.spawn(async move {
            let permit = opening.acquire().await;
            let opened = open(&plan).await;
            drop(permit);
            let outcome = match opened {
                Ok((from, channel)) => {
                    flows.get(index).from = Some(from);
                    exchange_all(&plan, &flows, index, channel, stop).await
                }
                Err(error) => Err(Fault::NotOpened(error.to_string())),
            };
            flows.get(index).fault = outcome.err();
        });
    }
    // join_all propagates panics.
    tasks.join_all().await;
}

enum Channel {
    Tcp(BufReader<TcpStream>),
    Udp(UdpSocket),
}

async fn open(plan: &FlowPlan) -> std::io::Result<(SocketAddr, Channel)> {
    match plan.transport {
        Transport::Tcp => {
            let connection = timeout(plan.answer_limit, TcpStream::connect(plan.to)).await??;
            connection.set_nodelay(true)?;
            let from = connection.local_addr()?;
            Ok((from, Channel::Tcp(BufReader::new(connection))))
        }
        Transport::Udp => {
            let any: SocketAddr = match plan.to {
                SocketAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            let socket = UdpSocket::bind(any).await?;
            socket.connect(plan.to).await?;
            Ok((socket.local_addr()?, Channel::Udp(socket)))
        }
    }
}

async fn exchange_all(
    plan: &FlowPlan,
    flows: &Flows,
    index: usize,
    mut channel: Channel,
    mut stop: Stop,
) -> Result<(), Fault> {
    let mut number = 0;
    while !*stop.borrow() {
        number += 1;
        let text = text(index, number, plan.text_bytes);
        let answer = match timeout(plan.answer_limit, channel.exchange(number, &text)).await {
            Ok(answer) => Some(answer?),
            Err(_) if plan.transport == Transport::Udp => None,
            Err(_) => return Err(Fault::Silent),
        };
        record(&mut flows.get(index), &text, answer)?;
        // The pause ends early when `stop` becomes true. An error means that its sender is gone.
        if let Ok(Err(_)) = timeout(plan.pause, stop.wait_for(|stop| *stop)).await {
            break;
        }
    }
    Ok(())
}

fn record(flow: &mut Flow, text: &str, answer: Option<String>) -> Result<(), Fault> {
    let Some(answer) = answer else {
        flow.lost += 1;
        return Ok(());
    };
    let Some((name, echoed)) = answer.split_once(' ') else {
        return Err(Fault::Damaged { answer });
    };
    if echoed != text {
        return Err(Fault::Damaged { answer });
    }
    match &flow.backend {
        None => flow.backend = Some(name.to_owned()),
        Some(before) if before != name => {
            return Err(Fault::Moved {
                to: name.to_owned(),
            });
        }
        Some(_) => {}
    }
    flow.answers += 1;
    Ok(())
}

/// Returns `FLOW NUMBER ` and letters that differ with both, so that the text of another flow or
/// another number is not mistaken for it.
fn text(index: usize, number: u64, bytes: usize) -> String {
    let mut text = format!("{index} {number} ");
    for letter in (b'a'..=b'z')
        .cycle()
        .skip((index + number as usize) % 26)
        .take(bytes.saturating_sub(text.len()))
    {
        text.push(letter.into());
    }
    text
}

impl Channel {
    /// Sends a text and returns the reply.
    async fn exchange(&mut self, number: u64, text: &str) -> Result<String, Fault> {
        let reset = |error: std::io::Error| Fault::Reset(error.kind().to_string());
        match self {
            Self::Tcp(connection) => {
                let line = format!("{text}\n");
                connection.write_all(line.as_bytes()).await.map_err(reset)?;
                let mut answer = String::new();
                match connection.read_line(&mut answer).await.map_err(reset)? {
                    0 => Err(Fault::Closed),
                    _ => Ok(answer.trim_end_matches('\n').to_owned()),
                }
            }
            Self::Udp(socket) => {
                // Refused if no server received the last datagram, which counts as lost.
                let _ = socket.send(text.as_bytes()).await;
                let mut buffer = vec![0; 65_536];
                loop {
                    let Ok(length) = socket.recv(&mut buffer).await else {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        continue;
                    };
                    let answer = String::from_utf8_lossy(&buffer[..length]);
                    // Skips late replies to earlier datagrams.
                    if answered_number(&answer).is_none_or(|of| of >= number) {
                        return Ok(answer.into_owned());
                    }
                }
            }
        }
    }
}

/// Returns the number in `NAME FLOW NUMBER letters`.
fn answered_number(answer: &str) -> Option<u64> {
    answer.split(' ').nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_damaged_and_foreign_replies() {
        let mut flow = Flow::default();
        let sent = text(3, 1, 20);
        record(&mut flow, &sent, Some(format!("a {sent}"))).unwrap();
        assert_eq!((flow.answers, flow.backend.as_deref()), (1, Some("a")));
        let moved = record(&mut flow, &sent, Some(format!("b {sent}")));
        assert_eq!(moved, Err(Fault::Moved { to: "b".into() }));
        let answer = format!("a {}", text(3, 2, 20));
        let damaged = record(&mut flow, &sent, Some(answer.clone()));
        assert_eq!(damaged, Err(Fault::Damaged { answer }));
        record(&mut flow, &sent, None).unwrap();
        assert_eq!((flow.answers, flow.lost), (1, 1));
    }

    #[test]
    fn texts_have_the_given_length_and_differ() {
        assert_eq!(text(0, 1, 64).len(), 64);
        assert_ne!(text(0, 1, 64), text(1, 1, 64));
        assert_ne!(text(0, 1, 64), text(0, 2, 64));
        assert_eq!(
            answered_number(&format!("name {}", text(5, 17, 40))),
            Some(17)
        );
    }
}

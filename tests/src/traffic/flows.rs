//! Long-lived flows that carry data all the time, against [`super::echo`] servers.
//!
//! Each flow sends a numbered text, waits for the answer, and checks that it is that text after the same
//! backend's name as before. A flow that finds a fault records it and ends, so one break is
//! counted once. A lost datagram is no fault, but is counted.

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

/// Flows that may be opening at once; more would only overrun the servers' queues.
const MOST_OPENING: usize = 64;

/// What the flows are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A connection.
    Tcp,
    /// Datagrams from one socket.
    Udp,
}

/// Flows to open.
#[derive(Clone, Debug)]
pub struct FlowPlan {
    /// TCP or UDP.
    pub transport: Transport,
    /// Where to.
    pub to: SocketAddr,
    /// How many.
    pub flows: usize,
    /// Length of each text.
    pub text_bytes: usize,
    /// Time between an answer and the next text.
    pub pause: Duration,
    /// Time for an answer; after it a TCP flow is broken, and a datagram lost.
    pub answer_limit: Duration,
}

impl FlowPlan {
    /// Flows with small texts, a hundred a second each.
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

/// Why a flow ended before it was asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It could not be opened.
    NotOpened(String),
    /// It was reset, or sending failed otherwise.
    Reset(String),
    /// The other side closed it.
    Closed,
    /// No answer in time.
    Silent,
    /// Another backend answered than the one before.
    Moved {
        /// The one that answered now.
        to: String,
    },
    /// The answer was not what had been sent.
    Damaged {
        /// What came back.
        answer: String,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOpened(why) => write!(f, "not opened: {why}"),
            Self::Reset(why) => write!(f, "reset: {why}"),
            Self::Closed => f.write_str("closed by the server"),
            Self::Silent => f.write_str("no answer in time"),
            Self::Moved { to } => write!(f, "moved to {to}"),
            Self::Damaged { answer } => write!(f, "damaged: {answer:?}"),
        }
    }
}

/// What is known of one flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// The client's end.
    pub from: Option<SocketAddr>,
    /// Who answers.
    pub backend: Option<String>,
    /// Right answers.
    pub answers: u64,
    /// Datagrams without an answer.
    pub lost: u64,
    /// Why it ended early.
    pub fault: Option<Fault>,
}

/// What became of the flows.
#[derive(Clone, Debug)]
pub struct FlowReport {
    /// All of them.
    pub flows: Vec<Flow>,
}

impl FlowReport {
    /// Those with a fault.
    pub fn broken(&self) -> impl Iterator<Item = &Flow> {
        self.flows.iter().filter(|flow| flow.fault.is_some())
    }

    /// Right answers of all flows.
    pub fn answers(&self) -> u64 {
        self.flows.iter().map(|flow| flow.answers).sum()
    }

    /// Datagrams of all flows that had no answer.
    pub fn lost(&self) -> u64 {
        self.flows.iter().map(|flow| flow.lost).sum()
    }

    /// How many flows each backend had.
    pub fn per_backend(&self) -> BTreeMap<String, u64> {
        let mut count = BTreeMap::new();
        for backend in self.flows.iter().filter_map(|flow| flow.backend.clone()) {
            *count.entry(backend).or_default() += 1;
        }
        count
    }

    /// Faults and how often each came, to be shown.
    pub fn faults(&self) -> BTreeMap<String, u64> {
        let mut count = BTreeMap::new();
        for fault in self.flows.iter().filter_map(|flow| flow.fault.as_ref()) {
            *count.entry(fault.to_string()).or_default() += 1;
        }
        count
    }
}

/// Flows that run. They end when this is dropped.
#[derive(Debug)]
pub struct FlowLoad {
    running: Running,
    flows: Flows,
}

impl FlowLoad {
    /// Opens flows from a host. They open in the background: see [`FlowLoad::wait_answers`].
    pub fn start(host: &Host, plan: &FlowPlan) -> Result<Self> {
        let flows = Flows((0..plan.flows).map(|_| Mutex::default()).collect());
        let (task_plan, task_flows) = (plan.clone(), flows.clone());
        let running = run_inside(&host.ns.entry(), "flows", move |stop| {
            run_all(task_plan, task_flows, stop)
        })?;
        Ok(Self { running, flows })
    }

    /// Waits until every flow that has no fault has had `more` answers from now on.
    ///
    /// With 1 directly after the start, all of them are open; after a change, all of them have outlived it.
    pub fn wait_answers(&self, more: u64, limit: Duration) -> Result<()> {
        let before = self.snapshot();
        let what = format!("each flow has {more} more answers");
        deadline::until(&what, limit, || {
            let now = self.snapshot();
            Ok(now
                .flows
                .iter()
                .zip(&before.flows)
                .all(|(now, before)| now.fault.is_some() || now.answers >= before.answers + more))
        })
    }

    /// What is known at this moment.
    pub fn snapshot(&self) -> FlowReport {
        self.flows.report()
    }

    /// Lets each flow end after its present answer, and reports.
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
        // A flow is right at any time, also when a task panicked.
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
            let place = opening.acquire().await;
            let opened = open(&plan).await;
            drop(place);
            let outcome = match opened {
                Ok((from, channel)) => {
                    flows.get(index).from = Some(from);
                    carry(&plan, &flows, index, channel, stop).await
                }
                Err(error) => Err(Fault::NotOpened(error.to_string())),
            };
            flows.get(index).fault = outcome.err();
        });
    }
    // join_all passes a task's panic on.
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

async fn carry(
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
        // Ends early when asked to stop; an error means that nobody could ask any more.
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

/// `FLOW NUMBER ` and letters that differ with both, so that an old or a foreign text is not taken
/// for this one.
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
    /// Sends a text and gives the answer to it.
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
                // Refused: the last datagram met no server. It is lost like any other.
                let _ = socket.send(text.as_bytes()).await;
                let mut buffer = vec![0; 65_536];
                loop {
                    let Ok(length) = socket.recv(&mut buffer).await else {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        continue;
                    };
                    let answer = String::from_utf8_lossy(&buffer[..length]);
                    // An answer to an earlier datagram that came too late.
                    if answered_number(&answer).is_none_or(|of| of >= number) {
                        return Ok(answer.into_owned());
                    }
                }
            }
        }
    }
}

/// The number in `NAME FLOW NUMBER letters`.
fn answered_number(answer: &str) -> Option<u64> {
    answer.split(' ').nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_or_foreign_answer_is_a_fault() {
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
    fn texts_have_their_length_and_differ() {
        assert_eq!(text(0, 1, 64).len(), 64);
        assert_ne!(text(0, 1, 64), text(1, 1, 64));
        assert_ne!(text(0, 1, 64), text(0, 2, 64));
        assert_eq!(
            answered_number(&format!("name {}", text(5, 17, 40))),
            Some(17)
        );
    }
}

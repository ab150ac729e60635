//! A process that announces addresses, for tests with real routers. The binary `announcer` runs it; tests
//! control it through a Unix socket, with one JSON document per line in each direction.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lb_announce::{Attributes, Bfd, KernelRoutes, Password, Peer, PeerStatus, Speaker};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

use crate::host::Host;
use crate::process::Daemon;

const START_LIMIT: Duration = Duration::from_secs(20);
/// How long an orderly end may take.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// What a process announces to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AnnouncerPlan {
    pub peers: Vec<PeerPlan>,
    /// Device and table of routes for a routing daemon on the same host.
    pub kernel: Option<(String, u32)>,
}

/// A peer, in types that have a text form.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerPlan {
    pub name: String,
    pub address: IpAddr,
    pub remote_as: u32,
    pub local_as: u32,
    pub router_id: Ipv4Addr,
    pub password: Option<String>,
    pub ttl_security: bool,
    /// Interval in milliseconds, and multiplier.
    pub bfd: Option<(u64, u8)>,
    pub next_hop_v4: Option<Ipv4Addr>,
    pub next_hop_v6: Option<Ipv6Addr>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Request {
    Announce {
        addresses: Vec<IpAddr>,
        communities: Vec<String>,
    },
    Status,
    /// Blocks the only thread of the runtime.
    Stall {
        ms: u64,
    },
    Stop,
}

/// Status of a peer, in types that have a text form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub state: String,
    pub last_error: Option<String>,
    pub flaps: u64,
    pub routes_sent: usize,
    pub acknowledged: bool,
    /// State of IPv4 and of IPv6.
    pub families: [String; 2],
    pub bfd: Option<String>,
    pub bfd_error: Option<String>,
    pub hold_time: Option<Duration>,
}

/// An announcing process. Killed when dropped.
#[derive(Debug)]
pub struct Announcer {
    daemon: Daemon,
    socket: PathBuf,
}

impl Announcer {
    /// Starts a process on a host. `program` is the binary `announcer`.
    pub fn start(host: &Host, program: &str, plan: &AnnouncerPlan) -> Result<Self> {
        let socket = host.directory().join("announcer.sock");
        let mut command = Command::new(program);
        command.arg(&socket).arg(serde_json::to_string(plan)?);
        let log = host.directory().join("announcer.log");
        let mut daemon = Daemon::start("announcer", &host.ns.entry(), command, &log)?;
        daemon.wait_ready(START_LIMIT, || Ok(UnixStream::connect(&socket).is_ok()))?;
        Ok(Self { daemon, socket })
    }

    /// Replaces what is announced.
    pub fn announce(&self, addresses: &[IpAddr], communities: &[&str]) -> Result<()> {
        let communities = communities.iter().map(|it| (*it).to_owned()).collect();
        self.request(&Request::Announce {
            addresses: addresses.to_vec(),
            communities,
        })
        .map(drop)
    }

    /// Returns the status of all peers by name.
    pub fn status(&self) -> Result<BTreeMap<String, Status>> {
        Ok(serde_json::from_str(&self.request(&Request::Status)?)?)
    }

    /// Blocks the runtime of the process, and returns when it runs again.
    pub fn stall(&self, length: Duration) -> Result<()> {
        let ms = u64::try_from(length.as_millis())?;
        self.request(&Request::Stall { ms }).map(drop)
    }

    /// Withdraws everything, ends the sessions and waits for the end of the process.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.request(&Request::Stop)?;
        self.daemon.wait(STOP_LIMIT + Duration::from_secs(5))
    }

    /// Returns the process, for signals.
    pub fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    fn request(&self, request: &Request) -> Result<String> {
        let mut stream = UnixStream::connect(&self.socket).context("connect to the announcer")?;
        stream.set_read_timeout(Some(START_LIMIT))?;
        writeln!(stream, "{}", serde_json::to_string(request)?)?;
        let mut reply = String::new();
        BufReader::new(stream).read_line(&mut reply)?;
        if reply.is_empty() {
            bail!("no reply from the announcer:\n{}", self.daemon.log());
        }
        Ok(reply)
    }
}

/// Runs the process: the main function of the binary `announcer`.
pub async fn serve(socket: &Path, plan: AnnouncerPlan) -> Result<()> {
    let peers: Result<Vec<Peer>> = plan.peers.into_iter().map(peer).collect();
    let speaker = Speaker::start(peers?);
    let kernel = match plan.kernel {
        Some((device, table)) => Some(KernelRoutes::start(&device, table).await?),
        None => None,
    };
    let listener = UnixListener::bind(socket)?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        let (reader, mut writer) = stream.split();
        let mut line = String::new();
        tokio::io::BufReader::new(reader)
            .read_line(&mut line)
            .await?;
        if line.is_empty() {
            continue;
        }
        let reply = match serde_json::from_str(&line)? {
            Request::Announce {
                addresses,
                communities,
            } => {
                let communities: Result<_, _> = communities.iter().map(|it| it.parse()).collect();
                let attributes = Attributes {
                    communities: communities?,
                    ..Attributes::default()
                };
                let routes = addresses.into_iter().map(|it| (it, attributes.clone()));
                let routes = Arc::new(routes.collect());
                if let Some(kernel) = &kernel {
                    kernel.announce(Arc::clone(&routes));
                }
                speaker.announce(routes);
                "\"done\"".to_owned()
            }
            Request::Status => serde_json::to_string(&report(&speaker.status()))?,
            Request::Stall { ms } => {
                std::thread::sleep(Duration::from_millis(ms));
                "\"done\"".to_owned()
            }
            Request::Stop => {
                writer.write_all(b"\"stopping\"\n").await?;
                speaker.withdraw_and_stop(STOP_LIMIT).await;
                if let Some(kernel) = kernel {
                    kernel.withdraw_and_stop(STOP_LIMIT).await;
                }
                return Ok(());
            }
        };
        writer.write_all(format!("{reply}\n").as_bytes()).await?;
    }
}

fn peer(plan: PeerPlan) -> Result<Peer> {
    let password = plan.password.map(|it| Password::new(&it)).transpose()?;
    let PeerPlan {
        remote_as,
        local_as,
        router_id,
        ..
    } = plan;
    Ok(Peer {
        password,
        ttl_security: plan.ttl_security,
        bfd: plan.bfd.map(|(interval_ms, multiplier)| Bfd {
            interval: Duration::from_millis(interval_ms),
            multiplier,
        }),
        next_hop_v4: plan.next_hop_v4,
        next_hop_v6: plan.next_hop_v6,
        ..Peer::new(&plan.name, plan.address, remote_as, local_as, router_id)
    })
}

fn report(peers: &[PeerStatus]) -> BTreeMap<String, Status> {
    let report = peers.iter().map(|peer| {
        let status = Status {
            state: format!("{:?}", peer.state),
            last_error: peer.last_error.clone(),
            flaps: peer.flaps,
            routes_sent: peer.routes_sent,
            acknowledged: peer.acknowledged,
            families: [peer.families.v4.to_string(), peer.families.v6.to_string()],
            bfd: peer.bfd.map(|it| it.to_string()),
            bfd_error: peer.bfd_error.clone(),
            hold_time: peer.hold_time,
        };
        (peer.name.clone(), status)
    });
    report.collect()
}

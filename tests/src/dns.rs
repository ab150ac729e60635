//! DNS servers on the loopback interface of a host: dnsmasq, whose records a test changes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::host::Host;
use crate::process::Daemon;
use crate::tool;

/// The domain that the server answers for. It refuses all other names.
pub const DOMAIN: &str = "lab";

const PORT: u16 = 5300;
const START_LIMIT: Duration = Duration::from_secs(20);

/// A DNS server, which may be stopped.
#[derive(Debug)]
pub struct DnsServer<'lab> {
    host: &'lab Host,
    /// The last byte of its address.
    number: u8,
    daemon: Option<Daemon>,
    /// Seconds.
    ttl: u32,
}

impl<'lab> DnsServer<'lab> {
    /// Starts the server, with these addresses of names.
    pub fn start(host: &'lab Host, records: &[(&str, IpAddr)]) -> Result<Self> {
        Self::start_nth(host, 1, records)
    }

    /// Starts one of several servers of a host, whose address is [`DnsServer::nth`].
    pub fn start_nth(host: &'lab Host, number: u8, records: &[(&str, IpAddr)]) -> Result<Self> {
        let mut server = Self {
            host,
            number,
            daemon: None,
            ttl: 1,
        };
        server.set(records)?;
        server.restart(&[])?;
        Ok(server)
    }

    pub fn address() -> SocketAddr {
        Self::nth(1)
    }

    /// The address of the server with this number, whether it runs or not.
    pub fn nth(number: u8) -> SocketAddr {
        (Ipv4Addr::new(127, 0, 0, number), PORT).into()
    }

    /// Sets the TTL of answers from the next restart on.
    pub fn set_ttl(&mut self, seconds: u32) {
        self.ttl = seconds;
    }

    /// Replaces the addresses of names, without a moment in which the server does not answer.
    pub fn set(&mut self, records: &[(&str, IpAddr)]) -> Result<()> {
        let lines: Vec<String> = records
            .iter()
            .map(|(name, address)| format!("{address} {name}.{DOMAIN}\n"))
            .collect();
        let file = self.hosts();
        std::fs::write(&file, lines.concat())
            .with_context(|| format!("write {}", file.display()))?;
        match &self.daemon {
            Some(daemon) => daemon.signal(Signal::SIGHUP),
            None => Ok(()),
        }
    }

    /// Starts the server again, with more options, such as `--srv-host=…`.
    pub fn restart(&mut self, options: &[String]) -> Result<()> {
        self.restart_for(&format!("--local=/{DOMAIN}/"), options)
    }

    /// Starts the server again so that it refuses all questions: it has no names and asks no other server.
    pub fn refuse(&mut self) -> Result<()> {
        self.set(&[])?;
        self.restart_for("--no-negcache", &[])
    }

    fn restart_for(&mut self, domain: &str, options: &[String]) -> Result<()> {
        self.stop();
        let mut command = tool::command("dnsmasq")?;
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--pid-file",
        ]);
        command.args(["--no-resolv", "--no-hosts", "--user=root", "--log-queries"]);
        command.args(["--log-facility=-", "--bind-interfaces"]);
        command.arg(format!("--listen-address={}", Self::nth(self.number).ip()));
        command.arg(format!("--port={PORT}"));
        command.arg(format!("--addn-hosts={}", self.hosts().display()));
        command.arg(format!("--local-ttl={}", self.ttl));
        command.arg(domain).args(options);
        let log = self.file("log");
        let starts = |log: &str| log.matches("started, version").count();
        let before = starts(&std::fs::read_to_string(&log).unwrap_or_default());
        let mut daemon = Daemon::start("dnsmasq", &self.host.ns.entry(), command, &log)?;
        let log = || std::fs::read_to_string(&log).unwrap_or_default();
        daemon.wait_ready(START_LIMIT, || Ok(starts(&log()) > before))?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Kills the server: questions are rejected by the kernel.
    pub fn stop(&mut self) {
        self.daemon = None;
    }

    /// Stops the server where it is: questions are not answered.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Ends [`DnsServer::freeze`].
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let daemon = self.daemon.as_ref().context("the DNS server runs")?;
        daemon.signal(signal)
    }

    /// Number of questions so far for a name.
    pub fn questions(&self, name: &str) -> usize {
        let question = format!("] {name}.{DOMAIN} from ");
        let log = self.daemon.as_ref().map(Daemon::log).unwrap_or_default();
        log.matches(&question).count()
    }

    fn hosts(&self) -> PathBuf {
        self.file("hosts")
    }

    fn file(&self, kind: &str) -> PathBuf {
        let name = format!("dnsmasq-{}.{kind}", self.number);
        self.host.directory().join(name)
    }
}

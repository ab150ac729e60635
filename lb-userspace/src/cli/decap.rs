//! `evenkeel decap`: decapsulates packets on a backend host.
//!
//! In the foreground it keeps the map of the host's addresses current. With a BPF file system the
//! program is pinned and stays attached when the command ends, so a restart or an upgrade loses no
//! packet; `--remove` detaches it. Without one, it is attached while the command runs.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use lb_common::decap::{DecapCounters, MAX_ADDRESSES};
use nix::net::if_::if_nametoindex;
use serde_json::{Map, Value, json};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};
use tracing::{error, info, warn};

use super::{block_on, stream};
use crate::decap::HostAddresses;
use lb_dataplane::{AttachedMode, DEFAULT_BPFFS, DecapPins, DecapStatus, Decapsulator, XdpMode};

/// Interval of retries after a failure.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Decapsulate packets on a backend host.
///
/// Removes the outer IP header of packets that arrive on an interface for an address of this host, in
/// all combinations of IPv4 and IPv6. Runs in the foreground and follows changes of the host's
/// addresses.
///
/// With a BPF file system the program stays attached when the command ends, so a restart loses no
/// packet; `--remove` detaches it. Without one, it is attached while the command runs. SIGUSR1 logs
/// the counters.
#[derive(Debug, clap::Args)]
pub(crate) struct DecapArgs {
    /// Interface on which the packets arrive.
    #[arg(long, value_name = "IF")]
    interface: String,

    /// Mount point of the BPF file system, mounted if it is not [default: /sys/fs/bpf if mounted].
    #[arg(long, value_name = "DIR")]
    bpffs: Option<PathBuf>,

    /// XDP mode.
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    mode: Mode,

    /// Do not pin: the program is attached while the command runs.
    #[arg(long, conflicts_with_all = ["bpffs", "once", "remove", "status"])]
    unpinned: bool,

    /// Attach and exit. Later changes of the host's addresses are not followed.
    #[arg(long, conflicts_with_all = ["remove", "status"])]
    once: bool,

    /// Detach the program and remove its pins for the interface.
    #[arg(long, conflicts_with = "status")]
    remove: bool,

    /// Print the mode, addresses and counters. Exits with 1 if nothing is attached.
    #[arg(long)]
    status: bool,

    /// Print the status as JSON.
    #[arg(long, requires = "status")]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// In the driver; fail if it has no native XDP.
    Native,
    /// In the network stack: slow, works everywhere.
    Generic,
    /// Native if possible, otherwise generic.
    Auto,
}

impl From<Mode> for XdpMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Native => Self::Native,
            Mode::Generic => Self::Generic,
            Mode::Auto => Self::Auto,
        }
    }
}

pub(crate) fn run(arguments: &DecapArgs) -> Result<ExitCode> {
    let pins = pins(arguments)?;
    if arguments.remove {
        return remove(&require(pins)?, &arguments.interface);
    }
    if arguments.status {
        return status(&require(pins)?, arguments);
    }
    let pins = if arguments.once {
        Some(require(pins)?)
    } else {
        pins
    };
    block_on(serve(arguments, pins))
}

/// The pins to use; none if the program is not pinned.
fn pins(arguments: &DecapArgs) -> Result<Option<DecapPins>> {
    if arguments.unpinned {
        return Ok(None);
    }
    if let Some(bpffs) = &arguments.bpffs {
        return Ok(Some(DecapPins::at(bpffs, &arguments.interface)?));
    }
    let pins = DecapPins::at(Path::new(DEFAULT_BPFFS), &arguments.interface)?;
    // An error means that nothing is mounted.
    Ok(pins.is_usable().unwrap_or(false).then_some(pins))
}

fn require(pins: Option<DecapPins>) -> Result<DecapPins> {
    pins.with_context(|| {
        format!(
            "no BPF file system is mounted at {DEFAULT_BPFFS}: mount it (`mount -t bpf -o mode=0700 bpf \
             {DEFAULT_BPFFS}`) or name another with --bpffs"
        )
    })
}

fn remove(pins: &DecapPins, interface: &str) -> Result<ExitCode> {
    let removed = pins.remove()?;
    let mut out = stream::stdout();
    if removed {
        writeln!(out, "evenkeel_decap removed from {interface}")?;
    } else {
        writeln!(out, "evenkeel_decap was not attached to {interface}")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn status(pins: &DecapPins, arguments: &DecapArgs) -> Result<ExitCode> {
    let interface = &arguments.interface;
    let status = pins.status(interface)?;
    let mut out = stream::stdout();
    if arguments.json {
        writeln!(out, "{:#}", status_json(interface, status.as_ref()))?;
    } else if let Some(status) = &status {
        let mode = if status.native { "native" } else { "generic" };
        writeln!(out, "evenkeel_decap on {interface} ({mode})")?;
        for address in &status.addresses {
            writeln!(out, "  address    {address}")?;
        }
        for (name, value) in named(&status.counters) {
            writeln!(out, "  {name:<10} {value}")?;
        }
    } else {
        writeln!(out, "evenkeel_decap is not attached to {interface}")?;
    }
    Ok(if status.is_some() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn status_json(interface: &str, status: Option<&DecapStatus>) -> Value {
    let Some(status) = status else {
        return json!({ "interface": interface, "attached": false });
    };
    let counters: Map<String, Value> = named(&status.counters)
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    json!({
        "interface": interface,
        "attached": true,
        "mode": if status.native { "native" } else { "generic" },
        "addresses": status.addresses,
        "counters": counters,
    })
}

/// The counters with their names in JSON.
const fn named(counters: &DecapCounters) -> [(&'static str, u64); 10] {
    let &DecapCounters {
        v4_in_v4,
        v6_in_v4,
        v4_in_v6,
        v6_in_v6,
        bytes,
        passed,
        declined,
        malformed,
        congested,
        failed,
    } = counters;
    [
        ("v4_in_v4", v4_in_v4),
        ("v6_in_v4", v6_in_v4),
        ("v4_in_v6", v4_in_v6),
        ("v6_in_v6", v6_in_v6),
        ("bytes", bytes),
        ("passed", passed),
        ("declined", declined),
        ("malformed", malformed),
        ("congested", congested),
        ("failed", failed),
    ]
}

async fn serve(arguments: &DecapArgs, pins: Option<DecapPins>) -> Result<ExitCode> {
    // Before the program is attached, so that no signal ends the process in between.
    let mut signals = Signals::new()?;
    let mut host = HostAddresses::watch()?;
    let decapsulator = match &pins {
        Some(pins) => Decapsulator::open(pins)?,
        None => Decapsulator::load()?,
    };
    let mut service = Service {
        decapsulator,
        interface: &arguments.interface,
        mode: arguments.mode.into(),
        attached_to: None,
        omitted: 0,
    };
    let addresses = service.follow_addresses(&host).await?;
    if addresses == 0 {
        warn!("this host has no address that packets can be encapsulated to");
    }
    let mode = service.attach()?;
    let place = pins.map_or_else(
        || "not pinned: detached when this command ends".to_owned(),
        |pins| format!("pinned in {}", pins.folder().display()),
    );
    let interface = &arguments.interface;
    writeln!(
        stream::stdout(),
        "evenkeel_decap attached to {interface} ({mode}); addresses: {addresses}; {place}"
    )?;
    if arguments.once {
        return Ok(ExitCode::SUCCESS);
    }
    service.run(&mut host, &mut signals).await?;
    service.log_counters();
    Ok(ExitCode::SUCCESS)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    counters: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot handle signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            counters: listen(SignalKind::user_defined1())?,
        })
    }
}

struct Service<'arguments> {
    decapsulator: Decapsulator,
    interface: &'arguments str,
    mode: XdpMode,
    /// Index of the interface that the program was attached to.
    attached_to: Option<u32>,
    /// Number of addresses that the map has no room for.
    omitted: usize,
}

impl Service<'_> {
    fn attach(&mut self) -> Result<&'static str> {
        let index = if_nametoindex(self.interface);
        let mode = self.decapsulator.attach(self.interface, self.mode)?;
        self.attached_to = index.ok();
        Ok(match mode {
            AttachedMode::Native => "native",
            AttachedMode::Generic => "generic",
            AttachedMode::Fallback { why } => {
                warn!(interface = self.interface, %why, "no native XDP; using the slow generic mode");
                "generic"
            }
        })
    }

    /// Runs until SIGTERM or SIGINT.
    async fn run(&mut self, host: &mut HostAddresses, signals: &mut Signals) -> Result<()> {
        let mut retry = false;
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => return Ok(()),
                _ = signals.interrupt.recv() => return Ok(()),
                _ = signals.counters.recv() => {
                    self.log_counters();
                    continue;
                }
                changed = host.changed() => changed?,
                () = sleep(RETRY_INTERVAL), if retry => {}
            }
            retry = false;
            if let Err(error) = self.follow(host).await {
                error!(
                    error = format!("{error:#}"),
                    "cannot follow changes of the host; retrying"
                );
                retry = true;
            }
        }
    }

    /// Updates addresses and attachment after a change of the host.
    async fn follow(&mut self, host: &HostAddresses) -> Result<()> {
        self.follow_addresses(host).await?;
        let index = if_nametoindex(self.interface).ok();
        if index == self.attached_to {
            return Ok(());
        }
        if index.is_none() {
            warn!(
                interface = self.interface,
                "interface is gone; waiting for it"
            );
            self.attached_to = None;
            return Ok(());
        }
        let mode = self.attach()?;
        info!(
            interface = self.interface,
            mode, "interface is back; attached"
        );
        Ok(())
    }

    /// Writes the host's addresses to the map. Returns how many it holds.
    async fn follow_addresses(&mut self, host: &HostAddresses) -> Result<usize> {
        let addresses = host.read(self.interface).await?;
        let omitted = self.decapsulator.set_addresses(&addresses)?;
        if omitted > 0 && omitted != self.omitted {
            warn!(
                left_out = omitted,
                "this host has more than {MAX_ADDRESSES} addresses; packets to the others are not \
                 decapsulated"
            );
        }
        self.omitted = omitted;
        Ok(addresses.len() - omitted)
    }

    fn log_counters(&self) {
        match self.decapsulator.counters() {
            Ok(counters) => {
                let text: Vec<String> = named(&counters)
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                info!(interface = self.interface, "counters: {}", text.join(" "));
            }
            Err(error) => error!(%error, "cannot read the counters"),
        }
    }
}

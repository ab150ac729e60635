//! `evenkeel decap`: opens the packets that a balancer encapsulated, on a backend host.
//!
//! In the foreground it keeps the table of the host's addresses current. With a BPF file system the
//! program is pinned, and stays attached when the command ends, however it ends: a service can be
//! restarted or upgraded without losing a packet. `--remove` takes it off. Without one, it is attached
//! for as long as the command runs.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::ValueEnum;
use lb_common::decap::{DecapCounters, MAX_ADDRESSES};
use nix::net::if_::if_nametoindex;
use serde_json::{Map, Value, json};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};
use tracing::{error, info, warn};

use super::stream;
use crate::decap::HostAddresses;
use lb_dataplane::{AttachedMode, DEFAULT_BPFFS, DecapPins, DecapStatus, Decapsulator, XdpMode};

/// After a failure, the host's addresses are read again this often.
const RETRY: Duration = Duration::from_secs(1);

/// Open encapsulated packets on a backend host.
///
/// Takes the outer IP header off packets that come in by an interface for an address of this host, in
/// all combinations of IPv4 and IPv6. Runs in the foreground and follows changes of the host's addresses.
///
/// With a BPF file system the program stays attached when the command ends, so that a restart loses
/// nothing; `--remove` takes it off. Without one, it is attached for as long as the command runs. SIGUSR1
/// logs the counters.
#[derive(Debug, clap::Args)]
pub(crate) struct DecapArgs {
    /// Interface that the packets come in by.
    #[arg(long, value_name = "IF")]
    interface: String,

    /// Where the BPF file system is; mounted there if it is not.
    ///
    /// Without this option, /sys/fs/bpf is used if one is mounted there.
    #[arg(long, value_name = "DIR")]
    bpffs: Option<PathBuf>,

    /// Where the program runs: in the driver, in the network stack, or in the first that works.
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    mode: Mode,

    /// Pin nothing: the program is attached for as long as the command runs.
    #[arg(long, conflicts_with_all = ["bpffs", "once", "remove", "status"])]
    unpinned: bool,

    /// Attach and end. Later changes of the host's addresses are not followed.
    #[arg(long, conflicts_with_all = ["remove", "status"])]
    once: bool,

    /// Detach and remove everything that is pinned for the interface.
    #[arg(long, conflicts_with = "status")]
    remove: bool,

    /// Print what is attached and the counters. Ends with 1 if nothing is attached.
    #[arg(long)]
    status: bool,

    /// Print the status as JSON.
    #[arg(long, requires = "status")]
    json: bool,
}

/// Where the program runs.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// In the driver, or not at all.
    Native,
    /// In the kernel's network stack: slow, works everywhere.
    Generic,
    /// In the driver if it can, else in the stack.
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

/// Runs the command.
pub(crate) fn run(arguments: &DecapArgs) -> anyhow::Result<ExitCode> {
    let pins = pins(arguments)?;
    if arguments.remove {
        return remove(&needed(pins)?, &arguments.interface);
    }
    if arguments.status {
        return status(&needed(pins)?, arguments);
    }
    let pins = if arguments.once {
        Some(needed(pins)?)
    } else {
        pins
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the tokio runtime")?
        .block_on(serve(arguments, pins))
}

/// Where to pin. `None`: nowhere.
fn pins(arguments: &DecapArgs) -> anyhow::Result<Option<DecapPins>> {
    if arguments.unpinned {
        return Ok(None);
    }
    if let Some(bpffs) = &arguments.bpffs {
        return Ok(Some(DecapPins::at(bpffs, &arguments.interface)?));
    }
    let pins = DecapPins::at(Path::new(DEFAULT_BPFFS), &arguments.interface)?;
    // No such folder is as good as nothing mounted.
    Ok(pins.is_usable().unwrap_or(false).then_some(pins))
}

fn needed(pins: Option<DecapPins>) -> anyhow::Result<DecapPins> {
    pins.with_context(|| {
        format!(
            "no BPF file system is mounted at {DEFAULT_BPFFS}: mount it (`mount -t bpf bpf \
             {DEFAULT_BPFFS}`) or name another with --bpffs"
        )
    })
}

fn remove(pins: &DecapPins, interface: &str) -> anyhow::Result<ExitCode> {
    let removed = pins.remove()?;
    let mut out = stream::stdout();
    if removed {
        writeln!(out, "evenkeel_decap removed from {interface}")?;
    } else {
        writeln!(out, "evenkeel_decap was not attached to {interface}")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn status(pins: &DecapPins, arguments: &DecapArgs) -> anyhow::Result<ExitCode> {
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

/// Counters with their names.
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

async fn serve(arguments: &DecapArgs, pins: Option<DecapPins>) -> anyhow::Result<ExitCode> {
    // Before anything is attached, so that no signal ends us in between.
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
        left_out: 0,
    };
    let addresses = service.follow_addresses(&host).await?;
    if addresses == 0 {
        warn!("this host has no address yet that packets could be encapsulated to");
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
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("listen to signals");
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
    /// Addresses that the table has no place for.
    left_out: usize,
}

impl Service<'_> {
    fn attach(&mut self) -> anyhow::Result<&'static str> {
        let index = if_nametoindex(self.interface);
        let mode = self.decapsulator.attach(self.interface, self.mode)?;
        self.attached_to = index.ok();
        Ok(match mode {
            AttachedMode::Native => "native",
            AttachedMode::Generic => "generic",
            AttachedMode::Fallback { why } => {
                warn!(interface = self.interface, %why, "no native XDP; the slow generic mode is used");
                "generic"
            }
        })
    }

    /// Serves until a signal says to end.
    async fn run(&mut self, host: &mut HostAddresses, signals: &mut Signals) -> anyhow::Result<()> {
        let mut again = false;
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => return Ok(()),
                _ = signals.interrupt.recv() => return Ok(()),
                _ = signals.counters.recv() => {
                    self.log_counters();
                    continue;
                }
                changed = host.changed() => changed?,
                () = sleep(RETRY), if again => {}
            }
            again = false;
            if let Err(error) = self.follow(host).await {
                error!(
                    error = format!("{error:#}"),
                    "following changes failed; trying again"
                );
                again = true;
            }
        }
    }

    /// Takes over what changed on the host.
    async fn follow(&mut self, host: &HostAddresses) -> anyhow::Result<()> {
        self.follow_addresses(host).await?;
        let index = if_nametoindex(self.interface).ok();
        if index == self.attached_to {
            return Ok(());
        }
        if index.is_none() {
            warn!(
                interface = self.interface,
                "the interface is gone; waiting for it"
            );
            self.attached_to = None;
            return Ok(());
        }
        let mode = self.attach()?;
        info!(
            interface = self.interface,
            mode, "attached to the interface that came back"
        );
        Ok(())
    }

    /// Makes the table what the host's addresses are. Says how many it holds.
    async fn follow_addresses(&mut self, host: &HostAddresses) -> anyhow::Result<usize> {
        let addresses = host.read(self.interface).await?;
        let left_out = self.decapsulator.set_addresses(&addresses)?;
        if left_out > 0 && left_out != self.left_out {
            warn!(
                left_out,
                "this host has more than {MAX_ADDRESSES} addresses: packets that are encapsulated \
                 to the others are not opened"
            );
        }
        self.left_out = left_out;
        Ok(addresses.len() - left_out)
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
            Err(error) => error!(%error, "reading the counters failed"),
        }
    }
}

//! `evenkeel announce`: announces the addresses of VIPs, for as long as the data path proves that it forwards
//! their packets. A process of its own, so that restarts and upgrades of the controller end no session.
//!
//! ```text
//! every 250 ms:  facts (links, a packet to each VIP, backends, heartbeat)
//!                  └► judge (what of each address) ─► routes ─► BGP peers, or a table of the kernel
//!                        ▲                               └────► status, at the socket
//!                  drain, undrain ◄─ socket
//! ```

mod facts;
mod frame;
mod judge;
mod settings;
mod socket;
mod via;

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use lb_announce::Routes;
use lb_dataplane::Pins;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info, warn};

pub(crate) use self::judge::CONDITIONS;
use self::{
    facts::{DataPath, LOADING},
    judge::{Check, Drain, Judge},
    settings::Settings,
    socket::{Request, Server},
    via::{Via, ViaState},
};
use crate::{config_file, durable, http, node::Announcement, reconciler::system};

/// How often everything is proven.
const INTERVAL: Duration = Duration::from_millis(250);
/// How long peers may take to acknowledge the withdrawals at the end.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// Exists in the state directory while the node is drained.
const DRAINED: &str = "drained";

/// Arguments of the command.
#[derive(Debug)]
pub struct Options {
    pub config: PathBuf,
    /// Mount point of the BPF file system.
    pub bpffs: PathBuf,
}

/// Runs until SIGTERM or SIGINT, and withdraws everything then. SIGHUP reads the configuration again.
///
/// # Errors
///
/// The configuration is wrong or has no `[announce]`, or the socket or the device can't be made.
pub async fn run(options: Options) -> Result<()> {
    let mut reload = signal(SignalKind::hangup()).context("watch for SIGHUP")?;
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
    let files = system::raise_file_limit().context("raise the limit of open files")?;
    let settings = Settings::of(&config_file::load(&options.config)?)?;
    let listener = http::listen(&settings.announce.socket, settings.group.as_deref())?;
    let mut announcer = Announcer::start(settings, Pins::at(&options.bpffs)).await?;
    let (requests, mut inbox) = mpsc::channel(16);
    let server = Server {
        snapshot: announcer.snapshot.subscribe(),
        requests,
    };
    tokio::spawn(server.serve(listener, http::Limits::of(files.1)));
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    announcer.tick();
    info!("ready");
    notify_manager("READY=1\n");
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                announcer.via.check()?;
                announcer.tick();
            }
            Some(request) = inbox.recv() => announcer.answer(request),
            _ = reload.recv() => announcer.reload(&options.config),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    notify_manager("STOPPING=1\n");
    announcer.via.withdraw_and_stop(STOP_LIMIT).await;
    info!("stopped; all addresses are withdrawn");
    Ok(())
}

fn notify_manager(message: &str) {
    if let Err(error) = system::notify(message) {
        warn!(%error, "cannot notify systemd");
    }
}

/// What is announced and why, at one moment.
#[derive(Clone, Debug)]
struct Snapshot {
    at: Instant,
    drain: Drain,
    /// Why a restart will not know of it.
    drain_error: Option<String>,
    judge: Judge,
    via: ViaState,
    /// Number of the table, with `via = "kernel"`.
    table: u32,
}

impl Snapshot {
    fn of(judge: &Judge, drain: Drain, via: &Via, settings: &Settings, at: Instant) -> Self {
        Self {
            at,
            drain,
            drain_error: None,
            judge: judge.clone(),
            via: via.state(),
            table: settings.announce.table,
        }
    }
}

struct Announcer {
    settings: Settings,
    data_path: DataPath,
    judge: Judge,
    drain: Drain,
    /// Why a restart will not know of it.
    drain_error: Option<String>,
    via: Via,
    /// What was announced last.
    routes: Arc<Routes>,
    snapshot: watch::Sender<Arc<Snapshot>>,
}

impl Announcer {
    async fn start(settings: Settings, pins: Pins) -> Result<Self> {
        let via = Via::start(&settings).await?;
        // If it can't be known, the node may be in maintenance.
        let is_drained = drain_file(&settings.state_dir).try_exists().unwrap_or(true);
        if is_drained {
            warn!("the node is drained: nothing is announced until `evenkeel node undrain`");
        }
        let judge = Judge::default();
        let drain = if is_drained { Drain::Always } else { Drain::No };
        let snapshot = Snapshot::of(&judge, drain, &via, &settings, Instant::now());
        Ok(Self {
            data_path: DataPath::new(pins),
            judge,
            drain,
            drain_error: None,
            via,
            routes: Arc::default(),
            snapshot: watch::Sender::new(Arc::new(snapshot)),
            settings,
        })
    }

    /// Proves, judges and announces.
    fn tick(&mut self) {
        let now = Instant::now();
        let before = self.announcements();
        let checks = self.judge.node.clone();
        let settings = &self.settings;
        let (mut node, vips) = self.data_path.look(&settings.wanted, &settings.interfaces);
        node.foreign = self.via.foreign();
        let (settle, drain) = (self.settings.settle(), self.drain);
        self.judge.judge(&node, &vips, drain, settle, now);
        let routes = self.settings.routes(&self.judge);
        if *self.routes != routes {
            self.routes = Arc::new(routes);
            self.via.announce(Arc::clone(&self.routes));
        }
        log_checks(&checks, &self.judge.node);
        self.log_changes(&before);
        self.snapshot.send_replace(Arc::new(Snapshot {
            drain_error: self.drain_error.clone(),
            ..Snapshot::of(&self.judge, drain, &self.via, &self.settings, now)
        }));
    }

    fn announcements(&self) -> BTreeMap<IpAddr, Announcement> {
        let addresses = self.judge.addresses.iter();
        addresses
            .map(|(address, known)| (*address, known.announcement))
            .collect()
    }

    fn log_changes(&self, before: &BTreeMap<IpAddr, Announcement>) {
        for (address, known) in &self.judge.addresses {
            let old = before.get(address).copied().unwrap_or_default();
            if known.announcement == old {
                continue;
            }
            let unmet = known.checks.iter().filter(|check| !check.is_met);
            let reasons: Vec<_> = unmet.map(|check| &*check.text).collect();
            let reasons = reasons.join("; ");
            match known.announcement {
                Announcement::Announced => info!(%address, "announced"),
                Announcement::Worse => {
                    warn!(%address, reasons, "announced as worse than other nodes");
                }
                Announcement::Withheld => warn!(%address, reasons, "withdrawn"),
            }
        }
        for (address, _) in before
            .iter()
            .filter(|(_, announcement)| **announcement != Announcement::Withheld)
        {
            if !self.judge.addresses.contains_key(address) {
                info!(%address, "withdrawn: it has no VIP any more");
            }
        }
    }

    /// Drains or undrains the node, and answers with what holds then.
    fn answer(&mut self, request: Request) {
        let file = drain_file(&self.settings.state_dir);
        let kept = if request.drain {
            let made = fs::create_dir_all(&self.settings.state_dir);
            made.and_then(|()| durable::replace(&file, b"by `evenkeel node drain`\n"))
        } else {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        };
        // The operator wants it now; a restart is later.
        self.drain_error = kept
            .err()
            .map(|error| format!("{}: {error}", file.display()));
        if let Some(error) = &self.drain_error {
            error!(
                "a restart of `evenkeel announce` will not know whether the node is drained: {error}"
            );
        }
        self.drain = match (request.drain, self.drain) {
            (true, Drain::No) => Drain::Since(Instant::now()),
            (true, known) => known,
            (false, _) => Drain::No,
        };
        let what = if request.drain {
            "drained"
        } else {
            "undrained"
        };
        info!(caller = %request.caller, "the node is {what}");
        self.tick();
        // The caller may be gone.
        let _ = request.reply.send(Arc::clone(&self.snapshot.borrow()));
    }

    /// Reads the configuration again. If it is wrong, nothing changes.
    fn reload(&mut self, config: &Path) {
        notify_manager(&format!(
            "RELOADING=1\nMONOTONIC_USEC={}\n",
            system::monotonic_us()
        ));
        let loaded = config_file::load(config).map_err(anyhow::Error::from);
        let settings = loaded.and_then(|config| {
            let settings = Settings::of(&config)?;
            settings.check_replaces(&self.settings)?;
            Ok(settings)
        });
        match settings {
            Ok(settings) => {
                self.via.set_peers(&settings.peers);
                self.settings = settings;
                info!("the configuration was read again");
                self.tick();
            }
            Err(error) => error!("reload failed; nothing changed: {error:#}"),
        }
        notify_manager("READY=1\n");
    }
}

fn log_checks(before: &[Check], now: &[Check]) {
    for check in now {
        let Check { name, is_met, text } = check;
        let before = before.iter().find(|before| before.name == *name);
        let is_usual = *is_met || text == LOADING;
        if before.map_or(is_usual, |before| before.text == *text) {
            continue;
        }
        match is_usual {
            true => info!("{name}: {text}"),
            false => warn!("{name}: {text}"),
        }
    }
}

fn drain_file(state_dir: &Path) -> PathBuf {
    state_dir.join(DRAINED)
}

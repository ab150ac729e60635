//! `evenkeel run`: one process that keeps the data path of a node as its configuration says.
//!
//! The order of a start: lock, data path (adopted or created), ways to the backends, tables,
//! ports of `nat`, and only then the interfaces: the first packet that meets the program finds
//! everything in place. The end of the process changes nothing: maps, program and links are pinned.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};
use lb_common::member::NextHop;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, timeout_at},
};
use tracing::{error, info, warn};

use super::{Controller, Way, Ways, load_options, lock::Lock, ports, system};
use crate::{
    config::{self, Config, Forward},
    dataplane::{AttachedMode, Dataplane, Opened, Pins, XdpMode},
    nexthop::{Reason, Resolver, State, Table},
};

/// How long a start waits for the ways to the backends.
const FIRST_WAYS: Duration = Duration::from_secs(2);

const TICK: Duration = Duration::from_secs(1);

/// What `run` is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// Where the BPF file system is.
    pub bpffs: PathBuf,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
///
/// Why it can't start. What was pinned before stays as it was.
pub async fn run(options: Options) -> Result<()> {
    // Before anything that takes time, so that no signal kills us half-way.
    let mut reload = signal(SignalKind::hangup()).context("watch for SIGHUP")?;
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
    let config = config::load(&options.config)?;
    let _lock = Lock::take(&config.node.state_dir)?;
    let mut node = Node::start(options, config).await?;
    let mut ways = node.resolver.watch();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = reload.recv() => node.reload().await,
            changed = ways.changed() => match changed {
                Ok(()) => node.ways_changed(&ways),
                Err(_) => anyhow::bail!("the resolver of next hops ended"),
            },
            _ = ticks.tick() => node.tick(),
        }
    }
    info!("stopped; the data path stays pinned and goes on forwarding");
    Ok(())
}

struct Node {
    options: Options,
    config: Config,
    dataplane: Dataplane,
    controller: Controller,
    resolver: Resolver,
    /// What was said about ways that are not known.
    unresolved: BTreeMap<IpAddr, Reason>,
    /// Backends that were said to have no source.
    without_source: Vec<String>,
}

impl Node {
    async fn start(options: Options, config: Config) -> Result<Self> {
        let pins = Pins::at(&options.bpffs);
        let (mut dataplane, opened) =
            Dataplane::open(&load_options(&config), &pins).context("open the data path")?;
        let controller = match opened {
            Opened::Fresh => Controller::fresh(),
            Opened::Adopted => Controller::adopt(&mut dataplane).context("adopt the data path")?,
        };
        info!(
            adopted = opened == Opened::Adopted,
            members = controller.member_count(),
            program = dataplane.program_id()?,
            bpffs = %options.bpffs.display(),
            "data path open"
        );
        let backends = wanted_backends(&config, &controller);
        let mut node = Self {
            resolver: Resolver::start(backends.iter().copied())?,
            options,
            config,
            dataplane,
            controller,
            unresolved: BTreeMap::new(),
            without_source: Vec::new(),
        };
        let started = node.start_tables(&backends).await;
        if let Err(error) = started {
            if opened == Opened::Fresh {
                // Nothing was there before, and nothing of a start that failed stays.
                drop(node);
                Dataplane::unload(&pins).context("remove what the failed start left")?;
            }
            return Err(error);
        }
        info!("ready");
        if let Err(error) = system::notify_ready() {
            warn!(%error, "telling the service manager that we are ready failed");
        }
        Ok(node)
    }

    async fn start_tables(&mut self, backends: &BTreeSet<IpAddr>) -> Result<()> {
        let mut watch = self.resolver.watch();
        first_ways(&mut watch, backends).await;
        let table = watch.borrow().clone();
        let config = self.config.clone();
        self.apply(&config, &table)?;
        self.attach(&config)?;
        self.report(&table);
        Ok(())
    }

    /// Makes the tables hold a configuration.
    fn apply(&mut self, config: &Config, table: &Table) -> Result<()> {
        let ways = self.ways(table)?;
        guard_ports(config, &ways)?;
        let summary = self
            .controller
            .apply_with_ways(&mut self.dataplane, config, ways)
            .context("apply the configuration")?;
        for vip in &summary.vips_replaced {
            warn!(
                vip,
                "forward changed: the VIP was replaced, its connections are broken"
            );
        }
        info!(
            vips = config.vips.len(),
            vips_added = summary.vips_added.len(),
            vips_removed = summary.vips_removed.len(),
            members_added = summary.members_added,
            members_leaving = summary.members_leaving,
            rings_changed = summary.rings_changed,
            slots_moved = summary.slots_moved,
            "configuration applied"
        );
        Ok(())
    }

    /// The ways as the tables need them; interfaces get their place in the egress table.
    fn ways(&mut self, table: &Table) -> Result<Ways> {
        let mut ways = Ways::new();
        for (&backend, state) in table {
            let resolved = match state {
                State::Resolved(resolved) => resolved,
                State::Unresolved(Reason::Asking { .. }) => continue,
                State::Unresolved(_) => {
                    ways.insert(backend, None);
                    continue;
                }
            };
            let assigned =
                self.dataplane
                    .egress
                    .assign(resolved.ifindex, resolved.mtu, resolved.own_mac);
            let egress = match assigned {
                Ok(egress) => egress,
                Err(error) => {
                    // The interface may have gone this very moment.
                    warn!(%error, interface = resolved.ifname, "no frames can leave there");
                    ways.insert(backend, None);
                    continue;
                }
            };
            let next_hop = NextHop {
                mac: resolved.mac,
                egress,
            };
            let source = resolved.source;
            ways.insert(backend, Some(Way { next_hop, source }));
        }
        Ok(ways)
    }

    fn attach(&mut self, config: &Config) -> Result<()> {
        let mode = match config.node.xdp_mode {
            config::XdpMode::Native => XdpMode::Native,
            config::XdpMode::Generic => XdpMode::Generic,
            config::XdpMode::Auto => XdpMode::Auto,
        };
        let before: BTreeSet<String> = self.dataplane.interfaces()?.into_iter().collect();
        for interface in &config.node.interfaces {
            match self.dataplane.attach(interface, mode) {
                Ok(AttachedMode::Native) => info!(interface, mode = "native", "attached"),
                Ok(AttachedMode::Generic) => info!(interface, mode = "generic", "attached"),
                Ok(AttachedMode::Fallback { why }) => {
                    warn!(
                        interface,
                        mode = "generic",
                        why,
                        "attached in the slow, generic mode"
                    );
                }
                Err(error) => {
                    for new in config
                        .node
                        .interfaces
                        .iter()
                        .filter(|i| !before.contains(*i))
                    {
                        // The first error is the one to report.
                        let _ = self.dataplane.detach(new);
                    }
                    return Err(error.into());
                }
            }
        }
        for interface in before
            .iter()
            .filter(|i| !config.node.interfaces.contains(i))
        {
            self.dataplane.detach(interface)?;
            info!(interface, "detached: not in node.interfaces any more");
        }
        Ok(())
    }

    /// Reads the configuration file again. One that is wrong changes nothing.
    async fn reload(&mut self) {
        match self.try_reload().await {
            Ok(()) => info!(file = %self.options.config.display(), "configuration reloaded"),
            Err(error) => error!(
                error = format!("{error:#}"),
                file = %self.options.config.display(),
                "reload failed; nothing changed"
            ),
        }
    }

    async fn try_reload(&mut self) -> Result<()> {
        let config = config::load(&self.options.config)?;
        if config.node.state_dir != self.config.node.state_dir {
            anyhow::bail!("node.state_dir can't be changed by a reload: start again");
        }
        let backends = wanted_backends(&config, &self.controller);
        let mut watch = self.resolver.watch();
        self.resolver.set_backends(backends.iter().copied());
        first_ways(&mut watch, &backends).await;
        let table = watch.borrow().clone();
        let applied = self.apply_all(&config, &table);
        if applied.is_err() {
            self.follow_backends();
            return applied;
        }
        if config.node.sample != self.config.node.sample {
            warn!("node.sample takes effect when the controller is started again");
        }
        self.config = config;
        self.report(&table);
        Ok(())
    }

    /// Tables and interfaces, or neither.
    fn apply_all(&mut self, config: &Config, table: &Table) -> Result<()> {
        self.apply(config, table)?;
        if config.node.interfaces == self.config.node.interfaces
            && config.node.xdp_mode == self.config.node.xdp_mode
        {
            return Ok(());
        }
        if let Err(error) = self.attach(config) {
            let before = self.config.clone();
            self.attach(&before).context("attach as before")?;
            self.apply(&before, table)
                .context("go back to what was there before")?;
            return Err(error);
        }
        Ok(())
    }

    fn ways_changed(&mut self, watch: &watch::Receiver<Table>) {
        let table = watch.borrow().clone();
        let config = self.config.clone();
        let changed = self.ways(&table).and_then(|ways| {
            guard_ports(&config, &ways)?;
            Ok(self.controller.set_ways(&mut self.dataplane, ways)?)
        });
        if let Err(error) = changed {
            error!(
                error = format!("{error:#}"),
                "the ways to the backends can't be updated"
            );
        }
        self.report(&table);
    }

    /// Says which ways are not known, and which are again: each once.
    fn report(&mut self, table: &Table) {
        for (&backend, state) in table {
            let named = self.controller.backends_at(backend).join(", ");
            match state {
                State::Resolved(resolved) => {
                    if self.unresolved.remove(&backend).is_some() {
                        info!(%backend, backends = named, interface = resolved.ifname, "next hop found");
                    }
                }
                // The answer is on its way.
                State::Unresolved(Reason::Asking { .. }) => {}
                State::Unresolved(reason) => {
                    let before = self.unresolved.insert(backend, reason.clone());
                    if before.as_ref() != Some(reason) {
                        warn!(%backend, backends = named, %reason, "no next hop: its packets are dropped");
                    }
                }
            }
        }
        self.unresolved
            .retain(|backend, _| table.contains_key(backend));
        let without = self.controller.without_source();
        if without != self.without_source && !without.is_empty() {
            warn!(
                backends = without.join(", "),
                "no address to send from, so their packets are dropped: set node.encap_source or \
                 node.nat_source, or give the interface an address that no VIP has"
            );
        }
        self.without_source = without;
    }

    fn tick(&mut self) {
        let before = self.controller.member_count();
        let ticked = self
            .dataplane
            .now_s()
            .map_err(super::ControllerError::from)
            .and_then(|now_s| self.controller.tick(&mut self.dataplane, now_s));
        match ticked {
            Ok(tick) => {
                if tick.slots_settled + tick.slots_cleaned + tick.members_gone > 0 {
                    info!(
                        settled = tick.slots_settled,
                        cleaned = tick.slots_cleaned,
                        members_gone = tick.members_gone,
                        "transitions ended"
                    );
                }
            }
            Err(error) => error!(%error, "the tables can't be kept up"),
        }
        if self.controller.member_count() != before {
            self.follow_backends();
        }
    }

    fn follow_backends(&self) {
        let backends = wanted_backends(&self.config, &self.controller);
        self.resolver.set_backends(backends);
    }
}

/// Backends of the configuration, and those that leave.
fn wanted_backends(config: &Config, controller: &Controller) -> BTreeSet<IpAddr> {
    let all = config.vips.iter().flat_map(|vip| &vip.backends);
    let mut backends = controller.backends();
    backends.extend(all.map(|backend| backend.address));
    backends
}

/// Waits until the kernel was asked about all backends and their neighbours answered, or not for
/// some time: the others follow when they answer.
async fn first_ways(watch: &mut watch::Receiver<Table>, backends: &BTreeSet<IpAddr>) {
    let known = |table: &Table| {
        backends.iter().all(|backend| {
            let state = table.get(backend);
            state.is_some_and(|s| !matches!(s, State::Unresolved(Reason::Asking { .. })))
        })
    };
    // Running out of time, or out of a resolver, is found out later.
    let _ = timeout_at(Instant::now() + FIRST_WAYS, watch.wait_for(known)).await;
}

/// Reserves the ports of `nat`, after a look at who has them.
fn guard_ports(config: &Config, ways: &Ways) -> Result<()> {
    let nat = config.vips.iter().filter(|vip| vip.forward == Forward::Nat);
    let backends: BTreeSet<IpAddr> = nat
        .flat_map(|vip| &vip.backends)
        .map(|backend| backend.address)
        .collect();
    if backends.is_empty() {
        return Ok(());
    }
    let mut sources = config.node.nat_sources.clone();
    for backend in backends {
        let configured = &config.node.nat_sources;
        let configured = configured.iter().any(|s| s.is_ipv4() == backend.is_ipv4());
        if !configured {
            let way = ways.get(&backend).copied().flatten();
            sources.extend(way.and_then(|way| way.source));
        }
    }
    let range = &config.node.nat_ports;
    ports::check_sockets(&sources, range)?;
    Ok(ports::reserve(range)?)
}

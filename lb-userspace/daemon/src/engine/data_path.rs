//! The kernel's side of a change, which installs a configuration or leaves everything as it was, and
//! the drift check, which verifies that the kernel still holds it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tracing::{debug, error, info, warn};

use super::actor::Actor;
use crate::{
    alerts::{Condition, Severity},
    events::Entry,
    nexthop::NextHops,
    node::{Interface, InterfaceMode},
    reconciler::{PlannedChange, Routes, Summary, load_options},
};
use lb_dataplane::{AttachedMode, LinkStatus, XdpMode};
use lb_model::config::{self, Config};

/// Ticks between two checks of the tables' entries. Programs are checked at every tick, and one ring
/// per tick.
const CHECK_ENTRIES_EVERY: u64 = 15;

/// Time after which the share monitor has judged a wrong ring.
const SHARES_JUDGED_AFTER: Duration = Duration::from_secs(8);

/// A part of the data path that is not as it was loaded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Drift {
    /// The BPF file system with the pins is not mounted any more.
    Pins,
    /// Members, VIPs or services.
    Entries,
    /// The ring of a VIP.
    Ring { vip: String },
    /// The program on an interface.
    Program { interface: String, expected: u32 },
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pins => f.write_str(
                "the pins are gone: the BPF file system is no longer mounted; forwarding ends with \
                 the controller",
            ),
            Self::Entries => {
                f.write_str("member, VIP or service tables differ from what was loaded")
            }
            Self::Ring { vip } => write!(f, "ring of VIP {vip} differs from what was loaded"),
            Self::Program {
                interface,
                expected,
            } => write!(
                f,
                "interface {interface} does not run program {expected}, which was loaded"
            ),
        }
    }
}

impl Drift {
    /// Key of its alert.
    fn key(&self) -> String {
        match self {
            Self::Pins => "data_path:pins".to_owned(),
            Self::Entries => "data_path:entries".to_owned(),
            Self::Ring { vip } => format!("data_path:ring:{vip}"),
            Self::Program { interface, .. } => format!("data_path:program:{interface}"),
        }
    }

    const fn cause(&self) -> &'static str {
        match self {
            Self::Pins => {
                "it was unmounted: restart the controller, which creates a new data path, when a \
                 gap does the least harm"
            }
            _ => {
                "another process wrote to the pinned maps: restart the controller to load \
                 everything again"
            }
        }
    }
}

/// The state of the drift check: does the kernel still hold what was loaded?
#[derive(Default)]
pub(super) struct DriftCheck {
    ticks: u64,
    /// The VIP whose ring is checked next.
    next_ring: usize,
    links: Vec<LinkStatus>,
    /// What differs, and since when.
    found: BTreeMap<Drift, Instant>,
    /// The process that has bound a port of `nat`, in words.
    pub(super) port_conflict: Option<String>,
    /// Digest of the entries, as last read.
    pub(super) digest: String,
}

fn mode_of(config: &Config) -> XdpMode {
    match config.node.xdp_mode {
        config::XdpMode::Native => XdpMode::Native,
        config::XdpMode::Generic => XdpMode::Generic,
        config::XdpMode::Auto => XdpMode::Auto,
    }
}

pub(super) fn exists(interface: &str) -> bool {
    nix::net::if_::if_nametoindex(interface).is_ok()
}

fn log_attached(interface: &str, attached: AttachedMode) {
    match attached {
        AttachedMode::Native => info!(interface, mode = "native", "attached"),
        AttachedMode::Generic => info!(interface, mode = "generic", "attached"),
        AttachedMode::Fallback { why } => {
            warn!(
                interface,
                mode = "generic",
                why,
                "attached in generic mode, which is slow"
            );
        }
    }
}

impl Actor {
    /// Installs a new configuration in tables and on interfaces, or leaves both as they were. A change
    /// that was planned is installed as planned.
    pub(super) fn install(
        &mut self,
        config: &Config,
        planned: Option<PlannedChange>,
    ) -> Result<()> {
        let table = self.routes.table();
        let routes = self.routes(&table);
        self.guard_ports(config, &routes)?;
        // The very first configuration has no number yet: its interfaces must exist.
        let known = match self.running.number {
            Some(_) => self.running.config.node.interfaces.clone(),
            None => Vec::new(),
        };
        self.put(config, planned, &table, routes, &known)
    }

    /// Installs a configuration that was active before. Ports that other processes have bound since,
    /// and missing interfaces, do not prevent it.
    pub(super) fn put_back(
        &mut self,
        config: &Config,
        planned: Option<PlannedChange>,
    ) -> Result<()> {
        let table = self.routes.table();
        let routes = self.routes(&table);
        self.put(config, planned, &table, routes, &config.node.interfaces)
    }

    /// Interfaces that are `known` may be missing.
    fn put(
        &mut self,
        config: &Config,
        planned: Option<PlannedChange>,
        table: &NextHops,
        routes: Routes,
        known: &[String],
    ) -> Result<()> {
        let (reconciler, dataplane) = (&mut self.reconciler, &mut self.dataplane);
        let applied = match planned {
            Some(planned) => reconciler.apply_planned(dataplane, planned, routes.clone()),
            None => reconciler.apply_with_routes(dataplane, config, routes.clone()),
        };
        let summary = applied.context("apply the configuration")?;
        if let Err(error) = self.attach(config, known) {
            let before = self.running.config.clone();
            // The first error is the one to report.
            if let Err(error) = self.attach(&before, &before.node.interfaces) {
                error!(
                    error = format!("{error:#}"),
                    "can't attach the program as before"
                );
            }
            self.reconciler
                .apply_with_routes(&mut self.dataplane, &before, routes)
                .context("restore the previous configuration")?;
            return Err(error);
        }
        self.log_applied(config, &summary);
        self.report_routes(table);
        self.drift_check.ticks = 0;
        Ok(())
    }

    fn log_applied(&mut self, config: &Config, summary: &Summary) {
        for vip in &summary.vips_replaced {
            warn!(vip, "VIP replaced: its connections are broken");
        }
        let digests = self.reconciler.check_entries(&self.dataplane);
        if let Ok(digests) = digests {
            self.drift_check.digest = digests.short();
        }
        info!(
            vips = config.vips.len(),
            vips_added = summary.vips_added.len(),
            vips_removed = summary.vips_removed.len(),
            members_added = summary.members_added,
            members_leaving = summary.members_leaving,
            rings_changed = summary.rings_changed,
            slots_moved = summary.slots_moved,
            digest = self.drift_check.digest,
            "tables written and read back"
        );
    }

    /// Attaches the program to the interfaces, or leaves them as they were. Missing interfaces that are
    /// `known` are left to [`Self::attach_again`]; only a start needs at least one that exists.
    fn attach(&mut self, config: &Config, known: &[String]) -> Result<()> {
        let mode = mode_of(config);
        let before: BTreeSet<String> = self.dataplane.interfaces()?.into_iter().collect();
        let interfaces = &config.node.interfaces;
        let is_left = |interface: &String| known.contains(interface) && !exists(interface);
        let (missing, mut wanted): (Vec<_>, Vec<_>) =
            interfaces.iter().partition(|interface| is_left(interface));
        if wanted.is_empty() && !self.attached {
            // Fails with the kernel's error.
            wanted.extend(missing.first());
        }
        let same = wanted.iter().all(|interface| before.contains(*interface))
            && before
                .iter()
                .all(|interface| interfaces.contains(interface));
        if self.attached && same && config.node.xdp_mode == self.running.config.node.xdp_mode {
            return Ok(());
        }
        for interface in &wanted {
            match self.dataplane.attach(interface, mode) {
                Ok(attached) => log_attached(interface, attached),
                Err(error) => {
                    for new in wanted.iter().filter(|i| !before.contains(**i)) {
                        // The first error is the one to report.
                        let _ = self.dataplane.detach(new);
                    }
                    return Err(error.into());
                }
            }
        }
        for interface in missing {
            warn!(
                interface,
                "interface is missing: the program is attached when it comes back"
            );
        }
        for interface in before.iter().filter(|i| !interfaces.contains(i)) {
            self.dataplane.detach(interface)?;
            info!(interface, "detached: no longer in node.interfaces");
        }
        self.attached = true;
        Ok(())
    }

    /// Verifies that the kernel still holds what was loaded.
    pub(super) fn tick_data_path(&mut self) {
        let vips = self.reconciler.vip_indexes();
        if !vips.is_empty() {
            self.check_ring(vips[self.drift_check.next_ring % vips.len()]);
            self.drift_check.next_ring += 1;
        }
        // A wrong ring may explain shares that are off for no other known reason.
        for vip in vips {
            let name = self.reconciler.vip_name(vip).unwrap_or_default();
            if self.shares.has_unexplained_finding(name) {
                self.check_ring(vip);
            }
        }
        self.check_links();
        if self.drift_check.ticks.is_multiple_of(CHECK_ENTRIES_EVERY) {
            self.check_entries();
            self.check_nat_ports();
            let options = load_options(&self.running.config);
            self.observer.maps = self.dataplane.map_sizes(&options);
        }
        self.drift_check.ticks += 1;
    }

    fn check_ring(&mut self, vip: u16) {
        let name = self.reconciler.vip_name(vip).unwrap_or_default().to_owned();
        match self.reconciler.check_ring(&self.dataplane, vip) {
            Ok(digests) => {
                let is_wrong = digests.is_some_and(|digests| !digests.agree());
                self.note_drift(Drift::Ring { vip: name }, is_wrong);
                let shares = is_wrong.then(|| self.reconciler.shares_found(&self.dataplane, vip));
                self.shares.set_actual_shares(vip, shares.flatten());
            }
            Err(error) => error!(%error, vip = name, "can't read the ring back"),
        }
    }

    fn check_entries(&mut self) {
        match self.reconciler.check_entries(&self.dataplane) {
            Ok(digests) => {
                self.note_drift(Drift::Entries, !digests.agree());
                self.drift_check.digest = digests.short();
            }
            Err(error) => error!(%error, "can't read the tables back"),
        }
    }

    fn check_links(&mut self) {
        let Ok(ours) = self.dataplane.program_id() else {
            return;
        };
        let is_gone = !self.bpffs_lock.is_in_place();
        self.note_drift(Drift::Pins, is_gone);
        if is_gone {
            // The links still exist, but can't be read.
            return;
        }
        self.read_links();
        for interface in self.running.config.node.interfaces.clone() {
            if self.program_on(&interface).is_none() {
                self.attach_again(&interface);
            }
            let is_ours = self.program_on(&interface) == Some(ours);
            let drift = Drift::Program {
                interface,
                expected: ours,
            };
            self.note_drift(drift, !is_ours);
        }
    }

    /// Whether the data path stays pinned when this process ends.
    pub(super) fn outlives_us(&self) -> bool {
        let pinned = self.dataplane.interfaces();
        self.bpffs_lock.is_in_place() && pinned.is_ok_and(|interfaces| !interfaces.is_empty())
    }

    fn read_links(&mut self) {
        match self.dataplane.links() {
            Ok(links) => self.drift_check.links = links,
            Err(error) => error!(%error, "can't read the links to the interfaces"),
        }
    }

    /// The program in the link to an interface at the last check; none if there is no link or its
    /// interface is gone.
    fn program_on(&self, interface: &str) -> Option<u32> {
        let mut links = self.drift_check.links.iter();
        links.find(|link| link.interface == interface)?.program_id
    }

    /// Attaches the program to an interface that came back, as after a restart of its driver: a link
    /// ends with its interface.
    fn attach_again(&mut self, interface: &str) {
        if !exists(interface) {
            return;
        }
        let mode = mode_of(&self.running.config);
        match self.dataplane.attach(interface, mode) {
            Ok(attached) => {
                log_attached(interface, attached);
                let what = format!("interface {interface} had lost its program: attached again");
                self.note(Entry::new("alert", what));
                self.read_links();
                self.follow_probe_interfaces();
            }
            // Tried at every tick; the drift is reported once.
            Err(error) => debug!(%error, interface, "can't attach again"),
        }
    }

    /// Records whether a part has drifted; reports it when that changes.
    fn note_drift(&mut self, drift: Drift, is_wrong: bool) {
        let known = self.drift_check.found.contains_key(&drift);
        if is_wrong && !known {
            let what = drift.to_string();
            error!(what, "the data path is not as it was loaded");
            self.note(Entry::new("alert", what));
            self.drift_check.found.insert(drift, Instant::now());
        } else if !is_wrong && let Some(since) = self.drift_check.found.remove(&drift) {
            let (what, seconds) = (drift.to_string(), since.elapsed().as_secs());
            info!(what, seconds, "the data path is as it was loaded again");
        }
    }

    /// The interfaces at the last check.
    pub(super) fn interfaces(&self) -> Vec<Interface> {
        let status = |name: &String| {
            let mut links = self.drift_check.links.iter();
            let link = links.find(|link| link.interface == *name);
            let link = link.filter(|link| link.program_id.is_some());
            Interface {
                name: name.clone(),
                mode: match link {
                    None => InterfaceMode::Detached,
                    Some(link) if link.generic => InterfaceMode::Generic,
                    Some(_) => InterfaceMode::Native,
                },
                program_id: link.and_then(|link| link.program_id),
            }
        };
        let interfaces = &self.running.config.node.interfaces;
        interfaces.iter().map(status).collect()
    }

    /// Alert conditions of the drift check. A wrong program on an interface is alerted from the
    /// interface's status instead.
    pub(super) fn data_path_conditions(&self) -> Vec<Condition> {
        let found = self.drift_check.found.iter();
        found
            .filter(|(drift, since)| match drift {
                Drift::Program { .. } => false,
                // The alert about its shares goes first, and is known a moment later.
                Drift::Ring { vip } => {
                    !self.is_configured(vip) || since.elapsed() >= SHARES_JUDGED_AFTER
                }
                Drift::Pins | Drift::Entries => true,
            })
            .map(|(drift, _)| self.drift_condition(drift))
            .chain(self.port_condition())
            .collect()
    }

    fn drift_condition(&self, drift: &Drift) -> Condition {
        let what = drift.to_string();
        let mut condition = Condition::new(drift.key(), "data_path", Severity::Critical, what);
        condition = condition.cause(drift.cause());
        // The alert about the VIP's shares covers its ring, with the consequences.
        if let Drift::Ring { vip } = drift
            && self.is_configured(vip)
        {
            condition.part_of = self.shares.table_condition(vip);
        }
        condition
    }

    fn is_configured(&self, vip: &str) -> bool {
        let mut vips = self.running.config.vips.iter();
        vips.any(|configured| configured.name == vip)
    }
}

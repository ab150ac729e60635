//! The kernel's side: tables and interfaces made as a configuration says, or left as they were; and
//! a look, now and then, whether they still are.

use std::{
    collections::{BTreeMap, BTreeSet},
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
    reconciler::{Routes, Summary, load_options},
};
use lb_dataplane::{AttachedMode, LinkStatus, XdpMode};
use lb_model::config::{self, Config};

/// Ticks between two looks at the entries of the tables. Programs are looked at with every tick, rings one
/// a tick.
const LOOK_EVERY: u64 = 15;

/// Time in which the watch over shares has judged a ring that is wrong.
const TABLE_IS_JUDGED: Duration = Duration::from_secs(8);

/// How what is wrong with an interface begins.
const INTERFACE: &str = "interface ";

const PINS_ARE_GONE: &str = "the pins are gone, the BPF file system is not mounted any more where it was: \
     forwarding ends with the controller";

/// What is known of the data path besides what is written to it.
#[derive(Default)]
pub(super) struct DriftCheck {
    ticks: u64,
    /// The VIP whose ring is looked at next.
    next_ring: usize,
    links: Vec<LinkStatus>,
    /// What is not as it was loaded, and since when.
    wrong: BTreeMap<String, Instant>,
    /// Who has ports that `nat` uses.
    pub(super) port_conflict: Option<String>,
    /// Digest of the entries, as last read.
    pub(super) digest: String,
}

fn ring_is_wrong(vip: &str) -> String {
    format!("the ring of VIP {vip} is not what was loaded")
}

fn mode_of(config: &Config) -> XdpMode {
    match config.node.xdp_mode {
        config::XdpMode::Native => XdpMode::Native,
        config::XdpMode::Generic => XdpMode::Generic,
        config::XdpMode::Auto => XdpMode::Auto,
    }
}

/// Whether there is an interface of this name now.
pub(super) fn exists(interface: &str) -> bool {
    nix::net::if_::if_nametoindex(interface).is_ok()
}

fn say_attached(interface: &str, attached: AttachedMode) {
    match attached {
        AttachedMode::Native => info!(interface, mode = "native", "attached"),
        AttachedMode::Generic => info!(interface, mode = "generic", "attached"),
        AttachedMode::Fallback { why } => {
            warn!(
                interface,
                mode = "generic",
                why,
                "attached in the slow, generic mode"
            );
        }
    }
}

impl Actor {
    /// Tables and interfaces as a new configuration says, or neither.
    pub(super) fn install(&mut self, config: &Config) -> Result<()> {
        let table = self.routes.borrow().clone();
        let routes = self.routes(&table)?;
        self.guard_ports(config, &routes)?;
        // The first of all has no number yet: what it names was never there.
        let known = match self.running.number {
            Some(_) => self.running.config.node.interfaces.clone(),
            None => Vec::new(),
        };
        self.put(config, &table, routes, &known)
    }

    /// The same for one that was in force before: what others on this host did since is no reason not to.
    pub(super) fn put_back(&mut self, config: &Config) -> Result<()> {
        let table = self.routes.borrow().clone();
        let routes = self.routes(&table)?;
        self.put(config, &table, routes, &config.node.interfaces)
    }

    /// Interfaces that are `known` may be missing.
    fn put(
        &mut self,
        config: &Config,
        table: &NextHops,
        routes: Routes,
        known: &[String],
    ) -> Result<()> {
        let summary = self
            .reconciler
            .apply_with_routes(&mut self.dataplane, config, routes.clone())
            .context("apply the configuration")?;
        if let Err(error) = self.attach(config, known) {
            let before = self.running.config.clone();
            // The first error is the one to report.
            if let Err(error) = self.attach(&before, &before.node.interfaces) {
                error!(error = format!("{error:#}"), "can't attach as before");
            }
            self.reconciler
                .apply_with_routes(&mut self.dataplane, &before, routes)
                .context("go back to what was there before")?;
            return Err(error);
        }
        self.say(config, &summary);
        self.report_routes(table);
        self.drift_check.ticks = 0;
        Ok(())
    }

    fn say(&mut self, config: &Config, summary: &Summary) {
        for vip in &summary.vips_replaced {
            warn!(vip, "the VIP was replaced: its connections are broken");
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
            "tables filled and read back"
        );
    }

    /// Puts the program on the interfaces, or leaves them as they were. Of those that are `known`, what is
    /// missing is left to [`Self::attach_again`]; only a start needs one that is there.
    fn attach(&mut self, config: &Config, known: &[String]) -> Result<()> {
        let mode = mode_of(config);
        let before: BTreeSet<String> = self.dataplane.interfaces()?.into_iter().collect();
        let interfaces = &config.node.interfaces;
        let is_left = |interface: &String| known.contains(interface) && !exists(interface);
        let (missing, mut wanted): (Vec<_>, Vec<_>) =
            interfaces.iter().partition(|interface| is_left(interface));
        if wanted.is_empty() && !self.attached {
            // The kernel says what is wrong with it.
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
                Ok(attached) => say_attached(interface, attached),
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
                "there is no such interface: it gets the program when it comes back"
            );
        }
        for interface in before.iter().filter(|i| !interfaces.contains(i)) {
            self.dataplane.detach(interface)?;
            info!(interface, "detached: not in node.interfaces any more");
        }
        self.attached = true;
        Ok(())
    }

    /// Looks whether the kernel still has what was loaded.
    pub(super) fn tick_data_path(&mut self) {
        let vips = self.reconciler.vip_indexes();
        if !vips.is_empty() {
            self.look_at_ring(vips[self.drift_check.next_ring % vips.len()]);
            self.drift_check.next_ring += 1;
        }
        // Where shares are off and nobody knows why, the ring may be the reason.
        for vip in vips {
            let name = self.reconciler.vip_name(vip).unwrap_or_default();
            if self.watch.is_puzzled(name) {
                self.look_at_ring(vip);
            }
        }
        self.look_at_links();
        if self.drift_check.ticks.is_multiple_of(LOOK_EVERY) {
            self.look_at_entries();
            self.look_at_ports();
            let options = load_options(&self.running.config);
            self.observer.maps = self.dataplane.map_sizes(&options);
        }
        self.drift_check.ticks += 1;
    }

    fn look_at_ring(&mut self, vip: u16) {
        let name = self.reconciler.vip_name(vip).unwrap_or_default().to_owned();
        let what = ring_is_wrong(&name);
        match self.reconciler.check_ring(&self.dataplane, vip) {
            Ok(digests) => {
                let is_wrong = digests.is_some_and(|digests| !digests.agree());
                self.found(what, is_wrong);
                let shares = is_wrong.then(|| self.reconciler.shares_found(&self.dataplane, vip));
                self.watch.ring_is(vip, shares.flatten());
            }
            Err(error) => error!(%error, vip = name, "its ring can't be read back"),
        }
    }

    fn look_at_entries(&mut self) {
        match self.reconciler.check_entries(&self.dataplane) {
            Ok(digests) => {
                let what = "members, VIPs or services in the tables are not what was loaded";
                self.found(what.to_owned(), !digests.agree());
                self.drift_check.digest = digests.short();
            }
            Err(error) => error!(%error, "the tables can't be read back"),
        }
    }

    fn look_at_links(&mut self) {
        let Ok(ours) = self.dataplane.program_id() else {
            return;
        };
        let is_gone = !self.bpffs_lock.is_in_place();
        self.found(PINS_ARE_GONE.to_owned(), is_gone);
        if is_gone {
            // The links are as they were, and can't be seen.
            return;
        }
        self.read_links();
        for interface in self.running.config.node.interfaces.clone() {
            if self.program_on(&interface).is_none() {
                self.attach_again(&interface);
            }
            let is_ours = self.program_on(&interface) == Some(ours);
            let what =
                format!("{INTERFACE}{interface} does not run program {ours}, which was loaded");
            self.found(what, !is_ours);
        }
    }

    /// Whether pins keep the data path when this process ends.
    pub(super) fn outlives_us(&self) -> bool {
        let pinned = self.dataplane.interfaces();
        self.bpffs_lock.is_in_place() && pinned.is_ok_and(|interfaces| !interfaces.is_empty())
    }

    fn read_links(&mut self) {
        match self.dataplane.links() {
            Ok(links) => self.drift_check.links = links,
            Err(error) => error!(%error, "the links to the interfaces can't be read"),
        }
    }

    /// The program in the link to an interface, when last looked at; none when there is no link, or the
    /// interface that it was to is gone.
    fn program_on(&self, interface: &str) -> Option<u32> {
        let mut links = self.drift_check.links.iter();
        links.find(|link| link.interface == interface)?.program_id
    }

    /// A link ends with its interface. One that comes back under its name, as after a restart of its
    /// driver, is given the program again.
    fn attach_again(&mut self, interface: &str) {
        if !exists(interface) {
            return;
        }
        let mode = mode_of(&self.running.config);
        match self.dataplane.attach(interface, mode) {
            Ok(attached) => {
                say_attached(interface, attached);
                let what = format!("interface {interface} was without its program: attached again");
                self.note(Entry::new("alert", what));
                self.read_links();
                self.follow_probe_interfaces();
            }
            // It is tried again and again; that it is not attached is said once.
            Err(error) => debug!(%error, interface, "can't be attached again"),
        }
    }

    /// Notes that something is wrong, or is not any more; says so when that changes.
    fn found(&mut self, what: String, is_wrong: bool) {
        let known = self.drift_check.wrong.contains_key(&what);
        if is_wrong && !known {
            error!(what, "something else changes the data path");
            self.note(Entry::new("alert", what.clone()));
            self.drift_check.wrong.insert(what, Instant::now());
        } else if !is_wrong && known {
            let since = self.drift_check.wrong.remove(&what);
            let seconds = since.map(|since| since.elapsed().as_secs());
            info!(what, seconds, "over");
        }
    }

    /// The interfaces, as they were when last looked at.
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

    /// What is wrong with the tables. That the program on an interface is another is seen in the
    /// status.
    pub(super) fn data_path_conditions(&self) -> Vec<Condition> {
        let tables = self.drift_check.wrong.keys();
        let tables = tables.filter(|what| !what.starts_with(INTERFACE));
        // What a wrong ring means for the shares is known a moment later: that alert goes first.
        let tables = tables.filter(|what| {
            let found = self.drift_check.wrong.get(*what);
            let is_new = found.is_some_and(|at| at.elapsed() < TABLE_IS_JUDGED);
            let mut vips = self.running.config.vips.iter();
            !(is_new && vips.any(|vip| ring_is_wrong(&vip.name) == **what))
        });
        let condition = |what: &String| {
            let key = format!("data_path:{what}");
            let mut condition = Condition::new(key, "data_path", Severity::Critical, what.clone())
                .cause(if what == PINS_ARE_GONE {
                    "it was unmounted: start the controller again when a gap does least harm, which makes a \
                     new data path"
                } else {
                    "something besides the controller wrote to the pinned maps: start the controller \
                     again to load everything anew"
                });
            // The alert of the shares says the same, and what it means.
            let mut vips = self.running.config.vips.iter();
            let vip = vips.find(|vip| ring_is_wrong(&vip.name) == *what);
            condition.part_of = vip.and_then(|vip| self.watch.table_condition(&vip.name));
            condition
        };
        tables.map(condition).chain(self.port_condition()).collect()
    }
}

//! The kernel's side of the node: maps, programs, links, and the routes to the backends. It installs a
//! configuration, or leaves the previous one as it was.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use tracing::{error, info, warn};

use super::{locks::BpffsLock, nat_ports, routes::RouteMonitor};
use crate::{
    nexthop::NextHops,
    reconciler::{PlannedChange, Reconciler, Routes, Summary},
};
use lb_dataplane::{AttachedMode, Dataplane, XdpMode, ethtool};
use lb_model::config::{self, Config};

pub(super) struct DataPath {
    pub(super) dataplane: Dataplane,
    pub(super) reconciler: Reconciler,
    pub(super) routes: RouteMonitor,
    pub(super) bpffs_lock: BpffsLock,
    /// Whether a running data path was adopted.
    pub(super) adopted: bool,
    /// The configuration in the kernel; none before the very first one.
    pub(super) installed: Option<Config>,
    /// Whether the program is attached to the interfaces.
    pub(super) attached: bool,
}

pub(super) const fn mode_of(config: &Config) -> XdpMode {
    match config.node.xdp_mode {
        config::XdpMode::Native => XdpMode::Native,
        config::XdpMode::Generic => XdpMode::Generic,
        config::XdpMode::Auto => XdpMode::Auto,
    }
}

pub(super) fn exists(interface: &str) -> bool {
    nix::net::if_::if_nametoindex(interface).is_ok()
}

/// Native XDP sees only the bytes of a frame. A VLAN tag that the NIC has removed would be missing in
/// the frame that is transmitted. Returns whether frames keep their tags.
pub(super) fn keep_vlan_tags(interface: &str) -> bool {
    if ethtool::rx_vlan(interface) != Some(true) {
        return true;
    }
    let disabled = ethtool::disable_rx_vlan(interface);
    if disabled {
        info!(
            interface,
            "rx-vlan-offload switched off, so that frames keep their VLAN tags"
        );
    }
    disabled
}

/// Logs that the program was attached, and prepares the interface for its mode.
pub(super) fn attached_as(interface: &str, attached: AttachedMode) {
    match attached {
        AttachedMode::Native => {
            info!(interface, mode = "native", "attached");
            // If the driver refuses, the drift check reports it.
            let _kept = keep_vlan_tags(interface);
        }
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

impl DataPath {
    /// Installs a new configuration in tables and on interfaces, or leaves both as they were. A change
    /// that was planned is installed as planned.
    pub(super) fn install(
        &mut self,
        config: &Config,
        planned: Option<PlannedChange>,
    ) -> Result<()> {
        let table = self.routes.table();
        let routes = self.routes_for(&table, &config.node.interfaces);
        self.guard_ports(config, &routes)?;
        // Interfaces of the very first configuration must exist.
        let known = self.installed.as_ref();
        let known = known.map_or_else(Vec::new, |before| before.node.interfaces.clone());
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
        let routes = self.routes_for(&table, &config.node.interfaces);
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
            self.restore(routes)?;
            return Err(error);
        }
        self.follow_stations();
        // The mode that drivers accept decides where frames can be transmitted.
        let in_this_mode = self.routes_for(table, &config.node.interfaces);
        if in_this_mode != routes {
            self.reconciler
                .set_routes(&mut self.dataplane, in_this_mode)
                .context("update the routes after attaching")?;
        }
        self.log_applied(config, &summary);
        self.installed = Some(config.clone());
        self.report_routes(table);
        Ok(())
    }

    /// Installs the previous configuration again after one that could not be attached.
    fn restore(&mut self, routes: Routes) -> Result<()> {
        let Some(before) = self.installed.clone() else {
            return Ok(());
        };
        // The first error is the one to report.
        if let Err(error) = self.attach(&before, &before.node.interfaces) {
            let error = format!("{error:#}");
            error!(error, "can't attach the program as before");
        }
        self.reconciler
            .apply_with_routes(&mut self.dataplane, &before, routes)
            .context("restore the previous configuration")?;
        Ok(())
    }

    /// Reserves the ports that `nat` will use but does not use yet, unless a socket has one of them.
    fn guard_ports(&self, config: &Config, routes: &Routes) -> Result<()> {
        // Until the first configuration is installed, only an adopted data path uses ports.
        let used = match &self.installed {
            _ if !self.attached && !self.adopted => None,
            Some(installed) => Some(installed),
            None => Some(config),
        };
        Ok(nat_ports::guard(config, used, routes)?)
    }

    /// Whether the data path stays pinned when this process ends.
    pub(super) fn outlives_us(&self) -> bool {
        let pinned = self.dataplane.interfaces();
        self.bpffs_lock.is_in_place() && pinned.is_ok_and(|interfaces| !interfaces.is_empty())
    }

    fn log_applied(&self, config: &Config, summary: &Summary) {
        for vip in &summary.vips_replaced {
            warn!(vip, "VIP replaced: its connections are broken");
        }
        let digests = self.reconciler.check_entries(&self.dataplane);
        info!(
            vips = config.vips.len(),
            vips_added = summary.vips_added.len(),
            vips_removed = summary.vips_removed.len(),
            members_added = summary.members_added,
            members_leaving = summary.members_leaving,
            rings_changed = summary.rings_changed,
            slots_moved = summary.slots_moved,
            digest = digests.map(|digests| digests.short()).unwrap_or_default(),
            "tables written and read back"
        );
    }

    /// Attaches the program to the interfaces, or leaves them as they were. Missing interfaces that are
    /// `known` are left to the drift check; only a start needs at least one that exists.
    fn attach(&mut self, config: &Config, known: &[String]) -> Result<()> {
        let mode = mode_of(config);
        let before_mode = self.installed.as_ref().map(|config| config.node.xdp_mode);
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
        if self.attached && same && before_mode == Some(config.node.xdp_mode) {
            return Ok(());
        }
        for interface in &wanted {
            match self.dataplane.attach(interface, mode) {
                Ok(attached) => attached_as(interface, attached),
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
}

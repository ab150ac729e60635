//! The drift check: does the kernel still hold what was loaded?

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use tracing::{debug, error, info, warn};

use super::{
    data_path::{DataPath, attached_as, exists, keep_vlan_tags, mode_of},
    nat_ports,
    shares::{ActualShares, ShareMonitor},
};
use crate::{
    alerts::{Condition, Severity},
    events::Entry,
    node::{Interface, InterfaceMode},
};
use lb_dataplane::LinkStatus;
use lb_model::config::Config;

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
    /// The NIC takes the VLAN tags out of frames, and can't be told otherwise.
    VlanTags { interface: String },
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
            Self::VlanTags { interface } => write!(
                f,
                "frames with VLAN tags from {interface} are forwarded without them: rx-vlan-offload \
                 is on, and the driver does not let it be switched off"
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
            Self::VlanTags { interface } => format!("data_path:vlan_tags:{interface}"),
        }
    }

    const fn severity(&self) -> Severity {
        match self {
            // Harmless where no frames are tagged.
            Self::VlanTags { .. } => Severity::Warning,
            _ => Severity::Critical,
        }
    }

    const fn cause(&self) -> &'static str {
        match self {
            Self::Pins => {
                "it was unmounted: restart the controller, which creates a new data path, when a \
                 gap does the least harm"
            }
            Self::VlanTags { .. } => {
                "set node.xdp_mode to \"generic\", in which frames keep their tags, or have the \
                 switch remove them"
            }
            Self::Entries | Self::Ring { .. } | Self::Program { .. } => {
                "another process wrote to the pinned maps: restart the controller to load \
                 everything again"
            }
        }
    }
}

#[derive(Default)]
pub(super) struct DriftCheck {
    ticks: u64,
    /// The VIP whose ring is checked next.
    next_ring: usize,
    links: Vec<LinkStatus>,
    /// What differs, and since when.
    found: BTreeMap<Drift, Instant>,
    /// The process that has bound a port of `nat`, in words.
    port_conflict: Option<String>,
    checked: Checked,
}

/// What a check has found, for the parts that follow it.
#[derive(Default)]
pub(super) struct Checked {
    pub(super) notes: Vec<Entry>,
    /// VIPs whose ring was read, and its shares if it is not the one that was loaded.
    pub(super) rings: Vec<(u16, Option<ActualShares>)>,
    /// Whether the program was attached to an interface that came back.
    pub(super) attached: bool,
    /// Whether the entries of the tables were checked as well.
    pub(super) entries: bool,
}

impl DriftCheck {
    /// A configuration was installed: the next check reads everything.
    pub(super) const fn installed(&mut self) {
        self.ticks = 0;
    }

    /// Verifies that the kernel still holds what was loaded. Rings of `suspects`, VIPs whose shares are
    /// off for no known reason, are read at every check.
    pub(super) fn tick(
        &mut self,
        data_path: &mut DataPath,
        config: &Config,
        suspects: impl Fn(&str) -> bool,
    ) -> Checked {
        let vips = data_path.reconciler.vip_indexes();
        if !vips.is_empty() {
            self.check_ring(data_path, vips[self.next_ring % vips.len()]);
            self.next_ring += 1;
        }
        let name = |vip: &u16| data_path.reconciler.vip_name(*vip).unwrap_or_default();
        for vip in vips.iter().filter(|vip| suspects(name(vip))) {
            self.check_ring(data_path, *vip);
        }
        let names: Vec<&str> = vips.iter().map(name).collect();
        self.forget_removed(&names, &config.node.interfaces);
        self.check_links(data_path, config);
        if self.ticks.is_multiple_of(CHECK_ENTRIES_EVERY) {
            self.check_entries(data_path);
            self.check_nat_ports(data_path, config);
            self.check_vlan_tags(config);
            self.checked.entries = true;
        }
        self.ticks += 1;
        std::mem::take(&mut self.checked)
    }

    /// Ends the drift of parts that are no longer configured: nothing checks them any more.
    fn forget_removed(&mut self, vips: &[&str], interfaces: &[String]) {
        self.found.retain(|drift, _| match drift {
            Drift::Ring { vip } => vips.contains(&vip.as_str()),
            Drift::Program { interface, .. } | Drift::VlanTags { interface } => {
                interfaces.contains(interface)
            }
            Drift::Pins | Drift::Entries => true,
        });
    }

    fn check_ring(&mut self, data_path: &DataPath, vip: u16) {
        let DataPath {
            reconciler,
            dataplane,
            ..
        } = data_path;
        let name = reconciler.vip_name(vip).unwrap_or_default().to_owned();
        match reconciler.check_ring(dataplane, vip) {
            Ok(digests) => {
                let is_wrong = digests.is_some_and(|digests| !digests.agree());
                self.note_drift(Drift::Ring { vip: name }, is_wrong);
                let shares = is_wrong.then(|| reconciler.shares_found(dataplane, vip));
                self.checked.rings.push((vip, shares.flatten()));
            }
            Err(error) => error!(%error, vip = name, "can't read the ring back"),
        }
    }

    fn check_entries(&mut self, data_path: &DataPath) {
        match data_path.reconciler.check_entries(&data_path.dataplane) {
            Ok(digests) => self.note_drift(Drift::Entries, !digests.agree()),
            Err(error) => error!(%error, "can't read the tables back"),
        }
    }

    /// Checks whether a socket has a port that `nat` uses, and logs changes.
    fn check_nat_ports(&mut self, data_path: &DataPath, config: &Config) {
        let conflict = nat_ports::conflict(config, data_path.reconciler.routes());
        if conflict == self.port_conflict {
            return;
        }
        match &conflict {
            Some(what) => {
                warn!(what, "another socket uses a port of `nat`");
                self.checked.notes.push(Entry::new("alert", what.clone()));
            }
            None => info!("no other socket uses a port of `nat` any more"),
        }
        self.port_conflict = conflict;
    }

    /// Another program may have switched the offload on again.
    fn check_vlan_tags(&mut self, config: &Config) {
        for interface in &config.node.interfaces {
            let is_native = self.link_of(interface).is_some_and(|link| !link.generic);
            let interface = interface.clone();
            let is_lost = is_native && !keep_vlan_tags(&interface);
            self.note_drift(Drift::VlanTags { interface }, is_lost);
        }
    }

    fn check_links(&mut self, data_path: &mut DataPath, config: &Config) {
        let Ok(ours) = data_path.dataplane.program_id() else {
            return;
        };
        let is_gone = !data_path.bpffs_lock.is_in_place();
        self.note_drift(Drift::Pins, is_gone);
        if is_gone {
            // The links still exist, but can't be read.
            return;
        }
        self.read_links(data_path);
        for interface in &config.node.interfaces {
            if self.program_on(interface).is_none() {
                self.attach_again(data_path, config, interface);
            }
            let is_ours = self.program_on(interface) == Some(ours);
            let drift = Drift::Program {
                interface: interface.clone(),
                expected: ours,
            };
            self.note_drift(drift, !is_ours);
        }
    }

    pub(super) fn read_links(&mut self, data_path: &DataPath) {
        match data_path.dataplane.links() {
            Ok(links) => self.links = links,
            Err(error) => error!(%error, "can't read the links to the interfaces"),
        }
    }

    /// The link to an interface at the last check; none if its interface is gone.
    fn link_of(&self, interface: &str) -> Option<&LinkStatus> {
        let mut links = self.links.iter();
        let link = links.find(|link| link.interface == interface);
        link.filter(|link| link.program_id.is_some())
    }

    fn program_on(&self, interface: &str) -> Option<u32> {
        self.link_of(interface)?.program_id
    }

    /// Attaches the program to an interface that came back, as after a restart of its driver: a link
    /// ends with its interface.
    fn attach_again(&mut self, data_path: &mut DataPath, config: &Config, interface: &str) {
        if !exists(interface) {
            return;
        }
        match data_path.dataplane.attach(interface, mode_of(config)) {
            Ok(attached) => {
                attached_as(interface, attached);
                data_path.follow_stations();
                let what = format!("interface {interface} had lost its program: attached again");
                self.checked.notes.push(Entry::new("alert", what));
                self.checked.attached = true;
                self.read_links(data_path);
            }
            // Tried at every tick; the drift is reported once.
            Err(error) => debug!(%error, interface, "can't attach again"),
        }
    }

    /// Records whether a part has drifted; reports it when that changes.
    fn note_drift(&mut self, drift: Drift, is_wrong: bool) {
        let known = self.found.contains_key(&drift);
        if is_wrong && !known {
            let what = drift.to_string();
            error!(what, "the data path is not as it was loaded");
            self.checked.notes.push(Entry::new("alert", what));
            self.found.insert(drift, Instant::now());
        } else if !is_wrong && let Some(since) = self.found.remove(&drift) {
            let (what, seconds) = (drift.to_string(), since.elapsed().as_secs());
            info!(what, seconds, "the data path is as it was loaded again");
        }
    }

    /// The interfaces of a configuration at the last check.
    pub(super) fn interfaces(&self, config: &Config) -> Vec<Interface> {
        let status = |name: &String| {
            let link = self.link_of(name);
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
        config.node.interfaces.iter().map(status).collect()
    }

    /// Conditions for alerts. A wrong program on an interface is alerted from the interface's status
    /// instead.
    pub(super) fn conditions(&self, config: &Config, shares: &ShareMonitor) -> Vec<Condition> {
        let is_configured = |vip: &str| config.vips.iter().any(|known| known.name == vip);
        let found = self.found.iter().filter(|(drift, since)| match drift {
            Drift::Program { .. } => false,
            // The alert about its shares goes first, and is known a moment later.
            Drift::Ring { vip } => !is_configured(vip) || since.elapsed() >= SHARES_JUDGED_AFTER,
            Drift::Pins | Drift::Entries | Drift::VlanTags { .. } => true,
        });
        let found = found.map(|(drift, _)| {
            let what = drift.to_string();
            let mut condition = Condition::new(drift.key(), "data_path", drift.severity(), what);
            condition = condition.cause(drift.cause());
            // The alert about the VIP's shares covers its ring, with the consequences.
            if let Drift::Ring { vip } = drift
                && is_configured(vip)
            {
                condition.part_of = shares.table_condition(vip);
            }
            condition
        });
        let conflict = self.port_conflict.as_deref().map(nat_ports::condition);
        found.chain(conflict).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_ends_with_the_object_that_had_it() {
        let parts = ["kept", "removed"].map(str::to_owned);
        let drifts = parts.iter().flat_map(|name| {
            let (vip, interface) = (name.clone(), name.clone());
            let expected = 1;
            [
                Drift::Ring { vip },
                Drift::VlanTags {
                    interface: interface.clone(),
                },
                Drift::Program {
                    interface,
                    expected,
                },
            ]
        });
        let mut check = DriftCheck::default();
        for drift in drifts.chain([Drift::Pins, Drift::Entries]) {
            check.note_drift(drift, true);
        }
        check.forget_removed(&["kept"], &parts[..1]);
        let left = check.found.keys().map(Drift::key).collect::<Vec<_>>();
        let kept = [
            "pins",
            "entries",
            "ring:kept",
            "program:kept",
            "vlan_tags:kept",
        ];
        assert_eq!(left, kept.map(|part| format!("data_path:{part}")));
    }
}

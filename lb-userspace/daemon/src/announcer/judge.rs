//! Which addresses are announced, by what was proven of them.
//!
//! What a packet needs to be forwarded at all withdraws an address at once: the program in the links, and a
//! VIP of the address that forwards. What only makes other nodes the better choice never withdraws it, as
//! this may be the last node that announces it: it is announced as worse.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use lb_common::reason::{REASONS, Reason};

use crate::node::Announcement;

/// The longest time that an address must be proven before it is announced again.
const LONGEST_SETTLE: Duration = Duration::from_secs(300);
/// An address that was announced for so many times its settling time does not flap.
const STEADY: u32 = 10;
/// How long the controller may be silent before others are the better choice.
pub(super) const CONTROLLER_LIMIT: Duration = Duration::from_secs(30);
/// A longer time between two looks proves nothing of the time in between.
const LONGEST_GAP: Duration = Duration::from_secs(2);
/// How long routers have to prefer other nodes before a drained node withdraws its addresses.
pub(super) const DRAIN_TIME: Duration = Duration::from_secs(5);

/// Names of all conditions.
pub(crate) const CONDITIONS: [&str; 10] = [
    "linked",
    "interfaces",
    "provable",
    "controller",
    "wanted",
    "warm",
    "table",
    "forwards",
    "backends",
    "settled",
];

/// What is known of a VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VipFacts {
    /// Its name, or address, port and protocol.
    pub(super) label: String,
    /// Whether packets to it are forwarded, and the reason if none is.
    pub(super) forwards: Result<(), String>,
    /// Why some packets were dropped lately.
    pub(super) partly: Option<String>,
    /// Backends that serve, drained ones too.
    pub(super) up: u32,
    /// With fewer, others are the better choice.
    pub(super) min_up: u32,
}

impl VipFacts {
    /// Whether it forwards: new flows, or only established ones, if all of its backends are drained. To
    /// withdraw it would break those.
    fn keeps_flows(&self) -> bool {
        match &self.forwards {
            Ok(()) => true,
            Err(reason) => reason == REASONS[Reason::NoMember as usize].name && self.up > 0,
        }
    }
}

/// What is known of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeFacts {
    /// Whether any interface has the program, and the reason if not.
    pub(super) linked: Result<(), String>,
    /// Interfaces that lack it.
    pub(super) missing: Vec<String>,
    /// Whether packets can be tried, and the reason if not: after an upgrade, the tables may have a layout
    /// that this process does not know.
    pub(super) provable: Result<(), String>,
    /// Time since the controller's last heartbeat; `None` if there was none.
    pub(super) controller: Option<Duration>,
    /// How long backends may still lack the first verdict of their health checks, after a start.
    pub(super) warming: Option<Duration>,
    /// Whether all other nodes of the fleet see backends up that this one sees down.
    pub(super) is_suspect: bool,
    /// With `via = "kernel"`: routes of others in the table.
    pub(super) foreign: Option<Arc<BTreeMap<IpAddr, String>>>,
}

impl NodeFacts {
    fn linked(&self) -> Check {
        check("linked", &self.linked, "the program is attached")
    }

    fn provable(&self) -> Check {
        check(
            "provable",
            &self.provable,
            "packets can be tried on the tables",
        )
    }
}

/// One condition, as told to the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) is_met: bool,
    pub(super) text: String,
}

/// An address and its past.
#[derive(Clone, Debug)]
pub(super) struct Address {
    pub(super) announcement: Announcement,
    /// When this state began.
    pub(super) since: Instant,
    pub(super) checks: Vec<Check>,
    /// Labels of its VIPs.
    pub(super) vips: Vec<String>,
    /// Since when its packets are forwarded.
    proven: Option<Instant>,
    /// When it was last looked at.
    seen: Instant,
    /// Since when it is announced, as worse or not.
    announced: Option<Instant>,
    /// How long it must be proven.
    settle: Duration,
}

/// Whether the node is being drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drain {
    No,
    Since(Instant),
    /// Since before this process started.
    Always,
}

impl Drain {
    /// Whether nothing is announced any more.
    pub(super) fn is_over(self, now: Instant) -> bool {
        match self {
            Self::No => false,
            Self::Since(since) => now >= since + DRAIN_TIME,
            Self::Always => true,
        }
    }
}

/// All addresses.
#[derive(Clone, Debug, Default)]
pub(super) struct Judge {
    /// Conditions of the node without which nothing is known of addresses.
    pub(super) node: Vec<Check>,
    pub(super) addresses: BTreeMap<IpAddr, Address>,
}

impl Judge {
    /// Judges addresses by their VIPs. Those that are not given are withdrawn and forgotten. `settle`: how
    /// long an address must be proven at first.
    pub(super) fn judge(
        &mut self,
        node: &NodeFacts,
        vips: &BTreeMap<IpAddr, Vec<VipFacts>>,
        drain: Drain,
        settle: Duration,
        now: Instant,
    ) {
        self.node = vec![node.linked(), node.provable()];
        self.addresses
            .retain(|address, _| vips.contains_key(address));
        for (address, vips) in vips {
            let foreign = node.foreign.as_ref().map(|routes| routes.get(address));
            let known = self.addresses.entry(*address);
            let address = known.or_insert_with(|| Address::new(settle, now));
            address.judge(node, vips, foreign.map(table), drain, settle, now);
        }
    }
}

impl Address {
    const fn new(settle: Duration, now: Instant) -> Self {
        Self {
            announcement: Announcement::Withheld,
            since: now,
            checks: Vec::new(),
            vips: Vec::new(),
            proven: None,
            seen: now,
            announced: None,
            settle,
        }
    }

    fn judge(
        &mut self,
        node: &NodeFacts,
        vips: &[VipFacts],
        table: Option<Check>,
        drain: Drain,
        settle: Duration,
        now: Instant,
    ) {
        let linked = node.linked();
        let is_proven = linked.is_met && vips.iter().any(VipFacts::keeps_flows);
        if now.duration_since(self.seen) > LONGEST_GAP && self.announced.is_none() {
            self.proven = None;
        }
        self.seen = now;
        let proven = is_proven.then(|| self.proven.unwrap_or(now));
        let settled = self.settle(proven, settle, now);
        let interfaces = interfaces(&node.missing);
        let warm = warm(node.warming);
        // A start may wait; what is announced stays so.
        let may_begin = settled.is_met && (warm.is_met || self.announced.is_some());
        if may_begin {
            self.announced.get_or_insert(now);
        }
        let soft = [
            interfaces,
            node.provable(),
            controller(node.controller),
            wanted(drain, now),
            warm,
            agrees(node.is_suspect),
        ]
        .into_iter()
        .chain(table)
        .chain(vips.iter().flat_map(checks_of));
        let mut checks = vec![linked];
        checks.extend(soft);
        let is_best = checks.iter().all(|check| check.is_met);
        let announcement = if !may_begin || drain.is_over(now) {
            Announcement::Withheld
        } else if is_best {
            Announcement::Announced
        } else {
            Announcement::Worse
        };
        checks.push(settled);
        self.checks = checks;
        self.vips = vips.iter().map(|vip| vip.label.clone()).collect();
        if announcement != self.announcement {
            (self.announcement, self.since) = (announcement, now);
        }
    }

    /// Whether the address has been proven for long enough. One that is lost soon after it was announced has
    /// to be proven for twice as long the next time.
    fn settle(&mut self, proven: Option<Instant>, shortest: Duration, now: Instant) -> Check {
        if proven.is_none()
            && let Some(announced) = self.announced.take()
        {
            let was_steady = now.duration_since(announced) >= self.settle * STEADY;
            self.settle = if was_steady {
                shortest
            } else {
                (self.settle * 2).min(LONGEST_SETTLE)
            };
        }
        self.settle = self.settle.max(shortest);
        self.proven = proven;
        let age = proven.map(|proven| now.duration_since(proven));
        let is_met = age.is_some_and(|age| age >= self.settle);
        let needed = self.settle.as_secs_f64();
        let text = match age {
            Some(age) => format!(
                "forwards for {:.0} s, {needed:.0} s are needed",
                age.as_secs_f64()
            ),
            None => format!("has to forward for {needed:.0} s"),
        };
        Check {
            name: "settled",
            is_met,
            text,
        }
    }
}

fn check(name: &'static str, result: &Result<(), String>, met: &str) -> Check {
    Check {
        name,
        is_met: result.is_ok(),
        text: result.clone().err().unwrap_or_else(|| met.to_owned()),
    }
}

fn checks_of(vip: &VipFacts) -> [Check; 2] {
    let VipFacts {
        label, up, min_up, ..
    } = vip;
    let forwards = match (&vip.forwards, &vip.partly) {
        (Ok(()), Some(why)) => Err(format!("some of its packets are dropped: {why}")),
        (forwards, _) => forwards.clone(),
    };
    let forwards = check("forwards", &forwards, "packets to it are forwarded");
    let members = Check {
        name: "backends",
        is_met: up >= min_up,
        text: format!("{label}: {up} serve, {min_up} are needed"),
    };
    [
        Check {
            text: format!("{label}: {}", forwards.text),
            ..forwards
        },
        members,
    ]
}

fn interfaces(missing: &[String]) -> Check {
    Check {
        name: "interfaces",
        is_met: missing.is_empty(),
        text: if missing.is_empty() {
            "all interfaces have the program".to_owned()
        } else {
            format!("without the program: {}", missing.join(", "))
        },
    }
}

/// Whether nobody else has a route to the address: a routing daemon may announce that one, also when the
/// address is withheld.
fn table(foreign: Option<&String>) -> Check {
    Check {
        name: "table",
        is_met: foreign.is_none(),
        text: match foreign {
            Some(route) => format!("another route to it is in the table: {route}"),
            None => "nobody else has a route to it in the table".to_owned(),
        },
    }
}

fn controller(silence: Option<Duration>) -> Check {
    Check {
        name: "controller",
        is_met: silence.is_some_and(|silence| silence <= CONTROLLER_LIMIT),
        text: match silence {
            Some(silence) => format!("last heartbeat {:.0} s ago", silence.as_secs_f64()),
            None => "no heartbeat yet".to_owned(),
        },
    }
}

/// Whether the health checks have judged all backends once: with few known so far, these get the load of all.
fn warm(warming: Option<Duration>) -> Check {
    Check {
        name: "warm",
        is_met: warming.is_none(),
        text: match warming {
            Some(left) => format!(
                "health checks have not judged all backends yet; at most {} s more",
                left.as_secs()
            ),
            None => "health checks have judged the backends".to_owned(),
        },
    }
}

/// Whether it may be this node's own path that fails, and not the backends.
fn agrees(is_suspect: bool) -> Check {
    Check {
        name: "agrees",
        is_met: !is_suspect,
        text: if is_suspect {
            "this node alone sees many backends down that all other nodes of the fleet see up"
        } else {
            "no other node of the fleet contradicts"
        }
        .to_owned(),
    }
}

fn wanted(drain: Drain, now: Instant) -> Check {
    let (is_met, text) = match drain {
        Drain::No => (true, "the node is not drained"),
        _ if drain.is_over(now) => (false, "the node is drained (`evenkeel node undrain`)"),
        _ => (false, "the node is being drained"),
    };
    Check {
        name: "wanted",
        is_met,
        text: text.to_owned(),
    }
}

#[cfg(test)]
mod tests;

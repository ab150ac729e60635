//! What can be proven of the data path: whether the program is in the links, and whether it forwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use lb_common::{
    ip_of,
    member::control,
    proto,
    reason::REASONS,
    vip::{VipKey, target},
};
use lb_dataplane::{Pins, Proof, Run, link_status};
use nix::{ifaddrs::getifaddrs, net::if_::if_indextoname};

use super::{
    frame::Clients,
    judge::{NodeFacts, VipFacts},
};

/// XDP verdicts of a packet that leaves the node.
const SENT: [u32; 2] = [3, 4];
/// Packets to a VIP of which one has to be forwarded: some of its backends may have no next hop.
const ATTEMPTS: u32 = 64;
/// So many while none was forwarded before, from other ports at each look.
const FEW_ATTEMPTS: u32 = 4;
/// How long a dropped packet counts against a VIP that forwards others.
const PARTLY: Duration = Duration::from_secs(60);
/// The longest time between two attempts to load the copy of the program.
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// Why packets can't be tried after a start.
pub(super) const LOADING: &str = "the copy of the program is being loaded";

/// Address, port and protocol of a VIP.
pub(super) type Service = (IpAddr, u16, u8);

/// How a VIP is to be announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) is_enabled: bool,
    pub(super) min_up: u32,
}

/// The data path, reopened whenever there is another one.
#[derive(Debug)]
pub(super) struct DataPath {
    pins: Pins,
    loader: Loader,
    linked: Result<(), String>,
    /// The VIPs when they were last proven.
    vips: BTreeMap<Service, VipFacts>,
    /// When a packet to a VIP that forwards others was last dropped, and why.
    partly: BTreeMap<Service, (Instant, String)>,
    /// Number of the next look.
    turn: u32,
}

/// An interface that frames come from.
struct Interface {
    index: u32,
    mac: [u8; 6],
}

impl DataPath {
    pub(super) fn new(pins: Pins) -> Self {
        Self {
            loader: Loader::new(pins.clone()),
            pins,
            linked: Err("not looked at yet".to_owned()),
            vips: BTreeMap::new(),
            partly: BTreeMap::new(),
            turn: 0,
        }
    }

    /// Looks at everything now. `interfaces`: those that are to have the program.
    pub(super) fn look(
        &mut self,
        wanted: &BTreeMap<Service, Wanted>,
        interfaces: &[String],
    ) -> (NodeFacts, BTreeMap<IpAddr, Vec<VipFacts>>) {
        self.turn = self.turn.wrapping_add(1);
        let now = Instant::now();
        let mut provable = match self.loader.open(now) {
            Loaded::Proof => Ok(()),
            // What was proven last holds: it forwards, but can't be asked.
            Loaded::Unknown(why) => Err(why),
            Loaded::Another(why) => {
                self.lose(&why);
                Err(why)
            }
        };
        let mut missing = Vec::new();
        match links(&self.pins, interfaces) {
            Ok(Some((interface, lost))) => {
                missing = lost;
                self.linked = Ok(());
                provable = provable.and_then(|()| self.prove(&interface, wanted, now));
            }
            Ok(None) => {
                let why = "the program is attached to no interface";
                self.linked = Err(why.to_owned());
                self.lose(why);
            }
            Err(why) => provable = Err(why),
        }
        let silence = |proof: &Proof| proof.controller_silence().ok().flatten();
        let warming = |proof: &Proof| proof.warming().ok().flatten();
        let suspect = |proof: &Proof| proof.suspect().ok().flatten();
        let facts = NodeFacts {
            linked: self.linked.clone(),
            missing,
            provable,
            controller: self.loader.proof.as_ref().and_then(silence),
            warming: self.loader.proof.as_ref().and_then(warming),
            is_suspect: self.loader.proof.as_ref().and_then(suspect).is_some(),
            foreign: None,
        };
        (facts, self.by_address())
    }

    fn by_address(&self) -> BTreeMap<IpAddr, Vec<VipFacts>> {
        let mut all: BTreeMap<IpAddr, Vec<VipFacts>> = BTreeMap::new();
        for ((address, ..), vip) in &self.vips {
            all.entry(*address).or_default().push(vip.clone());
        }
        for vips in all.values_mut() {
            vips.sort_by(|a, b| a.label.cmp(&b.label));
        }
        all
    }

    /// # Errors
    ///
    /// Packets to some VIPs can't be tried. What was proven of these last holds.
    fn prove(
        &mut self,
        interface: &Interface,
        wanted: &BTreeMap<Service, Wanted>,
        now: Instant,
    ) -> Result<(), String> {
        let Some(proof) = &self.loader.proof else {
            return Ok(());
        };
        let addresses = proof.services.iter().map(|entry| address_of(&entry.key));
        let addresses: BTreeSet<IpAddr> = addresses.collect();
        let prover = Prover {
            proof,
            interface,
            clients: Clients::none_of(|address| addresses.contains(&address)),
            turn: self.turn,
        };
        self.partly
            .retain(|_, (at, _)| now.duration_since(*at) < PARTLY);
        let (vips, proven) = vips(&prover, wanted, &self.vips, &mut self.partly, now);
        self.vips = vips;
        proven
    }

    /// Nothing is forwarded any more.
    fn lose(&mut self, why: &str) {
        for vip in self.vips.values_mut() {
            vip.forwards = Err(why.to_owned());
            vip.up = 0;
        }
    }
}

/// Loads the copy of the program on a thread of its own: the sessions with routers must not wait.
#[derive(Debug)]
struct Loader {
    pins: Pins,
    proof: Option<Proof>,
    /// The kernel's id of the tables that were last found.
    tables: Option<u32>,
    /// The kernel's id of the tables that were last proven.
    proven: Option<u32>,
    /// The id of the tables, and the thread.
    loading: Option<(u32, JoinHandle<Result<Proof, String>>)>,
    /// When to try again after a failure, how long to wait after the next one, and the failure.
    retry: Option<(Instant, String)>,
    pause: Duration,
}

const SHORTEST_RETRY: Duration = Duration::from_secs(1);

/// Whether there is a copy.
enum Loaded {
    Proof,
    /// There is none, and no reason to think that the data path is another one.
    Unknown(String),
    /// The tables are others than before, and nothing is proven of them yet.
    Another(String),
}

impl Loader {
    const fn new(pins: Pins) -> Self {
        Self {
            pins,
            proof: None,
            tables: None,
            proven: None,
            loading: None,
            retry: None,
            pause: SHORTEST_RETRY,
        }
    }

    fn open(&mut self, now: Instant) -> Loaded {
        let tables = match Proof::pinned(&self.pins) {
            Ok(Some(tables)) => tables,
            Ok(None) => {
                self.proof = None;
                let folder = self.pins.folder();
                return Loaded::Unknown(format!("no data path in {}", folder.display()));
            }
            // Also tables of another layout: a migration goes on forwarding.
            Err(error) => return Loaded::Unknown(lb_model::error::chain(&error)),
        };
        if self.tables.replace(tables) != Some(tables) {
            (self.retry, self.pause) = (None, SHORTEST_RETRY);
        }
        if self.proof.as_ref().map(Proof::tables) == Some(tables) {
            return Loaded::Proof;
        }
        self.proof = None;
        match self.load(tables, now) {
            Ok(proof) => {
                self.proven = Some(tables);
                self.proof = Some(proof);
                Loaded::Proof
            }
            Err(why) if self.proven.is_some_and(|proven| proven != tables) => Loaded::Another(why),
            Err(why) => Loaded::Unknown(why),
        }
    }

    fn load(&mut self, tables: u32, now: Instant) -> Result<Proof, String> {
        let loading = self.loading.take_if(|(_, thread)| thread.is_finished());
        if let Some((loaded_for, thread)) = loading {
            let loaded = thread
                .join()
                .unwrap_or_else(|_| Err("the loader panicked".to_owned()));
            match loaded {
                Ok(proof) if proof.tables() == tables => {
                    self.pause = SHORTEST_RETRY;
                    return Ok(proof);
                }
                Err(why) if loaded_for == tables => {
                    self.retry = Some((now + self.pause, why));
                    self.pause = (self.pause * 2).min(LONGEST_RETRY);
                }
                _ => {}
            }
        }
        if let Some((_, why)) = self.retry.as_ref().filter(|(at, _)| now < *at) {
            return Err(why.clone());
        }
        if self.loading.is_none() {
            let pins = self.pins.clone();
            let load = move || Proof::load(&pins).map_err(|error| lb_model::error::chain(&error));
            self.loading = Some((tables, std::thread::spawn(load)));
        }
        Err(LOADING.to_owned())
    }
}

/// An interface with the program, and those that lack it; none if no interface has it.
///
/// # Errors
///
/// It can't be read.
fn links(pins: &Pins, interfaces: &[String]) -> Result<Option<(Interface, Vec<String>)>, String> {
    let links = link_status(pins).map_err(|error| lb_model::error::chain(&error))?;
    let has_program = |name: &str| {
        let mut named = links.iter().filter(|link| link.interface == name);
        named.any(|link| link.ifindex.is_some())
    };
    let pinned = links.iter().map(|link| &link.interface);
    let all: BTreeSet<&String> = interfaces.iter().chain(pinned).collect();
    let missing = all.into_iter().filter(|name| !has_program(name)).cloned();
    let missing = missing.collect();
    let Some(index) = links.iter().find_map(|link| link.ifindex) else {
        return Ok(None);
    };
    let name = if_indextoname(index).map_err(|error| format!("interface {index}: {error}"))?;
    let name = name.to_string_lossy();
    let all = getifaddrs().map_err(|error| format!("list the interfaces: {error}"))?;
    let mac = all
        .filter(|it| it.interface_name == name)
        .find_map(|it| it.address?.as_link_addr()?.addr());
    // Interfaces without addresses accept frames to any.
    let mac = mac.unwrap_or_default();
    Ok(Some((Interface { index, mac }, missing)))
}

/// Sends packets through the copy of the program.
struct Prover<'a> {
    proof: &'a Proof,
    interface: &'a Interface,
    clients: Clients,
    turn: u32,
}

/// The VIPs now. If packets to some can't be tried, what was last known of these, and an error.
fn vips(
    prover: &Prover<'_>,
    wanted: &BTreeMap<Service, Wanted>,
    last: &BTreeMap<Service, VipFacts>,
    partly: &mut BTreeMap<Service, (Instant, String)>,
    now: Instant,
) -> (BTreeMap<Service, VipFacts>, Result<(), String>) {
    let proof = prover.proof;
    let up = serving(proof);
    let (mut all, mut proven) = (BTreeMap::new(), Ok(()));
    for entry in proof.services.iter() {
        let key = entry.key;
        let (port, protocol) = ((key.service as u16).to_be(), (key.service >> 16) as u8);
        if target::kind(entry.target) != target::VIP
            || ![proto::TCP, proto::UDP].contains(&protocol)
        {
            continue;
        }
        let address = address_of(&key);
        let service = (address, port, protocol);
        let known = wanted.get(&service);
        if known.is_some_and(|known| !known.is_enabled) {
            continue;
        }
        let name = if protocol == proto::TCP { "tcp" } else { "udp" };
        let label = known.map_or_else(|| format!("{address} {port}/{name}"), |it| it.name.clone());
        let last = last.get(&service);
        let attempts = match last {
            Some(last) if last.forwards.is_err() => FEW_ATTEMPTS,
            _ => ATTEMPTS,
        };
        let forwards = match prover.outcome(service, attempts) {
            Ok(Outcome::Sent) => Ok(()),
            Ok(Outcome::Partly(reason)) => {
                partly.insert(service, (now, reason));
                Ok(())
            }
            Ok(Outcome::Dropped(reason)) => Err(reason),
            Err(why) => {
                proven = Err(format!("{label}: {why}"));
                last.map_or(Err(why), |last| last.forwards.clone())
            }
        };
        let facts = VipFacts {
            label,
            forwards,
            partly: partly.get(&service).map(|(_, why)| why.clone()),
            up: up.get(&target::index(entry.target)).copied().unwrap_or(0),
            min_up: known.map_or(1, |known| known.min_up),
        };
        all.insert(service, facts);
    }
    (all, proven)
}

fn address_of(key: &VipKey) -> IpAddr {
    ip_of(&[key.high, key.low], (key.service >> 24) as u8)
}

/// Members that serve, by VIP.
fn serving(proof: &Proof) -> BTreeMap<u16, u32> {
    let mut up = BTreeMap::new();
    for (_, member) in proof.members.present() {
        if control::state(member.control) == control::SERVING {
            *up.entry(member.vip).or_default() += 1;
        }
    }
    up
}

/// What becomes of packets to a VIP.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Sent,
    /// Some are dropped, for this reason.
    Partly(String),
    /// All are.
    Dropped(String),
}

impl Prover<'_> {
    /// # Errors
    ///
    /// The packets can't be tried.
    fn outcome(&self, service: Service, attempts: u32) -> Result<Outcome, String> {
        let Interface { index, mac } = *self.interface;
        let frame = |attempt: u32| {
            let turn = self.turn.wrapping_add(attempt << 16);
            self.clients.frame(mac, service, turn)
        };
        let is_sent = |run: &Run| SENT.contains(&run.verdict);
        let run = |attempt| match self.proof.run(&frame(attempt), index) {
            Ok(run) => Ok(is_sent(&run)),
            Err(error) => Err(lb_model::error::chain(&error)),
        };
        let reason = || match self.proof.run_traced(&frame(0), index) {
            Ok((run, _)) if is_sent(&run) => None,
            traced => {
                let reason = traced.ok();
                let reason = reason.and_then(|(_, trace)| REASONS.get(trace.reason as usize));
                Some(reason.map_or("UNKNOWN", |reason| reason.name))
            }
        };
        outcome(attempts, run, reason)
    }
}

/// The outcome of packets of which `is_sent` tells whether it is transmitted, and `reason` why the first is
/// not.
fn outcome(
    attempts: u32,
    is_sent: impl Fn(u32) -> Result<bool, String>,
    reason: impl FnOnce() -> Option<&'static str>,
) -> Result<Outcome, String> {
    if is_sent(0)? {
        return Ok(Outcome::Sent);
    }
    let Some(reason) = reason() else {
        return Ok(Outcome::Sent);
    };
    let mut failed = None;
    for attempt in 1..attempts {
        match is_sent(attempt) {
            Ok(true) => return Ok(Outcome::Partly(reason.to_owned())),
            Ok(false) => {}
            Err(why) => failed = Some(why),
        }
    }
    failed.map_or_else(|| Ok(Outcome::Dropped(reason.to_owned())), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_that_cannot_be_tried_prove_nothing() {
        let few = || Err("EAGAIN".to_owned());
        let of = |results: [Result<bool, String>; 3]| {
            outcome(3, |at| results[at as usize].clone(), || Some("NO_MEMBER"))
        };
        let partly = || Ok(Outcome::Partly("NO_MEMBER".to_owned()));
        assert_eq!(of([Ok(true), few(), few()]), Ok(Outcome::Sent));
        assert_eq!(of([Ok(false), Ok(false), Ok(true)]), partly());
        assert_eq!(of([Ok(false), few(), Ok(true)]), partly());
        let dropped = Ok(Outcome::Dropped("NO_MEMBER".to_owned()));
        assert_eq!(of([Ok(false), Ok(false), Ok(false)]), dropped);
        assert_eq!(of([Ok(false), Ok(false), few()]), Err("EAGAIN".to_owned()));
        assert_eq!(of([few(), Ok(true), Ok(true)]), Err("EAGAIN".to_owned()));
    }
}

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
/// How long a dropped packet counts against a VIP that forwards others.
const PARTLY: Duration = Duration::from_secs(60);
/// The longest time between two attempts to load the copy of the program.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

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
    /// The VIPs when they were last seen.
    vips: BTreeMap<IpAddr, Vec<VipFacts>>,
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
                self.prove(&interface, wanted, now);
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
        let facts = NodeFacts {
            linked: self.linked.clone(),
            missing,
            provable,
            controller: self.loader.proof.as_ref().and_then(silence),
            warming: self.loader.proof.as_ref().and_then(warming),
            foreign: None,
        };
        (facts, self.vips.clone())
    }

    fn prove(&mut self, interface: &Interface, wanted: &BTreeMap<Service, Wanted>, now: Instant) {
        let Some(proof) = &self.loader.proof else {
            return;
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
        self.vips = vips(&prover, wanted, &mut self.partly, now);
    }

    /// Nothing is forwarded any more.
    fn lose(&mut self, why: &str) {
        for vip in self.vips.values_mut().flatten() {
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
    loading: Option<JoinHandle<Result<Proof, String>>>,
    /// When to try again after a failure, how long to wait after the next one, and the failure.
    retry: Option<(Instant, String)>,
    pause: Duration,
}

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
            loading: None,
            retry: None,
            pause: Duration::from_secs(1),
        }
    }

    fn open(&mut self, now: Instant) -> Loaded {
        if self
            .proof
            .as_ref()
            .is_some_and(|it| it.is_current(&self.pins))
        {
            return Loaded::Proof;
        }
        let had_proof = self.proof.take().is_some();
        if let Err(error) = Proof::check(&self.pins) {
            return Loaded::Unknown(lb_model::error::chain(&error));
        }
        match self.load(now) {
            Ok(()) => Loaded::Proof,
            Err(why) if had_proof => Loaded::Another(why),
            Err(why) => Loaded::Unknown(why),
        }
    }

    fn load(&mut self, now: Instant) -> Result<(), String> {
        if let Some(loading) = self.loading.take_if(|loading| loading.is_finished()) {
            let loaded = loading
                .join()
                .unwrap_or_else(|_| Err("the loader panicked".to_owned()));
            match loaded {
                Ok(proof) if proof.is_current(&self.pins) => {
                    self.proof = Some(proof);
                    (self.retry, self.pause) = (None, Duration::from_secs(1));
                    return Ok(());
                }
                Ok(_) => {}
                Err(why) => {
                    self.retry = Some((now + self.pause, why));
                    self.pause = (self.pause * 2).min(LONGEST_RETRY);
                }
            }
        }
        if let Some((_, why)) = self.retry.as_ref().filter(|(at, _)| now < *at) {
            return Err(why.clone());
        }
        if self.loading.is_none() {
            let pins = self.pins.clone();
            let load = move || Proof::load(&pins).map_err(|error| lb_model::error::chain(&error));
            self.loading = Some(std::thread::spawn(load));
        }
        Err("the copy of the program is being loaded".to_owned())
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

fn vips(
    prover: &Prover<'_>,
    wanted: &BTreeMap<Service, Wanted>,
    partly: &mut BTreeMap<Service, (Instant, String)>,
    now: Instant,
) -> BTreeMap<IpAddr, Vec<VipFacts>> {
    let proof = prover.proof;
    let up = serving(proof);
    let mut all: BTreeMap<IpAddr, Vec<VipFacts>> = BTreeMap::new();
    for entry in proof.services.iter() {
        let key = entry.key;
        let (port, protocol) = ((key.service as u16).to_be(), (key.service >> 16) as u8);
        if target::kind(entry.target) != target::VIP
            || ![proto::TCP, proto::UDP].contains(&protocol)
        {
            continue;
        }
        let address = address_of(&key);
        let known = wanted.get(&(address, port, protocol));
        if known.is_some_and(|known| !known.is_enabled) {
            continue;
        }
        let name = if protocol == proto::TCP { "tcp" } else { "udp" };
        let label = known.map_or_else(|| format!("{address} {port}/{name}"), |it| it.name.clone());
        let service = (address, port, protocol);
        let forwards = prover.forwards(service);
        if let Ok(Some(dropped)) = &forwards {
            partly.insert(service, (now, dropped.clone()));
        }
        all.entry(address).or_default().push(VipFacts {
            label,
            forwards: forwards.map(drop),
            partly: partly.get(&service).map(|(_, why)| why.clone()),
            up: up.get(&target::index(entry.target)).copied().unwrap_or(0),
            min_up: known.map_or(1, |known| known.min_up),
        });
    }
    for vips in all.values_mut() {
        vips.sort_by(|a, b| a.label.cmp(&b.label));
    }
    all
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

impl Prover<'_> {
    /// Whether packets to a service are forwarded; if some are dropped, why.
    ///
    /// # Errors
    ///
    /// The reason why none is.
    fn forwards(&self, service: Service) -> Result<Option<String>, String> {
        let Interface { index, mac } = *self.interface;
        let turns = (0..ATTEMPTS).map(|attempt| self.turn.wrapping_add(attempt << 16));
        let mut frames = turns.map(|turn| self.clients.frame(mac, service, turn));
        let first = frames.next().unwrap_or_default();
        let is_sent = |run: &Run| SENT.contains(&run.verdict);
        if self.proof.run(&first, index).is_ok_and(|run| is_sent(&run)) {
            return Ok(None);
        }
        let reason = match self.proof.run_traced(&first, index) {
            Ok((run, _)) if is_sent(&run) => return Ok(None),
            Ok((_, trace)) => {
                let reason = REASONS.get(trace.reason as usize);
                reason.map_or("UNKNOWN", |reason| reason.name).to_owned()
            }
            Err(error) => return Err(lb_model::error::chain(&error)),
        };
        let mut runs = frames.map(|frame| self.proof.run(&frame, index));
        if runs.any(|run| run.is_ok_and(|run| is_sent(&run))) {
            Ok(Some(reason))
        } else {
            Err(reason)
        }
    }
}

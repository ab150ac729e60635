//! The tables' side of the exchange: tells other nodes what the tracking table and the rings say, and writes
//! what they tell.

mod report;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use lb_common::ring::MemberIndex;
use lb_dataplane::{Bounds, Clock, Exception, Exceptions, PinnedView, Pins, Told};
use lb_fleet::exchange::{
    Counters, Event, Exchange, Member, PeerStates, Ring, Spiller, Tables, ToldCell, Update,
    address_bytes,
};
use lb_model::{ring::Identity, transition::RingState};
use tokio::{
    sync::{broadcast, mpsc, watch},
    time::{MissedTickBehavior, interval},
};
use tracing::warn;

use super::told::{identity_of, is_moving, ring_told, service_of, service_told};
use crate::{
    engine::{Engine, OwnTraffic, OwnVotes, run_on_thread},
    reconciler::{Directory, RingPast, ServiceId},
};

use report::Members;

/// Period in which changes are told.
const PERIOD: Duration = Duration::from_millis(100);

/// Period while no slot is in transition.
const CALM_PERIOD: Duration = Duration::from_secs(1);

/// Members with spilled flows are told again after this time.
const SPILLERS_AGAIN: Duration = Duration::from_secs(8);

/// How long a node with new tables waits for the past from other nodes before its VIPs are announced.
const PAST_LIMIT: Duration = Duration::from_secs(8);

/// Events that may wait.
const QUEUE: usize = 8;

/// Another node is asked again for what this one did not know of at most this often.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A member, as nodes have it in common.
type Shared = (ServiceId, Identity);

/// What another node has told of its members, and what they are here.
#[derive(Debug, Default)]
struct Peer {
    members: HashMap<u32, Shared>,
    /// By its index; valid for a directory.
    here: HashMap<u32, (MemberIndex, u16)>,
    /// All members that it has, as its reports name them.
    voters: Members,
}

impl Peer {
    fn translate(&mut self, local: &HashMap<Shared, (MemberIndex, u16)>) {
        let known = self.members.iter();
        let known = known.filter_map(|(index, member)| Some((*index, *local.get(member)?)));
        self.here = known.collect();
    }
}

struct Keeper {
    engine: Engine,
    exceptions: Exceptions,
    /// None if the data path is of a build without bounds.
    bounds: Option<Bounds>,
    clock: Clock,
    changes: broadcast::Sender<Arc<Update>>,
    counters: Arc<Counters>,
    directory: Arc<Directory>,
    /// Whether it has changed since the last tick.
    is_new: bool,
    /// Members of the directory.
    local: HashMap<Shared, (MemberIndex, u16)>,
    peers: HashMap<String, Peer>,
    /// Nodes that have told everything.
    complete: BTreeSet<String>,
    /// What was told last.
    members_told: Vec<Member>,
    rings_told: BTreeMap<u16, (Arc<RingState>, Ring)>,
    spillers_told: (BTreeSet<MemberIndex>, Instant),
    /// Stamps of members with spilled flows as other nodes have told them.
    spillers_heard: HashMap<MemberIndex, u64>,
    /// Whether another node has told of members or VIPs that are not known here, yet.
    missed: bool,
    again: (watch::Sender<()>, Instant),
    /// Exceptions of members that the directory does not have yet.
    held: Vec<Exception>,
    scanned_at: Instant,
    own_votes: watch::Receiver<Arc<OwnVotes>>,
    /// What was told last.
    voted: Arc<OwnVotes>,
    own_traffic: watch::Receiver<Arc<OwnTraffic>>,
}

/// Starts the task. Fails if the tables can't be opened.
pub(super) fn start(engine: &Engine, pins: &Pins) -> lb_dataplane::Result<(Tables, Start)> {
    let view = PinnedView::open(pins)?;
    let exceptions = Exceptions::new(view.tracking);
    let (events, inbox) = mpsc::channel(QUEUE);
    let counters = Arc::new(Counters::default());
    let tables = Tables {
        buckets: exceptions.buckets(),
        events,
        counters: Arc::clone(&counters),
        again: watch::Sender::default(),
    };
    let again = tables.again.clone();
    let now = Instant::now();
    let keeper = Keeper {
        engine: engine.clone(),
        exceptions,
        bounds: view.bounds,
        clock: Clock::start(None)?,
        changes: Exchange::changes(),
        counters,
        directory: Arc::default(),
        is_new: false,
        local: HashMap::new(),
        peers: HashMap::new(),
        complete: BTreeSet::new(),
        members_told: Vec::new(),
        rings_told: BTreeMap::new(),
        spillers_told: (BTreeSet::new(), now),
        spillers_heard: HashMap::new(),
        missed: false,
        again: (again, now),
        held: Vec::new(),
        scanned_at: now,
        own_votes: engine.own_votes(),
        voted: Arc::default(),
        own_traffic: engine.own_traffic(),
    };
    Ok((tables, Start(keeper, inbox)))
}

/// A task that waits for the states of the exchange. It has a thread of its own, because it reads the whole
/// tracking table.
pub(super) struct Start(Keeper, mpsc::Receiver<Event>);

impl Start {
    pub(super) fn run(self, states: watch::Receiver<PeerStates>) -> anyhow::Result<()> {
        run_on_thread("exchange", self.0.run(self.1, states)).map(drop)
    }
}

impl Keeper {
    async fn run(mut self, mut inbox: mpsc::Receiver<Event>, states: watch::Receiver<PeerStates>) {
        let started = Instant::now();
        let mut waits_for_past = true;
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = inbox.recv() => match event {
                    Some(event) => self.handle(event).await,
                    None => return,
                },
                Ok(()) = self.own_votes.changed() => self.vote(),
                Ok(()) = self.own_traffic.changed() => self.tell_traffic(),
                _ = ticks.tick() => self.tick(),
            }
            if waits_for_past {
                waits_for_past = !self.knows_past(&states, started).await;
            }
        }
    }

    /// Tells the engine once that the other nodes have told the past, or can't be asked.
    async fn knows_past(&self, states: &watch::Receiver<PeerStates>, started: Instant) -> bool {
        let states = states.borrow().clone();
        let has_told = |(node, state): (&String, &lb_fleet::exchange::PeerState)| {
            !state.connected || self.complete.contains(node)
        };
        let is_known = states.were_asked() && states.nodes.iter().all(has_told);
        if !is_known && started.elapsed() < PAST_LIMIT {
            return false;
        }
        let silent: Vec<&str> = states
            .nodes
            .iter()
            .filter(|(_, state)| !state.connected)
            .map(|(node, _)| node.as_str())
            .collect();
        if !states.are_known {
            warn!("no other node is known that could tell the past of connections");
        } else if !silent.is_empty() {
            let silent = silent.join(", ");
            warn!(silent, "some nodes have not told the past of connections");
        }
        self.engine.past_is_known().await;
        true
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Asked(reply) => {
                let everything = self.everything();
                // The node is gone.
                let _ = reply.send((everything, self.changes.subscribe()));
            }
            Event::Told { from, update } => {
                if let Some(report) = &update.report {
                    self.hear(&from, report);
                }
                let pasts = self.take_over(&from, &update);
                if !pasts.is_empty() {
                    self.engine.learn(from.clone(), pasts).await;
                }
                if update.is_complete {
                    self.complete.insert(from);
                }
            }
        }
    }

    fn now_s(&self) -> u64 {
        // A clock that worked once fails no more.
        self.clock.now_s().unwrap_or_default()
    }

    /// Reads which indexes members and VIPs have.
    fn follow_directory(&mut self) {
        let directory = self.engine.directory();
        if Arc::ptr_eq(&directory, &self.directory) {
            return;
        }
        self.is_new = true;
        let members = directory.members.iter();
        self.local = members
            .filter_map(|(index, (vip, identity))| {
                let service = directory.vips.get(vip)?.service;
                Some(((service, *identity), (*index, *vip)))
            })
            .collect();
        self.directory = directory;
        for peer in self.peers.values_mut() {
            peer.translate(&self.local);
        }
    }

    fn members(&self) -> Vec<Member> {
        let members = self.directory.members.iter();
        let members = members.filter_map(|(index, (vip, identity))| {
            let service = self.directory.vips.get(vip)?.service;
            Some(Member {
                index: (*index).into(),
                service: service_told(service),
                address: address_bytes(identity.address),
                port: identity.port.into(),
            })
        });
        members.collect()
    }

    /// Reads the rings that have a past; returns the VIPs of those that have changed.
    fn follow_rings(&mut self) -> Vec<u16> {
        let mut known = std::mem::take(&mut self.rings_told);
        let mut changed = Vec::new();
        for (index, vip) in &self.directory.vips {
            let before = known.remove(index);
            let next = match before {
                Some((ring, told)) if Arc::ptr_eq(&ring, &vip.ring) => (ring, told),
                before => {
                    if !is_moving(&vip.ring) {
                        continue;
                    }
                    let told = ring_told(vip);
                    if before.is_none_or(|(_, before)| before != told) {
                        changed.push(*index);
                    }
                    (Arc::clone(&vip.ring), told)
                }
            };
            self.rings_told.insert(*index, next);
        }
        changed
    }

    /// Members with spilled flows; unless `all`, those that other nodes have not told of.
    fn spillers(&self, now_s: u64, all: bool) -> Vec<Spiller> {
        let Some(bounds) = &self.bounds else {
            return Vec::new();
        };
        let may_spill = |member: MemberIndex| {
            let found = self.directory.members.get(&member);
            let vip = found.and_then(|(vip, _)| self.directory.vips.get(vip));
            vip.is_some_and(|vip| vip.may_spill)
        };
        let spillers = bounds.spillers();
        let spillers = spillers.filter(|(member, seen_s)| {
            may_spill(*member) && (all || self.spillers_heard.get(member) != Some(seen_s))
        });
        spillers
            .map(|(member, seen_s)| Spiller {
                member: member.into(),
                idle_s: u32::try_from(now_s.saturating_sub(seen_s)).unwrap_or(u32::MAX),
            })
            .collect()
    }

    fn cell(&self, exception: &Exception) -> Option<ToldCell> {
        let is_known = self.directory.members.contains_key(&exception.member);
        is_known.then_some(ToldCell {
            at: exception.at,
            tag: exception.tag,
            member: exception.member,
            closed: exception.closed,
            idle_s: exception.idle_s,
            ended: exception.ended,
        })
    }

    /// All that another node has to know.
    fn everything(&mut self) -> Vec<Update> {
        self.follow_directory();
        let now_s = self.now_s();
        let first = Update {
            members: self.members(),
            spillers: self.spillers(now_s, true),
            ..Update::default()
        };
        let moving = self.directory.vips.values();
        let moving = moving.filter(|vip| is_moving(&vip.ring));
        let rings = moving.map(ring_told).collect();
        let cells = self.exceptions.all(now_s);
        let cells = cells.filter_map(|exception| self.cell(&exception));
        let mut updates = first.with(rings, cells);
        updates.extend(self.report());
        if let Some(last) = updates.last_mut() {
            last.is_complete = true;
        }
        updates
    }

    /// Tells what has changed, if another node listens.
    fn tick(&mut self) {
        self.follow_directory();
        let has_changed = std::mem::take(&mut self.is_new);
        if self.missed && has_changed && self.again.1.elapsed() >= AGAIN_AFTER {
            self.missed = false;
            self.again.1 = Instant::now();
            self.again.0.send_replace(());
        }
        if self.changes.receiver_count() == 0 {
            return;
        }
        let now_s = self.now_s();
        let mut update = Update::default();
        if has_changed || self.members_told.is_empty() {
            let members = self.members();
            if members != self.members_told {
                update.members.clone_from(&members);
                self.members_told = members;
            }
        }
        let changed = self.follow_rings();
        let changed = changed.iter().filter_map(|vip| self.rings_told.get(vip));
        let rings = changed.map(|(_, told)| told.clone()).collect();
        let spillers = self.spillers(now_s, false);
        let set: BTreeSet<MemberIndex> = spillers.iter().map(|it| it.member as u16).collect();
        let is_new = !set.is_subset(&self.spillers_told.0);
        let is_time = self.spillers_told.1.elapsed() >= SPILLERS_AGAIN && !set.is_empty();
        if is_new || is_time {
            update.spillers = spillers;
            self.spillers_told = (set.clone(), Instant::now());
        }
        let is_busy = !self.rings_told.is_empty() || !set.is_empty() || !self.held.is_empty();
        let mut cells = Vec::new();
        if is_busy || self.scanned_at.elapsed() >= CALM_PERIOD {
            self.scanned_at = Instant::now();
            let mut found = std::mem::take(&mut self.held);
            let held = found.len();
            found.extend(self.exceptions.changed(now_s));
            for (number, exception) in found.iter().enumerate() {
                match self.cell(exception) {
                    Some(cell) => cells.push(cell),
                    // Once: its VIP may not be shared.
                    None if number >= held => self.held.push(*exception),
                    None => {}
                }
            }
        }
        self.counters.add_told(cells.len());
        for update in update.with(rings, cells) {
            if !update.is_empty() {
                // Nobody listens any more.
                let _ = self.changes.send(Arc::new(update));
            }
        }
    }

    /// Takes over what another node has told; returns what the engine has to know.
    fn take_over(&mut self, from: &str, update: &Update) -> Vec<RingPast> {
        self.follow_directory();
        let now_s = self.now_s();
        let peer = self.peers.entry(from.to_owned()).or_default();
        if !update.members.is_empty() {
            let members = update.members.iter();
            let members = members.filter_map(|member| {
                let service = service_of(&member.service)?;
                Some((member.index, (service, identity_of(member)?)))
            });
            peer.members = members.collect();
            peer.translate(&self.local);
        }
        for spiller in &update.spillers {
            if let (Some(bounds), Some((member, _))) =
                (&self.bounds, peer.here.get(&spiller.member))
            {
                // 0 would say that there are none.
                let seen_s = now_s.saturating_sub(spiller.idle_s.into()).max(1);
                bounds.note_spilled(*member, seen_s);
                self.spillers_heard.insert(*member, seen_s);
            }
        }
        self.take_cells(from, update, now_s);
        self.take_rings(from, update)
    }

    fn take_cells(&mut self, from: &str, update: &Update, now_s: u64) {
        let Some(peer) = self.peers.get(from) else {
            return;
        };
        let vip_of = |member: MemberIndex| {
            let found = self.directory.members.get(&member);
            found.map_or(u16::MAX, |(vip, _)| *vip)
        };
        let (mut written, mut no_room) = (0, 0);
        for cell in update.cells() {
            let here = peer.here.get(&cell.member.into()).copied();
            self.missed |= here.is_none() && !cell.ended;
            // The end of a flow needs no member.
            let Some(here) = here.or(cell.ended.then_some((0, 0))) else {
                continue;
            };
            let exception = Exception {
                at: cell.at,
                tag: cell.tag,
                member: cell.member,
                closed: cell.closed,
                idle_s: cell.idle_s,
                ended: cell.ended,
            };
            match self.exceptions.take_over(&exception, here, now_s, vip_of) {
                Told::Written => written += 1,
                Told::NoRoom => no_room += 1,
                Told::Known | Told::Kept => {}
            }
        }
        self.counters.add_taken(written, no_room);
    }

    /// The rings of another node, with the members of this one.
    fn take_rings(&mut self, from: &str, update: &Update) -> Vec<RingPast> {
        let Some(peer) = self.peers.get(from) else {
            return Vec::new();
        };
        let slots = |past: &lb_fleet::exchange::Past| {
            let slots = past.slots();
            let slots = slots.map(|(slot, member)| {
                (
                    slot,
                    peer.members.get(&member).map(|(_, identity)| *identity),
                )
            });
            slots.collect()
        };
        let rings = update.rings.iter();
        let pasts = rings.filter_map(|ring| {
            Some(RingPast {
                service: service_of(&ring.service)?,
                slots: ring.slots,
                affinity: ring.affinity,
                moving: slots(&ring.moving),
                settling: slots(&ring.settling),
            })
        });
        let pasts: Vec<RingPast> = pasts.collect();
        let is_known = |past: &RingPast| {
            let mut known = self.directory.vips.values();
            known.any(|vip| vip.service == past.service)
        };
        self.missed |= !pasts.iter().all(is_known);
        pasts
    }
}

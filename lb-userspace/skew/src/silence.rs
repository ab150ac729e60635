//! Black holes: a member that takes flows and answers none.
//!
//! Answers need not come back through the balancer, so they are seen by what clients do next. Three signs:
//!
//! - **Nothing follows the SYNs.** A flow that is answered has its handshake's end, a request, an end: at least one
//!   more packet for each SYN. Some SYNs are never followed anywhere (scans, clients that vanish), so a member's are taken half a
//!   dozen at a time, which happens everywhere sometimes: how often is learned, of it and of the others. Half a dozen
//!   in which there is next to nothing else is evidence, as much as it is rare.
//! - **Too little follows.** A member that accepts and then says nothing has the handshake and the request, and no more:
//!   few packets for each flow, fewer than any other member has, and than it ever had itself.
//! - **Sampled flows** with several SYNs and nothing else, or with a request that nothing followed.
//!
//! All three are held against the other members: in a SYN flood nothing is answered anywhere, and
//! that is not the member's fault.

use super::{
    Openings, Samples, Thresholds,
    counts::{Came, Roster, Step, rearranged},
    evidence::{Bounds, Stretch},
};

/// Observations that the present is averaged over.
const PRESENT: f64 = 5.0;
/// Packets for each new flow of the other members below which they tell nothing.
const ANSWERED: f64 = 2.2;
/// SYNs that are judged together, and the part of them that may be followed where nothing is answered.
const BATCH: f64 = 6.0;
const STRAY: f64 = 0.25;
/// Batches of a member that its usual is learned of, and batches before it is known.
const BATCHES: f64 = 300.0;
const ENOUGH_BATCHES: f64 = 30.0;
/// Part of the batches that is taken for usual at least, and times what was learned.
const LEAST_USUAL: f64 = 0.005;
const USUAL_MARGIN: f64 = 2.0;
/// Part of the batches from which on nothing can be told.
const MOST_USUAL: f64 = 0.4;
/// Part of a black hole's batches, or sampled flows, that look like it.
const AT_A_HOLE: f64 = 0.9;
/// Times its share of the table from which on a member's past says nothing of its packets for each flow: old connections
/// are those of its former share.
const MORE_SHARE: f64 = 1.2;
/// Packets for each new flow of a member that accepts and says nothing: SYN, ACK, request, at last FIN.
const UNSERVED: f64 = 4.2;
/// Part of the packets for each flow that is far too few.
const FAR_FEWER: f64 = 0.67;
/// Observations in a row for which it must be so.
const FEWER_FOR: u32 = 15;
/// New flows a second that make the average good enough.
const ENOUGH_PER_S: f64 = 10.0;
/// Minutes of a member's past that are kept.
const MINUTES: usize = 10;
/// Observations in a row that are well until it is over.
const CALM_FOR: u32 = 30;

/// Why a member is taken for a black hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    OnlySyns,
    FewPackets,
    Sampled,
}

/// A black hole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hole {
    pub(super) since_s: f64,
    pub(super) raised_s: f64,
    pub(super) sign: Sign,
}

#[derive(Clone, Copy, Debug, Default)]
struct Ear {
    packets: f64,
    flows: f64,
    only_syns: Stretch,
    batch: Batch,
    batches: Batches,
    /// Share of the table that its past is of.
    share: f64,
    fewer: u32,
    minute: [f64; 2],
    minutes: [f64; MINUTES],
    full: usize,
    sampled: u32,
    calm: u32,
    hole: Option<Hole>,
}

/// SYNs that are not judged yet, and what came with them.
#[derive(Clone, Copy, Debug, Default)]
struct Batch {
    syns: f64,
    followers: f64,
}

/// How often a batch is followed by next to nothing: of the last [`BATCHES`], about.
#[derive(Clone, Copy, Debug, Default)]
struct Batches {
    seen: f64,
    silent: f64,
}

impl Batches {
    fn add(&mut self, is_silent: bool) {
        self.seen += 1.0;
        self.silent += f64::from(u8::from(is_silent));
        if self.seen > BATCHES {
            self.silent *= BATCHES / self.seen;
            self.seen = BATCHES;
        }
    }
}

/// The watch for black holes.
#[derive(Clone, Debug, Default)]
pub(super) struct Silence {
    members: Vec<Ear>,
    in_minute: u32,
    any: bool,
}

/// What the members have for each new flow, all together.
#[derive(Clone, Copy, Debug)]
struct Others {
    packets: f64,
    flows: f64,
    /// The fewest of all, and of all but that one.
    fewest: [(usize, f64); 2],
    batches: Batches,
}

impl Ear {
    fn per_flow(&self) -> f64 {
        self.packets / self.flows.max(1e-9)
    }

    /// The fewest packets for each flow that it had in a minute.
    fn fewest_before(&self) -> Option<f64> {
        let known = &self.minutes[..self.full.min(MINUTES)];
        (self.full >= 2).then(|| known.iter().copied().fold(f64::INFINITY, f64::min))
    }
}

impl Others {
    fn of(members: &[Ear]) -> Self {
        let mut all = Self {
            packets: 0.0,
            flows: 0.0,
            fewest: [(usize::MAX, f64::INFINITY); 2],
            batches: Batches::default(),
        };
        for (member, ear) in members.iter().enumerate() {
            all.packets += ear.packets;
            all.flows += ear.flows;
            all.batches.seen += ear.batches.seen;
            all.batches.silent += ear.batches.silent;
            if ear.flows < ENOUGH_PER_S {
                continue;
            }
            let this = (member, ear.per_flow());
            if this.1 < all.fewest[0].1 {
                all.fewest = [this, all.fewest[0]];
            } else if this.1 < all.fewest[1].1 {
                all.fewest[1] = this;
            }
        }
        all
    }

    fn per_flow_without(&self, ear: &Ear) -> f64 {
        let flows = self.flows - ear.flows;
        if flows * PRESENT < 20.0 {
            return 0.0;
        }
        (self.packets - ear.packets) / flows
    }

    /// How often a batch is silent where nothing is wrong: as the others say, or the member's own past, whichever is more.
    fn usually_silent(&self, own: Batches) -> f64 {
        // Half a batch more than was seen: a few say little.
        let part = |seen: f64, silent: f64| (silent + 0.5) / (seen + 1.0);
        let others = part(
            self.batches.seen - own.seen,
            self.batches.silent - own.silent,
        );
        let usual = if own.seen >= ENOUGH_BATCHES {
            others.max(part(own.seen, own.silent))
        } else {
            others
        };
        (USUAL_MARGIN * usual).max(LEAST_USUAL)
    }

    fn fewest_without(&self, member: usize) -> f64 {
        let [first, second] = self.fewest;
        let fewest = if first.0 == member { second.1 } else { first.1 };
        if fewest.is_finite() { fewest } else { 0.0 }
    }
}

impl Silence {
    pub(super) fn rearrange(&mut self, places: &[Option<usize>]) {
        self.members = rearranged(&self.members, places);
    }

    pub(super) fn hole(&self, member: usize) -> Option<&Hole> {
        self.members[member].hole.as_ref()
    }

    pub(super) fn holes(&self) -> impl Iterator<Item = (usize, &Hole)> {
        let members = if self.any { &*self.members } else { &[] };
        members
            .iter()
            .enumerate()
            .filter_map(|(member, ear)| Some((member, ear.hole.as_ref()?)))
    }

    /// Packets for each new flow: of a member, and of the others.
    pub(super) fn packets_per_flow(&self, member: usize) -> (f64, f64) {
        let ear = &self.members[member];
        (
            ear.per_flow(),
            Others::of(&self.members).per_flow_without(ear),
        )
    }

    pub(super) fn observe(&mut self, step: &Step, thresholds: &Thresholds) {
        if !step.has_volume {
            return;
        }
        for (ear, came) in self.members.iter_mut().zip(&step.members) {
            ear.packets += (came.packets / step.length_s - ear.packets) / PRESENT;
            ear.flows += (came.flows / step.length_s - ear.flows) / PRESENT;
        }
        let others = Others::of(&self.members);
        let wanted = thresholds.evidence(step.eligible);
        self.in_minute += 1;
        let minute_is_full = self.in_minute >= 60;
        self.any = false;
        for (member, (ear, came)) in self.members.iter_mut().zip(&step.members).enumerate() {
            ear.hear(came, member, &others, wanted, step);
            ear.remember(came, minute_is_full);
            ear.judge(came, wanted, step);
            self.any |= ear.hole.is_some();
        }
        if minute_is_full {
            self.in_minute = 0;
        }
    }

    /// Takes sampled flows.
    pub(super) fn take_samples(
        &mut self,
        samples: &Samples,
        roster: &Roster,
        eligible: usize,
        thresholds: &Thresholds,
    ) {
        let wanted = thresholds.evidence(eligible);
        let sum = |what: fn(&Openings) -> u32| samples.openings.iter().map(what).sum::<u32>();
        let (flows, unanswered) = (sum(|o| o.flows), sum(|o| o.unanswered));
        for openings in &samples.openings {
            let Some(member) = roster.place(&openings.member) else {
                continue;
            };
            let own = Outcomes::new(openings.flows, openings.unanswered);
            let others = Outcomes::new(
                flows.saturating_sub(openings.flows),
                unanswered.saturating_sub(openings.unanswered),
            );
            let ear = &mut self.members[member];
            ear.sampled = if own.are_of_a_hole(others) >= wanted {
                ear.sampled + 1
            } else {
                0
            };
        }
    }
}

/// How sampled flows began.
#[derive(Clone, Copy, Debug)]
struct Outcomes {
    bad: f64,
    good: f64,
}

impl Outcomes {
    fn new(flows: u32, bad: u32) -> Self {
        let bad = bad.min(flows);
        Self {
            bad: bad.into(),
            good: (flows - bad).into(),
        }
    }

    fn part(self) -> f64 {
        self.bad / (self.bad + self.good).max(1.0)
    }

    /// Logarithm of the likelihood of these outcomes if so many are bad.
    fn likelihood(self, bad: f64) -> f64 {
        let part = |count: f64, odds: f64| if count > 0.0 { count * odds.ln() } else { 0.0 };
        part(self.bad, bad) + part(self.good, 1.0 - bad)
    }

    /// The evidence that these are of a black hole, and those of the others are not: against their being alike, at
    /// whatever rate explains both best. So few flows of the others prove little.
    fn are_of_a_hole(self, others: Self) -> f64 {
        let alike = Self {
            bad: self.bad + others.bad,
            good: self.good + others.good,
        };
        let rate = alike.part();
        if self.part() < AT_A_HOLE || others.part() > MOST_USUAL {
            return 0.0;
        }
        self.likelihood(self.part().max(AT_A_HOLE)) + others.likelihood(others.part())
            - alike.likelihood(rate)
    }
}

impl Ear {
    fn hear(&mut self, came: &Came, member: usize, others: &Others, wanted: f64, step: &Step) {
        if came.share > MORE_SHARE * self.share {
            // It came back, or gets more than before: its connections are fewer than its new flows make one expect.
            self.share = came.share;
            self.minute = Default::default();
            self.full = 0;
            self.fewer = 0;
        } else {
            self.share = self.share.min(came.share);
        }
        self.listen(came, others, wanted, step);
        let fewest = self.fewest_before().unwrap_or(0.0);
        let usual = fewest.min(others.fewest_without(member));
        let fewer = self.flows >= ENOUGH_PER_S
            && self.per_flow() <= UNSERVED
            && self.per_flow() <= FAR_FEWER * usual;
        self.fewer = if fewer { self.fewer + 1 } else { 0 };
    }

    /// Whether anything follows the SYNs.
    fn listen(&mut self, came: &Came, others: &Others, wanted: f64, step: &Step) {
        self.batch.syns += came.flows;
        self.batch.followers += (came.packets - came.flows).max(0.0);
        if self.batch.syns < BATCH {
            return;
        }
        let Batch { syns, followers } = std::mem::take(&mut self.batch);
        let is_silent = followers <= STRAY * syns;
        let usual = others.usually_silent(self.batches);
        if others.per_flow_without(self) >= ANSWERED && usual <= MOST_USUAL {
            let bounds = Bounds {
                step: wanted / 5.0,
                sum: wanted * 1.5,
            };
            let gain = if is_silent {
                (AT_A_HOLE / usual).ln()
            } else {
                ((1.0 - AT_A_HOLE) / (1.0 - usual)).ln()
            };
            self.only_syns
                .add(gain, syns, followers, bounds, step.began_s());
        } else {
            self.only_syns = Stretch::default();
        }
        // What is suspected must not become what is usual.
        if !is_silent || (self.only_syns.llr < wanted / 2.0 && self.hole.is_none()) {
            self.batches.add(is_silent);
        }
    }

    fn remember(&mut self, came: &Came, minute_is_full: bool) {
        // What is suspected must not become what is usual.
        if self.fewer == 0 && self.hole.is_none() {
            self.minute[0] += came.packets;
            self.minute[1] += came.flows;
        }
        if minute_is_full {
            let [packets, flows] = std::mem::take(&mut self.minute);
            if flows >= 60.0 {
                self.minutes[self.full % MINUTES] = packets / flows;
                self.full += 1;
            }
        }
    }

    fn judge(&mut self, came: &Came, wanted: f64, step: &Step) {
        let sign = if self.only_syns.llr >= wanted {
            Some((Sign::OnlySyns, self.only_syns.since_s))
        } else if self.fewer >= FEWER_FOR {
            Some((Sign::FewPackets, step.now_s - f64::from(self.fewer)))
        } else if self.sampled >= 2 {
            Some((Sign::Sampled, step.now_s))
        } else {
            None
        };
        match (&self.hole, sign) {
            (None, Some((sign, since_s))) if came.eligible => {
                self.calm = 0;
                self.hole = Some(Hole {
                    since_s,
                    raised_s: step.now_s,
                    sign,
                });
            }
            (Some(_), None) => {
                self.calm += 1;
                if self.calm >= CALM_FOR {
                    self.hole = None;
                }
            }
            _ => self.calm = 0,
        }
    }
}

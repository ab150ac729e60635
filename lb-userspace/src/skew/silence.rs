//! Black holes: a member that takes flows and answers none.
//!
//! Answers need not come back through the balancer, so they are seen by what clients do next. Three signs:
//!
//! - **Nothing follows the SYNs.** A flow that is answered has its handshake's end, a request, an end: at least one
//!   more packet for each SYN. Where there are only SYNs, each is evidence.
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
/// Logarithm of how much likelier a SYN without a follower is at a black hole: 0.9 against 0.1.
const SYN_EVIDENCE: f64 = 2.197;
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
/// Part of sampled flows that begins badly anywhere.
const USUAL_FAILURES: f64 = 0.05;

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
    fewer: u32,
    minute: [f64; 2],
    minutes: [f64; MINUTES],
    full: usize,
    sampled: u32,
    calm: u32,
    hole: Option<Hole>,
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
        };
        for (member, ear) in members.iter().enumerate() {
            all.packets += ear.packets;
            all.flows += ear.flows;
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
            let others = f64::from(flows.saturating_sub(openings.flows));
            let theirs = f64::from(unanswered.saturating_sub(openings.unanswered));
            let usual = ((theirs + 1.0) / (others + 2.0)).max(USUAL_FAILURES);
            let bad = f64::from(openings.unanswered.min(openings.flows));
            let good = f64::from(openings.flows) - bad;
            let llr = bad * (0.9 / usual).ln() + good * (0.1 / (1.0 - usual).max(0.01)).ln();
            let ear = &mut self.members[member];
            ear.sampled = if usual < 0.5 && llr >= wanted {
                ear.sampled + 1
            } else {
                0
            };
        }
    }
}

impl Ear {
    fn hear(&mut self, came: &Came, member: usize, others: &Others, wanted: f64, step: &Step) {
        let followers = (came.packets - came.flows).max(0.0);
        if others.per_flow_without(self) >= ANSWERED {
            let bounds = Bounds {
                step: wanted / 5.0,
                sum: wanted * 1.5,
            };
            let gain = SYN_EVIDENCE * (came.flows - followers);
            self.only_syns
                .add(gain, came.flows, followers, bounds, step.began_s());
        } else {
            self.only_syns = Stretch::default();
        }
        let fewest = self.fewest_before().unwrap_or(0.0);
        let usual = fewest.min(others.fewest_without(member));
        let fewer = self.flows >= ENOUGH_PER_S
            && self.per_flow() <= UNSERVED
            && self.per_flow() <= FAR_FEWER * usual;
        self.fewer = if fewer { self.fewer + 1 } else { 0 };
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

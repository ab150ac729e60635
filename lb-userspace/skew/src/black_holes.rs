//! Black holes: members that accept connections but never reply.
//!
//! Replies need not pass the balancer, so they are inferred from what clients do next. Three signs:
//!
//! - **Nothing follows the SYNs.** An answered flow has at least one more packet for each SYN. Some
//!   SYNs are never followed (scans, clients that vanish), so they are counted in batches of six. A
//!   batch with next to nothing else is evidence; its weight depends on how often such batches
//!   occur on this member and the others.
//! - **Too little follows.** A member that accepts and then never replies has handshake and request
//!   packets only: fewer packets per flow than any other member, and than its own past.
//! - **Sampled flows** with several SYNs and nothing else, or with a request that nothing followed.
//!
//! All three are compared with the other members: in a SYN flood nothing is answered anywhere.

use super::{
    SampledFlows, Samples, Thresholds,
    counts::{MemberCounts, MemberIndex, Step, rearranged},
    evidence::{Bounds, Cusum},
};

/// Observations over which current rates are averaged.
const PRESENT: f64 = 5.0;
/// Packets per new flow of the other members below which they are no reference.
const ANSWERED: f64 = 2.2;
/// SYNs of a batch, and the part of them that may be followed on a black hole.
const BATCH: f64 = 6.0;
const STRAY: f64 = 0.25;
/// Batches that form the baseline of a member, and batches until it is known.
const BATCHES: f64 = 300.0;
const ENOUGH_BATCHES: f64 = 30.0;
/// Lower limit of the baseline of silent batches, and the margin on the estimate.
const LEAST_USUAL: f64 = 0.005;
const USUAL_MARGIN: f64 = 2.0;
/// Part of silent batches above which the sign is not used.
const MOST_USUAL: f64 = 0.4;
/// Part of the batches, or sampled flows, of a black hole that are silent.
const BAD_PART: f64 = 0.9;
/// Growth of the table share above which the past packets per flow of a member are discarded: it
/// has too few old connections for its new share.
const MORE_SHARE: f64 = 1.2;
/// Packets per new flow of a member that accepts but never replies: SYN, ACK, request, finally FIN.
const UNSERVED_PACKETS: f64 = 4.2;
/// Packets per flow, relative to the reference, that are too few.
const FAR_FEWER: f64 = 0.67;
/// Consecutive observations with too few packets that raise a finding.
const FEWER_FOR: u32 = 15;
/// New flows per second needed for a usable average.
const ENOUGH_PER_S: f64 = 10.0;
/// Length of a member's history, minutes.
const MINUTES: usize = 10;
/// Consecutive normal observations that clear a finding.
const NORMAL_FOR: u32 = 30;

/// The sign that identified a black hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    OnlySyns,
    FewPackets,
    Sampled,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct BlackHole {
    pub(super) since_s: f64,
    pub(super) raised_s: f64,
    pub(super) sign: Sign,
}

#[derive(Clone, Copy, Debug, Default)]
struct MemberReplies {
    packets: f64,
    flows: f64,
    only_syns: Cusum,
    batch: Batch,
    batches: Batches,
    /// Table share to which the history belongs.
    share: f64,
    fewer: u32,
    minute: [f64; 2],
    minutes: [f64; MINUTES],
    full: usize,
    sampled: u32,
    normal: u32,
    black_hole: Option<BlackHole>,
}

/// SYNs that are not evaluated yet, and the packets that followed.
#[derive(Clone, Copy, Debug, Default)]
struct Batch {
    syns: f64,
    followers: f64,
}

/// Frequency of silent batches, over about the last [`BATCHES`].
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

/// Detects black holes.
#[derive(Clone, Debug, Default)]
pub(super) struct BlackHoles {
    members: Vec<MemberReplies>,
    in_minute: u32,
}

/// Packets per new flow over all members.
#[derive(Clone, Copy, Debug)]
struct Others {
    packets: f64,
    flows: f64,
    /// The two members with the fewest packets per flow.
    fewest: [(usize, f64); 2],
    batches: Batches,
}

impl MemberReplies {
    fn per_flow(&self) -> f64 {
        self.packets / self.flows.max(1e-9)
    }

    /// Fewest packets per flow in a minute of the history.
    fn fewest_before(&self) -> Option<f64> {
        let known = &self.minutes[..self.full.min(MINUTES)];
        (self.full >= 2).then(|| known.iter().copied().fold(f64::INFINITY, f64::min))
    }
}

impl Others {
    fn of(members: &[MemberReplies]) -> Self {
        let mut all = Self {
            packets: 0.0,
            flows: 0.0,
            fewest: [(usize::MAX, f64::INFINITY); 2],
            batches: Batches::default(),
        };
        for (member, replies) in members.iter().enumerate() {
            all.packets += replies.packets;
            all.flows += replies.flows;
            all.batches.seen += replies.batches.seen;
            all.batches.silent += replies.batches.silent;
            if replies.flows < ENOUGH_PER_S {
                continue;
            }
            let this = (member, replies.per_flow());
            if this.1 < all.fewest[0].1 {
                all.fewest = [this, all.fewest[0]];
            } else if this.1 < all.fewest[1].1 {
                all.fewest[1] = this;
            }
        }
        all
    }

    fn per_flow_without(&self, replies: &MemberReplies) -> f64 {
        let flows = self.flows - replies.flows;
        if flows * PRESENT < 20.0 {
            return 0.0;
        }
        (self.packets - replies.packets) / flows
    }

    /// Frequency of silent batches without a fault: of the other members or of the member's past,
    /// whichever is higher.
    fn usually_silent(&self, own: Batches) -> f64 {
        // Half a batch is added, because few batches are uncertain.
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

impl BlackHoles {
    pub(super) fn rearrange(&mut self, places: &[Option<usize>]) {
        self.members = rearranged(&self.members, places);
    }

    pub(super) fn black_hole(&self, member: usize) -> Option<&BlackHole> {
        self.members[member].black_hole.as_ref()
    }

    pub(super) fn raised(&self) -> impl Iterator<Item = (usize, &BlackHole)> {
        self.members
            .iter()
            .enumerate()
            .filter_map(|(member, replies)| Some((member, replies.black_hole.as_ref()?)))
    }

    /// Packets per new flow of a member and of the others.
    pub(super) fn packets_per_flow(&self, member: usize) -> (f64, f64) {
        let replies = &self.members[member];
        (
            replies.per_flow(),
            Others::of(&self.members).per_flow_without(replies),
        )
    }

    /// Share of the new flows that a member got in the last seconds.
    pub(super) fn share_of_flows(&self, member: usize) -> f64 {
        let all: f64 = self.members.iter().map(|replies| replies.flows).sum();
        self.members[member].flows / all.max(f64::MIN_POSITIVE)
    }

    pub(super) fn observe(&mut self, step: &Step, thresholds: &Thresholds) {
        if !step.has_volume {
            return;
        }
        for (replies, counts) in self.members.iter_mut().zip(&step.members) {
            replies.packets += (counts.packets / step.length_s - replies.packets) / PRESENT;
            replies.flows += (counts.got / step.length_s - replies.flows) / PRESENT;
        }
        let others = Others::of(&self.members);
        let wanted = thresholds.evidence(step.eligible);
        self.in_minute += 1;
        let minute_is_full = self.in_minute >= 60;
        for (member, (replies, counts)) in self.members.iter_mut().zip(&step.members).enumerate() {
            replies.observe(counts, member, &others, wanted, step);
            replies.update_baseline(counts, minute_is_full);
            replies.update_state(counts, wanted, step);
        }
        if minute_is_full {
            self.in_minute = 0;
        }
    }

    pub(super) fn take_samples(
        &mut self,
        samples: &Samples,
        index: &MemberIndex,
        eligible: usize,
        thresholds: &Thresholds,
    ) {
        let wanted = thresholds.evidence(eligible);
        let sum =
            |what: fn(&SampledFlows) -> u32| samples.flows_by_member.iter().map(what).sum::<u32>();
        let (flows, unanswered) = (sum(|o| o.flows), sum(|o| o.unanswered));
        for sampled_flows in &samples.flows_by_member {
            let Some(member) = index.place(&sampled_flows.member) else {
                continue;
            };
            let own = Outcomes::new(sampled_flows.flows, sampled_flows.unanswered);
            let others = Outcomes::new(
                flows.saturating_sub(sampled_flows.flows),
                unanswered.saturating_sub(sampled_flows.unanswered),
            );
            let replies = &mut self.members[member];
            replies.sampled = if own.evidence_of_black_hole(others) >= wanted {
                replies.sampled + 1
            } else {
                0
            };
        }
    }
}

/// Outcomes of sampled flows.
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

    /// Log likelihood of these outcomes if a part of `bad` is unanswered.
    fn likelihood(self, bad: f64) -> f64 {
        let part = |count: f64, odds: f64| if count > 0.0 { count * odds.ln() } else { 0.0 };
        part(self.bad, bad) + part(self.good, 1.0 - bad)
    }

    /// Log likelihood ratio of "these are of a black hole, and the others are not" against "all
    /// have the same rate", each at its best-fitting rate.
    fn evidence_of_black_hole(self, others: Self) -> f64 {
        let alike = Self {
            bad: self.bad + others.bad,
            good: self.good + others.good,
        };
        let rate = alike.part();
        if self.part() < BAD_PART || others.part() > MOST_USUAL {
            return 0.0;
        }
        self.likelihood(self.part().max(BAD_PART)) + others.likelihood(others.part())
            - alike.likelihood(rate)
    }
}

impl MemberReplies {
    fn observe(
        &mut self,
        counts: &MemberCounts,
        member: usize,
        others: &Others,
        wanted: f64,
        step: &Step,
    ) {
        if counts.share > MORE_SHARE * self.share {
            // Its share has grown: it has few old connections for its new flows.
            self.share = counts.share;
            self.minute = Default::default();
            self.full = 0;
            self.fewer = 0;
        } else {
            self.share = self.share.min(counts.share);
        }
        self.test_syns(counts, others, wanted, step);
        let fewest = self.fewest_before().unwrap_or(0.0);
        let usual = fewest.min(others.fewest_without(member));
        let fewer = self.flows >= ENOUGH_PER_S
            && self.per_flow() <= UNSERVED_PACKETS
            && self.per_flow() <= FAR_FEWER * usual;
        self.fewer = if fewer { self.fewer + 1 } else { 0 };
    }

    /// Whether anything follows the SYNs.
    fn test_syns(&mut self, counts: &MemberCounts, others: &Others, wanted: f64, step: &Step) {
        self.batch.syns += counts.got;
        self.batch.followers += (counts.packets - counts.got).max(0.0);
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
                (BAD_PART / usual).ln()
            } else {
                ((1.0 - BAD_PART) / (1.0 - usual)).ln()
            };
            self.only_syns
                .add(gain, syns, followers, bounds, step.began_s());
        } else {
            self.only_syns = Cusum::default();
        }
        // A suspected fault must not change the baseline.
        if !is_silent || (self.only_syns.llr < wanted / 2.0 && self.black_hole.is_none()) {
            self.batches.add(is_silent);
        }
    }

    fn update_baseline(&mut self, counts: &MemberCounts, minute_is_full: bool) {
        // A suspected fault must not change the baseline.
        if self.fewer == 0 && self.black_hole.is_none() {
            self.minute[0] += counts.packets;
            self.minute[1] += counts.got;
        }
        if minute_is_full {
            let [packets, flows] = std::mem::take(&mut self.minute);
            if flows >= 60.0 {
                self.minutes[self.full % MINUTES] = packets / flows;
                self.full += 1;
            }
        }
    }

    fn update_state(&mut self, counts: &MemberCounts, wanted: f64, step: &Step) {
        let sign = if self.only_syns.llr >= wanted {
            Some((Sign::OnlySyns, self.only_syns.since_s))
        } else if self.fewer >= FEWER_FOR {
            Some((Sign::FewPackets, step.now_s - f64::from(self.fewer)))
        } else if self.sampled >= 2 {
            Some((Sign::Sampled, step.now_s))
        } else {
            None
        };
        match (&self.black_hole, sign) {
            (None, Some((sign, since_s))) if counts.eligible => {
                self.normal = 0;
                self.black_hole = Some(BlackHole {
                    since_s,
                    raised_s: step.now_s,
                    sign,
                });
            }
            (Some(_), None) => {
                self.normal += 1;
                if self.normal >= NORMAL_FOR {
                    self.black_hole = None;
                }
            }
            _ => self.normal = 0,
        }
    }
}

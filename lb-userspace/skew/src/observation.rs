//! Input: counts, shares and other facts about a VIP.

use std::sync::Arc;

/// Properties of a VIP that do not change during its lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whether the protocol is TCP, whose new flows are SYNs.
    pub tcp: bool,
    /// Whether flows select members independently: true for `affinity = "flow"` with TCP or tracked
    /// UDP; false for `affinity = "source"`, and where each packet counts as a flow.
    pub independent: bool,
}

/// A VIP at one moment; made about once per second.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// Time in seconds of a monotonic clock. Findings use the same clock.
    pub at_s: f64,
    /// All members that have slots or may still get packets, in any order.
    pub members: &'a [Member],
    /// Slots of the ring.
    pub ring_size: u32,
    /// Whether slots are in transition: flows without an entry still go to previous members. No
    /// effect for TCP; otherwise existing flows are counted as new, and shares are not evaluated.
    /// False for `track = "always"`, where every flow has an entry.
    pub in_transition: bool,
    /// The newest revision that changed this VIP.
    pub change: Option<&'a Change>,
    /// Sampled flows; none if they were not read this time.
    pub samples: Option<&'a Samples>,
    /// Whether new flows of a full member may spill to others.
    pub bounded: bool,
}

/// A member at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Identifies the member across observations.
    pub name: Arc<str>,
    /// Slots divided by ring size, as read from the kernel.
    pub table_share: f64,
    /// Effective weight (with slow start) divided by the sum over all eligible members (all members
    /// in panic mode).
    pub intended_share: f64,
    /// New flows per second that it can take, if known.
    pub capacity: Option<f64>,
    pub phase: Phase,
    /// Total of new flows. A total smaller than the last one means that the counter was reset.
    pub new_flows: u64,
    /// Total of new flows as the ring assigned them, likewise: those that spilled to other members count,
    /// and those that spilled to this one do not. None: the same as `new_flows`.
    pub ring_flows: Option<u64>,
    /// Total of packets, likewise.
    pub packets: u64,
    /// Total of bytes, likewise.
    pub bytes: u64,
}

/// State of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Serves with its full weight.
    #[default]
    Serving,
    /// Has come up and serves with a part of its weight.
    SlowStart,
    /// Keeps its flows and gets no new ones.
    Draining,
    /// Down, disabled or leaving: should get nothing.
    Out,
}

impl Phase {
    /// Whether it should get new flows.
    #[must_use]
    pub fn is_eligible(self) -> bool {
        matches!(self, Self::Serving | Self::SlowStart)
    }
}

/// A revision that changed a VIP.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub revision: u64,
    /// When it was installed in the kernel; clock of [`Observation::at_s`].
    pub at_s: f64,
    /// The members whose table share it changed.
    pub moved: Vec<MovedMember>,
}

/// A member whose share a revision changed.
#[derive(Clone, Debug, PartialEq)]
pub struct MovedMember {
    pub name: Arc<str>,
    /// Table share before; 0 for a new member.
    pub before: f64,
    /// Table share after; 0 for a removed member.
    pub after: f64,
}

/// Summary of the sampled flows of a VIP.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    /// The largest flows, with their rates of the last seconds.
    pub elephants: Vec<Elephant>,
    /// Per member: flows of some seconds ago, and how many were never answered.
    pub flows_by_member: Vec<SampledFlows>,
    /// The sources with the largest shares of the flows.
    pub sources: Vec<Source>,
}

/// A large flow.
#[derive(Clone, Debug, PartialEq)]
pub struct Elephant {
    /// The flow as text: `tcp 198.51.100.7:40000 > 203.0.113.10:443`.
    pub flow: String,
    pub member: Arc<str>,
    pub packets_per_s: f64,
    pub bytes_per_s: f64,
}

/// Outcomes of the sampled flows of a member.
#[derive(Clone, Debug, PartialEq)]
pub struct SampledFlows {
    pub member: Arc<str>,
    /// Flows of the last minutes that are at least 3 s old.
    pub flows: u32,
    /// Those without an answer: several SYNs and no other packet, or nothing after the request.
    pub unanswered: u32,
}

/// A source of many flows.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Address or prefix as text.
    pub prefix: String,
    /// Its share of the VIP's flows, 0 to 1.
    pub share: f64,
    /// The member that the ring assigns most of its flows to.
    pub member: Arc<str>,
    /// The share of its flows on this member, 0 to 1.
    pub at_member: f64,
}

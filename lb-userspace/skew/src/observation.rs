//! What goes in: counts, shares and what else is known of a VIP.

use std::sync::Arc;

/// What does not change while a VIP lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whether the flows have SYNs (TCP).
    pub tcp: bool,
    /// Whether each counted flow chose its member by itself: true for `affinity = "flow"` of TCP and of
    /// UDP that is tracked; false for `affinity = "source"`, and where each packet counts as a flow.
    pub independent: bool,
}

/// The VIP at one moment; made about once a second.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// When, in seconds of a clock that does not jump. Findings speak in the same seconds.
    pub at_s: f64,
    /// All members that are in the ring or may still get packets, in any order.
    pub members: &'a [Member],
    /// Slots of the ring.
    pub ring_size: u32,
    /// Whether slots are in transition: flows without an entry still go to previous members. Where SYNs tell what
    /// is new (TCP) it changes nothing; elsewhere old flows are counted once more then, and shares say
    /// little. False for `track = "always"`, where every flow has an entry.
    pub in_transition: bool,
    /// The newest revision that changed this VIP.
    pub change: Option<&'a Change>,
    /// What sampled flows tell; none when they were not read this time.
    pub samples: Option<&'a Samples>,
}

/// A member at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its name: what it is known by from one observation to the next.
    pub name: Arc<str>,
    /// Slots over ring size, as it is in the kernel.
    pub table_share: f64,
    /// Weight in force (with slow start) over the sum of those of all members that are to get new flows (all, in
    /// panic mode).
    pub intended_share: f64,
    /// New flows a second that it can take, if that is known.
    pub capacity: Option<f64>,
    /// How it stands.
    pub phase: Phase,
    /// New flows since it was first counted. A smaller number than last time means that counting began anew.
    pub new_flows: u64,
    /// Packets, likewise.
    pub packets: u64,
    /// Bytes, likewise.
    pub bytes: u64,
}

/// How a member stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It serves with its full weight.
    #[default]
    Serving,
    /// It came up and has less than its weight.
    SlowStart,
    /// It keeps its flows, gets no new ones.
    Draining,
    /// Down, disabled or leaving: it should get nothing.
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
    /// Its number.
    pub revision: u64,
    /// When it was in the kernel, in the seconds of [`Observation::at_s`].
    pub at_s: f64,
    /// The members whose share of the table it changed.
    pub moved: Vec<Moved>,
}

/// A member whose share a revision changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Moved {
    /// Its name.
    pub name: Arc<str>,
    /// Table share before; 0 for a new one.
    pub before: f64,
    /// Table share after; 0 for one that left.
    pub after: f64,
}

/// What the sampled flows of a VIP tell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    /// The largest flows, each as it was in the last seconds.
    pub elephants: Vec<Elephant>,
    /// Flows per member that are some seconds old, and how many of them were never followed up.
    pub openings: Vec<Openings>,
    /// The sources with the largest shares of flows.
    pub sources: Vec<Source>,
}

/// A large flow.
#[derive(Clone, Debug, PartialEq)]
pub struct Elephant {
    /// The flow, as it is to be shown: `tcp 198.51.100.7:40000 > 203.0.113.10:443`.
    pub flow: String,
    /// Who has it.
    pub member: Arc<str>,
    /// Its packets a second.
    pub packets_per_s: f64,
    /// Its bytes a second.
    pub bytes_per_s: f64,
}

/// How the sampled flows of a member began.
#[derive(Clone, Debug, PartialEq)]
pub struct Openings {
    /// The member.
    pub member: Arc<str>,
    /// Flows that began in the last minutes and are at least 3 s old.
    pub flows: u32,
    /// Those of them that were not answered: several SYNs and no other packet, or nothing after the request.
    pub unanswered: u32,
}

/// A source of many flows.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// The address or prefix, as it is to be shown.
    pub prefix: String,
    /// Its part of the VIP's flows, 0 to 1.
    pub share: f64,
    /// Who has most of its flows.
    pub member: Arc<str>,
    /// The part of its flows that this member has, 0 to 1.
    pub at_member: f64,
}

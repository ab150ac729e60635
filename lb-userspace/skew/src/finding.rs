//! What comes out: findings and their causes.

use std::{fmt, sync::Arc};

/// Something that is wrong with how the traffic of a VIP is spread.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// What kind.
    pub kind: Kind,
    /// How much it matters.
    pub weight: Weight,
    /// The members that have it, the worst first; empty when it is about the whole VIP. Members
    /// that only make room for these, or take their part, are not among them.
    pub members: Vec<Affected>,
    /// When it began, as far as the counts tell; seconds as in [`super::Observation::at_s`].
    pub since_s: f64,
    /// When it was raised.
    pub raised_s: f64,
    /// The likeliest cause.
    pub cause: Cause,
    /// What that rests on, in sentences.
    pub evidence: Vec<String>,
}

impl Finding {
    /// The same text for the same cause: what alerts are grouped by within a VIP.
    #[must_use]
    pub fn cause_key(&self) -> String {
        let member = |member: &Arc<str>| format!("{}:{member}", self.cause.name());
        match &self.cause {
            Cause::Revision { number } => format!("revision:{number}"),
            Cause::NarrowHashInput { prefix, .. } => format!("narrow_hash_input:{prefix}"),
            Cause::BlackHole { member: name } | Cause::SlowBackend { member: name } => member(name),
            Cause::Elephants { .. } => match self.members.first() {
                Some(first) => member(&first.name),
                None => self.cause.name().to_owned(),
            },
            Cause::TableNotIntended
            | Cause::HeavySources
            | Cause::RingInTransition
            | Cause::Spike { .. }
            | Cause::Unknown => self.cause.name().to_owned(),
        }
    }
}

/// Kind of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Members get more new flows than their share of the table.
    Overload,
    /// Members get fewer.
    Starvation,
    /// Members get what the table says, and that is far more than a fair or their former share.
    Concentration,
    /// The table does not say what was intended.
    TableSkew,
    /// Members get more bytes than their share.
    ByteSkew,
    /// Members get more packets than their share.
    PacketSkew,
    /// A member takes flows and does not answer them.
    BlackHole,
    /// All members get far more than usual, alike.
    Spike,
}

impl Kind {
    /// Its name, as in metrics and alerts.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Overload => "overload",
            Self::Starvation => "starvation",
            Self::Concentration => "concentration",
            Self::TableSkew => "table_skew",
            Self::ByteSkew => "byte_skew",
            Self::PacketSkew => "packet_skew",
            Self::BlackHole => "black_hole",
            Self::Spike => "spike",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Weight {
    /// Good to know; explained, and over by itself: nobody is to be woken. Not an alarm.
    Note,
    /// Somebody should look.
    Warning,
    /// A member gets twice its share or more, or nothing, or answers nothing.
    Critical,
}

/// A member that a finding is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Affected {
    /// Its name.
    pub name: Arc<str>,
    /// What it got over what it should have got, since the finding began.
    pub ratio: f64,
    /// The part of the VIP's flows (bytes, packets) that it got.
    pub observed_share: f64,
    /// The part that it should have got.
    pub expected_share: f64,
    /// How many standard deviations that is.
    pub z: f64,
}

/// The likeliest cause of a finding.
#[derive(Clone, Debug, PartialEq)]
pub enum Cause {
    /// A revision did it: it moved these members that way, just before.
    Revision {
        /// Its number.
        number: u64,
    },
    /// The ring in the kernel is not what the weights ask for: a fault of configuration or build.
    TableNotIntended,
    /// Too little of the packets goes into the hash, so that one source is one flow.
    NarrowHashInput {
        /// The source.
        prefix: String,
        /// Its part of the VIP's flows.
        share: f64,
    },
    /// Few flows that have most of the bytes or packets.
    Elephants {
        /// They, the largest first.
        flows: Vec<String>,
    },
    /// The member takes flows and answers none.
    BlackHole {
        /// The member.
        member: Arc<str>,
    },
    /// Whole sources are hashed, and nothing else explains it: which they are is not known.
    HeavySources,
    /// Flows go to previous members until the transition ends.
    RingInTransition,
    /// Everything is more, for all members alike.
    Spike {
        /// Times the usual rate.
        times: f64,
    },
    /// The member answers late: the likeliest where nothing else explains that it is opened more often.
    SlowBackend {
        /// The member.
        member: Arc<str>,
    },
    /// Nothing that is known explains it.
    Unknown,
}

impl Cause {
    /// Whether it is only what remains when nothing that is known explains a finding: what is looked at next may tell.
    #[must_use]
    pub fn is_a_guess(&self) -> bool {
        matches!(self, Self::Unknown | Self::HeavySources)
    }

    /// Its name, as in metrics and alerts.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Revision { .. } => "revision",
            Self::TableNotIntended => "table_not_intended",
            Self::NarrowHashInput { .. } | Self::HeavySources => "narrow_hash_input",
            Self::Elephants { .. } => "elephants",
            Self::BlackHole { .. } => "black_hole",
            Self::RingInTransition => "ring_in_transition",
            Self::Spike { .. } => "spike",
            Self::SlowBackend { .. } => "slow_backend",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revision { number } => write!(f, "revision {number}"),
            Self::TableNotIntended => f.write_str("the table is not what the weights ask for"),
            Self::NarrowHashInput { prefix, share } => {
                write!(
                    f,
                    "one source, {prefix}, has {:.0} % of the flows",
                    share * 100.0
                )
            }
            Self::HeavySources => f.write_str(
                "a few sources have many of the flows, and each is at one member (affinity is by source)",
            ),
            Self::Elephants { flows } => write!(f, "large flows: {}", flows.join(", ")),
            Self::BlackHole { member } => write!(f, "{member} takes flows and answers none"),
            Self::RingInTransition => f.write_str("the ring is in transition"),
            Self::Spike { times } => write!(f, "a spike: {times:.1} times the usual new flows"),
            Self::SlowBackend { member } => {
                write!(f, "{member} is slow, or is asked again and again")
            }
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

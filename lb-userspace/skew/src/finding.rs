//! Output: findings and their causes.

use std::{fmt, sync::Arc};

/// A deviation in the distribution of a VIP's traffic.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub kind: Kind,
    pub severity: Severity,
    /// The members that deviate, the worst first; empty if it concerns the whole VIP. Members that
    /// deviate only as a consequence are not included.
    pub members: Vec<Affected>,
    /// Estimated onset; clock of [`super::Observation::at_s`].
    pub since_s: f64,
    pub raised_s: f64,
    pub cause: Cause,
    /// Sentences that support the cause.
    pub evidence: Vec<String>,
    /// Whether a bound may have spilled what members have too much of.
    pub bounded: bool,
}

impl Finding {
    /// Identifies the cause within a VIP; alerts are grouped by it.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Members get more new flows than their table share.
    Overload,
    /// Members get fewer new flows than their table share.
    Starvation,
    /// The traffic follows the table, and the table gives members far more than a fair or their
    /// former share.
    Concentration,
    /// The table share differs from the intended share.
    TableSkew,
    /// Members get more bytes than their share.
    ByteSkew,
    /// Members get more packets than their share.
    PacketSkew,
    /// A member accepts connections but never replies.
    BlackHole,
    /// New flows of all members exceed their usual rate.
    Spike,
}

impl Kind {
    /// Name in metrics and alerts.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Explained and temporary; no alert.
    Note,
    /// Needs attention.
    Warning,
    /// A member gets at least twice or at most half of its share, never replies, or is above its
    /// capacity.
    Critical,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Affected {
    pub name: Arc<str>,
    /// Observed divided by expected amount, since the onset.
    pub ratio: f64,
    /// Observed share of the VIP's flows (bytes, packets).
    pub observed_share: f64,
    /// Expected share.
    pub expected_share: f64,
    /// Deviation in standard deviations.
    pub z: f64,
}

/// The likeliest cause of a finding.
#[derive(Clone, Debug, PartialEq)]
pub enum Cause {
    /// A revision changed the shares of these members shortly before.
    Revision { number: u64 },
    /// The ring in the kernel does not match the weights: a fault of the configuration or the
    /// build.
    TableNotIntended,
    /// The hash covers too little of the packets, so that one source counts as one flow.
    NarrowHashInput {
        prefix: String,
        /// Its share of the VIP's flows.
        share: f64,
    },
    /// A few flows have most of the bytes or packets.
    Elephants {
        /// The largest first.
        flows: Vec<String>,
    },
    /// The member accepts connections but never replies.
    BlackHole { member: Arc<str> },
    /// The hash covers only the source, and nothing else explains it; the sources are unknown.
    HeavySources,
    /// Flows go to previous members until the transition ends.
    RingInTransition,
    /// Traffic has grown for all members alike.
    Spike {
        /// Multiple of the usual rate.
        times: f64,
    },
    /// The member replies late: the likeliest cause if nothing else explains its additional
    /// connections.
    SlowBackend { member: Arc<str> },
    /// No known cause explains it.
    Unknown,
}

impl Cause {
    /// Whether it is only the fallback without a known explanation; later observations may explain
    /// it.
    #[must_use]
    pub fn is_a_guess(&self) -> bool {
        matches!(self, Self::Unknown | Self::HeavySources)
    }

    /// Name in metrics and alerts.
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
            Self::TableNotIntended => f.write_str("the table does not match the weights"),
            Self::NarrowHashInput { prefix, share } => {
                write!(
                    f,
                    "one source, {prefix}, has {:.0} % of the flows",
                    share * 100.0
                )
            }
            Self::HeavySources => f.write_str(
                "a few sources have many of the flows, and each is on one member (affinity = \"source\")",
            ),
            Self::Elephants { flows } => write!(f, "large flows: {}", flows.join(", ")),
            Self::BlackHole { member } => write!(f, "{member} accepts connections but never replies (black hole)"),
            Self::RingInTransition => f.write_str("the ring is in transition"),
            Self::Spike { times } => write!(f, "a spike: {times:.1} times the usual rate of new flows"),
            Self::SlowBackend { member } => {
                write!(f, "{member} is slow, or clients reconnect to it repeatedly")
            }
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

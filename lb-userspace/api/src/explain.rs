//! What the data path would do with a packet.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A packet to explain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// `tcp 198.51.100.7:40000 > 203.0.113.10:443`; IPv6 addresses in brackets.
    pub flow: String,
    /// Whether the packet opens the connection (TCP SYN).
    #[serde(default)]
    pub syn: bool,
}

/// What the data path would do with a packet, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// The flow, as it was understood.
    pub flow: String,
    /// The steps, in order.
    pub steps: Vec<ExplainStep>,
    /// What becomes of the packet: `tx`, `redirect`, `pass` or `drop`.
    pub verdict: String,
    /// The reason that is counted.
    pub reason: String,
    /// The VIP, if one has it.
    pub vip: Option<String>,
    /// The backend that gets it, if one does.
    pub backend: Option<String>,
}

/// A step of an explanation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExplainStep {
    /// What is looked at: `vip`, `hash`, `slot`, `transition`, `tracking`, `member`, `next hop`.
    pub step: String,
    /// What is found there, in words.
    pub finding: String,
}

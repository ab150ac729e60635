//! What the data path would do with a packet.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A packet to explain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// `tcp 198.51.100.7:40000 > 203.0.113.10:443`; IPv6 addresses in brackets.
    pub flow: String,
    /// Whether the packet is a TCP SYN.
    #[serde(default)]
    pub syn: bool,
}

/// What the data path would do with a packet, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// The flow as parsed.
    pub flow: String,
    /// The lookups, in order.
    pub steps: Vec<ExplainStep>,
    /// XDP verdict: `tx`, `redirect`, `pass` or `drop`.
    pub verdict: String,
    /// Name of the reason counter that would be incremented.
    pub reason: String,
    /// The matching VIP, if any.
    pub vip: Option<String>,
    /// The selected backend, if any.
    pub backend: Option<String>,
}

/// A step of an explanation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExplainStep {
    /// `vip`, `hash`, `slot`, `transition`, `tracking`, `member` or `next hop`.
    pub step: String,
    /// Result of the step.
    pub finding: String,
}

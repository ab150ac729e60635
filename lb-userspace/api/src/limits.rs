//! Limits: what traffic of the last hour says about them.

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;
use utoipa::ToSchema;

/// Limits that would have limited nobody in what was seen of a VIP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LimitSuggestion {
    /// Name of the VIP.
    pub vip: String,
    /// What the suggestion is based on.
    pub seen: SeenTraffic,
    /// Limits of the VIP, for `[vip.limit]`.
    pub limit: SuggestedRates,
    /// Limits of each source, for `[vip.limit.source]`.
    pub source: SuggestedRates,
    /// Why the suggestion may not fit, and what to consider.
    pub warnings: Vec<String>,
    /// The limits as TOML with comments; belongs below the `[[vip]]`.
    pub toml: String,
}

/// Traffic of a VIP since the controller started, up to one hour. Rates of sources are estimates from
/// sampled flows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SeenTraffic {
    /// Whole minutes seen.
    pub minutes: u32,
    /// New flows of the VIP.
    pub new_flows: u64,
    /// Packets of the VIP.
    pub packets: u64,
    /// Highest rate of new flows over ten seconds, per second.
    pub peak_new_flows_per_s: f64,
    /// Highest rate of packets over ten seconds, per second.
    pub peak_packets_per_s: f64,
    /// Number of sources seen that are not exempt or denied.
    pub sources: u32,
    /// Whether only the busiest sources were kept.
    pub busiest_only: bool,
    /// The source with the highest rate of new flows.
    pub busiest_by_new_flows: Option<SourceTraffic>,
    /// The source with the highest rate of packets.
    pub busiest_by_packets: Option<SourceTraffic>,
}

/// What a source sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SourceTraffic {
    /// Address or prefix: `198.51.100.7`, `2001:db8:7::/64`.
    pub source: String,
    /// Highest rate of new flows over ten seconds, per second.
    pub new_flows_per_s: f64,
    /// Highest rate of packets over ten seconds, per second.
    pub packets_per_s: f64,
    /// Part of the new flows of the VIP, from 0 to 1.
    pub share_of_new_flows: f64,
    /// Part of the packets of the VIP, from 0 to 1.
    pub share_of_packets: f64,
}

/// Suggested limits; none where there should be no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SuggestedRates {
    /// New flows per second.
    pub new_flows: Option<u32>,
    /// New flows at once.
    pub new_flows_burst: Option<u32>,
    /// Packets per second.
    pub packets: Option<u32>,
    /// Packets at once.
    pub packets_burst: Option<u32>,
}

/// Whom the limits of a VIP after a change would have limited in the last hour. Only in plans of
/// changes that make limits stricter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LimitsPlan {
    /// Whole minutes that the controller has seen of the VIP; 0: nothing can be said.
    pub minutes: u32,
    /// Limits of the VIP that its peak exceeds.
    pub vip: Vec<ExceededLimit>,
    /// Number of sources seen that are not exempt or denied.
    pub sources: u32,
    /// Whether only the busiest sources were kept.
    pub busiest_only: bool,
    /// Number of sources that exceeded a limit.
    pub limited: u32,
    /// The first ten of them, those that exceed their limits most.
    pub limited_sources: Vec<LimitedSource>,
    /// Number of sources seen that denied prefixes contain.
    pub denied: u32,
    /// The first ten of them: addresses or prefixes.
    pub denied_sources: Vec<String>,
    /// What can't be told from the traffic of the last hour, and why rates may be wrong.
    pub notes: Vec<String>,
}

/// A source that exceeded a limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LimitedSource {
    /// Address or prefix: `198.51.100.7`, `2001:db8:7::/64`.
    pub source: String,
    /// The limits that it exceeded.
    pub exceeded: Vec<ExceededLimit>,
}

/// A limit that was exceeded: the rate over ten seconds was above the limit plus a tenth of its burst.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExceededLimit {
    /// What is limited.
    pub of: LimitedRate,
    /// The highest rate over ten seconds, per second.
    pub rate_per_s: f64,
    /// The limit, per second.
    pub limit_per_s: u32,
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum LimitedRate {
    /// New flows.
    NewFlows,
    /// Packets.
    Packets,
}

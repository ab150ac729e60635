//! Bounds of the new flows of backends.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How many new flows the bound of a VIP after a change would have spilled in the last hour: an
/// estimate from the new flows of each backend in steps of ten seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BoundPlan {
    /// Whole minutes that the controller has seen of the VIP.
    pub minutes: u32,
    /// Why there is no estimate, and the numbers are 0; none if there is one.
    pub unknown: Option<String>,
    /// New flows in that time.
    pub new_flows: u64,
    /// Share of them that would have spilled to another backend.
    pub spilled: f64,
    /// Share of them that were over a bound when no other backend had room: they would have gone where
    /// the ring says.
    pub unplaced: f64,
    /// Number of backends that would have been full at times.
    pub full: u32,
    /// The first ten of them, those with the most flows over their bounds.
    pub full_backends: Vec<FullBackend>,
    /// What the estimate leaves out, and what the bound does not bound.
    pub notes: Vec<String>,
}

/// A backend that would have been full at times.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FullBackend {
    /// Name of the backend.
    pub backend: String,
    /// Its part of all spilled flows.
    pub share_of_spilled: f64,
    /// Its new flows while it was full, as a multiple of its share.
    pub times_share: f64,
    /// Its highest rate of new flows while it was full, over ten seconds, per second.
    pub peak_new_flows_per_s: f64,
    /// Its capacity, if it exceeded that.
    pub capacity: Option<u32>,
    /// For how long it was full, in seconds.
    pub seconds: u32,
}

//! Capacity signals for operators and autoscalers.

use crate::node::VipState;

/// Used and missing capacity of a VIP, in new flows per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Capacity {
    /// Number of eligible backends.
    pub eligible: usize,
    /// Their total capacity.
    pub eligible_capacity: f64,
    /// Current rate over the eligible capacity; above 1: overloaded.
    pub utilisation: f64,
    /// Remaining capacity if the largest eligible backend failed; negative: the others would be
    /// overloaded.
    pub headroom_after_failure: f64,
    /// Backends of the current mean capacity that would bring the utilisation to its target; at least 1.
    pub wanted_backends: u32,
}

impl Capacity {
    /// None if no backend is eligible or the capacity of an eligible one is unknown.
    #[must_use]
    pub fn of(vip: &VipState) -> Option<Self> {
        let eligible: Vec<_> = vip.members.iter().filter(|m| m.is_eligible()).collect();
        let capacities: Option<Vec<f64>> = eligible
            .iter()
            .map(|member| member.capacity.map(f64::from))
            .collect();
        let capacities = capacities.filter(|capacities| !capacities.is_empty())?;
        let total: f64 = capacities.iter().sum();
        let largest = capacities.iter().copied().fold(0.0, f64::max);
        let now = vip.rates.new_flows_per_s;
        let mean = total / capacities.len() as f64;
        let wanted = (now / (vip.target_utilisation * mean)).ceil().max(1.0);
        Some(Self {
            eligible: capacities.len(),
            eligible_capacity: total,
            utilisation: now / total,
            headroom_after_failure: total - largest - now,
            // Saturates.
            wanted_backends: wanted as u32,
        })
    }
}

//! What the rates mean for the size of a service: signals that an autoscaler can act on.

use crate::node::VipState;

/// How much of a VIP's capacity is used, and how many backends it should have.
///
/// All of it is in new flows a second, and only known when every eligible backend has a `capacity`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Capacity {
    /// Backends that can get new flows.
    pub eligible: usize,
    /// What the eligible backends can take together, new flows a second.
    pub eligible_capacity: f64,
    /// New flows a second now over the eligible capacity; above 1 it is exceeded.
    pub utilisation: f64,
    /// New flows a second that could still be added if the largest eligible backend failed;
    /// negative: the others could not take what there is now.
    pub headroom_after_failure: f64,
    /// Backends of the present mean size that would bring the utilisation to its target; 1 at least.
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
            // Saturates; nobody has so many.
            wanted_backends: wanted as u32,
        })
    }
}

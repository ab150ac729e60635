//! What the controller has seen of each VIP in the last hour, for plans and suggestions.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::reconciler::ServiceId;
use lb_model::{config, flows::FlowHistory, sources::SourceHistory};

/// The histories of all VIPs since the controller started.
#[derive(Clone, Debug, Default)]
pub(in crate::engine) struct Histories {
    sources: Shared<SourceHistory>,
    flows: Shared<FlowHistory>,
}

type ByService<T> = BTreeMap<ServiceId, T>;
type Shared<T> = Arc<Mutex<ByService<T>>>;

impl Histories {
    /// What the sources of a VIP sent; empty if it is new.
    pub(in crate::engine) fn sources(&self, vip: &config::Vip) -> SourceHistory {
        let histories = self.lock_sources();
        let known = histories.get(&ServiceId::of(vip)).cloned();
        known.unwrap_or_else(|| SourceHistory::new(vip.address))
    }

    /// The new flows of the backends of a VIP; empty if it is new.
    pub(in crate::engine) fn flows(&self, vip: &config::Vip) -> FlowHistory {
        let histories = self.lock_flows();
        let known = histories.get(&ServiceId::of(vip)).cloned();
        known.unwrap_or_default()
    }

    pub(super) fn lock_sources(&self) -> MutexGuard<'_, ByService<SourceHistory>> {
        lock(&self.sources)
    }

    pub(super) fn lock_flows(&self) -> MutexGuard<'_, ByService<FlowHistory>> {
        lock(&self.flows)
    }
}

fn lock<T>(shared: &Shared<T>) -> MutexGuard<'_, ByService<T>> {
    // A panic leaves whole values behind.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

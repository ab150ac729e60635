//! Publishes the state of the node, and derives alerts from the state that is about to be published.

use std::sync::Arc;

use tokio::sync::watch;

use crate::{
    alerts::{Alerts, Condition, Limits, Observer},
    node::NodeState,
};

pub(super) struct Publisher {
    states: watch::Sender<Arc<NodeState>>,
    alerts: Alerts,
    observer: Observer,
}

impl Publisher {
    pub(super) fn new(states: watch::Sender<Arc<NodeState>>, alerts: Alerts) -> Self {
        Self {
            states,
            alerts,
            observer: Observer::default(),
        }
    }

    /// Publishes a state with the alerts that are firing.
    pub(super) fn publish(&self, state: NodeState) {
        let alerts = self.alerts.list();
        self.states
            .send_replace(Arc::new(NodeState { alerts, ..state }));
    }

    /// Updates the alerts from a state and from other `conditions`, then publishes it with them.
    pub(super) fn publish_with_alerts(
        &mut self,
        state: NodeState,
        limits: &Limits,
        conditions: impl IntoIterator<Item = Condition>,
    ) {
        let mut all = self.observer.conditions(&state, limits);
        all.extend(conditions);
        self.alerts.update(state.at, &all);
        self.publish(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{metrics::example::example, node::InterfaceMode};

    #[test]
    fn a_published_state_has_the_alerts_of_that_state() {
        let healthy = example(1, 4).state;
        let (states, published) = watch::channel(Arc::new(healthy.clone()));
        let mut publisher = Publisher::new(states, Alerts::in_memory());
        let mut generic = healthy;
        generic.node.interfaces[0].mode = InterfaceMode::Generic;
        publisher.publish_with_alerts(generic, &Limits::default(), []);
        let state = published.borrow();
        let kinds: Vec<&str> = state.alerts.iter().map(|alert| &*alert.kind).collect();
        assert_eq!(kinds, ["generic_xdp"]);
    }
}

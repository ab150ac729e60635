//! Publishes the state of the node, and derives alerts from the state that is about to be published.

use std::{io, sync::Arc};

use jiff::SignedDuration;
use lb_model::config::Config;
use tokio::sync::watch;

use crate::{
    alerts::{Alerts, Condition, Limits, Observer},
    metrics::{Changes, Facts},
    node::NodeState,
};

pub(super) struct Publisher {
    states: watch::Sender<Arc<NodeState>>,
    facts: watch::Sender<Arc<Facts>>,
    alerts: Alerts,
    observer: Observer,
}

impl Publisher {
    pub(super) fn new(
        states: watch::Sender<Arc<NodeState>>,
        facts: watch::Sender<Arc<Facts>>,
        alerts: Alerts,
    ) -> Self {
        Self {
            states,
            facts,
            alerts,
            observer: Observer::default(),
        }
    }

    /// Adopts the settings of a configuration.
    pub(super) fn configure(&self, config: &Config) {
        self.alerts.configure(&config.alerts);
        self.update_facts(|facts| facts.configure(config));
    }

    pub(super) fn update_facts(&self, update: impl FnOnce(&mut Facts)) {
        self.facts.send_modify(|facts| update(Arc::make_mut(facts)));
    }

    /// Counts the result of a change.
    pub(super) fn count_change(&self, count: impl FnOnce(&mut Changes)) {
        self.update_facts(|facts| count(&mut facts.changes));
    }

    /// Moves the times of alerts after the system clock was set.
    pub(super) fn clock_was_set(&self, by: SignedDuration) {
        self.alerts.clock_was_set(by);
    }

    /// Saves the alerts for the last time.
    pub(super) fn finish(&self) -> io::Result<()> {
        self.alerts.finish()
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
        // Those before this state: some continue.
        let alerts = self.alerts.list();
        let state = NodeState { alerts, ..state };
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
        let (facts, _) = watch::channel(Arc::default());
        let (states, published) = watch::channel(Arc::new(healthy.clone()));
        let mut publisher = Publisher::new(states, facts, Alerts::in_memory());
        let mut generic = healthy;
        generic.node.interfaces[0].mode = InterfaceMode::Generic;
        publisher.publish_with_alerts(generic, &Limits::default(), []);
        let state = published.borrow();
        let kinds: Vec<&str> = state.alerts.iter().map(|alert| &*alert.kind).collect();
        assert_eq!(kinds, ["generic_xdp"]);
    }
}

//! The node as a member of a fleet: starts the agent of `lb-fleet`, and gives it the engine as its node.

mod exchange;
mod node;
mod told;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use lb_dataplane::Pins;
use lb_fleet::{Fleet, Settings, Tls};
use lb_model::config::{self, Config};
use tracing::{error, info, warn};

use crate::engine::Engine;
use node::EngineNode;

/// The agent's handle, none outside of a fleet. Empty until the controller has started.
pub type FleetSlot = Arc<OnceLock<Option<Fleet>>>;

/// How long the end of the controller waits for the agent, which resigns as leader.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// Starts the agent, if the configuration has `[fleet]`. It runs on the current tokio runtime.
pub(crate) fn start(engine: &Engine, config: &Config, pins: &Pins) {
    let agent = config.fleet.as_ref();
    let agent = agent.map(|fleet| start_agent(engine, config, fleet, pins));
    if agent.as_ref().and_then(Fleet::exchange).is_none() {
        engine.expect_no_past();
    }
    // Nothing else fills the slot.
    let _ = engine.fleet_slot().set(agent);
}

/// Stops the agent, so that another node leads at once. A candidate stays on trial.
pub(crate) async fn stop(engine: &Engine) {
    let Ok(fleet) = engine.fleet() else { return };
    if tokio::time::timeout(STOP_LIMIT, fleet.stop())
        .await
        .is_err()
    {
        warn!("the fleet agent has not stopped: etcd does not answer");
    }
}

fn start_agent(engine: &Engine, config: &Config, fleet: &config::Fleet, pins: &Pins) -> Fleet {
    let settings = Settings {
        fleet: fleet.name.clone(),
        node: fleet.node.clone(),
        rack: fleet.rack.clone(),
        exchange: fleet.exchange,
        endpoints: fleet.endpoints.clone(),
        tls: Some(Tls {
            ca: fleet.ca_file.clone(),
            client: Some((fleet.cert_file.clone(), fleet.key_file.clone())),
        }),
        state_file: config.node.state_dir.join("fleet.json"),
        bake_s: seconds(config.change.bake),
        confirm_s: seconds(fleet.confirm),
    };
    info!(
        fleet = settings.fleet,
        node = settings.node,
        "fleet agent started"
    );
    let node = EngineNode::new(engine.clone(), config);
    let exchange = fleet.exchange.map(|_| exchange::start(engine, pins));
    let (tables, keeper) = match exchange {
        Some(Ok((tables, keeper))) => (Some(tables), Some(keeper)),
        Some(Err(error)) => {
            error!(%error, "can't open the tables: the past of connections is not exchanged with other nodes");
            (None, None)
        }
        None => (None, None),
    };
    let agent = Fleet::start_with(settings, node, tables);
    let keeper = keeper.zip(agent.exchange());
    if let Some(Err(error)) = keeper.map(|(keeper, states)| keeper.run(states)) {
        error!(%error, "the past of connections is not exchanged with other nodes");
        engine.expect_no_past();
    }
    agent
}

/// Whole seconds, rounded up.
fn seconds(time: Duration) -> u32 {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

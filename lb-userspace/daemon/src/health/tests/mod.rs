//! The judge on random results; probes and runner on the loopback interface.

mod cost;
mod judging;
mod probing;
mod running;
mod server;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::Target;
use lb_model::config::{self, Fraction, HealthKind, Via};

/// Frequent checks with a timeout that suits a busy machine.
fn health(kind: HealthKind) -> config::Health {
    config::Health {
        kind,
        port: 0,
        interval: Duration::from_millis(40),
        fast_interval: Duration::from_millis(20),
        jitter: Fraction::TENTH,
        timeout: Duration::from_secs(5),
        rise: 2,
        fall: 3,
        via: Via::Direct,
        damping: true,
        slow_start: Duration::ZERO,
        panic_threshold: Fraction::HALF,
    }
}

fn target(at: SocketAddr, health: config::Health) -> Target {
    Target {
        vip: "web".to_owned(),
        backend: "web-1".to_owned(),
        address: at.ip(),
        port: at.port(),
        vip_address: "192.0.2.1".parse().unwrap(),
        vip_port: 80,
        health: Arc::new(health),
        initial: false,
        source: None,
        member: None,
    }
}

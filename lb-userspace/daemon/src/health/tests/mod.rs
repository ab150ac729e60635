//! The judge on random results; probes and runner on the loopback interface.

mod cost;
mod judging;
mod probing;
mod running;
mod server;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::Target;
use lb_model::config::{self, HealthKind, Via};

/// Frequent checks with a timeout that suits a busy machine.
fn health(kind: HealthKind) -> config::Health {
    config::Health {
        kind,
        interval: Duration::from_millis(40),
        fast_interval: Duration::from_millis(20),
        timeout: Duration::from_secs(5),
        via: Via::Direct,
        ..defaults()
    }
}

/// The defaults of `[vip.health]`.
fn defaults() -> config::Health {
    let text = "[node]\ninterfaces = [\"eth0\"]\nhash_seed = \"000102030405060708090a0b0c0d0e0f\"\n\
                [[vip]]\nname = \"web\"\naddress = \"192.0.2.1\"\nport = 80\nprotocol = \"tcp\"\n\
                forward = \"l2\"\nhealth.kind = \"tcp\"\n\
                [[vip.backend]]\nname = \"web-1\"\naddress = \"10.0.0.1\"\n";
    let config = config::parse("health.toml", text).unwrap();
    config.vips[0].health.clone().unwrap()
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

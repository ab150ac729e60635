//! Publishes an address in the status of its Service once this node announces it.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use lb_api::{AddressState, ErrorCode, FleetNodeState, client::Client};
use tokio::time::{Instant, sleep_until};

use crate::{
    cluster::Cluster,
    plan::Settings,
    publish::Publisher,
    service::{ServiceKey, is_deleted, is_ours, published},
};

/// How often the node is asked: while a VIP of it is not published, while a Service has no address, and otherwise.
const SOON: Duration = Duration::from_millis(500);
const WAITING: Duration = Duration::from_secs(2);
const LATER: Duration = Duration::from_secs(10);

/// Publishes addresses. Those that are announced no longer stay: clients know them, and another node may announce
/// them.
pub async fn run(
    cluster: &Cluster,
    settings: &Settings,
    node: Client,
    announcer: Client,
    publisher: Publisher,
) {
    let mut next = Instant::now();
    loop {
        sleep_until(next).await;
        let wait = publish(cluster, settings, (&node, &announcer), &publisher).await;
        next = Instant::now() + wait;
    }
}

/// Whether the node has the fleet's VIPs, not others that it was left with. A node without a fleet has its own.
async fn is_current(node: &Client) -> bool {
    match node.fleet().await {
        Ok(fleet) => matches!(
            fleet.state,
            FleetNodeState::InSync | FleetNodeState::OnTrial
        ),
        Err(error) => error
            .api()
            .is_some_and(|error| error.code == ErrorCode::NotFound),
    }
}

/// Returns when the node is to be asked again.
async fn publish(
    cluster: &Cluster,
    settings: &Settings,
    (node, announcer): (&Client, &Client),
    publisher: &Publisher,
) -> Duration {
    let services = cluster.services();
    let ours = (services.iter())
        .filter(|service| is_ours(service, &settings.class) && !is_deleted(service));
    let ours: Vec<_> = ours.collect();
    let is_complete = ours.iter().all(|service| !published(service).is_empty());
    let mut wait = if is_complete { LATER } else { WAITING };
    if !is_current(node).await {
        return wait;
    }
    // While one of them is away, nothing new is announced. The announcer may not know the names of a fleet's VIPs.
    let (Ok(status), Ok(vips)) = (announcer.announce_status().await, node.vips().await) else {
        return wait;
    };
    let announced: Vec<IpAddr> = (status.addresses.iter())
        .filter(|address| address.state != AddressState::Withheld)
        .map(|address| address.address)
        .collect();
    let mut by_prefix: HashMap<&str, Vec<IpAddr>> = HashMap::new();
    for vip in &vips {
        if let Some((prefix, _)) = vip.name.rsplit_once('.') {
            by_prefix.entry(prefix).or_default().push(vip.address);
        }
    }
    for service in ours {
        let prefix = ServiceKey::of(service).prefix(&settings.cluster);
        let Some(known) = by_prefix.get(prefix.as_str()) else {
            continue;
        };
        let mut addresses = published(service);
        let before = addresses.len();
        for address in known.iter().filter(|it| announced.contains(it)) {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
        if addresses.len() > before {
            publisher.addresses(service, &addresses).await;
        } else if before == 0 {
            wait = SOON;
        }
    }
    wait
}

//! Publishes an address in the status of its Service once this node announces it.

use std::{net::IpAddr, time::Duration};

use lb_api::{AddressState, client::Client};
use tokio::time::{Instant, sleep_until};

use crate::{
    cluster::Cluster,
    plan::{Settings, is_of},
    publish::Publisher,
    service::{ServiceKey, is_deleted, is_ours, published},
};

/// How often the node is asked while a Service has no address, and otherwise.
const SOON: Duration = Duration::from_millis(500);
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
        let is_complete = publish(cluster, settings, (&node, &announcer), &publisher).await;
        next = Instant::now() + if is_complete { LATER } else { SOON };
    }
}

/// Returns whether each of our Services has an address.
async fn publish(
    cluster: &Cluster,
    settings: &Settings,
    (node, announcer): (&Client, &Client),
    publisher: &Publisher,
) -> bool {
    let services = cluster.services();
    let ours = (services.iter())
        .filter(|service| is_ours(service, &settings.class) && !is_deleted(service));
    let ours: Vec<_> = ours.collect();
    let is_complete = ours.iter().all(|service| !published(service).is_empty());
    // While one of them is away, nothing new is announced. The announcer may not know the names of a fleet's VIPs.
    let (Ok(status), Ok(vips)) = (announcer.announce_status().await, node.vips().await) else {
        return is_complete;
    };
    let announced: Vec<IpAddr> = (status.addresses.iter())
        .filter(|address| address.state != AddressState::Withheld)
        .map(|address| address.address)
        .collect();
    for service in ours {
        let prefix = ServiceKey::of(service).prefix(&settings.cluster);
        let of_service = (vips.iter())
            .filter(|vip| is_of(&vip.name, &prefix) && announced.contains(&vip.address))
            .map(|vip| vip.address);
        let mut addresses = published(service);
        let known = addresses.len();
        for address in of_service {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.len() > known {
            publisher.addresses(service, &addresses).await;
        }
    }
    is_complete
}

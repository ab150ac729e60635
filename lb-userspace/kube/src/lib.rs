//! Services of Kubernetes become VIPs, and their endpoints backends.
//!
//! Each node of Evenkeel runs an instance. All set the backends of their own node, and publish an address in the
//! status of a Service once their node announces it. One of them, the leader, writes the VIPs.

use std::time::Duration;

use kube::{Client, Config};
use tokio::time::timeout;

pub mod announced;
pub mod backends;
pub mod cluster;
mod failures;
pub mod lease;
pub mod members;
pub mod plan;
pub mod pool;
pub mod publish;
pub mod service;
pub mod text;
pub mod vips;

/// Longest time of a request to the API server, other than a watch.
const LONGEST_REQUEST: Duration = Duration::from_secs(5);

/// A client of the API server. A request that fails is not repeated for minutes by itself: what is to be done is decided
/// anew, by what is known then.
///
/// # Errors
///
/// If the configuration can't be used.
pub fn connect(mut config: Config) -> Result<Client, kube::Error> {
    config.default_retry = false;
    config.connect_timeout = Some(LONGEST_REQUEST);
    Client::try_from(config)
}

/// A request that fails if it takes too long.
async fn in_time<T>(request: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    let late = |elapsed| Err(kube::Error::Service(Box::new(elapsed)));
    timeout(LONGEST_REQUEST, request).await.unwrap_or_else(late)
}

/// An error of the API server in few words.
#[must_use]
pub fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        other => other.to_string(),
    }
}

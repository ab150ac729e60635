//! Probes: single checks of a backend.
//!
//! Every check opens a connection of its own and resets it afterwards, so that a thousand checks per
//! second do not fill the node's ports with connections in TIME_WAIT.

mod exec;
mod failure;
mod http;
mod socket;
mod tls;
mod udp;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

pub use exec::adopt_orphans;
pub(crate) use exec::{KeptChild, spawn_kept};
pub use failure::{Failure, Fault};
use socket::Route;
pub use tls::TlsConfigs;

use super::Target;
use crate::nexthop::NextHops;
use lb_model::config::HealthKind;

/// What the checks of a node share.
#[derive(Debug)]
pub struct Shared {
    pub tls: TlsConfigs,
    /// The user that runs commands; `None`: that of the controller.
    pub exec_user: Option<String>,
    /// The soft and hard limits of open files of commands; `None`: those of the controller.
    pub exec_files: Option<(u64, u64)>,
    /// File descriptors that checks may have open at a time.
    pub descriptors: Semaphore,
    /// The routes to the backends, if they are known.
    pub next_hops: Option<watch::Receiver<NextHops>>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            tls: TlsConfigs::default(),
            exec_user: None,
            exec_files: None,
            descriptors: Semaphore::new(Semaphore::MAX_PERMITS),
            next_hops: None,
        }
    }
}

/// What a check that did not fail found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    Reply,
    /// Nothing arrived, neither a reply nor an error.
    Silence,
}

/// A check that can be repeated.
#[derive(Debug)]
pub struct Probe {
    kind: Kind,
    timeout: Duration,
    shared: Arc<Shared>,
    /// Names of the backend in messages.
    names: [String; 2],
}

#[derive(Debug)]
enum Kind {
    Tcp(Route),
    Http(Route, http::Exchange),
    Https(Route, http::Exchange, tls::Session),
    Udp(Route, udp::Exchange),
    Exec(exec::Command),
    /// The target cannot be checked at all.
    Broken(Failure),
}

impl Probe {
    /// Prepares the check of a target. If that fails, every run fails with the reason.
    #[must_use]
    pub fn new(target: &Target, shared: &Arc<Shared>) -> Self {
        let route = Route::new(target);
        let names = [route.to_string(), target.address.to_string()];
        let kind = match &target.health.kind {
            HealthKind::Tcp => Ok(Kind::Tcp(route)),
            HealthKind::Http(check) => {
                http::Exchange::new(target, check, 80).map(|exchange| Kind::Http(route, exchange))
            }
            HealthKind::Https {
                request,
                verify,
                ca,
            } => http::Exchange::new(target, request, 443).and_then(|exchange| {
                let session = tls::Session::new(target, request, *verify, ca.as_ref(), shared)?;
                Ok(Kind::Https(route, exchange, session))
            }),
            HealthKind::Udp { send, expect } => Ok(Kind::Udp(
                route,
                udp::Exchange::new(send.as_deref(), expect.as_deref()),
            )),
            HealthKind::Exec { command } => {
                exec::Command::new(target, command, shared).map(Kind::Exec)
            }
        };
        Self {
            kind: kind.unwrap_or_else(Kind::Broken),
            timeout: target.health.timeout,
            shared: Arc::clone(shared),
            names,
        }
    }

    /// Checks once, within the timeout, when there are file descriptors for it.
    pub async fn run(&self) -> Result<Passed, Failure> {
        let needed = match &self.kind {
            Kind::Exec(_) => exec::DESCRIPTORS,
            _ => 1,
        };
        // An error only if the semaphore is closed, which it never is.
        let _permit = self.shared.descriptors.acquire_many(needed).await;
        let result = self.check().await;
        result.map_err(|failure| {
            let names = self.names.iter();
            names.fold(failure, |failure, name| failure.without(name))
        })
    }

    async fn check(&self) -> Result<Passed, Failure> {
        let limit = Limit {
            timeout: self.timeout,
            at: Instant::now() + self.timeout,
        };
        let done = match &self.kind {
            Kind::Tcp(route) => route.connect(limit).await.map(drop),
            Kind::Http(route, exchange) => {
                let stream = route.connect(limit).await?;
                exchange.run(stream, route, limit).await
            }
            Kind::Https(route, exchange, session) => {
                let stream = route.connect(limit).await?;
                let stream = session.handshake(stream, route, limit).await?;
                exchange.run(stream, route, limit).await
            }
            Kind::Udp(route, exchange) => return exchange.run(route, limit).await,
            Kind::Exec(command) => command.run(limit).await,
            Kind::Broken(failure) => Err(failure.clone()),
        };
        done.map(|()| Passed::Reply)
    }
}

/// The deadline of a check.
#[derive(Clone, Copy, Debug)]
struct Limit {
    timeout: Duration,
    at: Instant,
}

impl Limit {
    /// Runs a step until the deadline; `late` is its failure after that.
    async fn within<T>(
        self,
        step: impl Future<Output = Result<T, Failure>>,
        late: impl FnOnce(Self) -> Failure,
    ) -> Result<T, Failure> {
        match tokio::time::timeout_at(self.at, step).await {
            Ok(result) => result,
            Err(_) => Err(late(self)),
        }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ms", self.timeout.as_millis())
    }
}

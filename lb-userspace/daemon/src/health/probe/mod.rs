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

use std::time::Duration;

use tokio::time::Instant;

pub use failure::Failure;
use socket::Route;
pub use tls::TlsConfigs;

use super::Target;
use lb_model::config::HealthKind;

/// A check that can be repeated.
#[derive(Debug)]
pub struct Probe {
    kind: Kind,
    timeout: Duration,
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
    pub fn new(target: &Target, tls: &TlsConfigs) -> Self {
        let route = Route::new(target);
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
                let session = tls::Session::new(target, request, *verify, ca.as_ref(), tls)?;
                Ok(Kind::Https(route, exchange, session))
            }),
            HealthKind::Udp { send, expect } => Ok(Kind::Udp(
                route,
                udp::Exchange::new(send.as_deref(), expect.as_deref()),
            )),
            HealthKind::Exec { command } => exec::Command::new(target, command).map(Kind::Exec),
        };
        Self {
            kind: kind.unwrap_or_else(Kind::Broken),
            timeout: target.health.timeout,
        }
    }

    /// Checks once, within the timeout.
    pub async fn run(&self) -> Result<(), Failure> {
        let limit = Limit {
            timeout: self.timeout,
            at: Instant::now() + self.timeout,
        };
        match &self.kind {
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
            Kind::Udp(route, exchange) => exchange.run(route, limit).await,
            Kind::Exec(command) => command.run(limit).await,
            Kind::Broken(failure) => Err(failure.clone()),
        }
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

//! Probes: one try each, that succeeds or says what was met.
//!
//! Every try has a connection of its own, which is closed after it; by a reset, so that a thousand checks a
//! second do not use up the ports of the node with connections that wait for late packets.

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

/// A check that can be made again and again.
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
    /// It can't even be tried.
    Broken(Failure),
}

impl Probe {
    /// The check of a target. What is wrong with it becomes the failure of every try.
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

    /// Tries once. Ends within the timeout.
    ///
    /// # Errors
    ///
    /// What was met instead of success.
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
                let stream = session.open(stream, route, limit).await?;
                exchange.run(stream, route, limit).await
            }
            Kind::Udp(route, exchange) => exchange.run(route, limit).await,
            Kind::Exec(command) => command.run(limit).await,
            Kind::Broken(failure) => Err(failure.clone()),
        }
    }
}

/// When a try must have ended.
#[derive(Clone, Copy, Debug)]
struct Limit {
    timeout: Duration,
    at: Instant,
}

impl Limit {
    /// Waits for a step; `late` says what did not happen in time.
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

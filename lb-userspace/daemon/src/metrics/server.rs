//! HTTP server of the metrics page: `GET /metrics`, gzip-compressed for clients that accept it.
//!
//! The number of connections and their lifetime are limited, so that clients that send or read nothing
//! cannot lock others out for long. (`axum::serve` has no such limits, hence [`http::serve_each`].)

use std::{io, net::SocketAddr, pin::pin, sync::Arc, task::Context, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, watch},
    time::{sleep, timeout},
};
use tower_http::compression::{CompressionLayer, CompressionLevel};
use tracing::{error, info};

use super::{Facts, Sources, render};
use crate::http;

const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Time between two attempts to listen.
const LISTEN_RETRY: Duration = Duration::from_secs(5);

/// Limits of connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Simultaneous connections; more wait.
    pub(super) connections: usize,
    /// Time for the header of a request. A kept-alive connection is closed after this time without a
    /// request.
    pub(super) header: Duration,
    /// Lifetime of a connection. From half of it on, the connection ends with the current request.
    pub(super) lifetime: Duration,
}

impl Limits {
    /// A page of 64 VIPs with 4,096 members takes 50 ms, and Prometheus waits ten seconds.
    pub(super) const DEFAULT: Self = Self {
        connections: 32,
        header: Duration::from_secs(1),
        lifetime: Duration::from_secs(10),
    };
}

/// The listener of the metrics cannot be opened.
#[derive(Debug, Error)]
#[error(
    "cannot serve metrics on {listen}: {error}; set `metrics.listen` to an address of this host and a free port"
)]
pub(super) struct MetricsError {
    listen: SocketAddr,
    error: io::Error,
}

/// Opens the listener.
///
/// # Errors
///
/// The address is not one of this host's, or the port is taken.
pub(super) async fn bind(listen: SocketAddr) -> Result<TcpListener, MetricsError> {
    let bound = TcpListener::bind(listen).await;
    bound.map_err(|error| MetricsError { listen, error })
}

/// Serves the page on the address of the active configuration, and follows its changes. A failure to
/// listen is logged once per address and retried.
pub async fn run(sources: Sources) {
    let mut facts = sources.facts.clone();
    let mut failed = None;
    loop {
        let Some(listen) = facts.borrow_and_update().listen else {
            // The controller is shutting down.
            if facts.changed().await.is_err() {
                return;
            }
            continue;
        };
        match bind(listen).await {
            Ok(listener) => {
                info!(%listen, "serving metrics");
                failed = None;
                tokio::select! {
                    () = serve(listener, sources.clone(), Limits::DEFAULT) => {}
                    () = moved(&mut facts, listen) => {}
                }
            }
            Err(error) => {
                if failed != Some(listen) {
                    error!("{error}; retrying every {} s", LISTEN_RETRY.as_secs());
                }
                failed = Some(listen);
                tokio::select! {
                    () = sleep(LISTEN_RETRY) => {}
                    () = moved(&mut facts, listen) => {}
                }
            }
        }
    }
}

/// Waits until the page has to be served on another address.
async fn moved(facts: &mut watch::Receiver<Arc<Facts>>, from: SocketAddr) {
    let elsewhere = facts.wait_for(|facts| facts.listen != Some(from));
    if elsewhere.await.is_err() {
        // The controller is shutting down.
        std::future::pending::<()>().await;
    }
}

struct Endpoint {
    sources: Sources,
    /// Renders one page at a time, so that simultaneous clients don't take the CPU from the engine.
    turn: Mutex<()>,
}

/// Serves the page until it is dropped.
pub(super) async fn serve(listener: TcpListener, sources: Sources, limits: Limits) {
    let endpoint = Endpoint {
        sources,
        turn: Mutex::new(()),
    };
    // Pages have megabytes, and the runtime has other tasks: speed comes before size.
    let gzip = CompressionLayer::new().quality(CompressionLevel::Fastest);
    let router = Router::new()
        .route("/metrics", get(page))
        .fallback(|| async { (StatusCode::NOT_FOUND, "only GET /metrics is here\n") })
        .layer(gzip)
        .with_state(Arc::new(endpoint));
    let accept = |cx: &mut Context<'_>| listener.poll_accept(cx).map_ok(|accepted| accepted.0);
    let serve = |stream| serve_connection(stream, router.clone(), limits);
    http::serve_each(limits.connections, "a metrics connection", accept, serve).await;
}

/// Serves one connection. Its errors are the client's and are ignored.
async fn serve_connection(stream: TcpStream, router: Router, limits: Limits) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.header);
    let service = TowerToHyperService::new(router);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    if timeout(limits.lifetime / 2, connection.as_mut())
        .await
        .is_err()
    {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(limits.lifetime / 2, connection).await;
    }
}

async fn page(State(endpoint): State<Arc<Endpoint>>) -> Response {
    let _turn = endpoint.turn.lock().await;
    let snapshot = endpoint.sources.snapshot();
    match tokio::task::spawn_blocking(move || render(&snapshot)).await {
        Ok(page) => ([(CONTENT_TYPE, TEXT_FORMAT)], page).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

//! The endpoint: GET /metrics, and nothing else.
//!
//! Each connection is for one request, and ends after a few seconds whatever its client does; there are never more than
//! some at a time. A client that says nothing, or does not read, holds up nobody for long.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{
        Method, StatusCode, Uri,
        header::{ALLOW, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use thiserror::Error;
use tokio::{
    net::TcpListener,
    sync::{Mutex, Semaphore, watch},
    time::{sleep, timeout},
};
use tracing::{error, info, warn};

use super::{Facts, Sources, render};

/// What the page is.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How long to wait when no connection can be taken: there may be no descriptor left.
const PAUSE: Duration = Duration::from_millis(200);

/// What clients may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Clients at a time; others wait.
    pub(super) clients: usize,
    /// How long a client may take to ask. One that only holds its place keeps the others waiting so long.
    pub(super) question: Duration,
    /// How long a connection lasts at the most, from its beginning to the end of the answer.
    pub(super) patience: Duration,
}

impl Limits {
    /// A page of 64 VIPs with 4,096 members takes 50 ms, and Prometheus waits ten seconds.
    const USUAL: Self = Self {
        clients: 32,
        question: Duration::from_secs(1),
        patience: Duration::from_secs(10),
    };
}

/// Why there are no metrics.
#[derive(Debug, Error)]
#[error(
    "metrics can't be served on {listen}: {error}; set `metrics.listen` to an address of this host and a free port"
)]
pub struct MetricsError {
    listen: SocketAddr,
    error: io::Error,
}

/// Listens.
///
/// # Errors
///
/// The address is not this host's, or taken.
pub async fn bind(listen: SocketAddr) -> Result<TcpListener, MetricsError> {
    let bound = TcpListener::bind(listen).await;
    bound.map_err(|error| MetricsError { listen, error })
}

/// Time between two tries to listen.
const RETRY: Duration = Duration::from_secs(5);

/// Serves the page for ever, where the configuration in force says. An address that can't be had is
/// said once and tried again: nobody's packets wait for metrics.
pub async fn run(sources: Sources) {
    let mut facts = sources.facts.clone();
    let mut refused = None;
    loop {
        let Some(listen) = facts.borrow_and_update().listen else {
            // Told to nobody any more: the controller is ending.
            if facts.changed().await.is_err() {
                return;
            }
            continue;
        };
        match bind(listen).await {
            Ok(listener) => {
                info!(%listen, "metrics are served");
                refused = None;
                tokio::select! {
                    () = serve(listener, sources.clone()) => {}
                    () = moved(&mut facts, listen) => {}
                }
            }
            Err(error) => {
                if refused != Some(listen) {
                    error!("{error}; it is tried again every {} s", RETRY.as_secs());
                }
                refused = Some(listen);
                tokio::select! {
                    () = sleep(RETRY) => {}
                    () = moved(&mut facts, listen) => {}
                }
            }
        }
    }
}

/// Waits until the page is to be served elsewhere.
async fn moved(facts: &mut watch::Receiver<Arc<Facts>>, from: SocketAddr) {
    let elsewhere = facts.wait_for(|facts| facts.listen != Some(from));
    if elsewhere.await.is_err() {
        // The controller is ending, and whoever waits with it.
        std::future::pending::<()>().await;
    }
}

struct Endpoint {
    sources: Sources,
    /// One page at a time: many who ask at once are not to take the machine from the engine.
    turn: Mutex<()>,
}

/// Serves the page for ever.
pub async fn serve(listener: TcpListener, sources: Sources) {
    serve_within(listener, sources, Limits::USUAL).await;
}

/// The same, with other limits.
pub(super) async fn serve_within(listener: TcpListener, sources: Sources, limits: Limits) {
    let endpoint = Endpoint {
        sources,
        turn: Mutex::new(()),
    };
    let router = Router::new()
        .fallback(answer)
        .with_state(Arc::new(endpoint));
    let places = Arc::new(Semaphore::new(limits.clients));
    // It goes on after errors of single connections, and never ends.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "a client of the metrics can't be taken");
                sleep(PAUSE).await;
                continue;
            }
        };
        let mut http = http1::Builder::new();
        http.keep_alive(false)
            .timer(TokioTimer::new())
            .header_read_timeout(limits.question);
        let service = TowerToHyperService::new(router.clone());
        let connection = http.serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            // Whether it ended well is the client's business.
            let _ = timeout(limits.patience, connection).await;
            drop(place);
        });
    }
}

async fn answer(State(endpoint): State<Arc<Endpoint>>, method: Method, uri: Uri) -> Response {
    if uri.path() != "/metrics" {
        return (StatusCode::NOT_FOUND, "only GET /metrics is here\n").into_response();
    }
    if !matches!(method, Method::GET | Method::HEAD) {
        let allow = [(ALLOW, "GET, HEAD")];
        return (StatusCode::METHOD_NOT_ALLOWED, allow).into_response();
    }
    let _turn = endpoint.turn.lock().await;
    let snapshot = endpoint.sources.snapshot();
    match tokio::task::spawn_blocking(move || render(&snapshot)).await {
        Ok(page) => ([(CONTENT_TYPE, TEXT_FORMAT)], page).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

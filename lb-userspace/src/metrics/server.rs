//! The endpoint: GET /metrics, and nothing else.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{Method, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use thiserror::Error;
use tokio::{
    net::TcpListener,
    sync::{Mutex, watch},
    time::sleep,
};
use tracing::{error, info};

use super::{Facts, Sources, render};

/// What the page is.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

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
    let endpoint = Endpoint {
        sources,
        turn: Mutex::new(()),
    };
    let router = Router::new()
        .fallback(answer)
        .with_state(Arc::new(endpoint));
    // It goes on after errors of single connections, and never ends.
    let _ = axum::serve(listener, router).await;
}

async fn answer(State(endpoint): State<Arc<Endpoint>>, method: Method, uri: Uri) -> Response {
    if uri.path() != "/metrics" || !matches!(method, Method::GET | Method::HEAD) {
        return (StatusCode::NOT_FOUND, "only GET /metrics is here\n").into_response();
    }
    let _turn = endpoint.turn.lock().await;
    let snapshot = endpoint.sources.snapshot();
    match tokio::task::spawn_blocking(move || render(&snapshot)).await {
        Ok(page) => ([(CONTENT_TYPE, TEXT_FORMAT)], page).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

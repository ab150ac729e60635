//! The announcer's socket: status, and draining the node.

mod status;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{ConnectInfo, Query, State},
    http::StatusCode,
    routing::{get, post},
};
use lb_api::{AnnounceStatus, ApiError, ErrorCode};
use serde::Deserialize;
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot, watch},
};

use super::Snapshot;
use crate::{
    caller::Caller,
    http::{Limits, serve_router},
};

type Failed = (StatusCode, Json<ApiError>);

/// A request to drain or undrain the node.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) drain: bool,
    pub(super) caller: Caller,
    pub(super) reply: oneshot::Sender<Arc<Snapshot>>,
}

#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(super) requests: mpsc::Sender<Request>,
}

impl Server {
    /// Serves until it is dropped.
    pub(super) async fn serve(self, listener: UnixListener, limits: Limits) {
        let router = Router::new()
            .route("/v1/announce", get(status))
            .route("/v1/node/drain", post(drain))
            .route("/v1/node/undrain", post(undrain))
            .with_state(self);
        serve_router(listener, router, limits).await;
    }

    async fn request(self, drain: bool, caller: Caller) -> Result<Json<AnnounceStatus>, Failed> {
        let (reply, answer) = oneshot::channel();
        let request = Request {
            drain,
            caller,
            reply,
        };
        let stopping = || {
            let error = ApiError::new(ErrorCode::Failed, "the announcer is stopping");
            (StatusCode::INTERNAL_SERVER_ERROR, Json(*error))
        };
        let sent = self.requests.send(request).await;
        sent.map_err(|_| stopping())?;
        let snapshot = answer.await.map_err(|_| stopping())?;
        Ok(Json(status::of(&snapshot)))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// Leave conditions out that are met: with many VIPs, these are most of the status.
    #[serde(default)]
    unmet: bool,
}

async fn status(State(server): State<Server>, wanted: Query<Wanted>) -> Json<AnnounceStatus> {
    let snapshot = Arc::clone(&server.snapshot.borrow());
    let mut status = status::of(&snapshot);
    if wanted.unmet {
        status.checks.retain(|check| !check.is_met);
        for address in &mut status.addresses {
            address.checks.retain(|check| !check.is_met);
        }
    }
    Json(status)
}

async fn drain(
    State(server): State<Server>,
    ConnectInfo(caller): ConnectInfo<Caller>,
) -> Result<Json<AnnounceStatus>, Failed> {
    server.request(true, caller).await
}

async fn undrain(
    State(server): State<Server>,
    ConnectInfo(caller): ConnectInfo<Caller>,
) -> Result<Json<AnnounceStatus>, Failed> {
    server.request(false, caller).await
}

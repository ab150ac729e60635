//! Client of the API: HTTP and JSON over the controller's Unix socket.
//!
//! Each endpoint is a method. Each request opens its own connection, so that nothing has to be
//! re-established after the controller restarts.

mod capture;
mod error;
mod fleet;
mod sources;
#[cfg(test)]
mod tests;

use std::{error::Error, path::PathBuf, time::Duration};

pub use capture::CaptureStream;
pub use error::ClientError;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request,
    body::Bytes,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::net::UnixStream;

use crate::{
    Alert, AnnounceStatus, ApiError, Applied, ApplyRequest, ConfirmRequest, Diff, Event,
    ExplainRequest, Explanation, FileDiff, LimitSuggestion, Plan, PlanRequest, Progress,
    ReloadRequest, Reloaded, Revision, RevisionInfo, RevisionNumber, RollbackRequest, SampledFlow,
    Status, TestedReceiver, VipStatus,
};

/// Default path of the controller's socket.
pub const DEFAULT_SOCKET: &str = "/run/evenkeel/api.sock";

/// Default timeout of a request: an apply stages, swaps and reads back before it responds.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes of a response that are read: several times the status of the largest node.
const LONGEST_BODY: usize = 256 << 20;

type Sender = http1::SendRequest<Full<Bytes>>;
type Connection = http1::Connection<TokioIo<UnixStream>, Full<Bytes>>;

type Result<T> = std::result::Result<T, ClientError>;

/// Client of a controller. Methods fail with [`ClientError`] if there is no usable response.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
}

impl Client {
    /// Creates a client of the controller that listens on `socket`, without connecting.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            timeout: TIMEOUT,
        }
    }

    /// Sets the timeout of each request.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// `GET /v1/status`.
    pub async fn status(&self) -> Result<Status> {
        self.get("/v1/status").await
    }

    /// `GET /v1/vips`.
    pub async fn vips(&self) -> Result<Vec<VipStatus>> {
        self.get("/v1/vips").await
    }

    /// `GET /v1/vips/{vip}`.
    pub async fn vip(&self, vip: &str) -> Result<VipStatus> {
        self.get(&format!("/v1/vips/{}", Segment(vip))).await
    }

    /// `GET /v1/revisions`.
    pub async fn revisions(&self) -> Result<Vec<RevisionInfo>> {
        self.get("/v1/revisions").await
    }

    /// `GET /v1/revisions/{n}`.
    pub async fn revision(&self, number: RevisionNumber) -> Result<Revision> {
        self.get(&format!("/v1/revisions/{number}")).await
    }

    /// `GET /v1/revisions/{n}`, or `GET /v1/config`, with the secrets in the text. For root only.
    pub async fn with_secrets(&self, number: Option<RevisionNumber>) -> Result<Revision> {
        match number {
            Some(number) => {
                self.get(&format!("/v1/revisions/{number}?secrets=true"))
                    .await
            }
            None => self.get("/v1/config?secrets=true").await,
        }
    }

    /// `GET /v1/config`: the active revision.
    pub async fn config(&self) -> Result<Revision> {
        self.get("/v1/config").await
    }

    /// `GET /v1/revisions/{n}/progress`.
    pub async fn progress(&self, number: RevisionNumber) -> Result<Progress> {
        self.get(&format!("/v1/revisions/{number}/progress")).await
    }

    /// `GET /v1/diff`.
    pub async fn diff(&self, from: RevisionNumber, to: RevisionNumber) -> Result<Diff> {
        self.get(&format!("/v1/diff?from={from}&to={to}")).await
    }

    /// `GET /v1/events`: those after the event `since`, oldest first, at most `limit`.
    pub async fn events(&self, since: Option<u64>, limit: Option<u32>) -> Result<Vec<Event>> {
        let since = since.map(|since| format!("since={since}"));
        let limit = limit.map(|limit| format!("limit={limit}"));
        let query: Vec<String> = since.into_iter().chain(limit).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        self.get(&format!("/v1/events{mark}{}", query.join("&")))
            .await
    }

    /// `GET /v1/alerts`.
    pub async fn alerts(&self) -> Result<Vec<Alert>> {
        self.get("/v1/alerts").await
    }

    /// `POST /v1/alerts/{id}/ack`.
    pub async fn acknowledge(&self, id: &str, who: &str) -> Result<Alert> {
        let path = format!("/v1/alerts/{}/ack", Segment(id));
        self.post(&path, &json!({ "who": who })).await
    }

    /// `POST /v1/alerts/{id}/silence`, for `for_s` seconds; 0 ends the silence.
    pub async fn silence(&self, id: &str, for_s: u32, who: &str) -> Result<Alert> {
        let path = format!("/v1/alerts/{}/silence", Segment(id));
        self.post(&path, &json!({ "for_s": for_s, "who": who }))
            .await
    }

    /// `POST /v1/alerts/test`: sends a test alert to every receiver.
    pub async fn test_alerts(&self) -> Result<Vec<TestedReceiver>> {
        self.post("/v1/alerts/test", &json!({})).await
    }

    /// `POST /v1/plan`. A plan that a guard refuses is not an error.
    pub async fn plan(&self, request: &PlanRequest) -> Result<Plan> {
        self.post("/v1/plan", request).await
    }

    /// `POST /v1/apply`.
    pub async fn apply(&self, request: &ApplyRequest) -> Result<Applied> {
        self.post("/v1/apply", request).await
    }

    /// `POST /v1/confirm`.
    pub async fn confirm(&self, request: &ConfirmRequest) -> Result<RevisionInfo> {
        self.post("/v1/confirm", request).await
    }

    /// `POST /v1/rollback`.
    pub async fn rollback(&self, request: &RollbackRequest) -> Result<Applied> {
        self.post("/v1/rollback", request).await
    }

    /// `POST /v1/reload`.
    pub async fn reload(&self, request: &ReloadRequest) -> Result<Reloaded> {
        self.post("/v1/reload", request).await
    }

    /// `GET /v1/config/diff`: from the active revision to the configuration file.
    pub async fn diff_file(&self) -> Result<FileDiff> {
        self.get("/v1/config/diff").await
    }

    /// `GET /v1/announce`, of a client of the announcer's socket.
    pub async fn announce_status(&self) -> Result<AnnounceStatus> {
        self.get("/v1/announce").await
    }

    /// `GET /v1/announce?unmet=true`: with unmet conditions only.
    pub async fn announce_problems(&self) -> Result<AnnounceStatus> {
        self.get("/v1/announce?unmet=true").await
    }

    /// `POST /v1/node/drain` or `POST /v1/node/undrain`, of a client of the announcer's socket.
    pub async fn drain_node(&self, drain: bool) -> Result<AnnounceStatus> {
        let path = if drain {
            "/v1/node/drain"
        } else {
            "/v1/node/undrain"
        };
        self.post(path, &json!({})).await
    }

    /// `POST /v1/explain`.
    pub async fn explain(&self, request: &ExplainRequest) -> Result<Explanation> {
        self.post("/v1/explain", request).await
    }

    /// `GET /v1/flows`: those of a VIP and a backend, or all.
    pub async fn flows(
        &self,
        vip: Option<&str>,
        backend: Option<&str>,
    ) -> Result<Vec<SampledFlow>> {
        let vip = vip.map(|vip| format!("vip={}", Segment(vip)));
        let backend = backend.map(|backend| format!("backend={}", Segment(backend)));
        let query: Vec<String> = vip.into_iter().chain(backend).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        self.get(&format!("/v1/flows{mark}{}", query.join("&")))
            .await
    }

    /// `GET /v1/limits/suggest`: for a VIP, or all.
    pub async fn suggest_limits(&self, vip: Option<&str>) -> Result<Vec<LimitSuggestion>> {
        let query = vip.map(|vip| format!("?vip={}", Segment(vip)));
        let query = query.unwrap_or_default();
        self.get(&format!("/v1/limits/suggest{query}")).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.send(Method::GET, path, Bytes::new()).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let body = serde_json::to_vec(body).map_err(|error| self.interrupted(path, error))?;
        self.send(Method::POST, path, body.into()).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T> {
        let response = tokio::time::timeout(self.timeout, self.exchange(method, path, body)).await;
        let (status, body) = response.map_err(|_| ClientError::Timeout {
            socket: self.socket.display().to_string(),
            path: path.into(),
            seconds: self.timeout.as_secs(),
        })??;
        parse(path, status, &body)
    }

    /// Sends a request over a connection of its own; returns the status and the body.
    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<(u16, Bytes)> {
        let broken = |error| self.interrupted(path, error);
        let (mut sender, connection, request) = self.open(method, path, body).await?;
        let cut_off = |error: Box<dyn Error + Send + Sync>| self.interrupted(path, error);
        let response = async {
            let response = sender.send_request(request).await?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), LONGEST_BODY)
                .collect()
                .await?;
            Ok((status, body.to_bytes()))
        };
        let mut connection = std::pin::pin!(connection);
        let mut response = std::pin::pin!(response);
        tokio::select! {
            biased;
            response = &mut response => response.map_err(cut_off),
            // The connection may close cleanly before the response has been read.
            closed = &mut connection => match closed {
                Ok(()) => response.await.map_err(cut_off),
                Err(error) => Err(broken(error)),
            },
        }
    }

    /// Opens a connection for a request.
    async fn open(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(Sender, Connection, Request<Full<Bytes>>)> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| ClientError::connecting(&self.socket, error))?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.interrupted(path, error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "evenkeel")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.interrupted(path, error))?;
        Ok((sender, connection, request))
    }

    fn interrupted(
        &self,
        path: &str,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> ClientError {
        ClientError::Interrupted {
            socket: self.socket.display().to_string(),
            path: path.into(),
            source: source.into(),
        }
    }
}

fn parse<T: DeserializeOwned>(path: &str, status: u16, body: &[u8]) -> Result<T> {
    let unreadable = |source| ClientError::Unreadable {
        path: path.into(),
        status,
        source,
    };
    if (200..300).contains(&status) {
        // An empty body stands for null.
        let body = if body.is_empty() { b"null" } else { body };
        return serde_json::from_slice(body).map_err(unreadable);
    }
    let error: ApiError = serde_json::from_slice(body).map_err(unreadable)?;
    Err(ClientError::Api(Box::new(error)))
}

/// A path segment, percent-encoded.
struct Segment<'name>(&'name str);

impl std::fmt::Display for Segment<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for byte in self.0.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    write!(f, "{}", char::from(byte))?;
                }
                _ => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

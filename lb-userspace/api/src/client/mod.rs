//! The client of the API: HTTP and JSON over the controller's Unix socket.
//!
//! Each endpoint is a method with the types of [`crate`]. A request is a connection of
//! its own: nothing has to be mended after the controller was restarted.

mod error;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, time::Duration};

pub use error::ClientError;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request,
    body::Bytes,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use crate::{
    Alert, ApiError, Applied, ApplyRequest, ConfirmRequest, Diff, Event, ExplainRequest,
    Explanation, MemberStatus, Plan, PlanRequest, Progress, Revision, RevisionInfo, RevisionNumber,
    RollbackRequest, Status, VipStatus,
};

/// Where the controller's socket is, unless it is told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/evenkeel/api.sock";

/// How long an answer may take: an apply stages, swaps and reads back before it answers.
const PATIENCE: Duration = Duration::from_secs(60);

type Answer<T> = Result<T, ClientError>;

/// How a receiver of alerts answered a test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tested {
    /// `alertmanager` or `webhook`.
    pub kind: String,
    /// Scheme, host and port of its URL.
    pub receiver: String,
    /// Why it failed; none if it did not.
    pub error: Option<String>,
}

/// A client. Its methods fail with [`ClientError`] when no answer comes or the controller says no.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    patience: Duration,
}

impl Client {
    /// A client of the controller that listens at `socket`. Nothing is connected yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            patience: PATIENCE,
        }
    }

    /// Gives answers this much time.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Everything on one screen: `GET /v1/status`.
    ///
    /// # Errors
    ///
    /// See [`Client`]; so for all others.
    pub async fn status(&self) -> Answer<Status> {
        self.get("/v1/status").await
    }

    /// The VIPs: `GET /v1/vips`.
    ///
    /// # Errors
    ///
    /// See [`Client`].
    pub async fn vips(&self) -> Answer<Vec<VipStatus>> {
        self.get("/v1/vips").await
    }

    /// A VIP: `GET /v1/vips/{vip}`.
    ///
    /// # Errors
    ///
    /// See [`Client`].
    pub async fn vip(&self, vip: &str) -> Answer<VipStatus> {
        self.get(&format!("/v1/vips/{}", Segment(vip))).await
    }

    /// A member: `GET /v1/vips/{vip}/backends/{backend}`.
    ///
    /// # Errors
    ///
    /// See [`Client`].
    pub async fn member(&self, vip: &str, backend: &str) -> Answer<MemberStatus> {
        let (vip, backend) = (Segment(vip), Segment(backend));
        self.get(&format!("/v1/vips/{vip}/backends/{backend}"))
            .await
    }

    /// The revisions: `GET /v1/revisions`.
    ///
    /// # Errors
    ///
    /// See [`Client`].
    pub async fn revisions(&self) -> Answer<Vec<RevisionInfo>> {
        self.get("/v1/revisions").await
    }

    /// A revision with its text: `GET /v1/revisions/{n}`.
    ///
    /// # Errors
    ///
    /// See [`Client`].
    pub async fn revision(&self, number: RevisionNumber) -> Answer<Revision> {
        self.get(&format!("/v1/revisions/{number}")).await
    }

    /// How a revision is doing: `GET /v1/revisions/{n}/progress`.
    ///
    /// # Errors
    ///
    /// See [`Client`].
    pub async fn progress(&self, number: RevisionNumber) -> Answer<Progress> {
        self.get(&format!("/v1/revisions/{number}/progress")).await
    }

    /// The difference of two revisions: `GET /v1/diff`.
    ///
    /// # Errors
    ///
    /// See [`Client`].
    pub async fn diff(&self, from: RevisionNumber, to: RevisionNumber) -> Answer<Diff> {
        self.get(&format!("/v1/diff?from={from}&to={to}")).await
    }

    /// The running revision with its text: `GET /v1/config`.
    ///
    /// # Errors
    ///
    /// See [`Client`].
    pub async fn config(&self) -> Answer<Revision> {
        self.get("/v1/config").await
    }

    /// What happened after the event of this number, oldest first, at most `limit`:
    /// `GET /v1/events`.
    ///
    /// # Errors
    ///
    /// See [`Client`].
    pub async fn events(&self, since: Option<u64>, limit: Option<u32>) -> Answer<Vec<Event>> {
        let since = since.map(|since| format!("since={since}"));
        let limit = limit.map(|limit| format!("limit={limit}"));
        let query: Vec<String> = since.into_iter().chain(limit).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        self.get(&format!("/v1/events{mark}{}", query.join("&")))
            .await
    }

    /// Alerts that are on: `GET /v1/alerts`.
    ///
    /// # Errors
    ///
    /// See [`Client`].
    pub async fn alerts(&self) -> Answer<Vec<Alert>> {
        self.get("/v1/alerts").await
    }

    /// Says that somebody has seen an alert: `POST /v1/alerts/{id}/ack`.
    ///
    /// # Errors
    ///
    /// See [`Client`].
    pub async fn acknowledge(&self, id: &str, who: &str) -> Answer<Alert> {
        let body = serde_json::json!({ "who": who });
        self.post(&format!("/v1/alerts/{}/ack", Segment(id)), &body)
            .await
    }

    /// Sends nothing about an alert for so many seconds; 0 ends that: `POST /v1/alerts/{id}/silence`.
    ///
    /// # Errors
    ///
    /// See [`Client`].
    pub async fn silence(&self, id: &str, for_s: u32, who: &str) -> Answer<Alert> {
        let body = serde_json::json!({ "for_s": for_s, "who": who });
        self.post(&format!("/v1/alerts/{}/silence", Segment(id)), &body)
            .await
    }

    /// Sends a made-up alert to all receivers: `POST /v1/alerts/test`.
    ///
    /// # Errors
    ///
    /// See [`Client`].
    pub async fn test_alerts(&self) -> Answer<Vec<Tested>> {
        self.post("/v1/alerts/test", &serde_json::json!({})).await
    }

    /// What a change would do: `POST /v1/plan`.
    ///
    /// # Errors
    ///
    /// See [`Client`]. A plan that a guard refuses is no error.
    pub async fn plan(&self, request: &PlanRequest) -> Answer<Plan> {
        self.post("/v1/plan", request).await
    }

    /// Makes a change: `POST /v1/apply`.
    ///
    /// # Errors
    ///
    /// See [`Client`].
    pub async fn apply(&self, request: &ApplyRequest) -> Answer<Applied> {
        self.post("/v1/apply", request).await
    }

    /// Confirms a revision: `POST /v1/confirm`.
    ///
    /// # Errors
    ///
    /// See [`Client`].
    pub async fn confirm(&self, request: &ConfirmRequest) -> Answer<RevisionInfo> {
        self.post("/v1/confirm", request).await
    }

    /// Goes back: `POST /v1/rollback`.
    ///
    /// # Errors
    ///
    /// See [`Client`].
    pub async fn rollback(&self, request: &RollbackRequest) -> Answer<Applied> {
        self.post("/v1/rollback", request).await
    }

    /// What the data path would do with a packet: `POST /v1/explain`.
    ///
    /// # Errors
    ///
    /// See [`Client`].
    pub async fn explain(&self, request: &ExplainRequest) -> Answer<Explanation> {
        self.post("/v1/explain", request).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Answer<T> {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Answer<T> {
        // Nothing that is sent has a form that JSON lacks.
        let body = serde_json::to_vec(body).map_err(|error| self.interrupted(path, error))?;
        self.ask(Method::POST, path, body.into()).await
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Answer<T> {
        let answer = tokio::time::timeout(self.patience, self.exchange(method, path, body)).await;
        let (status, body) = answer.map_err(|_| ClientError::Late {
            socket: self.socket.display().to_string(),
            path: path.into(),
            seconds: self.patience.as_secs(),
        })??;
        read(path, status, &body)
    }

    /// One request, one connection. Gives status and body.
    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Answer<(u16, Bytes)> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| ClientError::connecting(&self.socket, error))?;
        let broken = |error: hyper::Error| self.interrupted(path, error);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "evenkeel")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.interrupted(path, error))?;
        let answer = async {
            let response = sender.send_request(request).await?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await?.to_bytes();
            Ok((status, body))
        };
        let mut connection = std::pin::pin!(connection);
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            biased;
            answer = &mut answer => answer.map_err(broken),
            // The connection may end in good order before its answer was taken up.
            ended = &mut connection => match ended {
                Ok(()) => answer.await.map_err(broken),
                Err(error) => Err(broken(error)),
            },
        }
    }

    fn interrupted(
        &self,
        path: &str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> ClientError {
        ClientError::Interrupted {
            socket: self.socket.display().to_string(),
            path: path.into(),
            source: source.into(),
        }
    }
}

/// What an answer says.
fn read<T: DeserializeOwned>(path: &str, status: u16, body: &[u8]) -> Answer<T> {
    let unreadable = |source| ClientError::Unreadable {
        path: path.into(),
        status,
        source,
    };
    if (200..300).contains(&status) {
        // An answer without a body says as much as null.
        let body = if body.is_empty() { b"null" } else { body };
        return serde_json::from_slice(body).map_err(unreadable);
    }
    let error: ApiError = serde_json::from_slice(body).map_err(unreadable)?;
    Err(ClientError::Api(Box::new(error)))
}

/// A name in a path: what is not plain is written as `%XX`.
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

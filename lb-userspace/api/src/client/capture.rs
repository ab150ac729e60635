//! The stream of a packet capture.

use http_body_util::BodyExt as _;
use hyper::{
    Method,
    body::{Bytes, Incoming},
};
use serde_json::json;
use tokio::task::JoinHandle;

use super::{Client, ClientError, Result, parse};
use crate::CaptureRequest;

const PATH: &str = "/v1/capture";

/// A running capture. It ends when this is dropped.
#[derive(Debug)]
pub struct CaptureStream {
    client: Client,
    body: Incoming,
    connection: JoinHandle<()>,
}

impl Client {
    /// `POST /v1/capture`. For root only.
    pub async fn capture(&self, request: &CaptureRequest) -> Result<CaptureStream> {
        let body = serde_json::to_vec(request).map_err(|error| self.interrupted(PATH, error))?;
        let (mut sender, connection, request) = self.open(Method::POST, PATH, body.into()).await?;
        // Its errors are reported by the body.
        let connection = tokio::spawn(async { drop(connection.await) });
        let response = tokio::time::timeout(self.timeout, sender.send_request(request)).await;
        let response = response.map_err(|_| ClientError::Timeout {
            socket: self.socket.display().to_string(),
            path: PATH.into(),
            seconds: self.timeout.as_secs(),
        })?;
        let response = response.map_err(|error| self.interrupted(PATH, error))?;
        let status = response.status().as_u16();
        if !response.status().is_success() {
            let body = response.into_body().collect().await;
            let body = body
                .map_err(|error| self.interrupted(PATH, error))?
                .to_bytes();
            // An error that is not readable as one is reported as that.
            parse::<()>(PATH, status, &body)?;
            return Err(self.interrupted(PATH, format!("HTTP {status}")));
        }
        Ok(CaptureStream {
            client: self.clone(),
            body: response.into_body(),
            connection,
        })
    }

    /// `POST /v1/capture/stop`: ends the running capture, whoever started it. For root only.
    pub async fn stop_capture(&self) -> Result<()> {
        self.post("/v1/capture/stop", &json!({})).await
    }
}

impl CaptureStream {
    /// Waits for the next bytes. None at the end of the capture.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    // Anything else is a trailer.
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
                Some(Err(error)) => return Err(self.client.interrupted(PATH, error)),
            }
        }
    }
}

impl Drop for CaptureStream {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

//! An HTTP request, and what its answer must be (HTTP/1.1, RFC 9112).
//!
//! By hand: all that a check needs is a status and perhaps a text in the body. What a client that can do more does
//! for each connection was a tenth of what a check costs.

use std::net::IpAddr;

use hyper::{Request, header};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::{Failure, Limit, answer::Answer, socket::Route};
use crate::{
    config::{HttpCheck, StatusSet},
    health::Target,
};

/// Bytes of a body that are looked through for the expected text.
const MOST_BODY: usize = 256 * 1024;

/// A request, and what is expected.
#[derive(Debug)]
pub(super) struct Exchange {
    /// As it is sent.
    request: Vec<u8>,
    status: StatusSet,
    body: Option<String>,
}

impl Exchange {
    /// `usual_port` is the one that `Host` does not mention.
    pub(super) fn new(
        target: &Target,
        check: &HttpCheck,
        usual_port: u16,
    ) -> Result<Self, Failure> {
        let host = check
            .host
            .clone()
            .unwrap_or_else(|| default_host(target.vip_address, target.probe_port(), usual_port));
        let request = Request::get(&check.path)
            .header(header::HOST, host)
            .header(header::USER_AGENT, "evenkeel-health")
            .header(header::ACCEPT, "*/*")
            .header(header::CONNECTION, "close")
            .body(())
            .map_err(|error| Failure(format!("the request can't be made: {error}")))?;
        Ok(Self {
            request: written(&request),
            status: check.expect_status.clone(),
            body: check.expect_body.clone(),
        })
    }

    pub(super) async fn run(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        route: &Route,
        limit: Limit,
    ) -> Result<(), Failure> {
        let late = |limit| Failure(format!("{route} took the request, no answer in {limit}"));
        let exchange = async {
            // Whoever does not read all of it may have answered nonetheless.
            let _ = stream.write_all(&self.request).await;
            let _ = stream.flush().await;
            self.judge(Answer::of(stream), route).await
        };
        limit.within(exchange, late).await
    }

    async fn judge<S: AsyncRead + Unpin>(
        &self,
        mut answer: Answer<S>,
        route: &Route,
    ) -> Result<(), Failure> {
        let status = answer
            .head()
            .await
            .map_err(|error| Failure(format!("no HTTP answer from {route}: {}", chain(&error))))?;
        if !self.status.contains(status) {
            let expected = self.status.to_string().replace('-', "–");
            return Err(Failure(format!(
                "status {status} from {route}, expected {expected}"
            )));
        }
        match &self.body {
            None => Ok(()),
            Some(text) => find(answer, text, route).await,
        }
    }
}

/// A request as it is sent.
fn written(request: &Request<()>) -> Vec<u8> {
    let mut bytes = format!("GET {} HTTP/1.1\r\n", request.uri()).into_bytes();
    for (name, value) in request.headers() {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// Reads the body until the text is found.
async fn find<S: AsyncRead + Unpin>(
    mut answer: Answer<S>,
    text: &str,
    route: &Route,
) -> Result<(), Failure> {
    let mut seen = Vec::new();
    loop {
        let data = answer.body().await.map_err(|error| {
            Failure(format!(
                "the answer of {route} broke off: {}",
                chain(&error)
            ))
        })?;
        let Some(data) = data else { break };
        // The text may lie across two pieces.
        let from = seen.len().saturating_sub(text.len());
        seen.extend_from_slice(data);
        if contains(&seen[from..], text.as_bytes()) {
            return Ok(());
        }
        if seen.len() > MOST_BODY {
            return Err(Failure(format!(
                "the first {} KiB of the answer of {route} do not have {text:?}",
                MOST_BODY / 1024
            )));
        }
    }
    Err(Failure(format!(
        "the answer of {route} does not have {text:?}"
    )))
}

/// Whether the bytes have these bytes in them.
pub(super) fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// What a client of the VIP would write into `Host`.
fn default_host(address: IpAddr, port: u16, usual_port: u16) -> String {
    let address = match address {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    if port == usual_port {
        address
    } else {
        format!("{address}:{port}")
    }
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

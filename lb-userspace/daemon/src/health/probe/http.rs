//! `http` checks: a request and the expected response (HTTP/1.1, RFC 9112).

use std::{
    io,
    net::IpAddr,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, Response, body::Bytes, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Failure, Limit, socket::Route};
use crate::health::Target;
use lb_model::{
    config::{HttpCheck, StatusSet},
    error::chain,
};

/// Bytes of a body that are searched for the expected text.
const BODY_LIMIT: usize = 256 * 1024;

#[derive(Debug)]
pub(super) struct Exchange {
    request: Request<Empty<Bytes>>,
    status: StatusSet,
    body: Option<String>,
}

impl Exchange {
    /// `default_port` is left out of the `Host` header.
    pub(super) fn new(
        target: &Target,
        check: &HttpCheck,
        default_port: u16,
    ) -> Result<Self, Failure> {
        let host = check
            .host
            .clone()
            .unwrap_or_else(|| default_host(target.vip_address, target.probe_port(), default_port));
        let request = Request::get(&check.path)
            .header(header::HOST, host)
            .header(header::USER_AGENT, "evenkeel-health")
            .header(header::ACCEPT, "*/*")
            .header(header::CONNECTION, "close")
            .body(Empty::new())
            .map_err(|error| Failure(format!("cannot build the request: {error}")))?;
        Ok(Self {
            request,
            status: check.expect_status.clone(),
            body: check.expect_body.clone(),
        })
    }

    pub(super) async fn run(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        route: &Route,
        limit: Limit,
    ) -> Result<(), Failure> {
        let late = |limit| {
            Failure(format!(
                "{route} accepted the request but did not reply within {limit}"
            ))
        };
        let broken = |error: hyper::Error| {
            Failure(format!(
                "no valid HTTP response from {route}: {}",
                chain(&error)
            ))
        };
        let exchange = async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(Abrupt(stream)))
                .await
                .map_err(broken)?;
            let mut connection = pin!(connection);
            let mut judging = pin!(async {
                let response = sender.send_request(self.request.clone()).await;
                self.judge(response.map_err(broken)?, route).await
            });
            tokio::select! {
                result = &mut judging => result,
                // The server closed the connection; the response may have arrived before.
                _ = &mut connection => judging.await,
            }
        };
        limit.within(exchange, late).await
    }

    async fn judge(&self, response: Response<Incoming>, route: &Route) -> Result<(), Failure> {
        let status = response.status().as_u16();
        if !self.status.contains(status) {
            let expected = self.status.to_string().replace('-', "–");
            return Err(Failure(format!(
                "status {status} from {route}, expected {expected}"
            )));
        }
        match &self.body {
            None => Ok(()),
            Some(text) => find(response.into_body(), text, route).await,
        }
    }
}

/// A stream without orderly shutdown. Dropping it resets the connection; a FIN before that would add
/// a tenth to the cost of a check.
struct Abrupt<S>(S);

impl<S: AsyncRead + Unpin> AsyncRead for Abrupt<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Abrupt<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Reads the body until it contains the text.
async fn find(mut body: Incoming, text: &str, route: &Route) -> Result<(), Failure> {
    let mut seen = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Failure(format!(
                "the response from {route} was cut off: {}",
                chain(&error)
            ))
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        // The text may span two frames.
        let from = seen.len().saturating_sub(text.len());
        seen.extend_from_slice(&data);
        if contains(&seen[from..], text.as_bytes()) {
            return Ok(());
        }
        if seen.len() > BODY_LIMIT {
            return Err(Failure(format!(
                "the first {} KiB of the response from {route} do not contain {text:?}",
                BODY_LIMIT / 1024
            )));
        }
    }
    Err(Failure(format!(
        "the response from {route} does not contain {text:?}"
    )))
}

pub(super) fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Returns the `Host` header that a client of the VIP would send.
fn default_host(address: IpAddr, port: u16, default_port: u16) -> String {
    let address = match address {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    if port == default_port {
        address
    } else {
        format!("{address}:{port}")
    }
}

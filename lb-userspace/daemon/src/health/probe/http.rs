//! `http` checks: a request and the expected response (HTTP/1.1, RFC 9112).

use std::{
    io,
    net::IpAddr,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
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
/// Lines of the response's header.
const HEADER_LIMIT: usize = 1000;

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
        // A client of the VIP does not know the port of the backend.
        let port = match (target.health.port, target.vip_port) {
            (0, 0) => target.port,
            (0, port) | (port, _) => port,
        };
        let host = check.host.clone();
        let host = host.unwrap_or_else(|| default_host(target.vip_address, port, default_port));
        let request = Request::get(&check.path)
            .header(header::HOST, host)
            .header(header::USER_AGENT, "evenkeel-health")
            .header(header::ACCEPT, "*/*")
            .header(header::CONNECTION, "close")
            .body(Empty::new())
            .map_err(|error| Failure::of_node(format!("cannot build the request: {error}")))?;
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
            Failure::new(format!(
                "{route} accepted the request but did not reply within {limit}"
            ))
        };
        let broken = |error: hyper::Error| {
            Failure::new(if error.is_parse_too_large() {
                format!(
                    "the response from {route} has more than {HEADER_LIMIT} headers, or more than 400 KiB of them"
                )
            } else {
                format!("no valid HTTP response from {route}: {}", chain(&error))
            })
        };
        let exchange = async {
            let (mut sender, connection) = http1::Builder::new()
                .max_headers(HEADER_LIMIT)
                .handshake(TokioIo::new(Abrupt::new(stream)))
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
            return Err(Failure::new(format!(
                "status {status} from {route}, expected {expected}"
            )));
        }
        match &self.body {
            None => Ok(()),
            Some(text) => find(response.into_body(), text, route).await,
        }
    }
}

/// A stream that is read only once the request was written: a server may respond before, which `hyper`
/// takes for a mistake. Such a server may also have closed the connection: errors of writing are ignored,
/// as reading returns the response, or an error.
///
/// There is no orderly shutdown. Dropping the stream resets the connection; a FIN before that would add a
/// tenth to the cost of a check.
struct Abrupt<S> {
    stream: S,
    has_written: bool,
    reader: Option<Waker>,
}

impl<S> Abrupt<S> {
    const fn new(stream: S) -> Self {
        Self {
            stream,
            has_written: false,
            reader: None,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Abrupt<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.has_written {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        self.reader = Some(context.waker().clone());
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Abrupt<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = match Pin::new(&mut self.stream).poll_write(context, bytes) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(written) => written.unwrap_or(bytes.len()),
        };
        // The request is much shorter than the send buffer of a new connection.
        self.has_written = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(_) => Poll::Ready(Ok(())),
        }
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
            Failure::new(format!(
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
            return Err(Failure::new(format!(
                "the first {} KiB of the response from {route} do not contain {text:?}",
                BODY_LIMIT / 1024
            )));
        }
    }
    Err(Failure::new(format!(
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

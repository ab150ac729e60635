//! Serves the API, with limits of connections and time: a client that sends nothing must not use up the
//! file descriptors of health checks.

use std::{
    future::poll_fn,
    io,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{Extension, Router, extract::ConnectInfo};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::sleep,
};
use tower_http::timeout::RequestBodyTimeoutLayer;
use tracing::warn;

use super::router;
use crate::{caller::Caller, engine::Engine};

/// Pause after a failed accept: there may be no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Simultaneous connections; more wait.
    connections: usize,
    /// Time for the header of a request, and between two pieces of its body.
    request: Duration,
}

impl Limits {
    /// The limits of a process that may have so many open files.
    #[must_use]
    pub fn of(files: u64) -> Self {
        Self {
            connections: (files / 8).clamp(4, 64) as usize,
            request: Duration::from_secs(5),
        }
    }
}

/// Serves the API until it is dropped.
pub async fn serve(listener: UnixListener, engine: Engine, limits: Limits) {
    serve_router(listener, router(engine), limits).await;
}

pub(crate) async fn serve_router(listener: UnixListener, router: Router, limits: Limits) {
    let router = router.layer(RequestBodyTimeoutLayer::new(limits.request));
    let accept = |cx: &mut Context<'_>| listener.poll_accept(cx).map_ok(|accepted| accepted.0);
    let serve = |stream| serve_connection(stream, router.clone(), limits);
    serve_each(limits.connections, "a connection of the API", accept, serve).await;
}

/// Accepts connections and serves each, so many at the same time. Ends when it is dropped.
pub(crate) async fn serve_each<S, F: Future<Output = ()> + Send + 'static>(
    connections: usize,
    what: &'static str,
    mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<S>>,
    serve: impl Fn(S) -> F,
) {
    let places = Arc::new(Semaphore::new(connections));
    // The semaphore is never closed, so this loop never ends.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match poll_fn(&mut accept).await {
            Ok(stream) => {
                let serving = serve(stream);
                tokio::spawn(async move {
                    serving.await;
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "cannot accept {what}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection. Its errors are the client's and are ignored.
async fn serve_connection(stream: UnixStream, router: Router, limits: Limits) {
    let caller = ConnectInfo(Caller::from(&stream));
    let service = TowerToHyperService::new(router.layer(Extension(caller)));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.request);
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
}

#[cfg(test)]
mod tests {
    use axum::routing::{get, post};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::timeout,
    };

    use super::*;

    #[tokio::test]
    async fn clients_that_send_nothing_do_not_lock_others_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let caller = |ConnectInfo(caller): ConnectInfo<Caller>| async move { caller.to_string() };
        let router = Router::new()
            .route("/who", get(caller))
            .route("/text", post(|text: String| async move { text }));
        let limits = Limits {
            connections: 4,
            request: Duration::from_millis(100),
        };
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(serve_router(listener, router, limits));
        let mut slow = Vec::new();
        for text in [
            "",
            "GET /",
            "POST /text HTTP/1.1\r\nContent-Length: 9\r\n\r\nx",
        ] {
            for _ in 0..4 {
                let mut stream = UnixStream::connect(&path).await.unwrap();
                stream.write_all(text.as_bytes()).await.unwrap();
                slow.push(stream);
            }
        }
        let mut stream = UnixStream::connect(&path).await.unwrap();
        let request = "GET /who HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        let reading = stream.read_to_string(&mut response);
        timeout(Duration::from_secs(30), reading)
            .await
            .unwrap()
            .unwrap();
        let pid = std::process::id();
        assert!(response.contains(&format!("pid {pid}")), "{response}");
        drop(slow);
    }
}

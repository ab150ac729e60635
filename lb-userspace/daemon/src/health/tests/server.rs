//! Servers with fixed replies.

use std::{net::SocketAddr, sync::Arc};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
};
use tokio_rustls::TlsAcceptor;

/// The reply to every request.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// These bytes; then the server closes the connection.
    Bytes(String),
    /// None; the connection stays open.
    Nothing,
    /// The request itself, as the body of a response.
    Request,
}

pub(super) fn page(status: &str, body: &str) -> Answer {
    let length = body.len();
    Answer::Bytes(format!(
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}"
    ))
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: Answer) {
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(length) => request.extend_from_slice(&piece[..length]),
        }
    }
    let text = match answer {
        Answer::Bytes(text) => text,
        Answer::Nothing => std::future::pending().await,
        Answer::Request => {
            let body = String::from_utf8_lossy(&request).into_owned();
            let length = body.len();
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}")
        }
    };
    // Fails if the client has read enough.
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    (listener, at)
}

/// Starts an HTTP server.
pub(super) async fn http(with: Answer) -> SocketAddr {
    let (listener, at) = listen().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, with.clone()));
        }
    });
    at
}

/// Starts a server that sends its response at once, and then closes the connection or waits.
pub(super) async fn early(response: &'static str, closes: bool) -> SocketAddr {
    let (listener, at) = listen().await;
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(response.as_bytes()).await;
            if !closes {
                open.push(stream);
            }
        }
    });
    at
}

/// Starts an HTTPS server with a certificate for a name; returns the certificate (PEM) too.
pub(super) async fn https(name: &str, with: Answer) -> (SocketAddr, String) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (listener, at) = listen().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve_tls(acceptor.clone(), stream, with.clone()));
        }
    });
    (at, cert.pem())
}

async fn serve_tls(acceptor: TlsAcceptor, stream: TcpStream, with: Answer) {
    // Fails if the client does not trust the certificate.
    if let Ok(stream) = acceptor.accept(stream).await {
        answer(stream, with).await;
    }
}

/// Starts a UDP server that replies to every packet with a payload: "pong " and the payload.
pub(super) async fn pong() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut packet = [0; 100];
        while let Ok((length, from)) = socket.recv_from(&mut packet).await {
            if length > 0 {
                let text = [b"pong ", &packet[..length]].concat();
                let _ = socket.send_to(&text, from).await;
            }
        }
    });
    at
}

/// Returns an address where nothing listens: the port was just released.
pub(super) async fn closed_port() -> SocketAddr {
    listen().await.1
}

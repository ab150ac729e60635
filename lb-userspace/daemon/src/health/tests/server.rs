//! Servers that say what they are told to.

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

/// What every connection is answered with, after its request was seen.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// These bytes; then the connection is closed.
    Bytes(String),
    /// Nothing, and the connection stays open.
    Nothing,
    /// The request itself, as the body of a page.
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
    // The client may have read enough.
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    (listener, at)
}

/// A server of plain HTTP.
pub(super) async fn http(with: Answer) -> SocketAddr {
    let (listener, at) = listen().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, with.clone()));
        }
    });
    at
}

/// A server of HTTPS with a certificate for a name, and the certificate (PEM).
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
    // A client that does not trust the certificate hangs up.
    if let Ok(stream) = acceptor.accept(stream).await {
        answer(stream, with).await;
    }
}

/// Answers every packet that has something in it with "pong " and the packet.
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

/// An address where nobody listens: the port was just given back.
pub(super) async fn nobody() -> SocketAddr {
    listen().await.1
}

//! A connection to one endpoint.

use std::{fs, path::Path, time::Duration};

use futures_util::{StreamExt as _, stream};
use http::uri::PathAndQuery;
use prost::Message;
use tonic::{
    Request, Response, Status, Streaming,
    client::Grpc,
    metadata::MetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_prost::ProstCodec;

use crate::handle::Tls;

/// Time to connect, with the TLS handshake.
const CONNECT: Duration = Duration::from_secs(1);

/// A ping that is not answered for this long ends the connection, and with it a watch.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// The largest answer: a list of all keys of a fleet, or a part of a text.
const MAX_BYTES: usize = 64 << 20;

/// Connects to an endpoint. The files for TLS are read now.
pub(super) async fn connect(endpoint: &str, tls: Option<&Tls>) -> Result<Channel, String> {
    let invalid = |error| format!("{endpoint} is not a URL: {}", chain(&error));
    let mut builder = Endpoint::from_shared(endpoint.to_owned())
        .map_err(invalid)?
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    if let Some(tls) = tls {
        let config = tls_config(tls)?;
        builder = builder.tls_config(config).map_err(|error| chain(&error))?;
    }
    let connecting = tokio::time::timeout(CONNECT, builder.connect());
    match connecting.await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err("no connection within 1 s".to_owned()),
    }
}

fn tls_config(tls: &Tls) -> Result<ClientTlsConfig, String> {
    let ca = Certificate::from_pem(read(&tls.ca)?);
    let config = ClientTlsConfig::new().ca_certificate(ca);
    let Some((certificate, key)) = &tls.client else {
        return Ok(config);
    };
    Ok(config.identity(Identity::from_pem(read(certificate)?, read(key)?)))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("can't read {}: {error}", path.display()))
}

/// An error with its causes, and what to look at.
fn chain(error: &dyn std::error::Error) -> String {
    // The outer ones of a transport error say no more than that.
    let mut texts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(next) = cause {
        texts.push(next.to_string());
        cause = next.source();
    }
    texts.dedup();
    if texts.len() > 1 {
        texts.retain(|text| text != "transport error");
    }
    advise(&texts.join(": "))
}

/// What a failed request says. Causes have what the message lacks, such as an alert of TLS.
pub(super) fn explain(status: &Status) -> String {
    if let Some(cause) = std::error::Error::source(status) {
        return chain(cause);
    }
    match status.message() {
        "" => status.code().to_string(),
        message => advise(message),
    }
}

fn advise(text: &str) -> String {
    if text.contains("received fatal alert") {
        return format!("etcd refuses this node's certificate (`fleet.cert_file`): {text}");
    }
    if text.contains("invalid peer certificate") {
        return format!(
            "etcd's certificate does not fit `fleet.ca_file` or the endpoint's name: {text}"
        );
    }
    text.to_owned()
}

fn client(channel: Channel) -> Grpc<Channel> {
    Grpc::new(channel)
        .max_decoding_message_size(MAX_BYTES)
        .max_encoding_message_size(MAX_BYTES)
}

/// Sends a request to `/etcdserverpb.SERVICE/METHOD` and returns the answer.
pub(super) async fn unary<Q, A>(
    channel: Channel,
    method: &'static str,
    request: Q,
) -> Result<A, Status>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let mut client = client(channel);
    ready(&mut client).await?;
    let path = PathAndQuery::from_static(method);
    let response: Response<A> = client
        .unary(with_leader(request), path, ProstCodec::default())
        .await?;
    Ok(response.into_inner())
}

/// Sends one request on a stream that stays open, and returns the stream of answers.
pub(super) async fn streaming<Q, A>(
    channel: Channel,
    method: &'static str,
    request: Q,
) -> Result<Streaming<A>, Status>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let mut client = client(channel);
    ready(&mut client).await?;
    // A stream that ends would end the answers.
    let requests = stream::iter([request]).chain(stream::pending());
    let path = PathAndQuery::from_static(method);
    let response = client
        .streaming(with_leader(requests), path, ProstCodec::default())
        .await?;
    Ok(response.into_inner())
}

async fn ready(client: &mut Grpc<Channel>) -> Result<(), Status> {
    let ready = client.ready().await;
    ready.map_err(|error| Status::unavailable(chain(&error)))
}

/// The member must refuse the request, and end a stream, if it knows no leader.
fn with_leader<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = MetadataValue::from_static("true");
    request.metadata_mut().insert("hasleader", value);
    request
}

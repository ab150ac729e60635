//! Answers other nodes.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{SinkExt as _, StreamExt as _};
use prost::Message as _;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, broadcast::error::RecvError, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{
    bytes::Bytes,
    codec::{Framed, LengthDelimitedCodec},
};
use tracing::{debug, info, warn};

use super::{
    Event, HANDSHAKE, HEARTBEAT, SILENCE, Shared,
    message::{Hello, MAX_BYTES, Reply, Update},
    tls,
};

/// Connections at the same time: more than any fleet has nodes, and few enough for strangers.
const CONNECTIONS: usize = 256;

/// Handshakes at the same time of addresses that are no nodes of the fleet.
const STRANGERS: usize = 16;

/// How long the settings of TLS are not read again.
const TLS_FOR: Duration = Duration::from_secs(5);

/// The largest first frame.
const MAX_HELLO_BYTES: usize = 4096;

/// Listens for ever.
pub(super) async fn run(shared: Arc<Shared>) {
    let address = shared.settings.listen;
    let mut has_failed = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                set_error(&shared, None);
                info!(%address, "other nodes can ask for the past of connections");
                accept(&shared, &listener).await;
            }
            Err(error) => {
                if !std::mem::replace(&mut has_failed, true) {
                    warn!(%address, %error, "can't listen for other nodes (`fleet.exchange`); trying again");
                }
                set_error(&shared, Some(format!("can't listen at {address}: {error}")));
            }
        }
        sleep(HEARTBEAT).await;
    }
}

fn set_error(shared: &Shared, error: Option<String>) {
    *shared
        .listen_error
        .lock()
        .expect("nobody panics with the lock") = error;
}

async fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let strangers = Arc::new(Semaphore::new(STRANGERS));
    // Dropped with the listener: connections end with it.
    let mut connections = JoinSet::new();
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(%error, "a connection was not accepted");
                // Out of descriptors, for example.
                sleep(HEARTBEAT).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            debug!(%from, "too many connections");
            continue;
        };
        // Nobody without a certificate keeps nodes out.
        let handshake = match is_node(shared, from) {
            true => None,
            false => match Arc::clone(&strangers).try_acquire_owned() {
                Ok(handshake) => Some(handshake),
                Err(_) => continue,
            },
        };
        let shared = Arc::clone(shared);
        connections.spawn(async move {
            let _place = place;
            if let Err(error) = serve(&shared, stream, handshake).await {
                note(from, &error);
            }
        });
    }
}

/// Anyone can connect: no more than a hint.
fn note(from: SocketAddr, error: &str) {
    debug!(%from, error, "the connection of a node ended");
}

/// Whether a connection is from the address of a known node.
fn is_node(shared: &Shared, from: SocketAddr) -> bool {
    let states = shared.states.borrow();
    let addresses = states.nodes.values().map(|state| &state.address);
    let addresses = addresses.filter_map(|address| address.parse::<SocketAddr>().ok());
    addresses
        .into_iter()
        .any(|address| address.ip() == from.ip())
}

fn tls_config(shared: &Shared) -> Result<Arc<ServerConfig>, String> {
    let mut known = shared.server.lock().expect("nobody panics with the lock");
    if let Some((read, config)) = &*known
        && read.elapsed() < TLS_FOR
    {
        return Ok(Arc::clone(config));
    }
    let config = tls::server(&shared.settings.tls)?;
    *known = Some((Instant::now(), Arc::clone(&config)));
    Ok(config)
}

async fn serve(
    shared: &Shared,
    stream: TcpStream,
    handshake: Option<OwnedSemaphorePermit>,
) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    stream.set_nodelay(true).map_err(text)?;
    let acceptor = TlsAcceptor::from(tls_config(shared)?);
    let limit = || "no hello in time".to_owned();
    let stream = timeout(HANDSHAKE, acceptor.accept(stream)).await;
    let stream = stream.map_err(|_| limit())?.map_err(text)?;
    let codec = LengthDelimitedCodec::builder()
        .max_frame_length(MAX_HELLO_BYTES)
        .new_codec();
    let mut frames = Framed::new(stream, codec);
    let hello = timeout(HANDSHAKE, frames.next()).await;
    let hello = hello.map_err(|_| limit())?.ok_or("closed")?.map_err(text)?;
    let hello = Hello::decode(hello).map_err(|error| error.to_string())?;
    drop(handshake);
    frames.codec_mut().set_max_frame_length(MAX_BYTES);
    if let Some(why) = shared.hello().difference(&hello) {
        let refusal = Reply {
            refusal: why.clone(),
            update: None,
        };
        send(&mut frames, &refusal).await?;
        return Err(format!("node {} was refused: {why}", hello.node));
    }
    tell(shared, &mut frames).await
}

type Frames<S> = Framed<S, LengthDelimitedCodec>;

async fn tell<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    frames: &mut Frames<S>,
) -> Result<(), String> {
    'everything: loop {
        let (reply, answered) = oneshot::channel();
        let asked = shared.tables.events.send(Event::Asked(reply)).await;
        asked.map_err(|_| "the node stops")?;
        tokio::pin!(answered);
        let (all, mut changes) = loop {
            tokio::select! {
                answer = &mut answered => break answer.map_err(|_| "the node stops")?,
                () = sleep(HEARTBEAT) => send_update(frames, Update::default()).await?,
            }
        };
        for update in all {
            send_update(frames, update).await?;
        }
        loop {
            let update = tokio::select! {
                change = changes.recv() => match change {
                    Ok(update) => Update::clone(&update),
                    // It was too slow: everything again.
                    Err(RecvError::Lagged(_)) => continue 'everything,
                    Err(RecvError::Closed) => return Ok(()),
                },
                // It asks again, whatever it sends; or its end.
                heard = frames.next() => match heard {
                    Some(Ok(_)) => continue 'everything,
                    _ => return Ok(()),
                },
                () = sleep(HEARTBEAT) => Update::default(),
            };
            send_update(frames, update).await?;
        }
    }
}

async fn send_update<S: AsyncRead + AsyncWrite + Unpin>(
    frames: &mut Frames<S>,
    update: Update,
) -> Result<(), String> {
    let answer = Reply {
        refusal: String::new(),
        update: Some(update),
    };
    send(frames, &answer).await
}

async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    frames: &mut Frames<S>,
    answer: &Reply,
) -> Result<(), String> {
    let sent = timeout(SILENCE, frames.send(Bytes::from(answer.encode_to_vec()))).await;
    let sent = sent.map_err(|_| "it takes nothing".to_owned())?;
    sent.map_err(|error| error.to_string())
}

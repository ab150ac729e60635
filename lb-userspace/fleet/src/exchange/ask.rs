//! Asks other nodes.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{SinkExt as _, StreamExt as _};
use prost::Message as _;
use rustls::pki_types::ServerName;
use tokio::{
    net::TcpStream,
    sync::watch,
    task::AbortHandle,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::{
    bytes::Bytes,
    codec::{Framed, LengthDelimitedCodec},
};
use tracing::{info, warn};

use super::{
    Event, GIVEN_UP, HANDSHAKE, PeerState, Peers, SILENCE, Shared,
    message::{MAX_BYTES, Reply},
    tls,
};

/// Pause after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// The tasks that ask nodes. Dropping them ends them.
#[derive(Default)]
struct Tasks(BTreeMap<String, (String, AbortHandle)>);

impl Drop for Tasks {
    fn drop(&mut self) {
        for (_, task) in self.0.values() {
            task.abort();
        }
    }
}

/// Follows the list of nodes for ever.
pub(super) async fn run(shared: Arc<Shared>, mut peers: watch::Receiver<Option<Peers>>) {
    let mut tasks = Tasks::default();
    loop {
        let known = peers.borrow_and_update().clone();
        let are_known = known.is_some();
        let mut wanted = known.unwrap_or_default();
        wanted.remove(&shared.settings.node);
        tasks.0.retain(|node, (address, task)| {
            let stays = wanted.get(node) == Some(address);
            if !stays {
                task.abort();
                shared.states.send_modify(|states| {
                    states.nodes.remove(node);
                });
            }
            stays
        });
        for (node, address) in wanted {
            if tasks.0.contains_key(&node) {
                continue;
            }
            shared.states.send_modify(|states| {
                let state = PeerState {
                    address: address.clone(),
                    ..PeerState::default()
                };
                states.nodes.insert(node.clone(), state);
            });
            let task = follow(Arc::clone(&shared), node.clone(), address.clone());
            let task = tokio::spawn(task).abort_handle();
            tasks.0.insert(node, (address, task));
        }
        shared
            .states
            .send_modify(|states| states.are_known = are_known);
        if peers.changed().await.is_err() {
            return;
        }
    }
}

/// Asks a node again and again.
async fn follow(shared: Arc<Shared>, node: String, address: String) {
    let mut last = None;
    let begun = Instant::now();
    loop {
        let error = match ask(&shared, &node, &address).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        if last.as_ref() != Some(&error) {
            warn!(
                node,
                address, error, "can't ask the node for the past of connections"
            );
        }
        shared.set(&node, |state| {
            state.connected = false;
            state.was_asked |= begun.elapsed() >= GIVEN_UP;
            state.error = Some(error.clone());
        });
        last = Some(error);
        sleep(PAUSE).await;
    }
}

async fn connect(
    shared: &Shared,
    node: &str,
    address: &str,
) -> Result<TlsStream<TcpStream>, String> {
    let text = |error: std::io::Error| error.to_string();
    let connector = TlsConnector::from(tls::client(&shared.settings.tls)?);
    let name = ServerName::try_from(node.to_owned())
        .map_err(|_| format!("\"{node}\" can't be a name in a certificate"))?;
    let stream = TcpStream::connect(address).await.map_err(text)?;
    stream.set_nodelay(true).map_err(text)?;
    let connected = connector.connect(name, stream).await;
    connected.map_err(|error| advise(node, &error))
}

async fn ask(
    shared: &Shared,
    node: &str,
    address: &str,
) -> Result<std::convert::Infallible, String> {
    let text = |error: std::io::Error| error.to_string();
    let stream = timeout(HANDSHAKE, connect(shared, node, address)).await;
    let stream = stream.map_err(|_| "no connection within 2 s".to_owned())??;
    let codec = LengthDelimitedCodec::builder()
        .max_frame_length(MAX_BYTES)
        .new_codec();
    let mut frames = Framed::new(stream, codec);
    let hello = Bytes::from(shared.hello().encode_to_vec());
    let mut again = shared.tables.again.subscribe();
    frames.send(hello.clone()).await.map_err(text)?;
    loop {
        let frame = tokio::select! {
            frame = timeout(SILENCE, frames.next()) => frame,
            Ok(()) = again.changed() => {
                frames.send(hello.clone()).await.map_err(text)?;
                continue;
            }
        };
        let frame = frame
            .map_err(|_| "it is silent".to_owned())?
            .ok_or("it closed the connection")?
            .map_err(|error| advise(node, &error))?;
        let answer = Reply::decode(frame).map_err(|error| format!("not understood: {error}"))?;
        if !answer.refusal.is_empty() {
            return Err(format!("it refuses: {}", answer.refusal));
        }
        let Some(update) = answer.update else {
            continue;
        };
        let is_complete = update.is_complete;
        if !update.is_empty() {
            let from = node.to_owned();
            let told = shared
                .tables
                .events
                .send(Event::Told {
                    from,
                    update: Box::new(update),
                })
                .await;
            told.map_err(|_| "the node stops")?;
        }
        if is_complete {
            shared.set(node, |state| {
                if !state.connected {
                    info!(node, "was told the past of connections");
                }
                state.connected = true;
                state.was_asked = true;
                state.error = None;
            });
        }
    }
}

/// What to look at if TLS fails.
fn advise(node: &str, error: &std::io::Error) -> String {
    let text = error.to_string();
    if text.contains("NotValidForName") || text.contains("not valid for name") {
        return format!(
            "its certificate does not have the name {node}: add it as a DNS name (subjectAltName): {text}"
        );
    }
    if text.contains("invalid peer certificate") {
        return format!("its certificate is not believed (`fleet.ca_file`): {text}");
    }
    if text.contains("received fatal alert") {
        return format!("it refuses this node's certificate (`fleet.cert_file`): {text}");
    }
    text
}

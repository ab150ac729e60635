//! The other ends of veth interfaces, also in other network namespaces.
//!
//! What XDP can do on a veth depends on its peer, and a peer in a container can't be asked from here.
//! So the peer's namespace is looked up among those with a name or a process, and read from a thread
//! that enters it.

use std::{
    collections::HashMap,
    fs::File,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::PathBuf,
    thread,
};

use futures_util::StreamExt as _;
use nix::sched::{CloneFlags, setns};
use rtnetlink::{
    Handle,
    packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        nsid::{NsidAttribute, NsidMessage},
    },
};

use super::links::{self, PeerIndex};
use crate::doctor::{Interface, Peer};

/// Finds the peers of veth interfaces, by index.
pub(super) async fn find(
    handle: &Handle,
    wanted: &HashMap<u32, PeerIndex>,
    here: &HashMap<u32, Interface>,
) -> HashMap<u32, Peer> {
    let mut elsewhere: HashMap<i32, HashMap<u32, Interface>> = HashMap::new();
    if wanted.values().any(|peer| peer.namespace.is_some()) {
        for namespace in namespaces() {
            let Some(id) = id_of(handle, &namespace).await else {
                continue;
            };
            let is_wanted = wanted.values().any(|peer| peer.namespace == Some(id));
            if is_wanted && !elsewhere.contains_key(&id) {
                elsewhere.insert(id, read(namespace).unwrap_or_default());
            }
        }
    }
    let peers = wanted.iter().filter_map(|(&ifindex, peer)| {
        let interfaces = match peer.namespace {
            Some(id) => elsewhere.get(&id)?,
            None => here,
        };
        let interface = interfaces.get(&peer.ifindex)?;
        Some((
            ifindex,
            Peer {
                name: interface.name.clone(),
                is_elsewhere: peer.namespace.is_some(),
                has_program: interface.xdp_program.is_some(),
                tx_checksum: interface.tx_checksum,
            },
        ))
    });
    peers.collect()
}

/// Opens all network namespaces that have a name or a process, each once.
fn namespaces() -> Vec<File> {
    let entries = |path: &str| std::fs::read_dir(path).into_iter().flatten().flatten();
    let named = entries("/run/netns").map(|entry| entry.path());
    let of_processes = entries("/proc").map(|entry| entry.path().join("ns/net"));
    let mut found: HashMap<u64, File> = HashMap::new();
    for path in named.chain(of_processes).collect::<Vec<PathBuf>>() {
        let Ok(file) = File::open(path) else { continue };
        if let Ok(metadata) = file.metadata() {
            found.entry(metadata.ino()).or_insert(file);
        }
    }
    found.into_values().collect()
}

/// Returns the id that this namespace has given to another.
async fn id_of(handle: &Handle, namespace: &File) -> Option<i32> {
    let mut message = NsidMessage::default();
    let fd = u32::try_from(namespace.as_raw_fd()).ok()?;
    message.attributes.push(NsidAttribute::Fd(fd));
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(message));
    request.header.flags = NLM_F_REQUEST;
    let answer = handle.clone().request(request).ok()?.next().await?;
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(message)) = answer.payload else {
        return None;
    };
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NsidAttribute::Id(id) if *id >= 0 => Some(*id),
            _ => None,
        })
}

/// Reads the interfaces of a namespace.
fn read(namespace: File) -> Option<HashMap<u32, Interface>> {
    let reader = thread::spawn(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET).ok()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let links = runtime.ok()?.block_on(links::read_plain()).ok()?;
        Some(links.interfaces)
    });
    reader.join().ok()?
}

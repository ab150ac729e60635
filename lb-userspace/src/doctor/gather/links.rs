//! Interfaces and addresses, read by rtnetlink.

use std::{collections::HashMap, net::IpAddr};

use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle, new_connection,
    packet_route::{
        address::AddressMessage,
        link::{
            LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, XdpAttached,
        },
    },
};

use super::{GatherError, peers, xdp_features};
use crate::{
    decap::address,
    doctor::{Interface, MasterLink},
};
use lb_dataplane::ethtool;

type Addresses = Vec<(String, IpAddr)>;

/// The peer of a veth.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerIndex {
    pub(super) ifindex: u32,
    /// Id of its network namespace, if it is another one.
    pub(super) namespace: Option<i32>,
}

/// What a network namespace contains.
pub(super) struct Links {
    /// Interfaces by index; those of veths have no [`Interface::peer`].
    pub(super) interfaces: HashMap<u32, Interface>,
    /// Indexes in the order of the kernel.
    order: Vec<u32>,
    peers: HashMap<u32, PeerIndex>,
    addresses: Addresses,
}

/// Reads all interfaces and addresses in the network namespace of the calling thread.
pub(super) async fn read() -> Result<(Vec<Interface>, Addresses), GatherError> {
    let (connection, handle, _) = new_connection().map_err(GatherError::Connect)?;
    let task = tokio::spawn(connection);
    let read = read_by(&handle).await;
    let read = match read {
        Ok(mut links) => {
            let mut peers = peers::find(&handle, &links.peers, &links.interfaces).await;
            let interfaces = links.order.iter().filter_map(|index| {
                let interface = links.interfaces.remove(index)?;
                let peer = peers.remove(index);
                Some(Interface { peer, ..interface })
            });
            Ok((interfaces.collect(), links.addresses))
        }
        Err(error) => Err(error),
    };
    task.abort();
    read
}

/// The same without the peers of veths.
pub(super) async fn read_plain() -> Result<Links, GatherError> {
    let (connection, handle, _) = new_connection().map_err(GatherError::Connect)?;
    let task = tokio::spawn(connection);
    let read = read_by(&handle).await;
    task.abort();
    read
}

async fn read_by(handle: &Handle) -> Result<Links, GatherError> {
    let (links, addresses) = request(handle).await.map_err(GatherError::Read)?;
    let known: HashMap<u32, MasterLink> = links
        .iter()
        .map(|message| (message.header.index, as_master(message)))
        .collect();
    let interfaces = links.iter().map(|message| {
        let interface = Interface {
            lower: lower(message, &links, &known),
            ..interface(message, &known)
        };
        (message.header.index, interface)
    });
    let peers = links
        .iter()
        .filter_map(|message| Some((message.header.index, peer(message)?)));
    let addresses = addresses.iter().filter_map(|message| {
        let link = known.get(&message.header.index)?;
        Some((link.name.clone(), address(message)?))
    });
    Ok(Links {
        interfaces: interfaces.collect(),
        order: links.iter().map(|message| message.header.index).collect(),
        peers: peers.collect(),
        addresses: addresses.collect(),
    })
}

async fn request(
    handle: &Handle,
) -> Result<(Vec<LinkMessage>, Vec<AddressMessage>), rtnetlink::Error> {
    let links = handle.link().get().execute().try_collect().await?;
    let addresses = handle.address().get().execute().try_collect().await?;
    Ok((links, addresses))
}

fn name_of(message: &LinkMessage) -> String {
    let mut attributes = message.attributes.iter();
    let name = attributes.find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    name.unwrap_or_default()
}

fn kind_of(message: &LinkMessage) -> Option<String> {
    message.attributes.iter().find_map(|attribute| {
        let LinkAttribute::LinkInfo(infos) = attribute else {
            return None;
        };
        infos.iter().find_map(|info| match info {
            LinkInfo::Kind(kind) => Some(kind.to_string()),
            _ => None,
        })
    })
}

fn as_master(message: &LinkMessage) -> MasterLink {
    MasterLink {
        name: name_of(message),
        kind: kind_of(message).unwrap_or_default(),
    }
}

fn interface(message: &LinkMessage, known: &HashMap<u32, MasterLink>) -> Interface {
    let flags = message.header.flags;
    let name = name_of(message);
    let mut interface = Interface {
        usable: flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        kind: kind_of(message),
        driver: ethtool::driver(&name),
        channels: ethtool::channels(&name),
        lro: ethtool::lro(&name),
        gro: ethtool::gro(&name),
        rx_vlan: ethtool::rx_vlan(&name),
        tx_checksum: ethtool::tx_checksum(&name),
        xdp_features: xdp_features::of(message.header.index),
        name,
        ..Interface::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
            LinkAttribute::Controller(index) => interface.master = known.get(index).cloned(),
            LinkAttribute::Xdp(attributes) => interface.xdp_program = program(attributes),
            _ => {}
        }
    }
    interface
}

fn peer(message: &LinkMessage) -> Option<PeerIndex> {
    if kind_of(message).as_deref() != Some("veth") {
        return None;
    }
    let mut attributes = message.attributes.iter();
    let namespace = attributes.find_map(|attribute| match attribute {
        LinkAttribute::LinkNetNsId(id) => Some(*id),
        _ => None,
    });
    let mut attributes = message.attributes.iter();
    let ifindex = attributes.find_map(|attribute| match attribute {
        LinkAttribute::Link(index) => Some(*index),
        _ => None,
    })?;
    Some(PeerIndex { ifindex, namespace })
}

/// Names of the lower interfaces: those below a VLAN, the ports of a bond.
fn lower(
    message: &LinkMessage,
    links: &[LinkMessage],
    known: &HashMap<u32, MasterLink>,
) -> Vec<String> {
    // With a namespace ID, the index belongs to that namespace. The link of a veth is its peer.
    let has_namespace = |a: &LinkAttribute| matches!(a, LinkAttribute::LinkNetNsId(_));
    let in_other_namespace = message.attributes.iter().any(has_namespace);
    let below = message
        .attributes
        .iter()
        .filter_map(|attribute| match attribute {
            LinkAttribute::Link(index) if !in_other_namespace && *index != message.header.index => {
                Some(index)
            }
            _ => None,
        });
    let below = below.filter(|_| kind_of(message).as_deref() != Some("veth"));
    let own = LinkAttribute::Controller(message.header.index);
    let ports = links.iter().filter(|link| link.attributes.contains(&own));
    let ports = ports.map(|port| &port.header.index);
    below
        .chain(ports)
        .filter_map(|index| Some(known.get(index)?.name.clone()))
        .collect()
}

/// ID of the attached XDP program; 0 if the kernel does not report it.
fn program(attributes: &[LinkXdp]) -> Option<u32> {
    let attached = attributes.iter().any(|attribute| {
        matches!(attribute, LinkXdp::Attached(how) if !matches!(how, XdpAttached::None))
    });
    let id = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::ProgId(id)
        | LinkXdp::DrvProgId(id)
        | LinkXdp::SkbProgId(id)
        | LinkXdp::HwProgId(id) => Some(*id),
        _ => None,
    });
    if attached { id.or(Some(0)) } else { None }
}

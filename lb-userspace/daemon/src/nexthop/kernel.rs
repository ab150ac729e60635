//! Reads links, neighbours and routes by rtnetlink.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    num::NonZeroI32,
};

use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::{
    Error, Handle,
    packet_route::{
        AddressFamily,
        link::{LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
        neighbour::{
            NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
        },
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia},
    },
};

use super::state::{Link, Neighbour, Route, Stations};

/// Interfaces by index.
pub(super) type Links = HashMap<u32, Link>;

/// Neighbours by interface and address.
pub(super) type Neighbours = HashMap<(u32, IpAddr), Neighbour>;

pub(super) async fn links(handle: &Handle) -> Result<Links, Error> {
    let messages: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
    Ok(messages
        .iter()
        .map(|message| (message.header.index, link(message)))
        .collect())
}

fn link(message: &LinkMessage) -> Link {
    let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let usable = message
        .header
        .flags
        .contains(LinkFlags::Up | LinkFlags::LowerUp);
    let mut in_other_namespace = false;
    let mut link = Link {
        name: String::new(),
        usable,
        mac: None,
        mtu: 0,
        master: None,
        kind: None,
        lower: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => link.kind = kind(infos),
            LinkAttribute::Link(lower) => link.lower = Some(*lower),
            LinkAttribute::LinkNetNsId(_) => in_other_namespace = true,
            LinkAttribute::Controller(master) => link.master = Some(*master),
            LinkAttribute::Address(bytes) if ethernet => link.mac = bytes[..].try_into().ok(),
            _ => {}
        }
    }
    // The index belongs to the other namespace; and the link of a veth is its peer.
    if in_other_namespace || link.kind.as_deref() == Some("veth") {
        link.lower = None;
    }
    link
}

fn kind(infos: &[LinkInfo]) -> Option<String> {
    infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    })
}

/// Returns the MAC addresses that each interface accepts frames for: its own, that of the bridge,
/// bond or team that it is a port of, and those that the kernel lists besides (`bridge fdb show`),
/// such as the addresses of macvlan interfaces above it.
pub(super) async fn stations(handle: &Handle, links: &Links) -> Result<Stations, Error> {
    let request = handle.neighbours().get();
    let request = request.set_address_family(AddressFamily::Bridge);
    let listed: Vec<NeighbourMessage> = request.execute().try_collect().await?;
    Ok(stations_of(links, listed.iter().filter_map(listed_address)))
}

/// Returns an additional unicast address of an interface.
fn listed_address(message: &NeighbourMessage) -> Option<(u32, [u8; 6])> {
    let header = &message.header;
    // Others are what the interface has learned about the network.
    if header.state != NeighbourState::Permanent || !header.flags.contains(NeighbourFlags::Own) {
        return None;
    }
    let mac = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => <[u8; 6]>::try_from(&bytes[..]).ok(),
            _ => None,
        })?;
    (mac[0] & 1 == 0).then_some((header.ifindex, mac))
}

fn stations_of(links: &Links, listed: impl Iterator<Item = (u32, [u8; 6])>) -> Stations {
    let mut stations: BTreeSet<(u32, [u8; 6])> = listed.collect();
    for (&ifindex, link) in links {
        let master = link.master.and_then(|master| links.get(&master));
        let own = [Some(link), master].into_iter().flatten();
        stations.extend(own.filter_map(|link| Some((ifindex, link.mac?))));
    }
    stations
}

pub(super) async fn neighbours(handle: &Handle) -> Result<Neighbours, Error> {
    let messages: Vec<NeighbourMessage> = handle.neighbours().get().execute().try_collect().await?;
    Ok(messages.iter().filter_map(neighbour).collect())
}

fn neighbour(message: &NeighbourMessage) -> Option<((u32, IpAddr), Neighbour)> {
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                address = Some(IpAddr::V4(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                address = Some(IpAddr::V6(*v6));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = <[u8; 6]>::try_from(&bytes[..]).ok();
            }
            _ => {}
        }
    }
    let neighbour = match (message.header.state, mac) {
        (NeighbourState::Failed, _) => Neighbour::Failed,
        (NeighbourState::Incomplete | NeighbourState::None, _) | (_, None) => Neighbour::Incomplete,
        (NeighbourState::Permanent | NeighbourState::Noarp, Some(mac)) => Neighbour::Permanent(mac),
        (_, Some(mac)) => Neighbour::Known(mac),
    };
    Some(((message.header.ifindex, address?), neighbour))
}

/// Looks up the route of this host to an address.
pub(super) async fn route(handle: &Handle, address: IpAddr) -> Result<Route, Error> {
    let mut message = RouteMessage::default();
    (
        message.header.address_family,
        message.header.destination_prefix_length,
    ) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message
        .attributes
        .push(RouteAttribute::Destination(address.into()));
    let answer = handle.route().get(message).execute().boxed().next().await;
    match answer {
        Some(Ok(message)) => Ok(route_of(address, &message)),
        // No route: unreachable, prohibited, blackhole.
        Some(Err(Error::NetlinkError(error))) => Ok(Route::None {
            kernel: error_text(error.code),
        }),
        Some(Err(error)) => Err(error),
        None => Err(Error::RequestFailed),
    }
}

/// Returns the text of a netlink error code.
fn error_text(code: Option<NonZeroI32>) -> String {
    let number = code.map_or(0, |code| code.get().saturating_abs());
    std::io::Error::from_raw_os_error(number).to_string()
}

fn route_of(address: IpAddr, message: &RouteMessage) -> Route {
    match message.header.kind {
        RouteType::Unicast => {}
        RouteType::Local => return Route::Local,
        other => {
            return Route::None {
                kernel: format!("route type {other:?}"),
            };
        }
    }
    let (mut ifindex, mut neighbour, mut source, mut mtu) = (None, address, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Gateway(gateway) => neighbour = ip(gateway).unwrap_or(address),
            RouteAttribute::Via(RouteVia::Inet6(gateway)) => neighbour = (*gateway).into(),
            RouteAttribute::Via(RouteVia::Inet(gateway)) => neighbour = (*gateway).into(),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    match ifindex {
        Some(ifindex) => Route::Via {
            ifindex,
            neighbour,
            source,
            mtu,
        },
        None => Route::None {
            kernel: "route without an interface".into(),
        },
    }
}

const fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

/// Marks a neighbour as in use (`NTF_USE`): the kernel resolves an unknown one and confirms a stale
/// one. Not for permanent neighbours: since Linux 5.16 this would make them ordinary entries, which
/// expire.
pub(super) async fn use_neighbour(
    handle: &Handle,
    ifindex: u32,
    address: IpAddr,
) -> Result<(), Error> {
    let request = handle.neighbours().add(ifindex, address);
    request
        .state(NeighbourState::None)
        .flags(NeighbourFlags::Use)
        .replace()
        .execute()
        .await
}

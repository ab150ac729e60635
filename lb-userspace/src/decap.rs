//! Addresses of this host, for which a backend accepts encapsulated packets.

use std::{collections::HashSet, io, net::IpAddr, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use rtnetlink::{
    Handle, MulticastGroup, new_multicast_connection,
    packet_route::address::{AddressAttribute, AddressMessage},
};
use tokio::task::JoinHandle;

/// Debounce window of changes, which come in bursts.
const DEBOUNCE: Duration = Duration::from_millis(5);

/// Links too, as interfaces are added and removed.
const GROUPS: [MulticastGroup; 3] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
];

#[derive(Debug, thiserror::Error)]
pub enum HostAddressError {
    #[error(
        "cannot watch this host's addresses by rtnetlink: {0}; check whether a security module or container forbids netlink sockets"
    )]
    Connect(#[source] io::Error),
    #[error("cannot read this host's addresses by rtnetlink: {0}; try again")]
    Read(#[source] rtnetlink::Error),
    #[error("the rtnetlink connection was closed; restart the command")]
    Ended,
}

/// Reads and watches the addresses of this host, in the network namespace of the creating thread.
pub struct HostAddresses {
    handle: Handle,
    changes: BoxStream<'static, ()>,
    connection: JoinHandle<()>,
}

impl HostAddresses {
    /// Starts watching. Must be called within a tokio runtime.
    pub fn watch() -> Result<Self, HostAddressError> {
        let (connection, handle, messages) =
            new_multicast_connection(&GROUPS).map_err(HostAddressError::Connect)?;
        Ok(Self {
            handle,
            // The content is ignored: every message, also one about lost messages, causes a full read.
            changes: messages.map(|_| ()).boxed(),
            connection: tokio::spawn(connection),
        })
    }

    /// Returns the addresses that packets on an interface can be for: first those of the interface, then
    /// those of other interfaces, then those of the loopback interface.
    pub async fn read(&self, interface: &str) -> Result<Vec<IpAddr>, HostAddressError> {
        let own = nix::net::if_::if_nametoindex(interface).ok();
        let messages: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(HostAddressError::Read)?;
        let of = messages.iter().filter_map(|message| {
            let index = message.header.index;
            Some((index, address(message)?))
        });
        Ok(in_order(of, own))
    }

    /// Waits for a change and the rest of its burst.
    pub async fn changed(&mut self) -> Result<(), HostAddressError> {
        self.changes.next().await.ok_or(HostAddressError::Ended)?;
        let until = tokio::time::Instant::now() + DEBOUNCE;
        while let Ok(Some(())) = tokio::time::timeout_at(until, self.changes.next()).await {}
        Ok(())
    }
}

impl Drop for HostAddresses {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// The local address: on a point-to-point link, `Address` is that of the peer.
pub(crate) fn address(message: &AddressMessage) -> Option<IpAddr> {
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => return Some(*local),
            AddressAttribute::Address(address) => found = Some(*address),
            _ => {}
        }
    }
    found
}

/// Index of the loopback interface, in every network namespace.
const LOOPBACK: u32 = 1;

fn in_order(addresses: impl Iterator<Item = (u32, IpAddr)>, own: Option<u32>) -> Vec<IpAddr> {
    let mut usable: Vec<(u8, IpAddr)> = addresses
        .filter(|(index, address)| {
            let elsewhere = Some(*index) != own && is_link_local(address);
            !elsewhere && !address.is_loopback() && !address.is_unspecified()
        })
        .map(|(index, address)| {
            let rank = match index {
                _ if Some(index) == own => 0,
                LOOPBACK => 2,
                _ => 1,
            };
            (rank, address)
        })
        .collect();
    usable.sort_unstable();
    let mut seen = HashSet::new();
    let addresses = usable.into_iter().map(|(_, address)| address);
    addresses.filter(|address| seen.insert(*address)).collect()
}

/// Whether an address is valid on its link only. (Linux treats 169.254.0.0/16 like any other.)
const fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorts_addresses_and_drops_unusable_ones() {
        let addresses = [
            (1, "127.0.0.1"),
            (1, "::1"),
            (1, "192.0.2.80"),
            (3, "10.1.0.1"),
            (3, "fe80::3"),
            (2, "fe80::2"),
            (2, "10.0.0.1"),
            (3, "169.254.1.1"),
            (3, "10.0.0.1"),
        ];
        let addresses = addresses.map(|(index, text)| (index, text.parse().unwrap()));
        let expected = [
            "10.0.0.1",
            "fe80::2",
            "10.1.0.1",
            "169.254.1.1",
            "192.0.2.80",
        ];
        let expected = expected.map(|text| text.parse::<IpAddr>().unwrap());
        assert_eq!(in_order(addresses.into_iter(), Some(2)), expected);
    }
}

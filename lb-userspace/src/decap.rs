//! Addresses of this host: what a backend takes encapsulated packets for.

use std::{collections::HashSet, io, net::IpAddr, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use rtnetlink::{
    Handle, MulticastGroup, new_multicast_connection,
    packet_route::address::{AddressAttribute, AddressMessage},
};
use tokio::task::JoinHandle;

/// Changes come in bursts: this long is waited for the rest of one.
const DEBOUNCE: Duration = Duration::from_millis(5);

/// Interfaces come and go, too.
const GROUPS: [MulticastGroup; 3] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
];

/// The addresses of this host could not be read or watched.
#[derive(Debug, thiserror::Error)]
pub enum HostAddressError {
    /// No connection to the kernel.
    #[error("watch this host's addresses by rtnetlink: {0}; are netlink sockets forbidden here?")]
    Connect(#[source] io::Error),
    /// A question was not answered.
    #[error("read this host's addresses by rtnetlink: {0}; trying again may help")]
    Read(#[source] rtnetlink::Error),
    /// The connection is gone.
    #[error("the rtnetlink connection has ended; start again")]
    Ended,
}

/// Reads and watches the addresses of this host, in the network namespace of the thread that made it.
pub struct HostAddresses {
    handle: Handle,
    changes: BoxStream<'static, ()>,
    connection: JoinHandle<()>,
}

impl HostAddresses {
    /// Starts to watch. Must be called within a tokio runtime.
    pub fn watch() -> Result<Self, HostAddressError> {
        let (connection, handle, messages) =
            new_multicast_connection(&GROUPS).map_err(HostAddressError::Connect)?;
        Ok(Self {
            handle,
            // Whatever it says, among it that messages were lost: all is read again.
            changes: messages.map(|_| ()).boxed(),
            connection: tokio::spawn(connection),
        })
    }

    /// The addresses that packets which came in by an interface can be for: those of the interface
    /// come first, then those of others, then those of the loopback interface.
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

    /// Waits until something changes, and then for the rest of the burst.
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

/// The host's own end of an address: on a point-to-point link `Address` is the other one.
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

/// Whether an address says nothing on another link. (To Linux, one of 169.254.0.0/16 is like any.)
const fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_interface_come_first_and_those_of_no_use_not_at_all() {
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

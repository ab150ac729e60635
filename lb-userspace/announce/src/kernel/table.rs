//! Routes of one device in one routing table, by rtnetlink.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use futures_util::{StreamExt as _, TryStreamExt as _};
use nix::net::if_::if_indextoname;
use rtnetlink::{
    Error, Handle, LinkUnspec, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope, RouteType},
    },
};

/// Names of `ip route` for protocols (linux/rtnetlink.h).
const PROTOCOLS: [(u8, &str); 8] = [
    (2, "kernel"),
    (3, "boot"),
    (4, "static"),
    (11, "zebra"),
    (12, "bird"),
    (16, "dhcp"),
    (186, "bgp"),
    (188, "ospf"),
];

/// What was found in the table.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Wanted routes that somebody removed since the last time.
    pub(super) removed: BTreeSet<IpAddr>,
    /// Wanted routes that can't be added: the table has another one of the same destination and metric.
    pub(super) displaced: BTreeSet<IpAddr>,
    /// Host routes of others.
    pub(super) foreign: Arc<BTreeMap<IpAddr, String>>,
}

/// Device and table that routes are in.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) handle: Handle,
    pub(super) ifindex: u32,
    pub(super) table: u32,
}

/// Returns the index of a device.
pub(super) async fn index_of(handle: &Handle, device: &str) -> Result<u32, Error> {
    let request = handle.link().get().match_name(device.to_owned());
    let answer = request.execute().boxed().next().await;
    let link = answer.ok_or(Error::RequestFailed)??;
    Ok(link.header.index)
}

impl Table {
    /// Sets the device up, without link-local address: nobody is at its other end.
    pub(super) async fn set_up(&self) -> Result<(), Error> {
        let inet6 = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let no_address = LinkUnspec::new_with_index(self.ifindex)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![inet6]))
            .build();
        // Fails if IPv6 is disabled on the host; then there is no link-local address either.
        let _ = self.handle.link().set(no_address).execute().await;
        let up = LinkUnspec::new_with_index(self.ifindex).up().build();
        self.handle.link().set(up).execute().await
    }

    /// Makes the routes of the device those wanted, and returns what was found in the table before. Routes
    /// of others are left alone. `installed`: the routes after the last time.
    pub(super) async fn reconcile(
        &self,
        wanted: &BTreeSet<IpAddr>,
        installed: &BTreeSet<IpAddr>,
    ) -> Result<Found, Error> {
        let (ours, others): (Vec<_>, Vec<_>) = self.read().await?.into_iter().partition(|route| {
            let (_, ifindex) = place(route);
            ifindex == Some(self.ifindex)
        });
        // Withdrawals first: an address that must not be announced is more urgent.
        for route in &ours {
            if !host(route).is_some_and(|address| wanted.contains(&address)) {
                let removed = self.handle.route().del(route.clone()).execute().await;
                ignore(removed, libc::ESRCH)?;
            }
        }
        let present: BTreeSet<IpAddr> = ours.iter().filter_map(host).collect();
        let mut displaced = BTreeSet::new();
        for address in wanted.difference(&present) {
            let route = self.route(*address);
            match self.handle.route().add(route).execute().await {
                Err(error) if is(&error, libc::EEXIST) => {
                    displaced.insert(*address);
                }
                added => added?,
            }
        }
        let lost = installed.difference(&present);
        let removed = lost.filter(|it| wanted.contains(it)).copied().collect();
        let mut names = BTreeMap::new();
        let foreign = others
            .iter()
            .filter_map(|it| Some((host(it)?, describe(it, &mut names))));
        Ok(Found {
            removed,
            displaced,
            foreign: Arc::new(foreign.collect()),
        })
    }

    /// Reads all routes of the table.
    async fn read(&self) -> Result<Vec<RouteMessage>, Error> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut filter = RouteMessage::default();
            filter.header.address_family = family;
            filter.attributes = vec![RouteAttribute::Table(self.table)];
            let listed = self.handle.route().get(filter).execute();
            let listed: Result<Vec<RouteMessage>, Error> = listed.try_collect().await;
            match listed {
                Ok(listed) => routes.extend(listed),
                // A table exists only while it has routes.
                Err(error) => ignore(Err(error), libc::ENOENT)?,
            }
        }
        // Kernels before 4.20 do not filter.
        routes.retain(|route| place(route).0 == self.table);
        Ok(routes)
    }

    fn route(&self, address: IpAddr) -> RouteMessage {
        let destination = RouteAttribute::Destination(address.into());
        let mut message = RouteMessageBuilder::<IpAddr>::new()
            .table_id(self.table)
            .output_interface(self.ifindex)
            .scope(RouteScope::Link)
            .build();
        message.attributes.push(destination);
        (
            message.header.address_family,
            message.header.destination_prefix_length,
        ) = match address {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        message
    }
}

/// Returns the destination of a host route.
fn host(route: &RouteMessage) -> Option<IpAddr> {
    let destination = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
            _ => None,
        })?;
    let bits = if destination.is_ipv4() { 32 } else { 128 };
    (route.header.destination_prefix_length == bits).then_some(destination)
}

/// Table and device of a route.
fn place(route: &RouteMessage) -> (u32, Option<u32>) {
    let mut table = u32::from(route.header.table);
    let mut ifindex = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            _ => {}
        }
    }
    (table, ifindex)
}

/// What an operator needs to find a route: in the words and the order of `ip route show`. `names`: of devices
/// that were looked up before.
fn describe(route: &RouteMessage, names: &mut BTreeMap<u32, String>) -> String {
    let (mut to, mut device, mut metric) = (None, None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(via)) => to = Some(format!("via {via}")),
            RouteAttribute::Gateway(RouteAddress::Inet6(via)) => to = Some(format!("via {via}")),
            RouteAttribute::MultiPath(hops) => to = Some(format!("over {} next hops", hops.len())),
            RouteAttribute::Oif(index) => {
                let name = names.entry(*index).or_insert_with(|| {
                    let name = if_indextoname(*index).ok();
                    let name = name.and_then(|it| it.into_string().ok());
                    name.unwrap_or_else(|| index.to_string())
                });
                device = Some(format!("dev {name}"));
            }
            RouteAttribute::Priority(number) => metric = Some(format!("metric {number}")),
            _ => {}
        }
    }
    let kind = route.header.kind;
    let kind = (kind != RouteType::Unicast).then(|| format!("{kind:?}").to_lowercase());
    let number = u8::from(route.header.protocol);
    let known = PROTOCOLS.iter().find(|(known, _)| *known == number);
    let protocol = match known {
        Some((_, name)) => format!("proto {name}"),
        None => format!("proto {number}"),
    };
    let words = [kind, to, device, Some(protocol), metric];
    words.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// Ignores an error that means that there is nothing to do.
fn ignore(result: Result<(), Error>, errno: i32) -> Result<(), Error> {
    match result {
        Err(error) if is(&error, errno) => Ok(()),
        other => other,
    }
}

fn is(error: &Error, errno: i32) -> bool {
    matches!(error, Error::NetlinkError(error) if error.raw_code() == -errno)
}

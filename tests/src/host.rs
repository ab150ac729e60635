//! A host of the lab: a namespace with cables, addresses and a folder for its files.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::Result;

use crate::directory::Directory;
use crate::link::ip;
use crate::namespace::Namespace;
use crate::topology::{Family, Segment};

/// A host. Dropping it ends what runs on it and removes it.
#[derive(Debug)]
pub struct Host {
    /// What it is called in the lab, such as `backend-0`.
    pub name: String,
    /// Its network.
    pub ns: Namespace,
    /// Its interfaces, `eth0` first.
    pub ports: Vec<Port>,
    directory: Directory,
}

/// An interface that is joined to the switch.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its name on the host.
    pub interface: String,
    /// Its hardware address.
    pub mac: String,
    /// Its IPv4 address, in a /24.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address, in a /64.
    pub ipv6: Ipv6Addr,
    /// What it is joined to.
    pub segment: Segment,
    /// The other end of its cable, in the switch.
    pub switch_port: String,
}

impl Host {
    /// A host without cables.
    pub fn new(name: &str) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            ns: Namespace::new(name)?,
            ports: Vec::new(),
            directory: Directory::new(name)?,
        })
    }

    /// The folder for its files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The address of its first interface.
    ///
    /// # Panics
    /// If it has none.
    pub fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.ports[0].ipv4.into(),
            Family::V6 => self.ports[0].ipv6.into(),
        }
    }

    /// Puts a VIP on the loopback, as direct server return (`l2`, `ipip`) asks of backends.
    pub fn hold_vip(&self, vip: IpAddr) -> Result<()> {
        let line = match vip {
            IpAddr::V4(vip) => format!("addr add {vip}/32 dev lo"),
            IpAddr::V6(vip) => format!("addr add {vip}/128 dev lo nodad"),
        };
        ip(&self.ns, &[line])
    }
}

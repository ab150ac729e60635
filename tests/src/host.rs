//! A host of the lab: a namespace with links, addresses and a folder for its files.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::directory::Directory;
use crate::link::ip;
use crate::namespace::Namespace;
use crate::topology::{Family, Segment};

/// A host. Dropping it kills its processes and removes it.
#[derive(Debug)]
pub struct Host {
    /// Name in the lab, such as `backend-0`.
    pub name: String,
    pub ns: Namespace,
    /// Interfaces, `eth0` first.
    pub ports: Vec<Port>,
    directory: Directory,
}

/// An interface that is connected to the switch.
#[derive(Clone, Debug)]
pub struct Port {
    pub interface: String,
    pub mac: String,
    /// In a /24.
    pub ipv4: Ipv4Addr,
    /// In a /64.
    pub ipv6: Ipv6Addr,
    pub segment: Segment,
    /// The other end of the veth pair, in the switch.
    pub switch_port: String,
}

impl Host {
    /// Creates a host without links.
    pub fn new(name: &str) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            ns: Namespace::new(name)?,
            ports: Vec::new(),
            directory: Directory::new(name)?,
        })
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Returns the address of its first interface.
    ///
    /// # Panics
    /// If it has none.
    pub fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.ports[0].ipv4.into(),
            Family::V6 => self.ports[0].ipv6.into(),
        }
    }

    /// Adds a VIP to the loopback interface, as direct server return (`l2`, `ipip`) requires.
    pub fn hold_vip(&self, vip: IpAddr) -> Result<()> {
        let line = match vip {
            IpAddr::V4(vip) => format!("addr add {vip}/32 dev lo"),
            IpAddr::V6(vip) => format!("addr add {vip}/128 dev lo nodad"),
        };
        ip(&self.ns, &[line])
    }

    /// Makes an HTTP/1.0 request to the host's loopback and returns the body of the reply. Fails unless
    /// the status is 200.
    pub fn http_get(&self, port: u16, path: &str) -> Result<String> {
        let reply = self.ns.enter(|| -> std::io::Result<String> {
            let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            connection.set_read_timeout(Some(Duration::from_secs(30)))?;
            write!(connection, "GET {path} HTTP/1.0\r\nHost: lab\r\n\r\n")?;
            let mut reply = String::new();
            connection.read_to_string(&mut reply)?;
            Ok(reply)
        });
        let request = format!("GET {path} from port {port} of {}", self.name);
        let reply = reply.with_context(|| request.clone())?;
        let (head, body) = reply.split_once("\r\n\r\n").unwrap_or((&reply, ""));
        if !head.contains(" 200 ") {
            bail!("{request}: {head}\n{body}");
        }
        Ok(body.to_owned())
    }
}

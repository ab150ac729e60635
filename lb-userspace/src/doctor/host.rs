//! The state of a host as plain data: gathered on a real host, constructed in tests.

use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive, path::PathBuf};

use lb_daemon::{membership::Asked, nexthop};
use lb_dataplane::ethtool::Channels;

/// A host. `None` means unknown, unless a field says otherwise.
#[derive(Clone, Debug)]
pub struct Host {
    /// Kernel release, as printed by `uname -r`.
    pub kernel: String,
    /// Whether `/sys/kernel/btf/vmlinux` exists.
    pub btf: bool,
    /// `net.core.bpf_jit_enable`; visible in the initial network namespace only.
    pub jit: Option<u32>,
    /// Whether the XDP program could be loaded and run on a packet.
    pub trial: Result<(), String>,
    /// Effective capabilities of this process, as a bit mask.
    pub capabilities: u64,
    /// Limit of locked memory in bytes; `None`: unlimited.
    pub memlock: Option<u64>,
    /// Number of online CPUs.
    pub cpus: u32,
    pub bpffs: Bpffs,
    /// Interfaces with a pinned link of Evenkeel.
    pub pinned: Vec<String>,
    /// Whether a time service synchronises the clock.
    pub clock_synchronised: Option<bool>,
    pub interfaces: Vec<Interface>,
    /// Names of interfaces with their addresses.
    pub addresses: Vec<(String, IpAddr)>,
    /// Sysctls by dotted name.
    pub sysctls: BTreeMap<String, String>,
    /// Next hops of the backends in the configuration.
    pub next_hops: nexthop::NextHops,
    /// Port ranges, if the configuration uses `nat`.
    pub ports: Option<Ports>,
    /// The status of `evenkeel announce`, or why it does not answer, if the configuration has `[announce]`.
    pub announcer: Option<Result<lb_api::AnnounceStatus, String>>,
    /// What the DNS sources of the configuration answer.
    pub sources: Vec<Asked>,
    /// Directory of the revisions, if there is a configuration.
    pub state_dir: Option<Directory>,
}

/// State of the BPF file system at a mount point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bpffs {
    Mounted(PathBuf),
    /// Not mounted, but `run` can mount it.
    Mountable(PathBuf),
    /// Cannot be mounted.
    Missing {
        path: PathBuf,
        why: String,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    /// Whether it is up and has a carrier.
    pub usable: bool,
    /// Whether it carries Ethernet frames (and is not the loopback interface).
    pub ethernet: bool,
    pub mtu: u32,
    /// Kind of a virtual interface: `vlan`, `bond`, `bridge`, `veth`, …
    pub kind: Option<String>,
    /// The interface that it is a port of.
    pub master: Option<MasterLink>,
    /// Lower interfaces in this network namespace: the ports of a bond or bridge, the interface below a
    /// VLAN or macvlan.
    pub lower: Vec<String>,
    /// ID of the attached XDP program, if any.
    pub xdp_program: Option<u32>,
    pub driver: Option<String>,
    pub channels: Option<Channels>,
    pub lro: Option<bool>,
    pub gro: Option<bool>,
    /// Whether VLAN tags are removed from received frames.
    pub rx_vlan: Option<bool>,
    /// Whether the checksums of transmitted packets are left to it.
    pub tx_checksum: Option<bool>,
    /// The other end of a veth.
    pub peer: Option<Peer>,
    /// XDP features that the driver reports ([`xdp_feature`], since Linux 6.3).
    pub xdp_features: Option<u64>,
}

/// The other end of a veth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub name: String,
    /// Whether it is in another network namespace.
    pub is_elsewhere: bool,
    pub has_program: bool,
    /// Whether the checksums of packets that its namespace transmits are left to it.
    pub tx_checksum: Option<bool>,
}

/// The bond, bridge or VRF that an interface is a port of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MasterLink {
    pub name: String,
    /// `bond`, `bridge`, `team`, `vrf`, …
    pub kind: String,
}

/// Bits of [`Interface::xdp_features`] (`enum netdev_xdp_act` of Linux).
pub mod xdp_feature {
    /// Programs can pass, drop and transmit.
    pub const BASIC: u64 = 1;
    /// Programs can redirect.
    pub const REDIRECT: u64 = 2;
    /// Frames can be redirected to it.
    pub const NDO_XMIT: u64 = 4;
}

/// Port ranges of the host that may collide with those of `nat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    /// `net.ipv4.ip_local_port_range`.
    pub local: RangeInclusive<u16>,
    /// `net.ipv4.ip_local_reserved_ports`.
    pub reserved: Vec<RangeInclusive<u16>>,
    /// The socket that uses a port of `nat`, if any.
    pub conflict: Option<String>,
}

/// A directory. If it does not exist, the rest is about its nearest existing ancestor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    pub path: PathBuf,
    pub exists: bool,
    /// Why it is not writable, if it is not.
    pub unwritable: Option<String>,
    pub free_bytes: u64,
    /// `tmpfs`, `nfs` or `overlay`; `None` for others.
    pub file_system: Option<&'static str>,
}

impl Host {
    #[must_use]
    pub fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|i| i.name == name)
    }

    /// Major and minor version of the kernel.
    #[must_use]
    pub fn version(&self) -> Option<(u32, u32)> {
        let mut numbers = self
            .kernel
            .split(|c: char| !c.is_ascii_digit())
            .map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }
}

//! What is known of a host. Plain data: gathered on a real one, made up in tests.

use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive, path::PathBuf};

use lb_daemon::nexthop;

/// A host. `None` stands for what could not be found out.
#[derive(Clone, Debug)]
pub struct Host {
    /// The kernel's release, as `uname -r` says.
    pub kernel: String,
    /// Whether the kernel describes its types at `/sys/kernel/btf/vmlinux`.
    pub btf: bool,
    /// `net.core.bpf_jit_enable`; not to be seen in other network namespaces than the first.
    pub jit: Option<u32>,
    /// Whether this binary's program could be loaded and run on a packet; if not, why.
    pub trial: Result<(), String>,
    /// Effective capabilities of this process, one bit each.
    pub capabilities: u64,
    /// Bytes of memory that this process may lock; `None`: any number.
    pub memlock: Option<u64>,
    /// CPUs that are online.
    pub cpus: u32,
    /// The BPF file system.
    pub bpffs: Bpffs,
    /// Interfaces that a pinned link of ours is for.
    pub pinned: Vec<String>,
    /// Whether the clock is kept by a time service.
    pub clock_synchronised: Option<bool>,
    /// All interfaces.
    pub interfaces: Vec<Interface>,
    /// Addresses with the name of their interface.
    pub addresses: Vec<(String, IpAddr)>,
    /// Sysctls by their name with dots.
    pub sysctls: BTreeMap<String, String>,
    /// Ways to the backends of the configuration.
    pub next_hops: nexthop::NextHops,
    /// Ports, if the configuration has `nat`.
    pub ports: Option<Ports>,
    /// The folder of the revisions, if there is a configuration.
    pub state_dir: Option<Folder>,
}

/// The BPF file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bpffs {
    /// It is mounted here.
    Mounted(PathBuf),
    /// It is not, but the folder is there and `run` can mount it.
    Mountable(PathBuf),
    /// It can't be mounted.
    Missing {
        /// Where it should be.
        path: PathBuf,
        /// Why it can't be.
        why: String,
    },
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Whether it is up and has a carrier.
    pub usable: bool,
    /// Whether it carries Ethernet frames (and is not the loopback interface).
    pub ethernet: bool,
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// Kind, for interfaces made by software: `vlan`, `bond`, `bridge`, `veth` …
    pub kind: Option<String>,
    /// What it is a part of.
    pub master: Option<MasterLink>,
    /// What it is made of or stands on, as far as it is in this network namespace: the ports of a bond or
    /// bridge, the interface below a VLAN or macvlan.
    pub lower: Vec<String>,
    /// Id of the XDP program that is attached.
    pub xdp_program: Option<u32>,
    /// Driver.
    pub driver: Option<String>,
    /// Queues for receiving.
    pub channels: Option<Channels>,
    /// Whether the NIC merges received packets.
    pub lro: Option<bool>,
    /// Whether the kernel does.
    pub gro: Option<bool>,
    /// What the driver can do with XDP, as it says ([`xdp_feature`], Linux 6.3).
    pub xdp_features: Option<u64>,
}

/// What an interface is a part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MasterLink {
    /// Its name.
    pub name: String,
    /// Its kind: `bond`, `bridge`, `team`, `vrf` …
    pub kind: String,
}

/// Queues of an interface that packets are received by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channels {
    /// In use.
    pub current: u32,
    /// That there can be.
    pub max: u32,
}

/// Bits of [`Interface::xdp_features`] (`enum netdev_xdp_act` of Linux).
pub mod xdp_feature {
    /// Programs can pass, drop and send back.
    pub const BASIC: u64 = 1;
    /// Programs can redirect.
    pub const REDIRECT: u64 = 2;
    /// Frames can be redirected to it.
    pub const NDO_XMIT: u64 = 4;
}

/// Ports of the host, beside those of `nat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Ports that the kernel gives to sockets by itself.
    pub local: RangeInclusive<u16>,
    /// Ports that it leaves out.
    pub reserved: Vec<RangeInclusive<u16>>,
    /// Why a socket of this host is in the way, if one is.
    pub conflict: Option<String>,
}

/// A folder, or the nearest one above it that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// The folder.
    pub path: PathBuf,
    /// Whether it is there.
    pub exists: bool,
    /// Why nothing can be written there, if so.
    pub unwritable: Option<String>,
    /// Bytes that are free.
    pub free_bytes: u64,
    /// The file system, where it matters which: `tmpfs`, `nfs`, `overlay`.
    pub file_system: Option<&'static str>,
}

impl Host {
    /// An interface, by its name.
    #[must_use]
    pub fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|i| i.name == name)
    }

    /// Version of the kernel: major and minor number.
    #[must_use]
    pub fn version(&self) -> Option<(u32, u32)> {
        let mut numbers = self
            .kernel
            .split(|c: char| !c.is_ascii_digit())
            .map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }
}

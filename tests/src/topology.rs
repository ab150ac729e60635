//! The hosts of a lab and the links between them.
//!
//! ```text
//! one arm:   clients ─┬─ balancers          two arms:  clients ── front ── balancers ── back ── backends
//!                     └─ backends
//! ```
//!
//! A **segment** (`front`, and with two arms `back`) is a bridge in a separate namespace, the switch.
//! All labs use the same addresses, IPv4 and IPv6. VIPs are in a separate network ([`VIP_NETWORK_V4`],
//! [`VIP_NETWORK_V6`]), to which clients have a route via one balancer node. Changing that route
//! ([`Lab::route_vips_via`]) is what a router does when a node fails.
//!
//! Links are veth pairs, which have traps under native XDP:
//!
//! - The switch's end of a balancer's link runs a `pass` program; without it, frames that the balancer
//!   transmits would be lost ([`crate::pass_program`]).
//! - The same end has checksum offload off. Packets of a local sender carry only a partial checksum, and
//!   XDP would forward it unfinished. With offload off, the kernel completes it (and splits large
//!   segments) before the balancer. Clients and backends keep their offloads.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};

use crate::host::{Host, Port};
use crate::link::{ip, set_offloads};
use crate::namespace::Namespace;
use crate::pass_program::attach_pass;
use crate::xdp_program::XdpProgram;

/// Network of the IPv4 VIPs.
pub const VIP_NETWORK_V4: &str = "192.0.2.0/24";
/// Network of the IPv6 VIPs.
pub const VIP_NETWORK_V6: &str = "2001:db8:2::/64";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

/// Number of segments that balancers are connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// All hosts on one segment; a balancer transmits packets on the interface that received them.
    OneArm,
    /// Clients in front of the balancers (`eth0`), backends behind them (`eth1`), no other route.
    TwoArm,
}

/// Description of a lab.
#[derive(Clone, Debug)]
pub struct Plan {
    pub layout: Layout,
    /// Number of clients (`client-0`, …).
    pub clients: u8,
    /// Number of balancer nodes (`balancer-0`, …).
    pub balancers: u8,
    /// Number of backends (`backend-0`, …).
    pub backends: u8,
    /// MTU between balancers and backends. Clients have [`CLIENT_MTU`]; the difference is room for an
    /// outer header.
    pub fabric_mtu: u32,
}

pub const CLIENT_MTU: u32 = 1500;

impl Plan {
    /// Plans one client, one balancer, three backends, and room for any outer header.
    pub fn new(layout: Layout) -> Self {
        Self {
            layout,
            clients: 1,
            balancers: 1,
            backends: 3,
            fabric_mtu: 1600,
        }
    }
}

/// A bridge of the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Where the clients are.
    Front,
    /// Behind the balancers, with two arms.
    Back,
}

impl Segment {
    fn index(self) -> u8 {
        match self {
            Self::Front => 0,
            Self::Back => 1,
        }
    }

    fn bridge(self) -> &'static str {
        match self {
            Self::Front => "front",
            Self::Back => "back",
        }
    }

    fn network_v4(self) -> String {
        format!("10.77.{}.0/24", self.index())
    }

    fn network_v6(self) -> String {
        format!("fd77:{}::/64", self.index())
    }
}

/// Role of a host. Each role has a range of host numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Balancer,
    Backend,
}

impl Role {
    fn first_number(self) -> u8 {
        match self {
            Self::Balancer => 2,
            Self::Client => 10,
            Self::Backend => 100,
        }
    }

    fn name(self, index: u8) -> String {
        let kind = match self {
            Self::Client => "client",
            Self::Balancer => "balancer",
            Self::Backend => "backend",
        };
        format!("{kind}-{index}")
    }
}

/// Hosts that exist and are connected. Dropping it removes all of them.
#[derive(Debug)]
pub struct Lab {
    pub plan: Plan,
    pub clients: Vec<Host>,
    pub balancers: Vec<Host>,
    pub backends: Vec<Host>,
    /// Namespace of the bridges.
    pub switch: Namespace,
    /// Programs on the switch's ends of the balancers' links, so that they accept frames from XDP.
    pub pass_programs: Vec<XdpProgram>,
}

impl Lab {
    /// Builds the lab. Clients' routes to the VIPs and, with two arms, backends' default routes go via the
    /// first balancer.
    pub fn build(plan: Plan) -> Result<Self> {
        let switch = Namespace::new("switch")?;
        for segment in plan.segments() {
            make_bridge(&switch, *segment)?;
        }
        let hosts = |role: Role, count: u8| -> Result<Vec<Host>> {
            (0..count)
                .map(|index| plan.build_host(role, index, &switch))
                .collect()
        };
        let clients = hosts(Role::Client, plan.clients)?;
        let balancers = hosts(Role::Balancer, plan.balancers)?;
        let backends = hosts(Role::Backend, plan.backends)?;
        let mut pass_programs = Vec::new();
        for port in balancers.iter().flat_map(|host| &host.ports) {
            set_offloads(&switch, &port.switch_port, &["tx", "off"])?;
            pass_programs.push(attach_pass(&switch, &port.switch_port)?);
        }
        let lab = Self {
            plan,
            clients,
            balancers,
            backends,
            switch,
            pass_programs,
        };
        if lab.plan.balancers > 0 {
            lab.route_vips_via(0)?;
        }
        Ok(lab)
    }

    /// Returns the VIP with this number (1 to 254). It is only an address: see [`Host::hold_vip`].
    pub fn vip(&self, family: Family, number: u8) -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::new(192, 0, 2, number).into(),
            Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, number.into()).into(),
        }
    }

    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.clients
            .iter()
            .chain(&self.balancers)
            .chain(&self.backends)
    }

    /// Routes the clients' packets for VIPs via a balancer node and, with two arms, the backends' replies.
    pub fn route_vips_via(&self, balancer: usize) -> Result<()> {
        let node = &self.balancers[balancer];
        let front = &node.ports[0];
        let mut routes = via(front, &[VIP_NETWORK_V4], &[VIP_NETWORK_V6]);
        if let Some(back) = node.ports.get(1) {
            let (v4, v6) = (Segment::Back.network_v4(), Segment::Back.network_v6());
            routes.extend(via(front, &[&v4], &[&v6]));
            for backend in &self.backends {
                ip(&backend.ns, &via(back, &["default"], &["default"]))?;
            }
        }
        for client in &self.clients {
            ip(&client.ns, &routes)?;
        }
        Ok(())
    }

    /// Routes the clients' packets for one VIP via another gateway, such as a backend.
    pub fn route_vip_via(&self, vip: IpAddr, gateway: IpAddr) -> Result<()> {
        let bits = if vip.is_ipv4() { 32 } else { 128 };
        for client in &self.clients {
            ip(
                &client.ns,
                &[format!("route replace {vip}/{bits} via {gateway}")],
            )?;
        }
        Ok(())
    }
}

fn via(gateway: &Port, v4: &[&str], v6: &[&str]) -> Vec<String> {
    let v4 = v4
        .iter()
        .map(|to| format!("route replace {to} via {}", gateway.ipv4));
    let v6 = v6
        .iter()
        .map(|to| format!("route replace {to} via {}", gateway.ipv6));
    v4.chain(v6).collect()
}

fn make_bridge(switch: &Namespace, segment: Segment) -> Result<()> {
    let name = segment.bridge();
    // Without spanning tree and snooping, ports forward at once and neighbour discovery reaches all.
    ip(
        switch,
        &[
            format!("link add {name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"),
            format!("link set {name} up"),
        ],
    )
}

impl Plan {
    fn segments(&self) -> &'static [Segment] {
        match self.layout {
            Layout::OneArm => &[Segment::Front],
            Layout::TwoArm => &[Segment::Front, Segment::Back],
        }
    }

    fn segments_of(&self, role: Role) -> &'static [Segment] {
        match (self.layout, role) {
            (Layout::OneArm, _) | (Layout::TwoArm, Role::Client) => &[Segment::Front],
            (Layout::TwoArm, Role::Balancer) => &[Segment::Front, Segment::Back],
            (Layout::TwoArm, Role::Backend) => &[Segment::Back],
        }
    }

    fn build_host(&self, role: Role, index: u8, switch: &Namespace) -> Result<Host> {
        let name = role.name(index);
        let mut host = Host::new(&name)?;
        for (arm, segment) in self.segments_of(role).iter().enumerate() {
            let number = role.first_number() + index;
            let port = Port::new(&name, arm, *segment, number);
            self.connect(&host.ns, role, &port, switch)
                .with_context(|| format!("connect {name} to {}", segment.bridge()))?;
            host.ports.push(port);
        }
        set_role(&host.ns, role, self.layout)?;
        Ok(host)
    }

    /// Creates the link between a host and the switch and sets its addresses.
    fn connect(&self, ns: &Namespace, role: Role, port: &Port, switch: &Namespace) -> Result<()> {
        let mtu = match role {
            Role::Client => CLIENT_MTU,
            Role::Balancer | Role::Backend => self.fabric_mtu,
        };
        let Port {
            interface,
            mac,
            ipv4,
            ipv6,
            segment,
            switch_port,
        } = port;
        ip(
            switch,
            &[
                format!(
                    "link add name {switch_port} mtu {mtu} type veth \
                     peer name {interface} mtu {mtu} address {mac} netns {}",
                    ns.name()
                ),
                format!("link set {switch_port} master {}", segment.bridge()),
                format!("link set {switch_port} up"),
            ],
        )?;
        let (v4, v6) = (segment.network_v4(), segment.network_v6());
        // With the routes' MTU, hosts send only what every host of the segment can receive.
        ip(
            ns,
            &[
                format!("addr add {ipv4}/24 dev {interface} noprefixroute"),
                format!("addr add {ipv6}/64 dev {interface} nodad noprefixroute"),
                format!("link set {interface} up"),
                format!("route add {v4} dev {interface} src {ipv4} mtu {CLIENT_MTU}"),
                format!("route add {v6} dev {interface} mtu {CLIENT_MTU}"),
            ],
        )
    }
}

fn set_role(ns: &Namespace, role: Role, layout: Layout) -> Result<()> {
    let sysctls: &[(&str, &str)] = match (role, layout) {
        // Backends may hold VIPs on their loopback, but must not answer ARP for them.
        (Role::Backend, _) => &[
            ("net.ipv4.conf.all.arp_ignore", "1"),
            ("net.ipv4.conf.all.arp_announce", "2"),
        ],
        (Role::Balancer, Layout::TwoArm) => &[
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
        ],
        (Role::Balancer, Layout::OneArm) | (Role::Client, _) => &[],
    };
    for (key, value) in sysctls {
        ns.set_sysctl(key, value)?;
    }
    Ok(())
}

impl Port {
    fn new(host: &str, arm: usize, segment: Segment, number: u8) -> Self {
        let index = segment.index();
        Self {
            interface: format!("eth{arm}"),
            mac: format!("02:77:00:00:{index:02x}:{number:02x}"),
            ipv4: Ipv4Addr::new(10, 77, index, number),
            ipv6: Ipv6Addr::new(0xfd77, index.into(), 0, 0, 0, 0, 0, number.into()),
            segment,
            switch_port: format!("{host}.{arm}"),
        }
    }
}

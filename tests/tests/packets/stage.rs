//! Set-up of the tests: a network namespace, a data path with filled tables, clients.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::Command,
};

use lab::{
    bytecode::{
        Bench,
        tables::{self, KEY, Service},
    },
    packet::{Frame, Ip, Mac, Transport, tcp, udp},
};
use lb_common::hash;
use lb_dataplane::{Dataplane, LoadOptions};
use nix::sched::{CloneFlags, unshare};

/// Name of the second interface.
pub(crate) const PORT: &str = "ek0";
pub(crate) const PORT_MAC: Mac = [2, 0, 0, 0, 0, 3];

/// Moves this thread to a new network namespace with a pair of interfaces. Returns the index of one. The
/// kernel removes both when the thread ends.
pub(crate) fn enter_namespace() -> u32 {
    unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
    // Packets that the kernel sends by itself would be counted.
    fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
    let commands = [
        "link set lo up".to_owned(),
        format!("link add {PORT} address 02:00:00:00:00:03 type veth peer name ek1"),
        format!("link set {PORT} up"),
        "link set ek1 up".to_owned(),
    ];
    for command in commands {
        let done = Command::new("ip").args(command.split(' ')).status();
        assert!(done.unwrap().success(), "ip {command}");
    }
    nix::net::if_::if_nametoindex(PORT).unwrap()
}

/// Returns options with which the clock of the data path stands still, so that results do not depend on time.
pub(crate) fn options() -> LoadOptions {
    LoadOptions {
        track_buckets: 1024,
        nat_sessions: 1024,
        nat_embryonic: 1024,
        icmp_rate: u32::MAX,
        tracing: true,
        capturing: false,
        jiffies_shift: Some(31),
    }
}

/// Returns a data path with filled tables, in a new network namespace.
pub(crate) fn dataplane(options: &LoadOptions) -> Dataplane {
    let elsewhere = enter_namespace();
    let mut dataplane = Dataplane::load(options).unwrap();
    tables::fill(&mut dataplane, Some((elsewhere, PORT_MAC))).unwrap();
    dataplane
}

pub(crate) fn bench() -> Bench {
    Bench::new(dataplane(&options()))
}

/// A client host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
}

impl Client {
    /// Clients with different numbers have no flow in common.
    pub(crate) const fn new(number: u8) -> Self {
        Self {
            v4: Ipv4Addr::new(198, 51, 100, number),
            v6: Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, number as u16),
        }
    }

    /// Returns its address in the family of another.
    pub(crate) const fn like(self, address: IpAddr) -> IpAddr {
        match address {
            IpAddr::V4(_) => IpAddr::V4(self.v4),
            IpAddr::V6(_) => IpAddr::V6(self.v6),
        }
    }

    /// Returns a packet to a service: TCP with flags, or UDP.
    pub(crate) fn to(self, service: &Service, port: u16, flags: u8) -> Frame {
        let dest = if service.port == 0 {
            4000
        } else {
            service.port
        };
        self.to_port(service.address, service.protocol, port, dest, flags)
    }

    /// Returns a packet to any address.
    pub(crate) fn to_port(
        self,
        dest: IpAddr,
        protocol: u8,
        from: u16,
        to: u16,
        flags: u8,
    ) -> Frame {
        let transport: Transport = if protocol == 6 {
            tcp(from, to, flags)
        } else {
            udp(from, to)
        };
        Frame::new(Ip::new(self.like(dest), dest), transport)
    }
}

/// Returns the flow hash of a frame.
pub(crate) fn flow_hash(frame: &Frame) -> u64 {
    let ports = match frame.transport {
        Transport::Tcp { source, dest, .. } | Transport::Udp { source, dest, .. } => {
            hash::ports_word(source.to_be(), dest.to_be())
        }
        _ => panic!("no ports"),
    };
    let (source, _) = lb_common::address_of(frame.ip.source());
    match frame.ip {
        Ip::V4(_) => hash::flow_hash_v4(&KEY, source[0] as u32, ports),
        Ip::V6(_) => hash::flow_hash_v6(&KEY, &source, ports),
    }
}

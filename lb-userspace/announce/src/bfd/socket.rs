//! UDP sockets of BFD (RFC 5881, sections 4 and 5).

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd as _,
};

use nix::{
    cmsg_space,
    sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt},
};
use rand::{RngExt as _, rngs::SmallRng};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::{io::Interest, net::UdpSocket};

/// UDP port of single-hop control packets.
const PORT: u16 = 3784;
/// Source ports, one per session.
const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;
/// Ports that are tried: more than any host uses of this range by chance.
const PORT_ATTEMPTS: usize = 64;
/// Sent and required, so that no router in between can forge packets (RFC 5881, section 5).
const TTL: u8 = 255;
/// Network control traffic (CS6, RFC 4594, section 3.2), in the upper six bits.
const TRAFFIC_CLASS: u32 = 0xc0;

/// Receives control packets of all sessions of one address family.
#[derive(Debug)]
pub(super) struct Receiver(UdpSocket);

/// Sends control packets of one session.
#[derive(Debug)]
pub(super) struct Sender {
    socket: Socket,
    to: socket2::SockAddr,
}

impl Receiver {
    /// Listens on all addresses of the family of `peer`.
    pub(super) fn bind(peer: IpAddr) -> io::Result<Self> {
        let local: SocketAddr = match peer {
            IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, PORT).into(),
            IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, PORT).into(),
        };
        let socket = socket(local.ip())?;
        if local.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
        } else {
            socket.set_only_v6(true)?;
            socket.set_recv_hoplimit_v6(true)?;
        }
        // A flood from beyond a router must not reach the socket's queue, which holds the peers' packets.
        socket.attach_filter(&only_from_the_link(peer))?;
        socket.bind(&local.into())?;
        Ok(Self(UdpSocket::from_std(socket.into())?))
    }

    /// Returns the next datagram, and its sender if it was sent with TTL 255. Safe to cancel.
    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Option<IpAddr>)> {
        let receive = || receive(&self.0, buffer);
        let (length, from, ttl) = self.0.async_io(Interest::READABLE, receive).await?;
        Ok((length, from.filter(|_| ttl == Some(TTL.into()))))
    }
}

/// A filter (classic BPF) that lets only packets with TTL 255 to the socket.
fn only_from_the_link(family: IpAddr) -> [SockFilter; 4] {
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    // TTL or hop limit, from the beginning of the IP header.
    let offset = if family.is_ipv4() { 8 } else { 7 };
    [
        SockFilter::new(LOAD_BYTE, 0, 0, (libc::SKF_NET_OFF + offset) as u32),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, TTL.into()),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// Receives a datagram; the sender and the TTL are `None` if the kernel did not give them.
fn receive(
    socket: &UdpSocket,
    buffer: &mut [u8],
) -> io::Result<(usize, Option<IpAddr>, Option<i32>)> {
    let mut parts = [IoSliceMut::new(buffer)];
    let mut control = cmsg_space!(libc::c_int);
    let received = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let ttl = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => Some(ttl),
        _ => None,
    });
    let from = received.address.and_then(|from| {
        let v4 = from.as_sockaddr_in().map(|it| it.ip().into());
        v4.or_else(|| from.as_sockaddr_in6().map(|it| it.ip().into()))
    });
    Ok((received.bytes, from, ttl))
}

impl Sender {
    /// Binds a random free source port. `source` must be of the family of `peer`.
    pub(super) fn bind(
        peer: IpAddr,
        source: Option<IpAddr>,
        random: &mut SmallRng,
    ) -> io::Result<Self> {
        let socket = socket(peer)?;
        match peer {
            IpAddr::V4(_) => {
                socket.set_ttl_v4(TTL.into())?;
                socket.set_tos_v4(TRAFFIC_CLASS)?;
            }
            IpAddr::V6(_) => {
                socket.set_unicast_hops_v6(TTL.into())?;
                socket.set_tclass_v6(TRAFFIC_CLASS)?;
            }
        }
        let any = match peer {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let mut attempts = PORT_ATTEMPTS;
        loop {
            let port = random.random_range(SOURCE_PORTS);
            let local = SocketAddr::new(source.unwrap_or(any), port);
            match socket.bind(&local.into()) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts > 0 => {
                    attempts -= 1;
                }
                bound => break bound?,
            }
        }
        // Not connected: otherwise an ICMP error for one packet would be returned in place of sending
        // the next one.
        let to = SocketAddr::new(peer, PORT).into();
        Ok(Self { socket, to })
    }

    /// Sends a packet. An error, such as a link that is down, is as if the packet was lost.
    pub(super) fn send(&self, packet: &[u8]) {
        let _ = self.socket.send_to(packet, &self.to);
    }
}

fn socket(family: IpAddr) -> io::Result<Socket> {
    let domain = if family.is_ipv4() {
        Domain::IPV4
    } else {
        Domain::IPV6
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, time::Duration};

    use socket2::SockRef;

    use super::*;

    #[test]
    fn only_packets_of_the_link_reach_the_queue() {
        for address in ["127.0.0.1", "::1"] {
            let address: IpAddr = address.parse().unwrap();
            let receiver = UdpSocket::bind((address, 0)).unwrap();
            let filter = only_from_the_link(address);
            SockRef::from(&receiver).attach_filter(&filter).unwrap();
            receiver
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            let sender = UdpSocket::bind((address, 0)).unwrap();
            for (ttl, text) in [(254, b"far "), (255, b"near"), (64, b"far ")] {
                match address {
                    IpAddr::V4(_) => sender.set_ttl(ttl).unwrap(),
                    IpAddr::V6(_) => SockRef::from(&sender).set_unicast_hops_v6(ttl).unwrap(),
                }
                sender
                    .send_to(text, receiver.local_addr().unwrap())
                    .unwrap();
            }
            let mut bytes = [0; 16];
            let length = receiver.recv(&mut bytes).unwrap();
            assert_eq!(&bytes[..length], b"near", "{address}");
            receiver.set_nonblocking(true).unwrap();
            assert!(receiver.recv(&mut bytes).is_err(), "{address}");
        }
    }
}

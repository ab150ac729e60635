//! TCP sockets of BGP: TTL, MD5 signatures, limits.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use nix::{
    getsockopt_impl, setsockopt_impl, sockopt_impl,
    sys::socket::{getsockopt, setsockopt},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use crate::peer::{Password, Peer};

/// How much the kernel buffers for a peer that does not read: enough for one window of UPDATEs, little
/// enough that a withdrawal is not far behind.
const SEND_BUFFER: usize = 64 * 1024;
/// TTL of packets that no router has forwarded (RFC 5082).
const GTSM_TTL: u8 = 255;
/// Network control traffic (CS6, RFC 4594, section 3.2), in the upper six bits.
const TRAFFIC_CLASS: u32 = 0xc0;

// nix lacks these options, but its macros hold the unsafe call.
sockopt_impl!(
    /// Least TTL of received segments (`ip(7)`).
    MinTtl,
    SetOnly,
    libc::IPPROTO_IP,
    libc::IP_MINTTL,
    libc::c_int
);
sockopt_impl!(
    /// Least hop limit of received segments (linux/in6.h).
    MinHopCount,
    SetOnly,
    libc::IPPROTO_IPV6,
    libc::IPV6_MINHOPCOUNT,
    libc::c_int
);
sockopt_impl!(
    /// Key of the MD5 signature option (RFC 2385).
    TcpMd5,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_MD5SIG,
    Md5Key
);
sockopt_impl!(
    /// State of a connection.
    TcpInfo,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    Info
);

/// `struct tcp_md5sig` of linux/tcp.h.
#[repr(C)]
#[expect(
    unreachable_pub,
    reason = "as public as the types that nix's macro makes"
)]
pub struct Md5Key {
    /// `struct sockaddr_storage` of the peer.
    address: [u8; 128],
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    ifindex: i32,
    key: [u8; Password::MOST_BYTES],
}

/// The first part of `struct tcp_info` of linux/tcp.h, which all kernels since 4.9 have. The whole of it
/// grows with kernel versions.
#[repr(C)]
#[expect(
    unreachable_pub,
    reason = "as public as the types that nix's macro makes"
)]
pub struct Info {
    _state: [u8; 8],
    _timeouts: [u32; 4],
    /// Segments that were sent and not acknowledged.
    unacked: u32,
    _counters: [u32; 19],
    _rates: [u64; 4],
    _segments: [u32; 2],
    /// Bytes that were not sent yet.
    notsent_bytes: u32,
    _min_rtt: u32,
}

/// Connects to a peer. The caller limits the time.
pub(super) async fn connect(peer: &Peer) -> io::Result<TcpStream> {
    let to = SocketAddr::new(peer.address, peer.port);
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    // A peer that acknowledges nothing for the hold time is as dead for TCP as for BGP.
    socket.set_tcp_user_timeout(Some(peer.hold_time))?;
    set_ttl(&socket, peer)?;
    if let Some(password) = &peer.password {
        setsockopt(&socket, TcpMd5, &Md5Key::new(to, password))?;
    }
    if let Some(source) = peer.source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    TcpSocket::from_std_stream(socket.into()).connect(to).await
}

fn set_ttl(socket: &Socket, peer: &Peer) -> io::Result<()> {
    let ttl = if peer.ttl_security {
        Some(GTSM_TTL)
    } else if peer.is_internal() {
        peer.multihop
    } else {
        Some(peer.multihop.unwrap_or(1))
    };
    match peer.address {
        IpAddr::V4(_) => {
            socket.set_tos_v4(TRAFFIC_CLASS)?;
            if let Some(ttl) = ttl {
                socket.set_ttl_v4(ttl.into())?;
            }
            if peer.ttl_security {
                setsockopt(socket, MinTtl, &GTSM_TTL.into())?;
            }
        }
        IpAddr::V6(_) => {
            socket.set_tclass_v6(TRAFFIC_CLASS)?;
            if let Some(ttl) = ttl {
                socket.set_unicast_hops_v6(ttl.into())?;
            }
            if peer.ttl_security {
                setsockopt(socket, MinHopCount, &GTSM_TTL.into())?;
            }
        }
    }
    Ok(())
}

/// Whether the peer's TCP has acknowledged everything that was written.
pub(super) fn is_acknowledged(stream: &TcpStream) -> bool {
    getsockopt(stream, TcpInfo).is_ok_and(|info| info.unacked == 0 && info.notsent_bytes == 0)
}

impl Md5Key {
    fn new(peer: SocketAddr, password: &Password) -> Self {
        let mut address = [0; 128];
        // The kernel ignores the port. The family has the byte order of the host.
        match peer.ip() {
            IpAddr::V4(v4) => {
                address[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
                address[4..8].copy_from_slice(&v4.octets());
            }
            IpAddr::V6(v6) => {
                address[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
                address[8..24].copy_from_slice(&v6.octets());
            }
        }
        let mut key = [0; Password::MOST_BYTES];
        key[..password.bytes().len()].copy_from_slice(password.bytes());
        Self {
            address,
            flags: 0,
            prefix_length: 0,
            key_length: password.bytes().len() as u16,
            ifindex: 0,
            key,
        }
    }
}

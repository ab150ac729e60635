//! Sockets of probes.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use lb_common::probe::mark;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpStream, UdpSocket};

use super::{Failure, Fault, Limit};
use crate::health::Target;

/// The destination of a probe and the path to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    backend: SocketAddr,
    source: Option<IpAddr>,
    /// The VIP and member index whose traffic path the probe takes.
    through: Option<(IpAddr, u32)>,
}

impl Route {
    pub(super) fn new(target: &Target) -> Self {
        Self {
            backend: SocketAddr::new(target.address, target.probe_port()),
            source: target.source,
            through: target.member.map(|member| (target.vip_address, member)),
        }
    }

    /// Opens a TCP connection, which is reset when dropped.
    pub(super) async fn connect(&self, limit: Limit) -> Result<TcpStream, Failure> {
        let connecting = async {
            let socket = self.start_connecting()?;
            let stream =
                TcpStream::from_std(socket.into()).map_err(|error| self.local_failure(&error))?;
            let connected = stream
                .writable()
                .await
                .and_then(|()| match stream.take_error() {
                    Ok(None) => Ok(()),
                    Ok(Some(error)) | Err(error) => Err(error),
                });
            connected.map_err(|error| self.failure(&error))?;
            Ok(stream)
        };
        limit.within(connecting, |limit| self.no_reply(limit)).await
    }

    /// Errors that `connect` itself returns are this node's, except a refusal by this host.
    fn start_connecting(&self) -> Result<Socket, Failure> {
        let socket = self
            .open(Type::STREAM)
            .and_then(|socket| socket.set_linger(Some(Duration::ZERO)).map(|()| socket))
            .map_err(|error| self.local_failure(&error))?;
        match socket.connect(&self.backend.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
                Err(match error.kind() {
                    io::ErrorKind::ConnectionRefused => self.failure(&error),
                    _ => self.local_failure(&error),
                })
            }
            _ => Ok(socket),
        }
    }

    /// Opens a UDP socket connected to the backend.
    pub(super) fn udp(&self) -> Result<UdpSocket, Failure> {
        let opened = self.open(Type::DGRAM).and_then(|socket| {
            socket.connect(&self.backend.into())?;
            UdpSocket::from_std(socket.into())
        });
        opened.map_err(|error| self.local_failure(&error))
    }

    fn open(&self, kind: Type) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(self.backend), kind.nonblocking(), None)?;
        if let Some((_, member)) = self.through {
            socket.set_mark(mark::of(member))?;
        }
        if self.source.is_some() || self.through.is_some() {
            // A bound port belongs to this socket alone. A port chosen by `connect` may be shared with a
            // connection to another backend; on the path through the VIP both would be the same flow.
            let any = match self.backend {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let source = self.source.unwrap_or(any);
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        Ok(socket)
    }

    /// The failure of a backend that sent nothing.
    pub(super) fn no_reply(&self, limit: Limit) -> Failure {
        Failure::new(format!("no reply from {self} within {limit}"))
    }

    /// The failure for an error of the connection.
    pub(super) fn failure(&self, error: &io::Error) -> Failure {
        if is_shortage(error) {
            return self.local_failure(error);
        }
        Failure::new(match error.kind() {
            io::ErrorKind::ConnectionRefused => format!("connection refused by {self}"),
            io::ErrorKind::ConnectionReset => format!("connection reset by {self}"),
            _ => {
                let error = error.to_string();
                let words = error.split(" (os error").next().unwrap_or(&error);
                format!("cannot reach {self}: {words}")
            }
        })
    }

    /// The failure for an error on this node.
    pub(super) fn local_failure(&self, error: &io::Error) -> Failure {
        let (fault, hint) = match error.raw_os_error() {
            Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN) => {
                (Fault::Path, "; see `ip route get`")
            }
            Some(libc::EPERM | libc::EACCES) => (
                Fault::Node,
                "; CAP_NET_ADMIN is required, or a packet filter of this node rejects it",
            ),
            Some(libc::EMFILE | libc::ENFILE) => {
                (Fault::Node, "; raise the open file limit (LimitNOFILE)")
            }
            Some(libc::EADDRNOTAVAIL) => (
                Fault::Node,
                "; check that the node still has the source address, and free ports",
            ),
            _ => (Fault::Node, ""),
        };
        Failure::of(
            fault,
            format!("cannot open a socket for {self}: {error}{hint}"),
        )
    }
}

/// Whether only this node can be the cause of an error.
fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::EADDRINUSE
                | libc::EADDRNOTAVAIL
                | libc::ENETDOWN
                | libc::EPERM
        )
    )
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.backend)?;
        match self.through {
            Some((vip, _)) => write!(f, " (through VIP {vip})"),
            None => Ok(()),
        }
    }
}

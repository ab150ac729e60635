//! Sockets of probes: bound and marked as the target says.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use lb_common::probe::mark;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use super::{Failure, Limit};
use crate::health::Target;

/// Where packets of a probe go, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    backend: SocketAddr,
    source: Option<IpAddr>,
    /// By the way of this VIP's traffic, as the member with this index.
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

    /// A TCP connection, which is reset when it is dropped.
    pub(super) async fn connect(&self, limit: Limit) -> Result<TcpStream, Failure> {
        let socket = self
            .open(Type::STREAM)
            .and_then(|socket| socket.set_linger(Some(Duration::ZERO)).map(|()| socket))
            .map_err(|error| self.local_failure(&error))?;
        let connecting = TcpSocket::from_std_stream(socket.into()).connect(self.backend);
        let connecting = async { connecting.await.map_err(|error| self.failure(&error)) };
        limit.within(connecting, |limit| self.silence(limit)).await
    }

    /// A UDP socket that is connected to the backend.
    pub(super) fn udp(&self) -> Result<UdpSocket, Failure> {
        let socket = self
            .open(Type::DGRAM)
            .map_err(|error| self.local_failure(&error))?;
        let connected = socket
            .connect(&self.backend.into())
            .map_err(|error| self.failure(&error));
        connected.and_then(|()| {
            UdpSocket::from_std(socket.into()).map_err(|error| self.local_failure(&error))
        })
    }

    fn open(&self, kind: Type) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(self.backend), kind.nonblocking(), None)?;
        if let Some((_, member)) = self.through {
            socket.set_mark(mark::of(member))?;
        }
        if self.source.is_some() || self.through.is_some() {
            // Bound, the port is the socket's alone. A port that is chosen by connecting may be shared with
            // a connection to another backend; on their way to the VIP they would be the same flow.
            let any = match self.backend {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let source = self.source.unwrap_or(any);
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        Ok(socket)
    }

    /// Nothing came back at all.
    pub(super) fn silence(&self, limit: Limit) -> Failure {
        Failure(format!("no answer from {self} in {limit}"))
    }

    /// What an error of the connection means.
    pub(super) fn failure(&self, error: &io::Error) -> Failure {
        Failure(match error.kind() {
            io::ErrorKind::ConnectionRefused => format!("connection refused by {self}"),
            io::ErrorKind::ConnectionReset => format!("connection reset by {self}"),
            io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable => {
                return self.local_failure(error);
            }
            _ => {
                let error = error.to_string();
                let words = error.split(" (os error").next().unwrap_or(&error);
                format!("{self} can't be reached: {words}")
            }
        })
    }

    /// What is wrong on this side.
    fn local_failure(&self, error: &io::Error) -> Failure {
        let hint = match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => "; the capability CAP_NET_ADMIN is needed",
            Some(libc::EMFILE | libc::ENFILE) => "; raise the limit of open files (LimitNOFILE)",
            Some(libc::EADDRNOTAVAIL) => "; does the node still have its source address?",
            _ => "",
        };
        Failure(format!("no socket for {self}: {error}{hint}"))
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.backend)?;
        match self.through {
            Some((vip, _)) => write!(f, " (by the way of {vip})"),
            None => Ok(()),
        }
    }
}

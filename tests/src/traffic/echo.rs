//! Echo servers that prefix their name.
//!
//! TCP: the reply to a line `TEXT\n` is `NAME TEXT\n`. UDP: the reply to a datagram `TEXT` is
//! `NAME TEXT`, from the address to which the datagram was sent.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::runtime::{Running, Stop, run_inside};
use crate::host::Host;

/// A server, TCP and UDP on the same addresses. Stops when dropped.
#[derive(Debug)]
pub struct EchoServer {
    running: Running,
}

impl EchoServer {
    /// Starts a server with the name of its host.
    ///
    /// List VIPs one by one: the reply to a datagram on a wildcard socket would have another source
    /// address. The host need not have the VIP yet.
    pub fn start(host: &Host, listen: &[SocketAddr]) -> Result<Self> {
        let mut sockets = Vec::new();
        for address in listen {
            let pair = host.ns.enter(|| bind(*address));
            sockets
                .push(pair.with_context(|| format!("echo server on {} at {address}", host.name))?);
        }
        let name = host.name.clone();
        let running = run_inside(&host.ns.entry(), "echo server", move |stop| {
            serve(name, sockets, stop)
        })?;
        Ok(Self { running })
    }

    /// Stops it as if its process were killed: the kernel closes its connections.
    pub fn kill(self) {
        self.running.stop();
    }
}

/// Runs a server in the namespace of this process until it is killed.
pub fn run(name: String, listen: SocketAddr) -> Result<()> {
    let sockets = bind(listen).with_context(|| format!("listen at {listen}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (_never, stop) = tokio::sync::watch::channel(false);
    runtime.block_on(serve(name, vec![sockets], stop));
    Ok(())
}

type Sockets = (std::net::TcpListener, std::net::UdpSocket);

fn bind(address: SocketAddr) -> std::io::Result<Sockets> {
    let socket = |kind, protocol| -> std::io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
        match address {
            SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
            SocketAddr::V6(_) => {
                socket.set_only_v6(true)?;
                socket.set_freebind_v6(true)?;
            }
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        Ok(socket)
    };
    let tcp = socket(Type::STREAM, Protocol::TCP)?;
    tcp.listen(4096)?;
    let udp = socket(Type::DGRAM, Protocol::UDP)?;
    super::datagrams::enlarge(&udp)?;
    Ok((tcp.into(), udp.into()))
}

async fn serve(name: String, sockets: Vec<Sockets>, mut stop: Stop) {
    for (tcp, udp) in sockets {
        // Both fail only outside a runtime.
        if let (Ok(tcp), Ok(udp)) = (TcpListener::from_std(tcp), UdpSocket::from_std(udp)) {
            tokio::spawn(accept(name.clone(), tcp));
            tokio::spawn(echo_datagrams(name.clone(), udp));
        }
    }
    // An error means that the sender is gone: stop too.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn accept(name: String, listener: TcpListener) {
    loop {
        // If this fails, the client reports the connection.
        if let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(echo_lines(name.clone(), connection));
        }
    }
}

async fn echo_lines(name: String, connection: TcpStream) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    let mut connection = BufReader::new(connection);
    let mut line = String::new();
    while connection.read_line(&mut line).await? > 0 {
        connection
            .write_all(format!("{name} {line}").as_bytes())
            .await?;
        line.clear();
    }
    Ok(())
}

async fn echo_datagrams(name: String, socket: UdpSocket) {
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let mut answer = format!("{name} ").into_bytes();
        answer.extend_from_slice(&buffer[..length]);
        // If this fails, the client reports the datagram as lost.
        let _ = socket.send_to(&answer, from).await;
    }
}

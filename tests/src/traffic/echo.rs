//! Servers that send back what they get, with their name before it.
//!
//! TCP: each line `TEXT\n` is answered by `NAME TEXT\n`. UDP: each datagram is answered by `NAME TEXT`, from
//! the address that it was sent to.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::runtime::{Running, Stop, run_inside};
use crate::host::Host;

/// A server, TCP and UDP on the same addresses. It ends when this is dropped.
#[derive(Debug)]
pub struct EchoServer {
    running: Running,
}

impl EchoServer {
    /// Starts one on a host that goes by the host's name.
    ///
    /// Name VIPs one by one: answers to a datagram that was sent to a wildcard's socket would leave with
    /// another source address. A VIP need not be there yet.
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

    /// Ends it as if its process had been killed: the kernel closes its connections.
    pub fn kill(self) {
        self.running.stop();
    }
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
    Ok((tcp.into(), udp.into()))
}

async fn serve(name: String, sockets: Vec<Sockets>, mut stop: Stop) {
    for (tcp, udp) in sockets {
        // Both fail only outside a runtime.
        if let (Ok(tcp), Ok(udp)) = (TcpListener::from_std(tcp), UdpSocket::from_std(udp)) {
            tokio::spawn(accept(name.clone(), tcp));
            tokio::spawn(answer_datagrams(name.clone(), udp));
        }
    }
    // An error means that whoever could stop it is gone.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn accept(name: String, listener: TcpListener) {
    loop {
        // What fails is that connection, which the client reports.
        if let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(answer_lines(name.clone(), connection));
        }
    }
}

async fn answer_lines(name: String, connection: TcpStream) -> std::io::Result<()> {
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

async fn answer_datagrams(name: String, socket: UdpSocket) {
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let mut answer = format!("{name} ").into_bytes();
        answer.extend_from_slice(&buffer[..length]);
        // What is lost the client reports.
        let _ = socket.send_to(&answer, from).await;
    }
}

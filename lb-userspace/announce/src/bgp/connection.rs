//! One TCP connection: messages in, bytes out.

use std::{future::pending, io, net::IpAddr, pin::Pin, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::TcpStream,
    time::timeout,
};

use super::{
    message::{LONGEST, Message, Notification, decode},
    session::Event,
    socket,
};
use crate::peer::Peer;

/// How long the peer may take to close its side after we have closed ours.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// The transport of a session.
pub(super) enum Connection {
    None,
    Connecting(Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>),
    Open(Wire),
}

/// An open connection.
pub(super) struct Wire {
    stream: TcpStream,
    received: Vec<u8>,
    outgoing: Vec<u8>,
    /// How much of `outgoing` was written.
    written: usize,
}

impl Connection {
    pub(super) fn connect(peer: std::sync::Arc<Peer>) -> Self {
        Self::Connecting(Box::pin(async move { socket::connect(&peer).await }))
    }

    /// Whether more should be given to [`Connection::send`]. Little is buffered, so that what is sent
    /// next is decided as late as possible.
    pub(super) fn wants_more(&self) -> bool {
        matches!(self, Self::Open(wire) if wire.pending() < LONGEST)
    }

    /// Whether everything was written and acknowledged by the peer's TCP.
    pub(super) fn is_acknowledged(&self) -> bool {
        matches!(self, Self::Open(wire) if wire.pending() == 0 && socket::is_acknowledged(&wire.stream))
    }

    /// Appends a message. It is written by [`Connection::next`].
    pub(super) fn send(&mut self, message: &[u8]) {
        if let Self::Open(wire) = self {
            wire.outgoing.extend(message);
        }
    }

    /// Waits for the next event while writing what is to be sent. Safe to cancel.
    pub(super) async fn next(&mut self) -> Event {
        match self {
            Self::None => pending().await,
            Self::Connecting(connecting) => match connecting.await.and_then(Wire::new) {
                Ok((wire, local)) => {
                    *self = Self::Open(wire);
                    Event::Connected(local)
                }
                Err(error) => {
                    *self = Self::None;
                    Event::Disconnected(format!("connect: {error}"))
                }
            },
            Self::Open(wire) => loop {
                match wire.take_message() {
                    Ok(Some(message)) => return Event::Received(message),
                    Err(error) => return Event::Malformed(error),
                    Ok(None) => {}
                }
                match wire.transfer().await {
                    Ok(Progress::Read) => {}
                    Ok(Progress::Written) => return Event::Sent,
                    Err(error) => return Event::Disconnected(closed(&error)),
                }
            },
        }
    }

    /// Sends what is left, closes our side and waits shortly for the peer to close its side: a socket
    /// that is closed with unread data sends a reset, which may overtake a NOTIFICATION.
    pub(super) async fn close(self) {
        let Self::Open(mut wire) = self else {
            return;
        };
        let closing = async {
            wire.stream
                .write_all(&wire.outgoing[wire.written..])
                .await?;
            wire.stream.shutdown().await?;
            let mut rest = [0; LONGEST];
            while wire.stream.read(&mut rest).await? > 0 {}
            io::Result::Ok(())
        };
        // A peer that does not read or close was told as well as possible.
        let _ = timeout(CLOSE_LIMIT, closing).await;
    }
}

fn closed(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "the peer closed the connection".to_owned(),
        _ => format!("connection lost: {error}"),
    }
}

enum Progress {
    Read,
    /// Everything was written.
    Written,
}

impl Wire {
    fn new(stream: TcpStream) -> io::Result<(Self, IpAddr)> {
        let local = stream.local_addr()?.ip();
        let wire = Self {
            stream,
            received: Vec::new(),
            outgoing: Vec::new(),
            written: 0,
        };
        Ok((wire, local))
    }

    fn pending(&self) -> usize {
        self.outgoing.len() - self.written
    }

    fn take_message(&mut self) -> Result<Option<Message>, Notification> {
        let Some((message, length)) = decode(&self.received)? else {
            return Ok(None);
        };
        self.received.drain(..length);
        Ok(Some(message))
    }

    async fn transfer(&mut self) -> io::Result<Progress> {
        loop {
            let interest = match self.pending() {
                0 => Interest::READABLE,
                _ => Interest::READABLE | Interest::WRITABLE,
            };
            let ready = self.stream.ready(interest).await?;
            if ready.is_writable() && self.pending() > 0 && self.write()? {
                return Ok(Progress::Written);
            }
            if ready.is_readable() && self.read()? {
                return Ok(Progress::Read);
            }
        }
    }

    /// Returns whether everything was written.
    fn write(&mut self) -> io::Result<bool> {
        match self.stream.try_write(&self.outgoing[self.written..]) {
            Ok(count) => self.written += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if self.pending() > 0 {
            return Ok(false);
        }
        self.outgoing.clear();
        self.written = 0;
        Ok(true)
    }

    /// Returns whether something was read.
    fn read(&mut self) -> io::Result<bool> {
        let mut bytes = [0; LONGEST];
        match self.stream.try_read(&mut bytes) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.received.extend(&bytes[..count]);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

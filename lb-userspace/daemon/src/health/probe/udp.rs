//! `udp` checks: a packet and the expected reply.

use std::io;

use tokio::{net::UdpSocket, time::timeout_at};

use super::{Failure, Limit, Passed, http::contains, socket::Route};

/// Bytes of a reply that are compared.
const REPLY_LIMIT: usize = 4096;

/// Empty packets per check. A host sends few "port unreachable" (Linux: one per second), and packets of
/// clients get most of them.
const EMPTY_PACKETS: u32 = 4;

#[derive(Debug)]
pub(super) struct Exchange {
    send: Option<Vec<u8>>,
    expect: Option<Vec<u8>>,
}

impl Exchange {
    pub(super) fn new(send: Option<&[u8]>, expect: Option<&[u8]>) -> Self {
        Self {
            send: send.map(<[u8]>::to_vec),
            expect: expect.map(<[u8]>::to_vec),
        }
    }

    pub(super) async fn run(&self, route: &Route, limit: Limit) -> Result<Passed, Failure> {
        let socket = route.udp()?;
        let Some(payload) = &self.send else {
            return knock(&socket, route, limit).await;
        };
        let mut reply = [0; REPLY_LIMIT];
        send(&socket, payload, route).await?;
        let receiving = async {
            let received = socket.recv(&mut reply).await;
            received.map_err(|error| failure(&error, route))
        };
        let length = limit
            .within(receiving, |limit| route.no_reply(limit))
            .await?;
        match &self.expect {
            Some(expect) if !contains(&reply[..length], expect) => Err(Failure::new(format!(
                "the reply from {route} ({length} bytes) does not contain the expected bytes"
            ))),
            _ => Ok(Passed::Reply),
        }
    }
}

/// Sends empty packets. Most servers ignore them, so silence is no failure.
async fn knock(socket: &UdpSocket, route: &Route, limit: Limit) -> Result<Passed, Failure> {
    for left in (0..EMPTY_PACKETS).rev() {
        send(socket, &[], route).await?;
        let until = limit.at - limit.timeout * left / EMPTY_PACKETS;
        match timeout_at(until, socket.recv(&mut [0; 1])).await {
            Ok(Ok(_)) => return Ok(Passed::Reply),
            Ok(Err(error)) => return Err(failure(&error, route)),
            Err(_) => {}
        }
    }
    Ok(Passed::Silence)
}

async fn send(socket: &UdpSocket, payload: &[u8], route: &Route) -> Result<(), Failure> {
    match socket.send(payload).await {
        // The error of an earlier packet.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Err(failure(&error, route))
        }
        Err(error) => Err(route.local_failure(&error)),
        Ok(_) => Ok(()),
    }
}

fn failure(error: &io::Error, route: &Route) -> Failure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            Failure::new(format!("nothing listens on UDP {route} (port unreachable)"))
        }
        _ => route.failure(error),
    }
}

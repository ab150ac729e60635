//! `udp` checks: a packet and the expected reply.

use std::io;

use super::{Failure, Limit, http::contains, socket::Route};

/// Bytes of a reply that are compared.
const REPLY_LIMIT: usize = 4096;

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

    pub(super) async fn run(&self, route: &Route, limit: Limit) -> Result<(), Failure> {
        let failure = |error: io::Error| match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                Failure(format!("nothing listens on UDP {route} (port unreachable)"))
            }
            _ => route.failure(&error),
        };
        let socket = route.udp()?;
        let payload = self.send.as_deref().unwrap_or_default();
        let mut reply = [0; REPLY_LIMIT];
        let exchange = async {
            socket.send(payload).await.map_err(failure)?;
            let length = socket.recv(&mut reply).await.map_err(failure)?;
            Ok(length)
        };
        let received = tokio::time::timeout_at(limit.at, exchange).await;
        match (received, &self.expect) {
            // Most servers ignore an empty packet; not being refused counts as success.
            (Err(_), _) if self.send.is_none() => Ok(()),
            (Err(_), _) => Err(route.no_reply(limit)),
            (Ok(Err(failure)), _) => Err(failure),
            (Ok(Ok(length)), Some(expect)) if !contains(&reply[..length], expect) => {
                Err(Failure(format!(
                    "the reply from {route} ({length} bytes) does not contain the expected bytes"
                )))
            }
            (Ok(Ok(_)), _) => Ok(()),
        }
    }
}

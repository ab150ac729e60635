//! A UDP packet, and its answer.

use std::io;

use super::{Failure, Limit, http::contains, socket::Route};

/// Bytes of an answer that are looked at.
const MOST: usize = 4096;

/// What is sent, and what must come back.
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
            io::ErrorKind::ConnectionRefused => Failure(format!(
                "nothing listens on the UDP port of {route} (port unreachable)"
            )),
            _ => route.failure(&error),
        };
        let socket = route.udp()?;
        let payload = self.send.as_deref().unwrap_or_default();
        let mut answer = [0; MOST];
        let exchange = async {
            socket.send(payload).await.map_err(failure)?;
            let length = socket.recv(&mut answer).await.map_err(failure)?;
            Ok(length)
        };
        let received = tokio::time::timeout_at(limit.at, exchange).await;
        match (received, &self.expect) {
            // Most servers ignore an empty packet: that nobody refused it has to do.
            (Err(_), _) if self.send.is_none() => Ok(()),
            (Err(_), _) => Err(route.silence(limit)),
            (Ok(Err(failure)), _) => Err(failure),
            (Ok(Ok(length)), Some(expect)) if !contains(&answer[..length], expect) => Err(Failure(
                format!("the answer of {route} ({length} bytes) does not have what is expected"),
            )),
            (Ok(Ok(_)), _) => Ok(()),
        }
    }
}

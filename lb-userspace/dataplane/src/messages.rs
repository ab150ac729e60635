//! Log messages of the balancer's program: rare faults, each with a packet that hit it.
//!
//! aya-log passes them through a ring buffer, which is not pinned: messages written while no
//! controller runs, or unread when the program is replaced, are lost. The counters are not.

use std::time::Duration;

use aya_log::EbpfLogger;
use lb_common::reason::{REASONS, ReasonText};
use log::{Log, Metadata, Record};
use tokio::time::MissedTickBehavior;
use tracing::warn;

use super::{
    Dataplane,
    error::{DataplaneError, PRIVILEGE_HINT, Result, chain},
    program::PROGRAM,
};

impl Dataplane {
    /// The reader of the program's messages, which writes them to `logger`. It can be taken once.
    ///
    /// # Errors
    ///
    /// It was taken already, or the buffer can't be mapped.
    pub fn messages<T: Log>(&mut self, logger: T) -> Result<EbpfLogger<T>> {
        EbpfLogger::init_with_logger(self.balancer.ebpf_mut(), logger).map_err(|error| {
            DataplaneError::Program {
                operation: "read its messages",
                program: PROGRAM,
                kernel: chain(&error),
                hint: PRIVILEGE_HINT,
            }
        })
    }
}

/// Writes messages to the controller's log.
#[derive(Clone, Copy, Debug)]
pub struct ToLog;

impl Log for ToLog {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let message = record.args().to_string();
        match named(&message) {
            Some((reason, packet)) => {
                warn!(reason = reason.name, packet, "dropped: {}", reason.text);
            }
            None => warn!("{message}"),
        }
    }

    fn flush(&self) {}
}

/// Splits a message into reason and packet; see [`lb_common::log`].
fn named(message: &str) -> Option<(&'static ReasonText, &str)> {
    let (number, packet) = message.split_once(' ')?;
    Some((REASONS.get(number.parse::<usize>().ok()?)?, packet))
}

/// Writes new messages every second.
pub async fn follow<T: Log>(mut messages: EbpfLogger<T>) {
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        seconds.tick().await;
        messages.flush();
    }
}

#[cfg(test)]
mod tests {
    use lb_common::reason::Reason;

    use super::*;

    #[test]
    fn parses_the_reason_of_a_message() {
        let number = Reason::NatNoPort as u32;
        let message = format!("{number} 10.0.0.1 port 7 to 10.0.0.2 port 80, protocol 6");
        let (reason, packet) = named(&message).unwrap();
        assert_eq!(reason.name, "NAT_NO_PORT");
        assert_eq!(packet, "10.0.0.1 port 7 to 10.0.0.2 port 80, protocol 6");
        for other in ["", "7", "64 a", "x y", "4294967296 a"] {
            assert!(named(other).is_none(), "{other}");
        }
    }
}

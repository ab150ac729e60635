//! Messages of the balancer's program: what should not be, with a packet that met it.
//!
//! They come through a ring buffer of the program, by aya-log. It is not pinned: a program that is replaced takes its
//! buffer with it, and what it wrote while no controller ran is lost. The counters are not.

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
    /// The messages of this program, to be written to `logger`. They can be taken once.
    ///
    /// # Errors
    ///
    /// They were taken already, or their buffer can't be mapped.
    pub fn messages<T: Log>(&mut self, logger: T) -> Result<EbpfLogger<T>> {
        EbpfLogger::init_with_logger(self.balancer.ebpf_mut(), logger).map_err(|error| {
            DataplaneError::Program {
                operation: "read messages of",
                program: PROGRAM,
                kernel: chain(&error),
                hint: PRIVILEGE_HINT,
            }
        })
    }
}

/// Writes messages into the controller's log.
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

/// The reason that a message begins with, and the rest; see [`lb_common::log`].
fn named(message: &str) -> Option<(&'static ReasonText, &str)> {
    let (number, packet) = message.split_once(' ')?;
    Some((REASONS.get(number.parse::<usize>().ok()?)?, packet))
}

/// Writes the messages that have come, every second, for as long as it runs: the program writes few.
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
    fn a_message_begins_with_the_number_of_its_reason() {
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

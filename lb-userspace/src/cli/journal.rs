//! Priorities of log lines for the systemd journal.
//!
//! The journal takes a line's priority from a prefix such as `<4>` (sd-daemon(3)); without one, every
//! line is "info", and `journalctl -p warning` shows nothing.

use std::fmt;

use nix::sys::stat::fstat;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// Whether standard error is the journal: systemd sets `JOURNAL_STREAM` to its device and inode.
pub(super) fn is_stderr() -> bool {
    let stream = std::env::var("JOURNAL_STREAM");
    let place = fstat(std::io::stderr()).map(|file| format!("{}:{}", file.st_dev, file.st_ino));
    stream
        .ok()
        .zip(place.ok())
        .is_some_and(|(stream, place)| stream == place)
}

/// A format whose lines begin with their priority.
pub(super) struct Prioritized<F>(pub(super) F);

impl<S, N, F> FormatEvent<S, N> for Prioritized<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        self.0
            .format_event(context, Writer::new(&mut text), event)?;
        let priority = priority(*event.metadata().level());
        text.lines()
            .try_for_each(|line| writeln!(writer, "<{priority}>{line}"))
    }
}

/// The priority of syslog(3).
const fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn each_line_begins_with_its_priority() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .with_target(false)
            .without_time()
            .map_event_format(Prioritized)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(vip = "api", "down");
            tracing::warn!("slow");
            tracing::info!("fine");
        });
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(
            text,
            "<3>ERROR down vip=\"api\"\n<4> WARN slow\n<6> INFO fine\n"
        );
    }
}

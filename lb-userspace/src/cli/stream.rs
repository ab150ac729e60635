//! What is printed, and readers who have had enough of it.
//!
//! `evenkeel plan new.toml | head -1` closes our standard output. That is no error, and no reason either to
//! leave undone what was asked for, or to end with another exit code than that of what was done: what is printed from
//! then on goes nowhere. Any other broken pipe, such as a controller that went away or the file of a capture, is the
//! failure that it is. So a closed pipe is dealt with here, where we print, and nowhere else.

use std::io::{self, ErrorKind, Stderr, Stdout, Write};

/// One of our own streams. All that commands print goes through it.
#[derive(Debug)]
pub(super) struct Stream<W> {
    inner: W,
    name: &'static str,
    closed: bool,
}

/// Where results go.
pub(super) fn stdout() -> Stream<Stdout> {
    Stream::new(io::stdout(), "standard output")
}

/// Where everything else goes.
pub(super) fn stderr() -> Stream<Stderr> {
    Stream::new(io::stderr(), "standard error")
}

impl<W: Write> Stream<W> {
    fn new(inner: W, name: &'static str) -> Self {
        Self {
            inner,
            name,
            closed: false,
        }
    }

    /// Whether its reader was found to be gone: a reason to end for what would print for ever.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// What came of writing; `unheard`, if nobody reads any more.
    fn outcome<T>(&mut self, result: io::Result<T>, unheard: T) -> io::Result<T> {
        match result {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(unheard)
            }
            // Tried again by who writes.
            Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
            Err(error) => Err(io::Error::new(
                error.kind(),
                format!("print to {}: {error}", self.name),
            )),
            written => written,
        }
    }
}

impl<W: Write> Write for Stream<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes);
        self.outcome(written, bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.inner.flush();
        self.outcome(flushed, ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails as a pipe or a disk does.
    struct Failing(ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(self.0.into())
        }
    }

    #[test]
    fn a_reader_who_is_gone_is_no_error_and_is_known() {
        let mut stream = Stream::new(Failing(ErrorKind::BrokenPipe), "it");
        assert!(!stream.is_closed());
        stream.write_all(b"unheard").unwrap();
        assert!(stream.is_closed());
        stream.flush().unwrap();
    }

    #[test]
    fn a_full_disk_is_an_error_that_says_what_was_printed_to() {
        let mut stream = Stream::new(Failing(ErrorKind::StorageFull), "standard output");
        let error = stream.write_all(b"much").unwrap_err().to_string();
        assert!(error.starts_with("print to standard output: "), "{error}");
        assert!(stream.flush().is_err() && !stream.is_closed());
    }
}

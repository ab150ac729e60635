//! Standard output and standard error, whose readers may close them.
//!
//! `evenkeel plan new.toml | head -1` closes our standard output. That is not an error and must not
//! change what the command does or its exit code: what is printed afterwards is discarded. A broken
//! pipe elsewhere (the controller, a capture file) remains an error, so it is handled only here.

use std::io::{self, ErrorKind, Stderr, Stdout, Write};

/// Standard output or standard error; ignores that its reader is gone.
#[derive(Debug)]
pub(super) struct Stream<W> {
    inner: W,
    name: &'static str,
    closed: bool,
}

pub(super) fn stdout() -> Stream<Stdout> {
    Stream::new(io::stdout(), "standard output")
}

pub(super) fn stderr() -> Stream<Stderr> {
    Stream::new(io::stderr(), "standard error")
}

/// Prints a message to standard error, ignoring that it cannot be written.
pub(super) fn print_error(text: &str) {
    let _ = writeln!(io::stderr(), "{}", text.trim_end_matches('\n'));
}

impl<W: Write> Stream<W> {
    fn new(inner: W, name: &'static str) -> Self {
        Self {
            inner,
            name,
            closed: false,
        }
    }

    /// Whether the reader is gone: a command that prints forever should end.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Maps the result of a write: `discarded` if the reader is gone.
    fn check<T>(&mut self, result: io::Result<T>, discarded: T) -> io::Result<T> {
        match result {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(discarded)
            }
            // Retried by the caller.
            Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
            Err(error) => Err(io::Error::new(
                error.kind(),
                format!("cannot write to {}: {error}", self.name),
            )),
            written => written,
        }
    }
}

impl<W: Write> Write for Stream<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes);
        self.check(written, bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.inner.flush();
        self.check(flushed, ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails every write.
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
    fn ignores_and_remembers_a_closed_pipe() {
        let mut stream = Stream::new(Failing(ErrorKind::BrokenPipe), "standard output");
        assert!(!stream.is_closed());
        stream.write_all(b"discarded").unwrap();
        assert!(stream.is_closed());
        stream.flush().unwrap();
    }

    #[test]
    fn a_full_disk_is_an_error_that_names_the_stream() {
        let mut stream = Stream::new(Failing(ErrorKind::StorageFull), "standard output");
        let error = stream.write_all(b"much").unwrap_err().to_string();
        assert!(
            error.starts_with("cannot write to standard output: "),
            "{error}"
        );
        assert!(stream.flush().is_err() && !stream.is_closed());
    }
}

//! Standard output and standard error, whose readers may close them.
//!
//! `evenkeel plan new.toml | head -1` closes our standard output. That is not an error and must not
//! change what the command does or its exit code: what is printed afterwards is discarded. A broken
//! pipe elsewhere (the controller, a capture file) remains an error, so it is handled only here.
//!
//! Much of what is printed comes from elsewhere: output of checks, files, names on the host. Control
//! characters in it are escaped here, for all commands. On a terminal with colours, sequences that set
//! colours pass.

use std::io::{self, ErrorKind, IsTerminal, Stderr, Stdout, Write};

use lb_model::text::printable_with;

use super::view::paint::Paint;

/// Standard output or standard error; ignores that its reader is gone.
#[derive(Debug)]
pub(super) struct Stream<W> {
    inner: W,
    name: &'static str,
    is_colored: bool,
    closed: bool,
}

pub(super) fn stdout() -> Stream<Stdout> {
    Stream::of(io::stdout(), "standard output")
}

pub(super) fn stderr() -> Stream<Stderr> {
    Stream::of(io::stderr(), "standard error")
}

pub(super) fn is_stderr_colored() -> bool {
    Paint::when(io::stderr().is_terminal()).is_colored()
}

/// Prints a message to standard error, ignoring that it cannot be written.
pub(super) fn print_error(text: &str) {
    let _ = writeln!(stderr(), "{}", text.trim_end_matches('\n'));
}

impl<W: Write + IsTerminal> Stream<W> {
    fn of(inner: W, name: &'static str) -> Self {
        let is_colored = Paint::when(inner.is_terminal()).is_colored();
        Self {
            is_colored,
            ..Self::new(inner, name)
        }
    }
}

/// Returns bytes with control characters escaped.
fn clean(bytes: &[u8], is_colored: bool) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        let mut pieces = chunk.valid().split('\x1b');
        let printable = |text| printable_with(text, |c| matches!(c, '\n' | '\t'));
        out += &printable(pieces.next().unwrap_or_default());
        for piece in pieces {
            let is_kept = is_colored && sets_color(piece);
            out += if is_kept { "\x1b" } else { "\\u001b" };
            out += &printable(piece);
        }
        out.extend(chunk.invalid().escape_ascii().map(char::from));
    }
    out
}

/// Whether what follows an escape character completes a sequence that sets a colour.
fn sets_color(text: &str) -> bool {
    let Some((codes, _)) = text.strip_prefix('[').and_then(|text| text.split_once('m')) else {
        return false;
    };
    // Among others it leaves out 8, which hides text.
    let is_color = |code: &str| {
        matches!(code, "" | "0" | "1" | "2" | "22" | "39") || {
            code.len() == 2 && code.starts_with(['3', '9'])
        }
    };
    codes.bytes().all(|b| b.is_ascii_digit() || b == b';') && codes.split(';').all(is_color)
}

impl<W: Write> Stream<W> {
    fn new(inner: W, name: &'static str) -> Self {
        Self {
            inner,
            name,
            is_colored: false,
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
        let clean = clean(bytes, self.is_colored);
        let written = self.inner.write_all(clean.as_bytes());
        self.check(written.map(|()| bytes.len()), bytes.len())
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
    fn control_characters_are_escaped_and_colours_pass_to_a_terminal() {
        let hostile = b"\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b[8mhidden \xc2\x9b31m\r\n\xff";
        let plain = clean(hostile, false);
        assert!(
            !plain.chars().any(|c| c.is_control() && c != '\n'),
            "{plain:?}"
        );
        assert!(
            plain.starts_with("\\u001b[31mred") && plain.ends_with("\\r\n\\xff"),
            "{plain:?}"
        );
        let colored = clean(hostile, true);
        assert!(
            colored.starts_with("\x1b[31mred\x1b[0m \\u001b]0;title"),
            "{colored:?}"
        );
        assert!(
            colored.contains("\\u001b[8mhidden \\u009b31m"),
            "{colored:?}"
        );
        for ours in [
            "\x1b[1m\x1b[91merror\x1b[0m: a\tb\n",
            "\x1b[38;5;9m│\x1b[0m",
        ] {
            let cleaned = clean(ours.as_bytes(), true);
            assert_eq!(cleaned == ours, !ours.contains(";5;"), "{cleaned:?}");
        }
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

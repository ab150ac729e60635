//! A progress line on standard error.

use std::io::{IsTerminal as _, Write as _};

use super::view;
use lb_model::text::printable;

/// A line that is rewritten in place. If standard error is not a terminal, a line is printed
/// whenever more than its numbers change.
pub(super) struct ProgressLine {
    terminal: bool,
    shown: String,
}

impl ProgressLine {
    pub(super) fn new() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            shown: String::new(),
        }
    }

    pub(super) fn show(&mut self, text: &str) {
        let text = &*printable(text);
        let mut err = std::io::stderr().lock();
        // A closed standard error does not end the command.
        let _ = if self.terminal {
            let width = ratatui::crossterm::terminal::size().map_or(80, |(columns, _)| columns);
            let text = view::table::shorten(text, usize::from(width) - 1);
            write!(err, "\r\x1b[K{text}").and_then(|()| err.flush())
        } else if without_digits(text) != without_digits(&self.shown) {
            writeln!(err, "{text}")
        } else {
            Ok(())
        };
        self.shown = text.into();
    }
}

impl Drop for ProgressLine {
    /// Clears the line.
    fn drop(&mut self) {
        if self.terminal && !self.shown.is_empty() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn without_digits(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_digit()).collect()
}

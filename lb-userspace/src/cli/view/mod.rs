//! How values of the API look to a person: one module for each kind of value, and the paint, tables
//! and figures that they share.
//!
//! Everything here makes text of values, and neither asks the controller nor prints: tests compare
//! the text of fixed values with snapshots.

pub(super) mod alerts;
pub(super) mod events;
pub(super) mod figures;
mod guards;
pub(super) mod members;
pub(super) mod paint;
pub(super) mod plan;
pub(super) mod revisions;
pub(super) mod status;
pub(super) mod table;
#[cfg(test)]
pub(super) mod tests;
pub(super) mod words;

use paint::{Paint, Tone};

/// What the text is made for.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    /// Whether it may be coloured.
    pub(super) paint: Paint,
    /// Columns of the terminal; none when what is printed goes elsewhere, and nothing is to be cut.
    pub(super) width: Option<usize>,
}

impl View {
    /// That of standard output.
    pub(super) fn of_stdout() -> Self {
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
        let size = terminal.then(ratatui::crossterm::terminal::size);
        Self {
            paint: Paint::when(terminal),
            width: size.and_then(Result::ok).map(|(columns, _)| columns.into()),
        }
    }

    /// Breaks text into lines that begin with `indent` and fit.
    pub(super) fn wrap(&self, indent: &str, text: &str) -> String {
        self.hang(indent, indent, text)
    }

    /// Breaks text into lines that fit: the first begins with `head`, the others with `indent`.
    pub(super) fn hang(&self, head: &str, indent: &str, text: &str) -> String {
        let words = text.split_whitespace().map(|word| (word, Tone::Plain));
        self.flow(head, indent, words)
    }

    /// Breaks pieces, which stay whole, into lines that fit.
    pub(super) fn flow<'a>(
        &self,
        head: &str,
        indent: &str,
        pieces: impl IntoIterator<Item = (&'a str, Tone)>,
    ) -> String {
        let room = self.width.unwrap_or(80).max(40);
        let mut text = String::from(head);
        let mut column = head.chars().count();
        let mut gap = "";
        for (piece, tone) in pieces {
            let length = piece.chars().count();
            if !gap.is_empty() && column + 1 + length > room {
                text += &format!("\n{indent}");
                column = indent.chars().count();
                gap = "";
            }
            text += gap;
            text += &self.paint.apply(tone, piece);
            column += gap.len() + length;
            gap = " ";
        }
        text
    }
}

//! Text forms of API values: one module per kind of value, and the colours, tables and numbers that
//! they share.
//!
//! Nothing here sends requests or prints: tests compare the text of fixed values with snapshots.

pub(super) mod alerts;
pub(super) mod announce;
mod bound;
pub(super) mod events;
pub(super) mod figures;
pub(super) mod fleet;
mod guards;
mod limits;
pub(super) mod members;
pub(super) mod paint;
pub(super) mod plan;
pub(super) mod problems;
pub(super) mod revisions;
pub(super) mod sources;
pub(super) mod status;
pub(super) mod table;
#[cfg(test)]
pub(super) mod tests;
pub(super) mod tones;

use paint::{Paint, Tone};

#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) paint: Paint,
    /// Columns of the terminal; none for a pipe or a file, where nothing is shortened.
    pub(super) width: Option<usize>,
}

impl View {
    pub(super) fn of_stdout() -> Self {
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
        let size = terminal.then(ratatui::crossterm::terminal::size);
        Self {
            paint: Paint::when(terminal),
            width: size.and_then(Result::ok).map(|(columns, _)| columns.into()),
        }
    }

    /// Wraps text into lines that start with `indent`.
    pub(super) fn wrap(&self, indent: &str, text: &str) -> String {
        self.hang(indent, indent, text)
    }

    /// Wraps text; the first line starts with `head`, the others with `indent`.
    pub(super) fn hang(&self, head: &str, indent: &str, text: &str) -> String {
        let words = text.split_whitespace().map(|word| (word, Tone::Plain));
        self.flow(head, indent, words)
    }

    /// Wraps pieces, which are never broken.
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

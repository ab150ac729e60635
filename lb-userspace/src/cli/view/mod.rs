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

use paint::Paint;

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
        let width = self.width.unwrap_or(80).max(40);
        let mut lines = vec![String::from(indent)];
        for word in text.split_whitespace() {
            let line = lines.last_mut().expect("there is always one");
            let empty = line.len() == indent.len();
            if !empty && line.chars().count() + 1 + word.chars().count() > width {
                lines.push(format!("{indent}{word}"));
            } else {
                line.push_str(if empty { "" } else { " " });
                line.push_str(word);
            }
        }
        lines.join("\n")
    }
}
